//! What every reply on record means, and every end without one.

use super::*;

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
