//! Why there is no answer, and what that and an answer without a known code mean.

use std::error::Error as StdError;

use comms_core::{Disposition, ErrorKind, ProviderCode, ProviderError};
use serde::de::IgnoredAny;

use super::HttpResponse;
use crate::net::{egress::EgressError, metered::BudgetExceeded, tls::HandshakeFailure};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransportFailure {
    /// The host does not resolve, or may not be connected to.
    Egress(EgressError),
    /// No TCP connection.
    NotConnected,
    /// No TLS.
    Handshake(HandshakeFailure),
    /// The time was up while other sockets of ours were waited for.
    NoSocketInTime,
    /// The time was up before the request was begun.
    NoConnectionInTime,
    /// The connection ended before the request was begun.
    NotBegun,
    /// The time was up when the request had been begun.
    NoAnswerInTime,
    /// A question, which sends nothing, got no answer, or not in full and in time.
    Unanswered,
    /// The connection ended when the request had been begun, or what came back is not HTTP.
    Interrupted,
    /// The answer is longer than [`MAX_ANSWER`].
    AnswerTooLong,
    /// Our side could not do its part.
    Local,
}

/// What the failure of an exchange on a connection means. `begun`: whether the request's body was asked for.
pub(super) fn transport_failure(error: &hyper::Error, begun: bool) -> TransportFailure {
    let is_too_long = causes(error).any(|cause| cause.downcast_ref::<BudgetExceeded>().is_some());
    match (begun, is_too_long) {
        (true, true) => TransportFailure::AnswerTooLong,
        (true, false) => TransportFailure::Interrupted,
        (false, _) => TransportFailure::NotBegun,
    }
}

/// An error and what is behind it. What an `io::Error` was made from is its content, not its source.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

/// What a failure below the provider's own answers means.
pub(crate) fn classify_transport(failure: TransportFailure) -> ProviderError {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable, Unexpected};
    let error = ProviderError::new;
    match failure {
        TransportFailure::Egress(EgressError::Unresolved) => error(
            Transient,
            Unavailable,
            "The provider's host name does not resolve; check apiUrl.",
        ),
        TransportFailure::Egress(EgressError::Address) => error(
            ProviderDown,
            Unavailable,
            "The address of apiUrl is not one that may be connected to; use the provider's public API.",
        ),
        TransportFailure::Egress(EgressError::Port) => error(
            ProviderDown,
            Unavailable,
            "apiUrl must be https on port 443.",
        ),
        TransportFailure::NotConnected => error(
            Transient,
            Unavailable,
            "The provider could not be connected to.",
        ),
        TransportFailure::Handshake(HandshakeFailure::Certificate(_)) => error(
            ProviderDown,
            Unauthenticated,
            "The certificate of apiUrl does not verify; nothing was sent. Check apiUrl.",
        ),
        TransportFailure::Handshake(HandshakeFailure::Refused | HandshakeFailure::Closed) => error(
            Transient,
            Unavailable,
            "TLS with the provider could not be set up; nothing was sent.",
        ),
        TransportFailure::NoSocketInTime => error(
            Transient,
            Timeout,
            "No socket became free in time; send less at once.",
        )
        .health_unchanged(),
        TransportFailure::NoConnectionInTime => error(
            Transient,
            Timeout,
            "The provider could not be connected to in time; nothing was sent.",
        ),
        TransportFailure::NotBegun => error(
            Transient,
            Unavailable,
            "The connection ended before anything was sent.",
        ),
        TransportFailure::NoAnswerInTime => error(
            Ambiguous,
            Timeout,
            "The provider did not answer in time; it may have taken the message.",
        ),
        TransportFailure::Unanswered => error(
            Transient,
            Timeout,
            "The provider did not answer, or not in full and in time.",
        ),
        TransportFailure::Interrupted => error(
            Ambiguous,
            Unavailable,
            "The connection ended before the provider's answer was complete; it may have taken the message.",
        ),
        TransportFailure::AnswerTooLong => error(
            Ambiguous,
            Unexpected,
            "The provider's answer was longer than any of its answers; it may have taken the message.",
        ),
        TransportFailure::Local => local_failure(),
    }
}

/// 413 (RFC 9110 section 15.5.14). It comes from whatever stands in front of the API as well, so its body says nothing.
pub(crate) const CONTENT_TOO_LARGE: u16 = 413;

/// What [`CONTENT_TOO_LARGE`] means, whatever is in its body.
pub(crate) fn too_large(answer: &HttpResponse) -> ProviderError {
    ProviderError::new(
        Disposition::Final,
        ErrorKind::InvalidMessage,
        "The message with its files is too large for the provider; send smaller files, or links to them.",
    )
    .with_code(ProviderCode::parse(&answer.status.to_string()))
}

/// What an answer means whose code is not known: by its status alone (RFC 9110 section 15).
pub(crate) fn classify_status(answer: &HttpResponse) -> ProviderError {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    use ErrorKind::{RateLimited, Unauthenticated, Unavailable, Unexpected};
    let error = ProviderError::new;
    if answer.status == CONTENT_TOO_LARGE {
        return too_large(answer);
    }
    // What does not come as JSON does not come from the API: a portal, a firewall, another server.
    let foreign = answer.read::<IgnoredAny>().is_err();
    let classified = match answer.status {
        200..=299 => error(
            Ambiguous,
            Unexpected,
            "The provider's answer cannot be read; it may have taken the message.",
        ),
        300..=399 => error(
            ProviderDown,
            Unexpected,
            "The provider's URL leads elsewhere, and redirects are not followed; check apiUrl.",
        ),
        401 => error(
            ProviderDown,
            Unauthenticated,
            "The provider refused the credentials; save new ones and test the settings.",
        ),
        429 => {
            let limited = error(
                Transient,
                RateLimited,
                "The provider was asked for too much at once.",
            )
            .health_unchanged();
            match answer.retry_after(None) {
                Some(wait) => limited.with_retry_after(wait),
                None => limited,
            }
        }
        // 408: the server did not get the whole request.
        408 => error(
            Transient,
            Unavailable,
            "The provider did not get the whole request.",
        ),
        // Whoever answers so is in the API's place.
        403..=405 if foreign => error(
            ProviderDown,
            Unexpected,
            "What answered is not the provider's API; check apiUrl.",
        ),
        // What stands in front of the API may refuse one request so, for its content, and let the next one through.
        400..=499 if foreign => error(
            ProviderDown,
            Unexpected,
            "What answered is not the provider's API; check apiUrl.",
        )
        .health_unchanged(),
        // A refusal, so the next provider cannot make a second copy; and whose fault it is is unknown.
        400..=499 => error(
            ProviderDown,
            Unexpected,
            "The provider refused the message with a code that is not known here; look it up in the provider's documentation.",
        )
        .health_unchanged(),
        500..=599 => error(
            Ambiguous,
            Unavailable,
            "The provider failed while it had the message; it may have taken it.",
        ),
        _ => error(
            Ambiguous,
            Unexpected,
            "The provider answered with what is no status of its API; it may have taken the message.",
        ),
    };
    classified.with_code(ProviderCode::parse(&answer.status.to_string()))
}

/// The same of a question, which sends nothing: no message can have been taken, and none was refused.
pub(crate) fn of_question(error: ProviderError) -> ProviderError {
    let (disposition, kind, detail) = match (error.disposition, error.kind) {
        (Disposition::Ambiguous, kind) => (
            Disposition::Transient,
            kind,
            "The provider did not answer as it should; try again.",
        ),
        (_, ErrorKind::InvalidMessage | ErrorKind::InvalidRecipient) => (
            Disposition::ProviderDown,
            ErrorKind::Unexpected,
            "The provider refused the question; check the ids of account and sender.",
        ),
        (disposition, kind) => (disposition, kind, error.detail),
    };
    ProviderError {
        disposition,
        kind,
        detail,
        ..error
    }
}

pub(super) const fn local_failure() -> ProviderError {
    ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::Unavailable,
        "The entry's settings could not be used on this side; nothing was sent.",
    )
    .health_unchanged()
}
