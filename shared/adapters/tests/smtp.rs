//! The SMTP adapter in real conversations with a scripted server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "smtp/further.rs"]
mod further;
#[path = "smtp/refusals.rs"]
mod refusals;
#[path = "smtp/replies.rs"]
mod replies;
#[path = "smtp/resumption.rs"]
mod resumption;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use comms_adapters::{
    Deadline, EgressGuard, Message, OwnSender, Provider, Sockets, StageOutcome, VerifyStage,
    egress::Resolver,
    smtp::{Security, SmtpConfig, SmtpProvider},
    tls::TlsConfigs,
};
use comms_core::{
    CopyField, DeliveryId, Disposition, EmailAddress, ErrorKind, Host, Mailbox, PhoneNumber,
    ProviderError, Receipt, Secret,
    request::{Content, Target},
};
use comms_testkit::{
    clock::ManualClock,
    smtp::{Action, Event, SmtpServer, SmtpServerBuilder, Stage, TlsMode},
    tls::{OwnCertificate, TestCa},
};
use tokio::time::Instant;

const PASSWORD: &str = "planted-password";

/// Gives loopback for every name, so that names can be tested without DNS.
struct Loopback;

#[async_trait]
impl Resolver for Loopback {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if name == "hangs.example" {
            return std::future::pending().await;
        }
        if name == "unknown.example" {
            return Err(io::Error::other("no such name"));
        }
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

struct World {
    server: SmtpServer,
    provider: SmtpProvider,
    clock: Arc<ManualClock>,
}

struct Options {
    tls: TlsMode,
    host: &'static str,
    names: &'static [&'static str],
    trusted: bool,
    expired: bool,
    /// The server shows a certificate of its own for `names`, and that is what is given as `caPem`.
    shows_given: bool,
    allow: &'static str,
    password: &'static str,
    max_connections: u8,
    sender: &'static str,
    ehlo_name: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: TlsMode::StartTls,
            host: "127.0.0.1",
            names: &["127.0.0.1"],
            trusted: true,
            expired: false,
            shows_given: false,
            allow: "127.0.0.0/8",
            password: PASSWORD,
            max_connections: 5,
            sender: "appointments@clinic.example",
            ehlo_name: None,
        }
    }
}

impl World {
    async fn new(
        options: Options,
        script: impl FnOnce(SmtpServerBuilder) -> SmtpServerBuilder,
    ) -> Self {
        let ca = TestCa::new();
        let own = OwnCertificate::authority(options.names);
        let config = if options.shows_given {
            own.server_config()
        } else if options.expired {
            ca.expired_server_config(options.names)
        } else {
            ca.server_config(options.names)
        };
        let builder = SmtpServer::builder()
            .tls(options.tls, config)
            .credentials("clinic-user", PASSWORD);
        let server = script(builder).start().await;
        let settings = SmtpConfig {
            host: Host::parse(options.host).unwrap(),
            port: server.port(),
            security: match options.tls {
                TlsMode::Implicit => Security::ImplicitTls,
                TlsMode::StartTls | TlsMode::None => Security::StartTls,
            },
            user: "clinic-user".into(),
            password: Secret::new(options.password.to_owned()),
            ca_pem: options.trusted.then(|| {
                if options.shows_given {
                    own.pem()
                } else {
                    ca.pem()
                }
            }),
            max_connections: options.max_connections,
            from: OwnSender::default(),
            ehlo_name: options.ehlo_name.map(|name| Host::parse(name).unwrap()),
        };
        let clock = Arc::new(ManualClock::new());
        let guard = EgressGuard::new(options.allow.parse().unwrap(), Arc::new(Loopback));
        let tls = TlsConfigs::new(None).unwrap();
        let provider = SmtpProvider::new(
            settings,
            Mailbox {
                address: EmailAddress::parse(options.sender).unwrap(),
                name: Some("Clinic".into()),
            },
            &tls,
            guard,
            Sockets::default(),
            clock.clone(),
        )
        .unwrap();
        Self {
            server,
            provider,
            clock,
        }
    }

    async fn plain(script: impl FnOnce(SmtpServerBuilder) -> SmtpServerBuilder) -> Self {
        Self::new(Options::default(), script).await
    }

    async fn send(&self) -> Result<Receipt, ProviderError> {
        self.send_within(Duration::from_secs(20)).await
    }

    /// Sends within 20 seconds to a server that says nothing any more at `stage`, and says how long
    /// that took. The clock stands still until the server is there, and then goes at once to what is
    /// waited for.
    async fn send_to_a_server_that_hangs(
        &self,
        stage: Stage,
    ) -> (Result<Receipt, ProviderError>, Duration) {
        let sending = async {
            let result = self.send().await;
            (result, Instant::now())
        };
        let pausing = async {
            self.server.wait_for_stage(stage, 1).await;
            tokio::time::pause();
            Instant::now()
        };
        let ((result, end), hung) = tokio::join!(sending, pausing);
        tokio::time::resume();
        (result, end - hung)
    }

    async fn send_within(&self, time: Duration) -> Result<Receipt, ProviderError> {
        self.provider.send(&message(1), Deadline::after(time)).await
    }

    async fn send_message(&self, message: &Message) -> Result<Receipt, ProviderError> {
        let deadline = Deadline::after(Duration::from_secs(20));
        self.provider.send(message, deadline).await
    }

    /// What the client said on the first connection that begins with `start`.
    fn said(&self, start: &str) -> Vec<String> {
        let lines = self.server.transcript_of(1).into_iter();
        lines
            .filter_map(|line| line.strip_prefix("C: ").map(ToOwned::to_owned))
            .filter(|line| line.starts_with(start))
            .collect()
    }
}

fn message(number: u8) -> Message {
    Message {
        delivery: DeliveryId::parse(&format!("{number:032x}")).unwrap(),
        target: Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: None,
        }),
        content: Arc::new(Content {
            title: Some("Appointment confirmed".into()),
            body: Some("See you on Monday.\n.\nA line with a dot of its own.".into()),
            html: Some("<p>See you on Monday.</p>".into()),
            ..Content::default()
        }),
        reply_to: None,
    }
}

/// The same with copies.
fn message_with(cc: &[&str], bcc: &[&str]) -> Message {
    let addresses = |texts: &[&str]| {
        let addresses = texts.iter().map(|text| EmailAddress::parse(text).unwrap());
        addresses.collect()
    };
    changed(|content| {
        content.cc = addresses(cc);
        content.bcc = addresses(bcc);
    })
}

fn changed(change: impl FnOnce(&mut Content)) -> Message {
    let mut message = message(1);
    let mut content = (*message.content).clone();
    change(&mut content);
    message.content = Arc::new(content);
    message
}

fn message_to(address: &str) -> Message {
    let mut message = message(1);
    message.target = Target::Email(Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    });
    message
}

fn refused_copies(receipt: &Receipt) -> Vec<(CopyField, u8, Option<&str>)> {
    let copies = receipt.refused_copies.iter();
    copies
        .map(|copy| {
            let code = copy.code.as_ref().map(comms_core::ProviderCode::as_str);
            (copy.field, copy.index, code)
        })
        .collect()
}

fn verdict(result: &Result<Receipt, ProviderError>) -> (Disposition, ErrorKind) {
    let error = result.as_ref().unwrap_err();
    (error.disposition, error.kind)
}

#[tokio::test]
async fn a_message_goes_out_over_starttls_and_over_implicit_tls() {
    for tls in [TlsMode::StartTls, TlsMode::Implicit] {
        let world = World::new(
            Options {
                tls,
                ..Options::default()
            },
            |server| server,
        )
        .await;
        let receipt = world.send().await.unwrap();
        let messages = world.server.messages();
        assert_eq!(messages.len(), 1);
        let got = &messages[0];
        assert!(got.over_tls);
        assert_eq!(got.authenticated_as.as_deref(), Some("clinic-user"));
        assert_eq!(got.mail_from, "appointments@clinic.example");
        assert_eq!(got.rcpt_to, ["patient@example.com"]);
        let text = got.text();
        assert!(
            text.contains(&format!("Message-ID: {}\r\n", receipt.message_id)),
            "{text}"
        );
        assert!(
            text.contains("\r\n.\r\nA line with a dot"),
            "dots arrive as they were: {text}"
        );
        assert_eq!(receipt.message_id, format!("<{:032x}@clinic.example>", 1));
    }
}

#[tokio::test]
async fn names_are_resolved_and_the_certificate_is_for_the_name() {
    let options = || Options {
        host: "smtp.clinic.example",
        names: &["smtp.clinic.example"],
        ..Options::default()
    };
    let world = World::new(options(), |server| server).await;
    world.send().await.unwrap();
    let world = World::new(
        Options {
            names: &["other.example"],
            ..options()
        },
        |server| server,
    )
    .await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    assert!(world.server.messages().is_empty());
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_ends_the_conversation_before_the_password() {
    for options in [
        Options {
            trusted: false,
            ..Options::default()
        },
        Options {
            expired: true,
            ..Options::default()
        },
        Options {
            tls: TlsMode::Implicit,
            trusted: false,
            ..Options::default()
        },
    ] {
        let world = World::new(options, |server| server).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::ProviderDown, ErrorKind::Unauthenticated)
        );
        assert!(
            !world
                .server
                .transcript()
                .iter()
                .any(|line| line.contains("AUTH P")),
            "{:?}",
            world.server.transcript()
        );
    }
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_given_is_trusted_for_its_own_names() {
    for (names, detail) in [
        (&["mail.example"][..], None),
        (&["other.example"], Some("subjectAltName")),
    ] {
        let options = Options {
            shows_given: true,
            host: "mail.example",
            names,
            ..Options::default()
        };
        let world = World::new(options, |server| server).await;
        let sent = world.send().await;
        match detail {
            None => assert!(sent.is_ok(), "{sent:?}"),
            Some(words) => assert!(sent.unwrap_err().detail.contains(words)),
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_without_starttls() {
    let world = World::plain(|server| server.without_extension("STARTTLS")).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    let said: Vec<_> = world
        .server
        .transcript()
        .into_iter()
        .filter(|line| line.contains("C: "))
        .collect();
    assert_eq!(said.len(), 1, "EHLO and nothing after it: {said:?}");
}

#[tokio::test]
async fn what_arrives_in_clear_with_the_starttls_reply_is_never_taken_for_tls() {
    let injected = b"250-injected\r\n250 AUTH PLAIN\r\n".to_vec();
    let world = World::plain(|server| server.on(Stage::StartTls, Action::Inject(injected))).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    let secured = |event: &Event| matches!(event, Event::Secured { .. });
    assert!(!world.server.events().iter().any(secured));
    assert!(world.server.messages().is_empty());
    assert!(
        !world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("AUTH PLAIN ") && line.contains("C: "))
    );
}

#[tokio::test]
async fn a_wrong_password_is_provider_down_with_the_servers_code() {
    let world = World::new(
        Options {
            password: "wrong",
            ..Options::default()
        },
        |server| server,
    )
    .await;
    let result = world.send().await;
    assert_eq!(
        verdict(&result),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    assert_eq!(result.unwrap_err().code.unwrap().as_str(), "535 5.7.8");
}

#[tokio::test]
async fn auth_login_is_used_where_plain_is_not_offered() {
    let world = World::plain(|server| server.auth_mechanisms(&["LOGIN"])).await;
    world.send().await.unwrap();
    let world = World::plain(|server| server.auth_mechanisms(&["CRAM-MD5"])).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table")]
async fn refusals_are_classified_by_their_stage() {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, PolicyRefused, SenderNotAllowed, Timeout, Unavailable,
    };
    for (stage, action, disposition, kind) in [
        (Stage::Connect, Action::Close, Transient, Unavailable),
        (
            Stage::Greeting,
            Action::reply_then_close("554 no service"),
            Transient,
            Unavailable,
        ),
        (
            Stage::Ehlo,
            Action::reply("421 4.3.2 closing"),
            Transient,
            Unavailable,
        ),
        (
            Stage::StartTls,
            Action::reply("454 4.7.0 TLS not available"),
            Transient,
            Unavailable,
        ),
        (Stage::Tls, Action::Close, Transient, Unavailable),
        (Stage::EhloAfterTls, Action::Close, Transient, Unavailable),
        (
            Stage::Auth,
            Action::reply("454 4.7.0 later"),
            Transient,
            Unavailable,
        ),
        (
            Stage::Mail,
            Action::reply("550 5.7.1 not your sender"),
            ProviderDown,
            SenderNotAllowed,
        ),
        (
            Stage::Mail,
            Action::reply("451 4.3.0 later"),
            Transient,
            Unavailable,
        ),
        (
            Stage::Rcpt,
            Action::reply("550 5.1.1 patient@example.com unknown"),
            Final,
            InvalidRecipient,
        ),
        (
            Stage::Rcpt,
            Action::reply("450 4.2.0 greylisted"),
            Transient,
            Unavailable,
        ),
        (Stage::Data, Action::Close, Transient, Unavailable),
        (Stage::Data, Action::Reset, Transient, Unavailable),
        (
            Stage::Body,
            Action::reply("451 4.3.0 later"),
            Transient,
            Unavailable,
        ),
        (
            Stage::Body,
            Action::reply("554 5.6.0 malformed"),
            Final,
            InvalidMessage,
        ),
        (
            Stage::Body,
            Action::reply("554 5.7.1 spam"),
            ProviderDown,
            PolicyRefused,
        ),
        (
            Stage::Body,
            Action::reply("571 Delivery not authorized"),
            ProviderDown,
            PolicyRefused,
        ),
        (
            Stage::Body,
            Action::reply_then_close("421 4.4.2 closing"),
            Transient,
            Unavailable,
        ),
        (Stage::Body, Action::Close, Ambiguous, Timeout),
        (Stage::Body, Action::Reset, Ambiguous, Timeout),
        (Stage::Body, Action::AcceptThenClose, Ambiguous, Timeout),
    ] {
        let label = format!("{stage:?} {action:?}");
        let world = World::plain(|server| server.on(stage, action)).await;
        let result = world.send().await;
        assert_eq!(verdict(&result), (disposition, kind), "{label}");
        let error = result.unwrap_err();
        assert!(
            !format!("{error:?} {error}").contains("patient"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_hangs_costs_no_more_than_a_stage_or_the_deadline() {
    for pipelining in [true, false] {
        for stage in [
            Stage::Greeting,
            Stage::Ehlo,
            Stage::StartTls,
            Stage::Tls,
            Stage::EhloAfterTls,
            Stage::Auth,
            Stage::Mail,
            Stage::Rcpt,
            Stage::Data,
            Stage::Body,
        ] {
            let world = World::plain(|server| {
                let server = server.on(stage, Action::Hang);
                if pipelining {
                    server
                } else {
                    server.without_extension("PIPELINING")
                }
            })
            .await;
            let (result, time) = world.send_to_a_server_that_hangs(stage).await;
            // A command has 8 seconds; the login and the message what is left of the deadline.
            let (disposition, most) = if stage == Stage::Body {
                (Disposition::Ambiguous, 20)
            } else if stage == Stage::Auth {
                (Disposition::Transient, 20)
            } else {
                (Disposition::Transient, 9)
            };
            assert_eq!(
                verdict(&result),
                (disposition, ErrorKind::Timeout),
                "{stage:?}"
            );
            assert!(time <= Duration::from_secs(most), "{stage:?}: {time:?}");
        }
    }
}

#[tokio::test]
async fn a_resolver_that_hangs_costs_no_more_than_its_stage() {
    let options = Options {
        host: "hangs.example",
        names: &["hangs.example"],
        ..Options::default()
    };
    let world = World::new(options, |server| server).await;
    tokio::time::pause();
    let started = Instant::now();
    let result = world.send().await;
    assert_eq!(
        verdict(&result),
        (Disposition::Transient, ErrorKind::Timeout)
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_message_that_the_deadline_would_cut_off_is_not_begun_and_the_server_not_blamed() {
    let world = World::plain(|server| server).await;
    let error = world
        .send_within(Duration::from_millis(1_900))
        .await
        .unwrap_err();
    assert_eq!(
        (error.disposition, error.kind, error.unhealthy),
        (Disposition::Transient, ErrorKind::Timeout, false)
    );
    assert_eq!(world.server.connections(), 0);
}

#[tokio::test]
async fn odd_replies_do_not_turn_an_acceptance_into_a_doubt() {
    let blank = "250-mail.example\n250- \n250 AUTH PLAIN";
    let world = World::plain(|server| server.on(Stage::EhloAfterTls, Action::reply(blank))).await;
    world.send().await.unwrap();
    let world = World::plain(|server| server.on(Stage::Body, Action::reply("250 Grüße"))).await;
    world.send().await.unwrap();
    for stage in [
        Stage::Greeting,
        Stage::EhloAfterTls,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Body,
    ] {
        let world = World::plain(|server| server.on(stage, Action::Trickle)).await;
        world.send().await.unwrap();
    }
}

#[tokio::test]
async fn the_whole_conversation_as_it_goes_over_the_wire() {
    let world = World::plain(|server| server).await;
    world
        .send_message(&message_with(
            &["family@example.com"],
            &["desk@example.com"],
        ))
        .await
        .unwrap();
    world.send().await.unwrap();
    insta::assert_snapshot!(world.server.transcript_of(1).join("\n"), @r"
    S: 220 localhost ESMTP ready
    C: EHLO clinic.example
    S: 250-localhost at your service
    S: 250-PIPELINING
    S: 250-SIZE 26214400
    S: 250-8BITMIME
    S: 250-SMTPUTF8
    S: 250-ENHANCEDSTATUSCODES
    S: 250 STARTTLS
    C: STARTTLS
    S: 220 2.0.0 go ahead
    C: EHLO clinic.example
    S: 250-localhost at your service
    S: 250-PIPELINING
    S: 250-SIZE 26214400
    S: 250-8BITMIME
    S: 250-SMTPUTF8
    S: 250-ENHANCEDSTATUSCODES
    S: 250 AUTH PLAIN LOGIN
    C: AUTH PLAIN ***
    S: 235 2.7.0 authenticated
    C: MAIL FROM:<appointments@clinic.example> SIZE=808
    S: 250 2.1.0 ok
    C: RCPT TO:<patient@example.com>
    S: 250 2.1.5 ok
    C: RCPT TO:<family@example.com>
    S: 250 2.1.5 ok
    C: RCPT TO:<desk@example.com>
    S: 250 2.1.5 ok
    C: DATA
    S: 354 end with a line that holds a dot alone
    C: <808 bytes>
    S: 250 2.0.0 accepted as 1.1
    C: MAIL FROM:<appointments@clinic.example> SIZE=784
    S: 250 2.1.0 ok
    C: RCPT TO:<patient@example.com>
    S: 250 2.1.5 ok
    C: DATA
    S: 354 end with a line that holds a dot alone
    C: <784 bytes>
    S: 250 2.0.0 accepted as 1.2
    ");
}

#[tokio::test]
async fn what_was_offered_before_tls_is_forgotten() {
    let world = World::plain(|server| {
        let reply = "250-mail.example\n250 AUTH PLAIN";
        server.on(Stage::EhloAfterTls, Action::reply(reply))
    })
    .await;
    world.send().await.unwrap();
    assert_eq!(
        world.said("MAIL"),
        ["MAIL FROM:<appointments@clinic.example>"]
    );
}

#[tokio::test]
async fn ehlo_says_the_name_that_is_set() {
    for (ehlo_name, said) in [
        (None, "EHLO clinic.example"),
        (Some("out.clinic.example"), "EHLO out.clinic.example"),
        (Some("192.0.2.7"), "EHLO [192.0.2.7]"),
        (Some("2001:db8::7"), "EHLO [IPv6:2001:db8::7]"),
    ] {
        let options = Options {
            ehlo_name,
            ..Options::default()
        };
        let world = World::new(options, |server| server).await;
        world.send().await.unwrap();
        assert_eq!(world.said("EHLO"), [said, said]);
    }
}

#[tokio::test]
async fn a_copy_that_is_refused_does_not_keep_the_message_from_the_others() {
    for pipelining in [true, false] {
        let world = World::plain(|server| {
            let server = server
                .on_rcpt("b@example.com", Action::reply("550 5.1.1 unknown"))
                .on_rcpt("d@example.com", Action::reply("452 4.5.3 too many"))
                .on_rcpt("e@example.com", Action::reply("450 4.2.0 later"));
            if pipelining {
                server
            } else {
                server.without_extension("PIPELINING")
            }
        })
        .await;
        let message = message_with(
            &["a@example.com", "b@example.com"],
            &["c@example.com", "d@example.com", "e@example.com"],
        );
        let receipt = world.send_message(&message).await.unwrap();
        assert_eq!(
            refused_copies(&receipt),
            [
                (CopyField::Cc, 1, Some("550 5.1.1")),
                (CopyField::Bcc, 1, Some("452 4.5.3")),
                (CopyField::Bcc, 2, Some("450 4.2.0")),
            ]
        );
        let messages = world.server.messages();
        assert_eq!(messages.len(), 1);
        assert_eq!(
            messages[0].rcpt_to,
            ["patient@example.com", "a@example.com", "c@example.com"]
        );
        world.send().await.unwrap();
        assert_eq!(world.server.connections(), 1);
    }
}

#[tokio::test]
async fn when_the_recipient_is_refused_nobody_gets_a_copy() {
    for pipelining in [true, false] {
        let world = World::plain(|server| {
            let unknown = Action::reply("550 5.1.1 unknown");
            let server = server.on_rcpt("patient@example.com", unknown);
            if pipelining {
                server
            } else {
                server.without_extension("PIPELINING")
            }
        })
        .await;
        let message = message_with(&["a@example.com"], &["b@example.com"]);
        let result = world.send_message(&message).await;
        assert_eq!(
            verdict(&result),
            (Disposition::Final, ErrorKind::InvalidRecipient)
        );
        // With the next message where it costs no round trip, else at once.
        assert_eq!(world.said("RSET").len(), usize::from(!pipelining));
        assert!(world.said("DATA").is_empty());
        assert!(world.server.messages().is_empty());
        // The transaction is over: the next message is not the refused one's.
        world
            .send_message(&message_to("other@example.com"))
            .await
            .unwrap();
        assert_eq!(world.server.connections(), 1);
        assert_eq!(world.server.messages()[0].rcpt_to, ["other@example.com"]);
    }
}

#[tokio::test]
async fn a_message_that_is_asked_for_although_its_recipient_was_refused_is_ended_by_a_dot() {
    let world = World::plain(|server| {
        let unknown = Action::reply("550 5.1.1 unknown");
        server.data_without_recipients().on(Stage::Rcpt, unknown)
    })
    .await;
    let result = world.send().await;
    assert_eq!(
        verdict(&result),
        (Disposition::Final, ErrorKind::InvalidRecipient)
    );
    assert_eq!(world.said("<"), ["<0 bytes>"]);
    assert!(world.server.messages().is_empty());
    world.send().await.unwrap();
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (1, 1)
    );
}

#[tokio::test]
async fn a_reply_that_is_cut_within_a_group_sends_nothing() {
    for (stage, reply) in [
        (Stage::Mail, "250-half of a reply"),
        (Stage::Rcpt, "250-half of a reply"),
        (Stage::Data, "354-half of a reply"),
    ] {
        let cut = Action::reply_then_close(reply);
        let world = World::plain(|server| server.on(stage, cut)).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::Transient, ErrorKind::Unavailable),
            "{stage:?}"
        );
        assert!(world.server.messages().is_empty());
        // Half a reply is none: the next command's stage was not reached by it.
        let conversation = world.server.transcript().join("\n");
        assert!(!conversation.contains("bytes>"), "{conversation}");
        world.send().await.unwrap();
        assert_eq!(world.server.connections(), 2);
    }
}

/// RFC 2920 section 3.2 wants the replies to a group in one segment; the others here come one by one.
#[tokio::test]
async fn replies_to_a_group_may_come_together() {
    let world = World::plain(|server| {
        server
            .replies_together()
            .on_rcpt("b@example.com", Action::reply("550 5.1.1 unknown"))
            .on_rcpt("gone@example.com", Action::reply("550 5.1.1 unknown"))
    })
    .await;
    world.send().await.unwrap();
    let gone = world.send_message(&message_to("gone@example.com")).await;
    assert_eq!(
        verdict(&gone),
        (Disposition::Final, ErrorKind::InvalidRecipient)
    );
    let copies = message_with(&["a@example.com"], &["b@example.com"]);
    let receipt = world.send_message(&copies).await.unwrap();
    let refused = [(CopyField::Bcc, 0, Some("550 5.1.1"))];
    assert_eq!(refused_copies(&receipt), refused);
    let recipients: Vec<_> = world
        .server
        .messages()
        .into_iter()
        .map(|it| it.rcpt_to)
        .collect();
    let expected = [
        vec!["patient@example.com"],
        vec!["patient@example.com", "a@example.com"],
    ];
    assert_eq!(recipients, expected);
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn replies_ahead_of_their_commands_send_nothing() {
    for stage in [Stage::EhloAfterTls, Stage::Auth, Stage::Mail, Stage::Rcpt] {
        let ahead = b"250 ok\r\n250 ok\r\n354 go ahead\r\n250 2.0.0 accepted\r\n".to_vec();
        let world = World::plain(|server| server.on(stage, Action::Inject(ahead))).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::Transient, ErrorKind::Unexpected),
            "{stage:?}"
        );
        assert!(world.server.messages().is_empty(), "{stage:?}");
        let conversation = world.server.transcript().join("\n");
        assert!(!conversation.contains("bytes>"), "{conversation}");
        world.send().await.unwrap();
        assert_eq!(world.server.connections(), 2, "{stage:?}");
    }
}

#[tokio::test]
async fn a_connection_carries_no_more_messages_than_servers_like() {
    let options = Options {
        max_connections: 1,
        ..Options::default()
    };
    let world = World::new(options, |server| server).await;
    for _ in 0..101 {
        world.send().await.unwrap();
    }
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn a_server_that_says_good_bye_after_each_message_costs_none() {
    let options = Options {
        max_connections: 1,
        ..Options::default()
    };
    let world = World::new(options, |server| server.max_messages_per_session(1)).await;
    for _ in 0..5 {
        world.send().await.unwrap();
    }
    assert_eq!(world.server.messages().len(), 5);
}

#[tokio::test]
async fn a_reply_more_than_was_asked_for_is_never_taken_for_the_acceptance() {
    let surplus = b"250 2.0.0 accepted\r\n".to_vec();
    let world = World::plain(|server| server.on(Stage::Data, Action::Inject(surplus))).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::Transient, ErrorKind::Unexpected)
    );
    assert!(world.server.messages().is_empty());
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn what_follows_the_acceptance_ends_the_connection_and_not_the_acceptance() {
    let surplus = b"250 2.0.0 and more\r\n".to_vec();
    let world = World::plain(|server| server.on(Stage::Body, Action::Inject(surplus))).await;
    world.send().await.unwrap();
    world.send().await.unwrap();
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (2, 2)
    );
}

#[tokio::test]
async fn a_message_over_the_servers_own_limit_is_not_begun() {
    let world = World::plain(|server| server.max_message_size(4_000)).await;
    let large = changed(|content| content.body = Some("x\n".repeat(4_000)));
    let result = world.send_message(&large).await;
    assert_eq!(
        verdict(&result),
        (Disposition::Final, ErrorKind::InvalidMessage)
    );
    assert!(result.unwrap_err().detail.contains("own limit"));
    assert!(world.said("MAIL").is_empty());
    // The connection was logged in and is as good as before.
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn size_is_declared_as_the_server_counts_it() {
    let world = World::plain(|server| server).await;
    world.send().await.unwrap();
    let got = &world.server.messages()[0];
    assert!(got.text().contains("\r\n.\r\n"), "a dot to be doubled");
    assert_eq!(got.mail_params, [format!("SIZE={}", got.data.len())]);
    let world = World::plain(|server| server.without_extension("SIZE")).await;
    world.send().await.unwrap();
    assert!(world.server.messages()[0].mail_params.is_empty());
}

#[tokio::test]
async fn addresses_beyond_ascii_go_where_smtputf8_is_offered() {
    let options = Options {
        sender: "überweisung@clinic.example",
        ..Options::default()
    };
    let world = World::new(options, |server| server).await;
    let mut message = message_to("jörg@example.com");
    message.reply_to = Some(EmailAddress::parse("größe@clinic.example").unwrap());
    let mut content = (*message.content).clone();
    content.cc = vec![EmailAddress::parse("käthe@example.com").unwrap()];
    content.bcc = vec![EmailAddress::parse("zoë@example.com").unwrap()];
    message.content = Arc::new(content);
    let receipt = world.send_message(&message).await.unwrap();
    assert!(receipt.refused_copies.is_empty());
    let got = &world.server.messages()[0];
    assert_eq!(got.mail_from, "überweisung@clinic.example");
    assert_eq!(
        got.rcpt_to,
        ["jörg@example.com", "käthe@example.com", "zoë@example.com"]
    );
    let size = format!("SIZE={}", got.data.len());
    assert_eq!(
        got.mail_params,
        [size.as_str(), "BODY=8BITMIME", "SMTPUTF8"]
    );
    let text = got.text();
    for line in [
        "From: Clinic <überweisung@clinic.example>\r\n",
        "To: jörg@example.com\r\n",
        "Cc: käthe@example.com\r\n",
        "Reply-To: größe@clinic.example\r\n",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
}

#[tokio::test]
async fn a_blind_copy_beyond_ascii_needs_smtputf8_but_no_8_bit_content() {
    let world = World::plain(|server| server).await;
    world
        .send_message(&message_with(&[], &["zoë@example.com"]))
        .await
        .unwrap();
    let got = &world.server.messages()[0];
    assert_eq!(got.mail_params[1..], ["SMTPUTF8"]);
}

#[tokio::test]
async fn nothing_of_smtputf8_is_said_where_no_address_needs_it() {
    let world = World::plain(|server| server).await;
    let mut message = message_to("patient@bücher.example");
    let mut content = (*message.content).clone();
    content.title = Some("Termin bestätigt".into());
    content.body = Some("Grüße".into());
    message.content = Arc::new(content);
    world.send_message(&message).await.unwrap();
    let got = &world.server.messages()[0];
    assert_eq!(got.rcpt_to, ["patient@xn--bcher-kva.example"]);
    assert_eq!(got.mail_params.len(), 1, "{:?}", got.mail_params);
    assert!(got.data.is_ascii());
}

#[tokio::test]
async fn addresses_beyond_ascii_are_refused_before_mail_where_smtputf8_is_not_offered() {
    use Disposition::ProviderDown;

    let foreign = "überweisung@clinic.example";
    let mut answers = message(1);
    answers.reply_to = Some(EmailAddress::parse("größe@clinic.example").unwrap());
    for (sender, message, expected, unhealthy) in [
        (
            "appointments@clinic.example",
            message_to("jörg@example.com"),
            (ProviderDown, ErrorKind::InvalidRecipient),
            false,
        ),
        (
            foreign,
            message(1),
            (ProviderDown, ErrorKind::SenderNotAllowed),
            true,
        ),
        (
            foreign,
            message_to("jörg@example.com"),
            (ProviderDown, ErrorKind::SenderNotAllowed),
            true,
        ),
        (
            "appointments@clinic.example",
            answers,
            (ProviderDown, ErrorKind::InvalidMessage),
            false,
        ),
    ] {
        let options = Options {
            sender,
            ..Options::default()
        };
        let world = World::new(options, |server| server.without_extension("SMTPUTF8")).await;
        let result = world.send_message(&message).await;
        assert_eq!(verdict(&result), expected);
        assert_eq!(result.unwrap_err().unhealthy, unhealthy);
        assert!(world.said("MAIL").is_empty());
    }
}

#[tokio::test]
async fn copies_beyond_ascii_are_left_out_where_smtputf8_is_not_offered() {
    let world = World::plain(|server| server.without_extension("SMTPUTF8")).await;
    let message = message_with(
        &["käthe@example.com", "a@example.com"],
        &["b@example.com", "zoë@example.com"],
    );
    let receipt = world.send_message(&message).await.unwrap();
    assert_eq!(
        refused_copies(&receipt),
        [(CopyField::Cc, 0, None), (CopyField::Bcc, 1, None)]
    );
    let got = &world.server.messages()[0];
    assert_eq!(
        got.rcpt_to,
        ["patient@example.com", "a@example.com", "b@example.com"]
    );
    assert!(got.data.is_ascii(), "nor is one in the header");
    assert!(got.text().contains("Cc: a@example.com\r\n"));
}

#[tokio::test]
async fn receivers_of_blind_copies_are_in_the_envelope_and_nowhere_else() {
    let world = World::plain(|server| server).await;
    world
        .send_message(&message_with(
            &["seen@example.com"],
            &["unseen@example.com"],
        ))
        .await
        .unwrap();
    let got = &world.server.messages()[0];
    assert_eq!(
        got.rcpt_to,
        [
            "patient@example.com",
            "seen@example.com",
            "unseen@example.com"
        ]
    );
    let text = got.text().to_ascii_lowercase();
    assert!(text.contains("seen@example.com"));
    assert!(!text.contains("unseen") && !text.contains("bcc"), "{text}");
}

#[tokio::test]
async fn auth_login_is_a_conversation_of_three_turns() {
    let world = World::plain(|server| server.auth_mechanisms(&["LOGIN"])).await;
    world.send().await.unwrap();
    let said = world.server.transcript_of(1);
    let start = said.iter().position(|line| line == "C: AUTH LOGIN");
    assert_eq!(
        said[start.unwrap()..][..6],
        [
            "C: AUTH LOGIN",
            "S: 334 VXNlcm5hbWU6",
            "C: ***",
            "S: 334 UGFzc3dvcmQ6",
            "C: ***",
            "S: 235 2.7.0 authenticated",
        ]
    );
    let options = Options {
        password: "wrong",
        ..Options::default()
    };
    let world = World::new(options, |server| server.auth_mechanisms(&["LOGIN"])).await;
    let result = world.send().await;
    assert_eq!(result.unwrap_err().code.unwrap().as_str(), "535 5.7.8");
}

#[tokio::test]
async fn a_password_too_long_for_a_command_line_is_given_when_it_is_asked_for() {
    let password = "0123456789".repeat(60);
    let options = Options {
        password: password.clone().leak(),
        ..Options::default()
    };
    let world = World::new(options, |server| {
        server.credentials("clinic-user", password)
    })
    .await;
    world.send().await.unwrap();
    assert_eq!(world.said("AUTH"), ["AUTH PLAIN"]);
}

#[tokio::test]
async fn the_legacy_form_of_the_auth_line_is_understood() {
    let reply = "250-mail.example\n250 AUTH=LOGIN PLAIN";
    let world = World::plain(|server| server.on(Stage::EhloAfterTls, Action::reply(reply))).await;
    world.send().await.unwrap();
    assert_eq!(world.said("AUTH"), ["AUTH PLAIN ***"]);
}

#[tokio::test]
async fn a_message_of_another_channel_is_refused_and_nothing_is_connected_to() {
    let world = World::plain(|server| server).await;
    let mut message = message(1);
    message.target = Target::Whatsapp(PhoneNumber::parse("+15550100").unwrap());
    assert_eq!(
        verdict(&world.send_message(&message).await),
        (Disposition::Final, ErrorKind::InvalidMessage)
    );
    assert_eq!(world.server.connections(), 0);
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let world = World::plain(|server| server).await;
    let body = (0..40_000).fold(String::new(), |text, number| {
        text + &format!(".line {number} with some text\n")
    });
    let large = changed(|content| {
        content.html = None;
        content.body = Some(body.clone());
    });
    world.send_message(&large).await.unwrap();
    let text = world.server.messages()[0].text();
    let (_, got) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(got.replace("\r\n", "\n").trim_end(), body.trim_end());
}

#[tokio::test]
async fn a_connection_is_used_again_without_another_word() {
    let world = World::plain(|server| server).await;
    for number in 1..=3 {
        world
            .provider
            .send(&message(number), Deadline::after(Duration::from_secs(20)))
            .await
            .unwrap();
    }
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (3, 1)
    );
    assert!(
        !world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("NOOP"))
    );
}

#[tokio::test]
async fn a_connection_whose_conversation_was_cut_short_is_never_used_again() {
    let world = World::plain(|server| server.on(Stage::Body, Action::Hang)).await;
    let (cut, _) = world.send_to_a_server_that_hangs(Stage::Body).await;
    assert_eq!(cut.unwrap_err().disposition, Disposition::Ambiguous);
    // Were the connection used again, the reply to the first body would pass for the second's.
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
    assert_eq!(world.server.messages().len(), 1);
}

#[tokio::test]
async fn a_send_that_is_dropped_midway_does_not_leave_its_connection_behind() {
    let world = World::plain(|server| server.on(Stage::Rcpt, Action::Hang)).await;
    let message = message(1);
    let mut send = world
        .provider
        .send(&message, Deadline::after(Duration::from_secs(20)));
    tokio::select! {
        _ = &mut send => panic!("the server hangs"),
        () = world.server.wait_for_stage(Stage::Rcpt, 1) => {}
    }
    drop(send);
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn a_refused_recipient_does_not_cost_the_connection() {
    let world =
        World::plain(|server| server.on(Stage::Rcpt, Action::reply("550 5.1.1 unknown"))).await;
    assert_eq!(verdict(&world.send().await).0, Disposition::Final);
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn connections_that_the_server_closed_while_idle_cost_no_message() {
    let world = World::plain(|server| server).await;
    world.send().await.unwrap();
    world.server.close_idle_connections().await;
    world.send().await.unwrap();
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (2, 2)
    );
}

#[tokio::test]
async fn a_connection_that_closes_at_the_next_message_costs_no_message() {
    for action in [
        Action::Close,
        Action::reply_then_close("421 4.7.0 too many messages"),
    ] {
        let world = World::plain(|server| server).await;
        world.send().await.unwrap();
        world.server.on(Stage::Mail, action);
        world.send().await.unwrap();
        assert_eq!(
            (world.server.messages().len(), world.server.connections()),
            (2, 2)
        );
    }
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_used() {
    let world = World::plain(|server| server).await;
    world.send().await.unwrap();
    world.clock.advance(Duration::from_mins(5));
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let options = Options {
        max_connections: 2,
        ..Options::default()
    };
    let world = World::new(options, |server| server.max_connections(2)).await;
    let messages: Vec<_> = (1..=40).map(message).collect();
    let sends = messages.iter().map(|message| {
        world
            .provider
            .send(message, Deadline::after(Duration::from_secs(20)))
    });
    let results = futures_util::future::join_all(sends).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (40, 2)
    );
}

#[tokio::test]
async fn when_no_connection_comes_free_the_message_is_not_sent_and_the_provider_not_blamed() {
    let options = Options {
        max_connections: 1,
        ..Options::default()
    };
    let world = World::new(options, |server| server.on(Stage::Body, Action::Hang)).await;
    let (first, second) = (message(1), message(2));
    let blocked = world
        .provider
        .send(&first, Deadline::after(Duration::from_secs(20)));
    let waiting = async {
        world.server.wait_for_stage(Stage::Body, 1).await;
        world
            .provider
            .send(&second, Deadline::after(Duration::from_millis(100)))
            .await
    };
    tokio::select! {
        _ = blocked => panic!("the server hangs"),
        result = waiting => {
            let error = result.unwrap_err();
            assert_eq!((error.disposition, error.kind, error.unhealthy),
                       (Disposition::Transient, ErrorKind::Timeout, false));
        }
    }
}

#[tokio::test]
async fn addresses_and_ports_that_are_not_allowed_are_not_connected_to() {
    for options in [
        Options {
            allow: "",
            ..Options::default()
        },
        Options {
            allow: "",
            host: "rebinding.example",
            names: &["rebinding.example"],
            ..Options::default()
        },
        Options {
            allow: "127.0.0.0/8:1",
            ..Options::default()
        },
    ] {
        let world = World::new(options, |server| server).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::ProviderDown, ErrorKind::Unavailable)
        );
        assert_eq!(world.server.connections(), 0);
    }
    let world = World::new(
        Options {
            host: "unknown.example",
            names: &["x"],
            ..Options::default()
        },
        |server| server,
    )
    .await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::Transient, ErrorKind::Unavailable)
    );
}

#[tokio::test]
async fn a_check_goes_through_every_stage_and_sends_nothing() {
    use VerifyStage::{Authenticate, Connect, Egress, Resolve, Tls};

    let world = World::plain(|server| server).await;
    let report = world
        .provider
        .verify(Deadline::after(Duration::from_secs(20)))
        .await;
    let stages: Vec<_> = report.iter().map(|stage| stage.stage).collect();
    assert_eq!(stages, [Resolve, Egress, Connect, Tls, Authenticate]);
    assert!(
        report
            .iter()
            .all(|stage| stage.outcome == StageOutcome::Passed),
        "{report:?}"
    );
    assert!(world.server.messages().is_empty());
    assert!(
        world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("QUIT"))
    );
}

#[tokio::test]
async fn a_check_stops_at_the_stage_that_fails() {
    use ErrorKind::{Unauthenticated, Unavailable};

    let failed = async |options: Options| {
        let world = World::new(options, |server| server).await;
        let report = world
            .provider
            .verify(Deadline::after(Duration::from_secs(20)))
            .await;
        let last = report.last().unwrap().clone();
        assert!(
            report[..report.len() - 1]
                .iter()
                .all(|stage| stage.outcome == StageOutcome::Passed)
        );
        let StageOutcome::Failed { kind, detail, .. } = last.outcome else {
            panic!("{report:?}")
        };
        assert!(detail.ends_with('.'));
        (last.stage, kind)
    };
    let unknown = Options {
        host: "unknown.example",
        ..Options::default()
    };
    assert_eq!(failed(unknown).await, (VerifyStage::Resolve, Unavailable));
    assert_eq!(
        failed(Options {
            allow: "",
            ..Options::default()
        })
        .await,
        (VerifyStage::Egress, Unavailable)
    );
    assert_eq!(
        failed(Options {
            expired: true,
            ..Options::default()
        })
        .await,
        (VerifyStage::Tls, Unauthenticated)
    );
    assert_eq!(
        failed(Options {
            password: "wrong",
            ..Options::default()
        })
        .await,
        (VerifyStage::Authenticate, Unauthenticated)
    );
}
