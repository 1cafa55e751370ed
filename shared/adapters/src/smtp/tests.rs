use comms_core::{DeliveryId, request::Content};
use proptest::prelude::*;

use super::*;

fn reply(code: u16, enhanced: &str) -> Cause {
    Cause::Reply(Reply::new(code, enhanced))
}

/// Every row of the SMTP table: stage, reply, what it means.
#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn every_known_reply_has_its_kind_and_disposition() {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, PolicyRefused, SenderNotAllowed, Timeout,
        Unauthenticated, Unavailable,
    };
    let rows = [
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
        (
            Stage::Greeting,
            reply(421, "4.3.2"),
            Transient,
            Unavailable,
            true,
        ),
        (
            Stage::Greeting,
            reply(554, ""),
            Transient,
            Unavailable,
            true,
        ),
        (Stage::Greeting, Cause::Closed, Transient, Unavailable, true),
        (Stage::Ehlo, reply(421, ""), Transient, Unavailable, true),
        (
            Stage::StartTls,
            reply(454, ""),
            Transient,
            Unavailable,
            true,
        ),
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
            Cause::Certificate,
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Auth,
            reply(530, "5.7.0"),
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Auth,
            reply(534, "5.7.9"),
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Auth,
            reply(535, "5.7.8"),
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Auth,
            reply(454, "4.7.0"),
            Transient,
            Unavailable,
            true,
        ),
        (
            Stage::Auth,
            Cause::NotOffered,
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Mail,
            reply(550, "5.7.1"),
            ProviderDown,
            SenderNotAllowed,
            true,
        ),
        (
            Stage::Mail,
            reply(553, "5.1.8"),
            ProviderDown,
            SenderNotAllowed,
            true,
        ),
        (
            Stage::Mail,
            reply(552, "5.3.4"),
            Final,
            InvalidMessage,
            false,
        ),
        (
            Stage::Mail,
            reply(451, "4.3.0"),
            Transient,
            Unavailable,
            true,
        ),
        (Stage::Mail, reply(421, ""), Transient, Unavailable, true),
        (
            Stage::Rcpt,
            reply(550, "5.1.1"),
            Final,
            InvalidRecipient,
            false,
        ),
        (
            Stage::Rcpt,
            reply(550, "5.1.2"),
            Final,
            InvalidRecipient,
            false,
        ),
        (
            Stage::Rcpt,
            reply(550, "5.1.10"),
            Final,
            InvalidRecipient,
            false,
        ),
        (Stage::Rcpt, reply(551, ""), Final, InvalidRecipient, false),
        (
            Stage::Rcpt,
            reply(553, "5.1.3"),
            Final,
            InvalidRecipient,
            false,
        ),
        (Stage::Rcpt, reply(550, ""), Final, InvalidRecipient, false),
        (
            Stage::Rcpt,
            reply(550, "5.7.1"),
            ProviderDown,
            PolicyRefused,
            false,
        ),
        (
            Stage::Rcpt,
            reply(530, "5.7.0"),
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Rcpt,
            reply(503, "5.5.1"),
            ProviderDown,
            ErrorKind::Unexpected,
            true,
        ),
        (
            Stage::Mail,
            reply(530, "5.7.0"),
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            Stage::Body,
            reply(550, "5.1.1"),
            Final,
            InvalidRecipient,
            false,
        ),
        (
            Stage::Rcpt,
            reply(450, "4.2.0"),
            Transient,
            Unavailable,
            true,
        ),
        (
            Stage::Rcpt,
            reply(451, "4.7.1"),
            Transient,
            Unavailable,
            true,
        ),
        (
            Stage::Rcpt,
            reply(452, "4.2.2"),
            Transient,
            Unavailable,
            true,
        ),
        (
            Stage::Rcpt,
            reply(452, "4.5.3"),
            Transient,
            Unavailable,
            false,
        ),
        (Stage::Data, reply(451, ""), Transient, Unavailable, true),
        (Stage::Data, Cause::Closed, Transient, Unavailable, true),
        (Stage::Data, Cause::TimedOut, Transient, Timeout, true),
        (
            Stage::Body,
            reply(451, "4.3.0"),
            Transient,
            Unavailable,
            true,
        ),
        (Stage::Body, reply(421, ""), Ambiguous, Timeout, true),
        (Stage::Body, Cause::Closed, Ambiguous, Timeout, true),
        (Stage::Body, Cause::TimedOut, Ambiguous, Timeout, true),
        (
            Stage::Body,
            reply(554, "5.6.0"),
            Final,
            InvalidMessage,
            false,
        ),
        (
            Stage::Body,
            reply(552, "5.3.4"),
            Final,
            InvalidMessage,
            false,
        ),
        (
            Stage::Body,
            reply(554, "5.7.1"),
            ProviderDown,
            PolicyRefused,
            true,
        ),
        (
            Stage::Body,
            reply(250, ""),
            Ambiguous,
            ErrorKind::Unexpected,
            true,
        ),
    ];
    for (stage, cause, disposition, kind, unhealthy) in rows {
        let error = classify(Failure::new(stage, cause));
        assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (disposition, kind, unhealthy),
            "{stage:?} {cause:?}"
        );
        if let Cause::Reply(reply) = cause {
            assert_eq!(error.code, reply.provider_code(), "{stage:?} {cause:?}");
        }
    }
}

/// Before the body nothing was sent, so nothing may be Ambiguous; after it a lost reply always is.
#[test]
fn only_the_body_can_be_ambiguous() {
    let stages = [
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
    for stage in stages {
        for cause in [Cause::Closed, Cause::TimedOut, Cause::Malformed] {
            let ambiguous =
                classify(Failure::new(stage, cause)).disposition == Disposition::Ambiguous;
            assert_eq!(ambiguous, stage == Stage::Body, "{stage:?} {cause:?}");
        }
    }
}

fn message(title: &str, body: Option<&str>, html: Option<&str>) -> Message {
    Message {
        delivery: DeliveryId::parse(&"ab".repeat(16)).unwrap(),
        target: Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: Some("A. Patient".into()),
        }),
        content: Arc::new(Content {
            title: Some(title.into()),
            body: body.map(Into::into),
            html: html.map(Into::into),
            template: None,
            attachments: Vec::new(),
        }),
        reply_to: Some(EmailAddress::parse("desk@clinic.example").unwrap()),
    }
}

fn sender() -> Mailbox {
    Mailbox {
        address: EmailAddress::parse("appointments@clinic.example").unwrap(),
        name: Some("Clinic, \"Name\"".into()),
    }
}

fn built(message: &Message) -> String {
    String::from_utf8(build(message, &sender()).unwrap().bytes).unwrap()
}

#[test]
fn a_message_has_the_headers_and_both_bodies_text_first() {
    let text = built(&message(
        "Termin bestätigt",
        Some("See you."),
        Some("<p>See you.</p>"),
    ));
    for line in [
        "From: =?utf-8?b?Q2xpbmljLCAiTmFtZSI=?= <appointments@clinic.example>\r\n",
        "To: \"A. Patient\" <patient@example.com>\r\n",
        "Reply-To: desk@clinic.example\r\n",
        "Message-ID: <abababababababababababababababab@clinic.example>\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/alternative;",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    assert!(text.is_ascii());
    assert!(text.find("text/plain").unwrap() < text.find("text/html").unwrap());
    assert!(text.contains("\r\nDate: "));
}

#[test]
fn a_message_without_html_is_plain_and_one_with_attachments_is_mixed() {
    let plain = built(&message("t", Some("See you."), None));
    assert!(plain.contains("Content-Type: text/plain") && !plain.contains("multipart"));
    let mut with_file = message("t", Some("See you."), Some("<p>x</p>"));
    let mut content = (*with_file.content).clone();
    content.attachments.push(comms_core::request::Attachment {
        filename: "a.ics".into(),
        content_type: "text/calendar".into(),
        content: b"BEGIN:VCALENDAR".as_slice().into(),
    });
    with_file.content = Arc::new(content);
    let mixed = built(&with_file);
    assert!(mixed.contains("multipart/mixed") && mixed.contains("multipart/alternative"));
    assert!(
        mixed.contains("Content-Disposition: attachment; filename=\"a.ics\""),
        "{mixed}"
    );
}

#[test]
fn no_line_feed_or_carriage_return_goes_out_alone() {
    let smuggled = "text\n.\nMAIL FROM:<x@example.com>\rmore\r\nend\r";
    let mut message = message("t", Some(smuggled), Some(smuggled));
    let mut content = (*message.content).clone();
    content.attachments.push(comms_core::request::Attachment {
        filename: "a.csv".into(),
        content_type: "text/csv".into(),
        content: smuggled.as_bytes().into(),
    });
    message.content = Arc::new(content);
    let text = built(&message);
    let without_line_ends = text.replace("\r\n", "");
    assert!(!without_line_ends.contains(['\r', '\n']), "{text:?}");
    assert!(text.contains("Content-Transfer-Encoding: base64"));
}

proptest! {
    #[test]
    fn no_content_adds_a_header(title in "[^\\p{C}]{1,80}", name in "[^\\p{C}]{0,40}", body in ".{1,80}") {
        let mut message = message(&title, Some(&body), None);
        message.target = Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: Some(name).filter(|name| !name.is_empty()),
        });
        let text = built(&message);
        let head = text.split("\r\n\r\n").next().unwrap();
        let names: Vec<_> = head
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        prop_assert_eq!(sorted.len(), names.len(), "{}", head);
        prop_assert!(names.iter().all(|name| [
            "From", "To", "Subject", "Message-ID", "Date", "Reply-To", "MIME-Version",
            "Content-Type", "Content-Transfer-Encoding",
        ].contains(name)), "{}", head);
        prop_assert!(text.split("\r\n").all(|line| line.len() <= 998));
    }
}

#[test]
fn nothing_printable_shows_a_password_or_an_address() {
    let settings = SmtpSettings {
        host: Host::parse("127.0.0.1").unwrap(),
        port: 587,
        security: Security::StartTls,
        user: "user".into(),
        password: Secret::new("planted-password".to_owned()),
        ca_pem: None,
        max_connections: 1,
        sender: sender(),
    };
    assert!(!format!("{settings:?}").contains("planted"));
    assert!(!format!("{settings:?}").contains("appointments@"));
    let guard = EgressGuard::new(
        crate::egress::EgressAllow::default(),
        Arc::new(crate::egress::SystemResolver),
    );
    let provider = SmtpProvider::new(
        settings,
        &TlsConfigs::new(None).unwrap(),
        guard,
        Arc::new(comms_core::SystemClock),
    );
    assert_eq!(format!("{:?}", provider.unwrap()), "SmtpProvider(…)");
}
