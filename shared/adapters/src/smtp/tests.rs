use comms_core::EmailAddress;

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

fn sender() -> Mailbox {
    Mailbox {
        address: EmailAddress::parse("appointments@clinic.example").unwrap(),
        name: Some("Clinic, \"Name\"".into()),
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
        ehlo_name: None,
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
