//! What the end of a stage means, and what to do about it: where there was no reply here, the replies in [`replies`].

mod replies;

use comms_core::{Disposition, ErrorKind, ProviderError};

use self::replies::classify_reply;
use super::failure::{Cause, Failure, Stage};
use crate::net::{egress::EgressError, tls::CertificateFault};

/// What a failure at a stage means, and what to do about it.
///
/// Nothing before the end of the message left can be [`Disposition::Ambiguous`].
#[allow(clippy::too_many_lines, reason = "one table")]
pub fn classify(failure: Failure) -> ProviderError {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        InvalidMessage, InvalidRecipient, SenderNotAllowed, Timeout, Unauthenticated, Unavailable,
        Unexpected,
    };
    let error = ProviderError::new;
    let Failure { stage, cause } = failure;
    match (stage, cause) {
        (_, Cause::Reply(reply)) => classify_reply(stage, reply),
        (Stage::Pool, _) => error(
            Transient,
            Timeout,
            "There was not enough time left for the message, or for one of our connections to become free; allow more connections, or send less at once.",
        )
        .health_unchanged(),
        (_, Cause::Egress(EgressError::Unresolved)) => error(
            Transient,
            Unavailable,
            "The server's name does not resolve; check the host.",
        ),
        (_, Cause::Egress(EgressError::Address)) => error(
            ProviderDown,
            Unavailable,
            "The server's address is not one that may be connected to; use a public mail server.",
        ),
        (_, Cause::Egress(EgressError::Port)) => error(
            ProviderDown,
            Unavailable,
            "The port is not one that may be connected to; use 465, 587 or 2525.",
        ),
        (_, Cause::Certificate(fault)) => {
            error(ProviderDown, Unauthenticated, certificate_detail(fault))
        }
        (Stage::StartTls, Cause::NotOffered) => error(
            ProviderDown,
            Unauthenticated,
            "The server does not offer STARTTLS on this port, and nothing is sent without TLS; try port 465 with secure=true.",
        ),
        (Stage::StartTls, Cause::Malformed) => error(
            ProviderDown,
            Unauthenticated,
            "Something was sent in clear after STARTTLS was agreed; somebody may be between us and the server.",
        ),
        (Stage::Auth, Cause::NotOffered) => error(
            ProviderDown,
            Unauthenticated,
            "The server offers neither AUTH PLAIN nor AUTH LOGIN.",
        ),
        (Stage::Mail, Cause::NotOffered) => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender's address has characters beyond ASCII, which this server does not take; send from another one.",
        ),
        (Stage::Rcpt, Cause::NotOffered) => error(
            ProviderDown,
            InvalidRecipient,
            "The recipient's address has characters beyond ASCII, which this server does not take; one with SMTPUTF8 may.",
        )
        .health_unchanged(),
        (Stage::Data, Cause::NotOffered) => error(
            ProviderDown,
            InvalidMessage,
            "The address for answers has characters beyond ASCII, which this server does not take.",
        )
        .health_unchanged(),
        (Stage::Body, Cause::NotOffered) => error(
            ProviderDown,
            InvalidMessage,
            "The message has 8-bit content, which this server does not take; another may.",
        )
        .health_unchanged(),
        (_, Cause::TooLarge) => error(
            Final,
            InvalidMessage,
            "The message is larger than this server takes by its own limit (SIZE); send less, or raise the limit there.",
        ),
        (Stage::Body, Cause::Closed | Cause::TimedOut | Cause::Malformed) => error(
            Ambiguous,
            Timeout,
            "The server did not say whether it took the message.",
        ),
        (_, Cause::TooSlow) => error(
            Transient,
            Timeout,
            "The server is too slow for one invocation: its replies left no time for the message, which was not begun; have its administrator look into what it waits for.",
        ),
        (_, Cause::TimedOut) => error(
            Transient,
            Timeout,
            "The server did not answer in time; check host and port.",
        ),
        (Stage::Tls, Cause::TlsHandshake | Cause::Closed | Cause::Malformed) => error(
            Transient,
            Unavailable,
            "TLS could not be set up; check that the port and secure belong together (465 true, 587 false).",
        ),
        (Stage::Connect, Cause::Closed) => error(
            Transient,
            Unavailable,
            "The server does not accept connections; check host and port.",
        ),
        (Stage::Mail | Stage::Rcpt | Stage::Data, Cause::Malformed) => error(
            Transient,
            Unexpected,
            "The server answered something that it was not asked; the message was not sent.",
        ),
        (_, Cause::Malformed) => error(
            Transient,
            Unexpected,
            "The server does not speak SMTP here; check the port and secure.",
        ),
        (_, Cause::Closed | Cause::TlsHandshake | Cause::NotOffered) => error(
            Transient,
            Unavailable,
            "The server closed the connection before the message was sent.",
        ),
        (_, Cause::Local) => error(
            ProviderDown,
            Unexpected,
            "The settings of this provider cannot be used as they are; save them again.",
        ),
    }
}

/// What is wrong with the server's certificate, and what to do about it.
const fn certificate_detail(fault: CertificateFault) -> &'static str {
    match fault {
        CertificateFault::Expired => "The server's certificate has expired; have it renewed.",
        CertificateFault::NotYetValid => {
            "The server's certificate is not valid yet; check its dates."
        }
        CertificateFault::OtherName => {
            "The server's certificate does not name this host in subjectAltName; set host to a name that it has, or have it issued for this one."
        }
        CertificateFault::UnknownRoot => {
            "The server's certificate does not verify: its root is not known; give the root, or the server's own certificate if it is self-signed, as caPem. One that is given is trusted for the names it has alone."
        }
        CertificateFault::OldVersion => {
            "The server's certificate is of X.509 version 1, which names no host, and cannot be trusted even if it is given as caPem; have one made with the host in subjectAltName."
        }
        CertificateFault::Other => {
            "The server's certificate does not verify: its form, its signature or its purpose is wrong; have a new one made, or give its root as caPem."
        }
    }
}
