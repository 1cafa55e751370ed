mod slow;

use std::{
    io,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use comms_core::{
    CopyField, DeliveryId, Disposition, ErrorKind, RefusedCopy,
    request::{Content, Target},
};
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf,
};

use super::{
    reply::parse_reply,
    server_capabilities::{Mechanisms, ServerCapabilities},
    timeouts::COMMAND_TIMEOUT,
    transaction::{Start, hand_over},
    wire::Wire,
    *,
};

use crate::{
    config::OwnSender,
    mime::Feedback,
    net::{egress::EgressError, tls::CertificateFault},
};

/// A message on a new connection.
pub(super) const START: Start = Start {
    first_reply: COMMAND_TIMEOUT,
    after_refusal: false,
};

/// A reply that is on record, and what it means.
struct Recorded {
    name: String,
    stage: Stage,
    reply: Reply,
    expect: Value,
}

fn recorded() -> Vec<Recorded> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/smtp/replies.json"
    );
    let file: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let rows = file["replies"].as_array().unwrap().iter();
    rows.map(|row| {
        let stage = match row["stage"].as_str().unwrap() {
            "greeting" => Stage::Greeting,
            "ehlo" => Stage::Ehlo,
            "start_tls" => Stage::StartTls,
            "auth" => Stage::Auth,
            "mail" => Stage::Mail,
            "rcpt" => Stage::Rcpt,
            "data" => Stage::Data,
            "body" => Stage::Body,
            other => panic!("{other}"),
        };
        // As it comes over the wire, by way of what reads it there.
        let text = row["reply"].as_str().unwrap().replace('\n', "\r\n") + "\r\n";
        let (length, reply) = parse_reply(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len(), "{text:?}");
        Recorded {
            name: row["name"].as_str().unwrap().to_owned(),
            stage,
            reply,
            expect: row["expect"].clone(),
        }
    })
    .collect()
}

#[test]
fn every_reply_on_record_has_its_kind_and_disposition() {
    for row in recorded() {
        let error = classify(Failure::new(row.stage, Cause::Reply(row.reply)));
        let mut got = json!({
            "disposition": error.disposition,
            "kind": error.kind,
            "unhealthy": error.unhealthy,
        });
        if let Some(time) = error.retry_after {
            got["retryAfterSeconds"] = time.as_secs().into();
        }
        assert_eq!(got, row.expect, "{}", row.name);
        assert_eq!(error.code, row.reply.provider_code(), "{}", row.name);
        assert!(error.detail.ends_with('.'), "{}", row.name);
    }
}

/// The rows of the table that this adapter was written from, reply by reply.
#[test]
fn every_reply_that_a_stage_is_known_for_is_on_record() {
    let known = [
        (Stage::Greeting, "421 4.3.2"),
        (Stage::Greeting, "554"),
        (Stage::Ehlo, "421 4.3.2"),
        (Stage::StartTls, "454 4.7.0"),
        (Stage::Auth, "530 5.7.0"),
        (Stage::Auth, "534 5.7.9"),
        (Stage::Auth, "535 5.7.8"),
        (Stage::Auth, "454 4.7.0"),
        (Stage::Auth, "454"),
        (Stage::Mail, "550 5.7.1"),
        (Stage::Mail, "553 5.7.1"),
        (Stage::Mail, "550 5.1.8"),
        (Stage::Mail, "553 5.1.8"),
        (Stage::Mail, "552 5.3.4"),
        (Stage::Mail, "451 4.3.0"),
        (Stage::Rcpt, "550 5.1.1"),
        (Stage::Rcpt, "550 5.1.2"),
        (Stage::Rcpt, "550 5.1.10"),
        (Stage::Rcpt, "551"),
        (Stage::Rcpt, "553 5.1.3"),
        (Stage::Rcpt, "550 5.7.1"),
        (Stage::Rcpt, "450 4.2.0"),
        (Stage::Rcpt, "451 4.2.1"),
        (Stage::Rcpt, "452 4.2.2"),
        (Stage::Rcpt, "452 4.5.3"),
        (Stage::Data, "451 4.3.0"),
        (Stage::Body, "451 4.3.0"),
        (Stage::Body, "421 4.4.2"),
        (Stage::Body, "554 5.6.0"),
        (Stage::Body, "554 5.7.1"),
        (Stage::Body, "571"),
        (Stage::Rcpt, "553 5.7.1"),
        (Stage::Auth, "535 5.7.139"),
        (Stage::Auth, "550 5.7.30"),
        (Stage::Mail, "550 5.7.30"),
        (Stage::Rcpt, "550 5.7.30"),
        (Stage::Data, "550 5.7.30"),
        (Stage::Body, "550 5.7.30"),
        (Stage::Mail, "535 5.7.139"),
        (Stage::Rcpt, "554 5.2.0"),
        (Stage::Body, "554 5.2.0"),
        (Stage::Body, "554 5.2.2"),
    ];
    let recorded = recorded();
    for (stage, code) in known {
        let is_on_record = recorded
            .iter()
            .any(|row| row.stage == stage && row.reply.provider_code().unwrap().as_str() == code);
        assert!(is_on_record, "{stage:?} {code}");
    }
}

/// A code that nobody has heard of must not end a message that another provider may carry, except at
/// RCPT, where a refusal is the recipient's.
#[test]
fn every_code_from_200_to_599_has_a_meaning_at_every_stage() {
    for code in 200..600 {
        for stage in STAGES {
            let error = classify(Failure::new(stage, Cause::Reply(Reply::new(code, ""))));
            // A reply is a decision: only none at all leaves a doubt, or one to the message that asks for more.
            let is_doubtful = stage == Stage::Body && code < 400;
            assert_eq!(
                error.disposition == Disposition::Ambiguous,
                is_doubtful,
                "{stage:?} {code}"
            );
            let passes = code < 500 && !is_doubtful && stage != Stage::Auth;
            assert!(
                !passes || error.disposition == Disposition::Transient,
                "{stage:?} {code}"
            );
            if error.disposition == Disposition::Final {
                assert!(
                    code >= 500 && (stage == Stage::Rcpt || code == 552),
                    "{stage:?} {code}"
                );
            }
            assert_eq!(error.code.unwrap().as_str(), code.to_string());
        }
    }
}

const STAGES: [Stage; 12] = [
    Stage::Pool,
    Stage::Resolve,
    Stage::Connect,
    Stage::Greeting,
    Stage::Ehlo,
    Stage::StartTls,
    Stage::Tls,
    Stage::Auth,
    Stage::Mail,
    Stage::Rcpt,
    Stage::Data,
    Stage::Body,
];

/// What ends a stage without a reply, and what it means.
#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn every_end_without_a_reply_has_its_kind_and_disposition() {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, SenderNotAllowed, Timeout, Unauthenticated, Unavailable,
    };
    let rows = [
        (
            Stage::Mail,
            Cause::NotOffered,
            ProviderDown,
            SenderNotAllowed,
            true,
        ),
        (
            Stage::Rcpt,
            Cause::NotOffered,
            ProviderDown,
            InvalidRecipient,
            false,
        ),
        (
            Stage::Data,
            Cause::NotOffered,
            ProviderDown,
            InvalidMessage,
            false,
        ),
        (
            Stage::Body,
            Cause::NotOffered,
            ProviderDown,
            InvalidMessage,
            false,
        ),
        (Stage::Mail, Cause::TooLarge, Final, InvalidMessage, false),
        (
            Stage::Auth,
            Cause::Local,
            ProviderDown,
            ErrorKind::Unexpected,
            true,
        ),
        (
            Stage::Data,
            Cause::Malformed,
            Transient,
            ErrorKind::Unexpected,
            true,
        ),
        (
            Stage::Resolve,
            Cause::Egress(EgressError::Unresolved),
            Transient,
            Unavailable,
            true,
        ),
        (
            Stage::Connect,
            Cause::Egress(EgressError::Address),
            ProviderDown,
            Unavailable,
            true,
        ),
        (
            Stage::Connect,
            Cause::Egress(EgressError::Port),
            ProviderDown,
            Unavailable,
            true,
        ),
        (Stage::Connect, Cause::Closed, Transient, Unavailable, true),
        (Stage::Connect, Cause::TimedOut, Transient, Timeout, true),
        (Stage::Greeting, Cause::Closed, Transient, Unavailable, true),
        (
            Stage::StartTls,
            Cause::NotOffered,
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::StartTls,
            Cause::Malformed,
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Tls,
            Cause::TlsHandshake,
            Transient,
            Unavailable,
            true,
        ),
        (Stage::Tls, Cause::Closed, Transient, Unavailable, true),
        (
            Stage::Tls,
            Cause::Certificate(CertificateFault::Expired),
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Auth,
            Cause::NotOffered,
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (Stage::Data, Cause::Closed, Transient, Unavailable, true),
        (Stage::Data, Cause::TimedOut, Transient, Timeout, true),
        (Stage::Data, Cause::TooSlow, Transient, Timeout, true),
        (Stage::Body, Cause::Closed, Ambiguous, Timeout, true),
        (Stage::Body, Cause::TimedOut, Ambiguous, Timeout, true),
    ];
    for (stage, cause, disposition, kind, unhealthy) in rows {
        let error = classify(Failure::new(stage, cause));
        assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (disposition, kind, unhealthy),
            "{stage:?} {cause:?}"
        );
    }
}

/// Before the body nothing was sent, so nothing may be Ambiguous; after it a lost reply always is.
#[test]
fn only_the_body_can_be_ambiguous() {
    for stage in STAGES {
        for cause in [Cause::Closed, Cause::TimedOut, Cause::Malformed] {
            let ambiguous =
                classify(Failure::new(stage, cause)).disposition == Disposition::Ambiguous;
            assert_eq!(ambiguous, stage == Stage::Body, "{stage:?} {cause:?}");
        }
    }
}

fn sender() -> Mailbox {
    Mailbox {
        address: EmailAddress::parse("appointments@clinic.example").unwrap(),
        name: Some("Clinic, \"Name\"".into()),
    }
}

#[test]
fn nothing_printable_shows_a_password_or_an_address() {
    let settings = SmtpConfig {
        host: Host::parse("127.0.0.1").unwrap(),
        port: 587,
        security: Security::StartTls,
        user: "user".into(),
        password: Secret::new("planted-password".to_owned()),
        ca_pem: None,
        max_connections: 1,
        from: OwnSender::default(),
        ehlo_name: None,
    };
    assert!(!format!("{settings:?}").contains("planted"));
    assert!(!format!("{settings:?}").contains("appointments@"));
    let guard = EgressGuard::new(
        crate::net::egress::EgressAllow::default(),
        Arc::new(crate::net::egress::SystemResolver),
    );
    let provider = SmtpProvider::new(
        settings,
        sender(),
        &TlsConfigs::new(None).unwrap(),
        guard,
        Sockets::default(),
        Arc::new(comms_core::SystemClock),
    );
    assert_eq!(format!("{:?}", provider.unwrap()), "SmtpProvider(…)");
}

#[test]
fn ehlo_says_the_name_that_is_set_or_the_senders_domain_and_writes_addresses_as_literals() {
    let sender = sender().address;
    for (name, said) in [
        (None, "clinic.example"),
        (Some("mta.clinic.example"), "mta.clinic.example"),
        (Some("192.0.2.7"), "[192.0.2.7]"),
        (Some("2001:db8::1"), "[IPv6:2001:db8::1]"),
    ] {
        let name = name.map(|name| Host::parse(name).unwrap());
        assert_eq!(hello(name.as_ref(), &sender), said);
    }
}

/// Our end of a stream, which notes every write.
struct Tapped {
    stream: DuplexStream,
    writes: Arc<Mutex<Vec<String>>>,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(length)) = &written {
            let text = String::from_utf8_lossy(&bytes[..*length]).into_owned();
            self.writes.lock().unwrap().push(text);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What one side of a conversation came to.
struct Told {
    result: Result<Vec<RefusedCopy>, Failure>,
    in_step: bool,
    writes: Vec<String>,
}

/// Hands `message` over to a server that says each reply when it has heard what is before it.
async fn converse(
    message: &Message,
    capabilities: ServerCapabilities,
    script: &[(&str, &str)],
) -> Told {
    converse_from(START, message, capabilities, script).await
}

async fn converse_from(
    start: Start,
    message: &Message,
    capabilities: ServerCapabilities,
    script: &[(&str, &str)],
) -> Told {
    let (stream, mut server) = tokio::io::duplex(65_536);
    let writes = Arc::<Mutex<Vec<String>>>::default();
    let tapped = Tapped {
        stream,
        writes: writes.clone(),
    };
    let script: Vec<_> = script
        .iter()
        .map(|(heard, said)| ((*heard).to_owned(), (*said).to_owned()))
        .collect();
    let server = tokio::spawn(async move {
        let mut heard = Vec::new();
        for (until, said) in script {
            while !heard.ends_with(until.as_bytes()) {
                if server.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            heard.clear();
            server.write_all(said.as_bytes()).await.unwrap();
        }
        // The end of the script is a connection that stays open and silent.
        let _ = server.read_to_end(&mut heard).await;
    });
    let sender = sender();
    let mut draft = Draft::new(message, &sender, Feedback::Named).unwrap();
    let submission = draft.for_server(&capabilities).unwrap();
    let mut wire = Wire::new(tapped, 0);
    let deadline = Deadline::after(Duration::from_secs(5));
    let result = hand_over(&mut wire, &capabilities, &submission, start, deadline).await;
    let in_step = wire.is_in_step();
    drop(wire);
    server.await.unwrap();
    let writes = writes.lock().unwrap().clone();
    Told {
        result,
        in_step,
        writes,
    }
}

const PIPELINING: ServerCapabilities = ServerCapabilities {
    start_tls: false,
    pipelining: true,
    eight_bit_mime: false,
    smtputf8: false,
    size: None,
    messages: None,
    mechanisms: Mechanisms::NONE,
};

fn message(cc: &[&str], bcc: &[&str]) -> Message {
    let addresses = |texts: &[&str]| {
        let addresses = texts.iter().map(|text| EmailAddress::parse(text).unwrap());
        addresses.collect()
    };
    Message {
        delivery: DeliveryId::parse(&"ab".repeat(16)).unwrap(),
        target: Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: None,
        }),
        content: Arc::new(Content {
            title: Some("t".into()),
            body: Some("See you.".into()),
            cc: addresses(cc),
            bcc: addresses(bcc),
            ..Content::default()
        }),
        reply_to: None,
    }
}

const MAIL: &str = "MAIL FROM:<appointments@clinic.example>\r\n";
const RCPT: &str = "RCPT TO:<patient@example.com>\r\n";

#[tokio::test]
async fn with_pipelining_a_message_takes_two_writes_the_last_with_its_final_dot() {
    let script = [
        ("DATA\r\n", "250 ok\r\n250 ok\r\n354 go ahead\r\n"),
        ("\r\n.\r\n", "250 ok\r\n"),
    ];
    let told = converse(&message(&[], &[]), PIPELINING, &script).await;
    assert_eq!((told.result, told.in_step), (Ok(Vec::new()), true));
    assert_eq!(told.writes.len(), 2, "{:?}", told.writes);
    assert_eq!(told.writes[0], format!("{MAIL}{RCPT}DATA\r\n"));
    assert!(told.writes[1].starts_with("From: ") && told.writes[1].ends_with("\r\n.\r\n"));
}

#[tokio::test]
async fn without_pipelining_every_command_waits_for_its_reply() {
    let script = [
        (MAIL, "250 ok\r\n"),
        (RCPT, "250 ok\r\n"),
        ("RCPT TO:<a@example.com>\r\n", "250 ok\r\n"),
        ("DATA\r\n", "354 go ahead\r\n"),
        ("\r\n.\r\n", "250 ok\r\n"),
    ];
    let told = converse(
        &message(&["a@example.com"], &[]),
        ServerCapabilities::default(),
        &script,
    )
    .await;
    assert_eq!((told.result, told.in_step), (Ok(Vec::new()), true));
    assert_eq!(told.writes.len(), 5, "{:?}", told.writes);
}

#[tokio::test]
async fn with_copies_data_waits_until_it_is_known_who_takes_the_message() {
    let script = [
        (
            "RCPT TO:<b@example.com>\r\n",
            "250 ok\r\n250 ok\r\n550 5.1.1 no\r\n452 4.5.3 too many\r\n",
        ),
        ("DATA\r\n", "354 go ahead\r\n"),
        ("\r\n.\r\n", "250 ok\r\n"),
    ];
    let message = message(&["a@example.com"], &["b@example.com"]);
    let told = converse(&message, PIPELINING, &script).await;
    assert_eq!(told.writes.len(), 3, "{:?}", told.writes);
    let refused: Vec<_> = told
        .result
        .unwrap()
        .into_iter()
        .map(|copy| {
            (
                copy.field,
                copy.index,
                copy.code.unwrap().as_str().to_owned(),
            )
        })
        .collect();
    assert_eq!(
        refused,
        [
            (CopyField::Cc, 0, "550 5.1.1".to_owned()),
            (CopyField::Bcc, 0, "452 4.5.3".to_owned()),
        ]
    );
    assert!(told.in_step);
}

#[tokio::test]
async fn a_refusal_within_a_group_counts_and_the_replies_behind_it_are_read() {
    let refused = |stage, code, enhanced| {
        let reply = Reply {
            code,
            enhanced: Some(enhanced),
            throttling: None,
            saying: None,
        };
        Err(Failure::new(stage, Cause::Reply(reply)))
    };
    let no_sender = refused(Stage::Mail, 550, (5, 7, 1));
    let no_recipient = refused(Stage::Rcpt, 550, (5, 1, 1));
    for (replies, ends_with_a_dot, result, in_step) in [
        (
            "550 5.7.1 no\r\n503 5.5.1 no\r\n503 5.5.1 no\r\n",
            false,
            no_sender.clone(),
            true,
        ),
        (
            "550 5.7.1 no\r\n503 5.5.1 no\r\n354 go ahead\r\n",
            true,
            no_sender.clone(),
            true,
        ),
        // Somebody would get a message of nothing: not even the dot is sent.
        (
            "550 5.7.1 no\r\n250 ok\r\n354 go ahead\r\n",
            false,
            no_sender,
            false,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n503 5.5.1 no\r\n",
            false,
            no_recipient.clone(),
            true,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n354 go ahead\r\n",
            true,
            no_recipient.clone(),
            true,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n250 what\r\n",
            false,
            no_recipient.clone(),
            false,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n421 closing\r\n",
            false,
            no_recipient.clone(),
            false,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n554 no\r\n250 one too many\r\n",
            false,
            no_recipient,
            false,
        ),
    ] {
        let script = [("DATA\r\n", replies), ("\r\n.\r\n", ""), (".\r\n", "")];
        let dot = [("DATA\r\n", replies), (".\r\n", "554 5.5.1 nobody\r\n")];
        let script = if ends_with_a_dot {
            &dot[..]
        } else {
            &script[..1]
        };
        let told = converse(&message(&[], &[]), PIPELINING, script).await;
        assert_eq!(
            (told.result, told.in_step),
            (result, in_step),
            "{replies:?}"
        );
        let dots = told.writes.iter().filter(|text| *text == ".\r\n").count();
        assert_eq!(dots, usize::from(ends_with_a_dot), "{replies:?}");
        let said = usize::from(ends_with_a_dot) + 1;
        assert_eq!(told.writes.len(), said, "{:?}", told.writes);
    }
}

#[tokio::test]
async fn replies_that_nobody_asked_for_keep_the_message_back() {
    for (replies, cause) in [
        // Taken for the reply to the message, the last would be a success that is none.
        (
            "250 ok\r\n250 ok\r\n354 go ahead\r\n250 accepted\r\n",
            Cause::Malformed,
        ),
        ("250 ok\r\n250 ok\r\n354 go ahead\r\n2", Cause::Malformed),
        // Nor is a refusal of something else the verdict on a message that was never sent.
        (
            "250 ok\r\n250 ok\r\n354 go ahead\r\n550 5.1.1 no\r\n",
            Cause::Malformed,
        ),
        (
            "250 ok\r\n250 ok\r\n354 go ahead\r\n421 closing\r\n",
            Cause::Reply(Reply::new(421, "")),
        ),
    ] {
        let told = converse(&message(&[], &[]), PIPELINING, &[("DATA\r\n", replies)]).await;
        let expected = Err(Failure::new(Stage::Data, cause));
        assert_eq!(
            (told.result, told.in_step),
            (expected, false),
            "{replies:?}"
        );
        assert_eq!(told.writes.len(), 1, "{:?}", told.writes);
    }
}

#[tokio::test]
async fn what_is_said_behind_the_acceptance_does_not_undo_it_but_ends_the_connection() {
    let script = [
        ("DATA\r\n", "250 ok\r\n250 ok\r\n354 go ahead\r\n"),
        ("\r\n.\r\n", "250 ok\r\n250 and more\r\n"),
    ];
    let told = converse(&message(&[], &[]), PIPELINING, &script).await;
    assert_eq!((told.result, told.in_step), (Ok(Vec::new()), false));
}

#[tokio::test]
async fn what_the_last_message_left_unread_is_not_taken_for_a_reply_to_the_next() {
    let (stream, mut server) = tokio::io::duplex(1_024);
    let mut wire = Wire::new(stream, 0);
    server.write_all(b"250 late\r\n").await.unwrap();
    assert!(!wire.is_in_step());
    assert_eq!(wire.write(b"NOOP\r\n", 1).await, Err(Cause::Malformed));
}

fn large_message() -> Message {
    let mut large = message(&[], &[]);
    let mut content = (*large.content).clone();
    content.body = Some("A line of text.\n".repeat(20_000));
    large.content = Arc::new(content);
    large
}

/// What a server says before it has the whole of a message is not its reply to the message: not a
/// success, not a reason to send it again, and no doubt whether it was taken.
#[tokio::test]
async fn a_word_before_the_end_of_a_large_message_is_no_reply_to_it() {
    for (early, cause) in [
        ("250 stray\r\n", Cause::Malformed),
        (
            "451 4.3.0 stray\r\n",
            Cause::Reply(Reply::new(451, "4.3.0")),
        ),
        ("421 closing\r\n", Cause::Reply(Reply::new(421, "closing"))),
    ] {
        let large = large_message();
        let (stream, mut server) = tokio::io::duplex(4_096);
        let server = async {
            let mut heard = Vec::new();
            while !heard.ends_with(b"DATA\r\n") {
                server.read_buf(&mut heard).await.unwrap();
            }
            let replies = "250 ok\r\n250 ok\r\n354 go ahead\r\n";
            server.write_all(replies.as_bytes()).await.unwrap();
            while heard.len() < 10_000 {
                server.read_buf(&mut heard).await.unwrap();
            }
            server.write_all(early.as_bytes()).await.unwrap();
            let _ = server.read_to_end(&mut heard).await;
            heard
        };
        let sending = async {
            let sender = sender();
            let mut draft = Draft::new(&large, &sender, Feedback::Named).unwrap();
            let submission = draft.for_server(&PIPELINING).unwrap();
            let mut wire = Wire::new(stream, 0);
            let deadline = Deadline::after(Duration::from_secs(5));
            let result = hand_over(&mut wire, &PIPELINING, &submission, START, deadline).await;
            (result, wire.is_in_step())
        };
        let ((result, in_step), heard) = tokio::join!(sending, server);
        assert_eq!(result, Err(Failure::new(Stage::Data, cause)), "{early:?}");
        assert!(!in_step);
        assert!(!heard.ends_with(b"\r\n.\r\n"), "{early:?}");
    }
}

/// A server that closes in the middle of a large message cannot have accepted it.
#[tokio::test]
async fn a_message_whose_end_never_left_is_not_in_doubt() {
    for (last_word, cause) in [
        ("", Cause::Closed),
        (
            "552 5.3.4 too big\r\n",
            Cause::Reply(Reply::new(552, "5.3.4")),
        ),
    ] {
        let large = large_message();
        let (stream, mut server) = tokio::io::duplex(4_096);
        let server = async {
            let mut heard = Vec::new();
            while !heard.ends_with(b"DATA\r\n") {
                server.read_buf(&mut heard).await.unwrap();
            }
            let replies = "250 ok\r\n250 ok\r\n354 go ahead\r\n";
            server.write_all(replies.as_bytes()).await.unwrap();
            while heard.len() < 10_000 {
                server.read_buf(&mut heard).await.unwrap();
            }
            server.write_all(last_word.as_bytes()).await.unwrap();
            drop(server);
        };
        let sender = sender();
        let mut draft = Draft::new(&large, &sender, Feedback::Named).unwrap();
        let submission = draft.for_server(&PIPELINING).unwrap();
        let mut wire = Wire::new(stream, 0);
        let deadline = Deadline::after(Duration::from_secs(5));
        let sending = hand_over(&mut wire, &PIPELINING, &submission, START, deadline);
        let (result, ()) = tokio::join!(sending, server);
        assert_eq!(result, Err(Failure::new(Stage::Data, cause)));
        assert!(!wire.is_in_step());
    }
}

/// RSET after a refused message costs no round trip where commands may go together.
#[tokio::test]
async fn the_reset_after_a_refusal_goes_out_with_the_next_mail() {
    let after = Start {
        after_refusal: true,
        ..START
    };
    let group = "RSET\r\nMAIL FROM:<appointments@clinic.example>\r\nRCPT TO:<patient@example.com>\r\nDATA\r\n";
    let script = [
        ("DATA\r\n", "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
        ("\r\n.\r\n", "252 ok\r\n"),
    ];
    let told = converse_from(after, &message(&[], &[]), PIPELINING, &script).await;
    assert_eq!(told.result, Ok(Vec::new()));
    assert!(told.in_step);
    assert_eq!(told.writes[0], group);
    assert_eq!(told.writes.len(), 2);
    // Each on its own elsewhere.
    let capabilities = ServerCapabilities {
        pipelining: false,
        ..PIPELINING
    };
    let script = [
        ("RSET\r\n", "200 ok\r\n"),
        ("example>\r\n", "250 ok\r\n"),
        ("example.com>\r\n", "250 ok\r\n"),
        ("DATA\r\n", "354 go\r\n"),
        ("\r\n.\r\n", "250 ok\r\n"),
    ];
    let told = converse_from(after, &message(&[], &[]), capabilities, &script).await;
    assert_eq!(told.result, Ok(Vec::new()));
    assert_eq!(told.writes[0], "RSET\r\n");
}

/// What a server says to one command of a group: a reply, or nothing, since it hangs up there.
const WORDS: [Option<&str>; 6] = [
    Some("250 2.0.0 ok\r\n"),
    Some("550-5.1.1 no\r\n550 5.1.1 really\r\n"),
    Some("450 4.2.0 later\r\n"),
    Some("354 go ahead\r\n"),
    Some("421 4.3.2 closing\r\n"),
    None,
];

/// What a server that was given a group heard besides, and what the client made of it.
struct Heard {
    result: Result<Vec<RefusedCopy>, Failure>,
    in_step: bool,
    /// Messages that came whole, and dots on their own.
    messages: usize,
    dots: usize,
}

/// Hands a message with so many `copies` over to a server that pipelines, has these `words` to the commands up to
/// DATA, and takes every message that it is given. It says them as it gets the commands, at once or byte by byte.
async fn group(copies: usize, words: &[Option<&str>], byte_by_byte: bool) -> Heard {
    let copies = &["a@example.com", "b@example.com"][..copies];
    let message = message(copies, &[]);
    let (stream, mut server) = tokio::io::duplex(65_536);
    let server = async {
        let mut words = words.iter();
        let (mut messages, mut dots) = (0, 0);
        let mut heard = Vec::with_capacity(65_536);
        let mut in_message = false;
        while server.read_buf(&mut heard).await.unwrap() > 0 {
            let (mut said, mut hangs_up) = (String::new(), false);
            // Every write of the client ends with a line, and holds a message or commands.
            if in_message {
                if heard.ends_with(b"\r\n.\r\n") || heard == b".\r\n" {
                    messages += usize::from(heard != b".\r\n");
                    dots += usize::from(heard == b".\r\n");
                    said.push_str("250 2.0.0 ok\r\n");
                    in_message = false;
                    heard.clear();
                }
            } else {
                let commands = String::from_utf8(heard.clone()).unwrap();
                heard.clear();
                for command in commands.lines() {
                    let Some(word) = words.next().copied().flatten() else {
                        hangs_up = true;
                        break;
                    };
                    in_message = command == "DATA" && word.starts_with("354");
                    hangs_up = word.starts_with("421");
                    said.push_str(word);
                    if hangs_up {
                        break;
                    }
                }
            }
            let pieces = if byte_by_byte { 1 } else { said.len().max(1) };
            for piece in said.as_bytes().chunks(pieces) {
                // Who has given up hears nothing any more.
                let _ = server.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            if hangs_up {
                break;
            }
        }
        (messages, dots)
    };
    let client = async {
        let sender = sender();
        let mut draft = Draft::new(&message, &sender, Feedback::Named).unwrap();
        let submission = draft.for_server(&PIPELINING).unwrap();
        let mut wire = Wire::new(stream, 0);
        let deadline = Deadline::after(Duration::from_secs(20));
        let result = hand_over(&mut wire, &PIPELINING, &submission, START, deadline).await;
        (result, wire.is_in_step())
    };
    let ((result, in_step), (messages, dots)) = tokio::join!(client, server);
    Heard {
        result,
        in_step,
        messages,
        dots,
    }
}

/// Every answer to every command of a group: a message leaves when its sender, its recipient and DATA were taken
/// and each copy was answered, and never else. To whom it goes is what the server took before.
#[tokio::test(start_paused = true)]
async fn no_answer_to_a_group_makes_a_message_leave_that_its_recipient_does_not_get() {
    for copies in [0_u32, 1] {
        let commands = 3 + copies;
        for number in 0..WORDS.len().pow(commands) {
            let words: Vec<_> = (0..commands)
                .map(|at| WORDS[number / WORDS.len().pow(at) % WORDS.len()])
                .collect();
            let code = |at: usize| words[at].map_or(0, |word| word[..3].parse().unwrap());
            let data = usize::try_from(copies).unwrap() + 2;
            // What is said behind a last word never comes.
            let is_taken = (0..data).all(|at| match at {
                0 | 1 => code(at) == 250,
                _ => matches!(code(at), 250 | 450 | 550),
            }) && code(data) == 354;
            for byte_by_byte in [false, true] {
                let copies = usize::try_from(copies).unwrap();
                let heard = group(copies, &words, byte_by_byte).await;
                assert_eq!(heard.messages, usize::from(is_taken), "{words:?}");
                match heard.result {
                    Ok(refused) => {
                        let answers = words[2..data].iter().flatten();
                        let refusals = answers.filter(|word| !word.starts_with("250")).count();
                        assert!(is_taken && heard.in_step, "{words:?}");
                        assert_eq!(refused.len(), refusals, "{words:?}");
                    }
                    Err(failure) => {
                        assert!(!is_taken, "{words:?}");
                        let disposition = classify(failure).disposition;
                        assert_ne!(disposition, Disposition::Ambiguous, "{words:?}");
                    }
                }
                // A dot ends what was asked for by a server that took nobody; who took somebody is left.
                let nobody = copies == 0 && code(0) != 0 && code(1) >= 400;
                assert!(heard.dots == 0 || nobody, "{words:?}");
            }
        }
    }
}
