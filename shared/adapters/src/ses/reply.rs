//! What SES's and STS's answers mean.

use comms_core::{Disposition, ErrorKind, ProviderCode, ProviderError};

use super::failure::{ErrorReply, SesFailure, TextHint};
use crate::net::tls::HandshakeFailure;

/// What a failure means, and what to do about it.
pub(super) fn classify(failure: SesFailure) -> ProviderError {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable};
    let error = ProviderError::new;
    match failure {
        SesFailure::Answered(answer) => classify_answer(answer),
        SesFailure::NoRole(failure) => classify_role(*failure),
        SesFailure::NotConnected => error(
            Transient,
            Unavailable,
            "SES could not be connected to; nothing was sent. Check the region if this lasts.",
        ),
        SesFailure::Handshake(HandshakeFailure::Certificate(_)) => error(
            ProviderDown,
            Unauthenticated,
            "What answered for SES does not prove that it is; nothing was sent. The platform team has to look.",
        ),
        SesFailure::Handshake(HandshakeFailure::Refused | HandshakeFailure::Closed) => error(
            Transient,
            Unavailable,
            "TLS with SES could not be set up; nothing was sent.",
        ),
        SesFailure::NoConnectionInTime => error(
            Transient,
            Timeout,
            "SES could not be connected to in time; nothing was sent.",
        ),
        SesFailure::NoAnswerInTime => error(
            Ambiguous,
            Timeout,
            "SES did not answer in time; it may have taken the message.",
        ),
        SesFailure::Interrupted => error(
            Ambiguous,
            Unavailable,
            "The connection ended before SES's answer was complete; it may have taken the message.",
        ),
        SesFailure::Unanswered => error(Transient, Unavailable, "SES did not answer; try again."),
        SesFailure::Sealed | SesFailure::Local => local_failure(),
    }
}

/// What an answer means: by its code, and by its status where the code is not known. The codes are those of
/// `SendEmail`, of `ThrottlingException`, which is not modelled for it, and of "Common errors" in the API
/// reference.
#[allow(clippy::too_many_lines, reason = "one table")]
fn classify_answer(answer: ErrorReply) -> ProviderError {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        AccountSuspended, InvalidMessage, QuotaExceeded, RateLimited, SenderNotAllowed,
        Unauthenticated, Unavailable, Unexpected,
    };
    let error = ProviderError::new;
    let ErrorReply {
        status,
        code,
        text_hint,
        retry_after,
    } = answer;
    let known = code.as_ref().map(ProviderCode::as_str).unwrap_or_default();
    let classified = match (known, text_hint, status) {
        (_, _, 200..=299) => error(
            Ambiguous,
            Unexpected,
            "SES's answer cannot be read; it may have taken the message.",
        ),
        // 413 whatever else it says: it comes from what stands in front of SES as well.
        ("RequestEntityTooLargeException" | "RequestEntityTooLarge", _, _) | (_, _, 413) => error(
            Final,
            InvalidMessage,
            "SES refused the message for its size.",
        ),
        (
            "TooManyRequestsException" | "ThrottlingException" | "Throttling",
            TextHint::DailyQuota,
            _,
        ) => error(
            ProviderDown,
            QuotaExceeded,
            "The account has sent all that it may in 24 hours; request a higher quota at SES.",
        ),
        ("TooManyRequestsException" | "ThrottlingException" | "Throttling", _, _) => error(
            Transient,
            RateLimited,
            "SES was asked for more messages a second than the account may send.",
        )
        .health_unchanged(),
        ("LimitExceededException", _, _) => error(
            ProviderDown,
            QuotaExceeded,
            "A limit of the SES account is reached; look at its quotas.",
        ),
        ("AccountSuspendedException", _, _) => error(
            ProviderDown,
            AccountSuspended,
            "SES has suspended the account for good; ask AWS.",
        ),
        ("SendingPausedException", _, _) => error(
            ProviderDown,
            AccountSuspended,
            "Sending is paused for the account, the configuration set or the tenant; enable it again at SES.",
        ),
        ("MailFromDomainNotVerifiedException", _, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The MAIL FROM domain is not verified; set its MX record as SES says.",
        ),
        // A limit of the sender's own account, which verified recipients do not meet.
        ("MessageRejected", TextHint::RecipientNotVerified, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The account is in the SES sandbox, and the recipient is not verified; request production access.",
        )
        .health_unchanged(),
        ("MessageRejected", TextHint::NotVerified, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender is not verified in this region, or the account is in the sandbox and the recipient is not; \
             verify the sender, or request production access.",
        ),
        ("MessageRejected", _, _) => error(
            Final,
            InvalidMessage,
            "SES refused the message for its content.",
        ),
        (
            "BadRequestException"
            | "ValidationException"
            | "ValidationError"
            | "SerializationException",
            _,
            _,
        ) => error(
            Final,
            InvalidMessage,
            "SES refused the message for its form; check addresses and content.",
        ),
        ("NotFoundException", _, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The configuration set or the tenant does not exist in this region; check configurationSet, tenantName \
             and region.",
        ),
        ("AccessDeniedException" | "AccessDenied" | "NotAuthorized", _, _) => error(
            ProviderDown,
            Unauthenticated,
            "The credentials may not do this; allow ses:SendEmail and ses:SendRawEmail for the sender.",
        ),
        (
            "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired"
            | "OptInRequired",
            _,
            _,
        )
        | (_, _, 401 | 403) => error(
            ProviderDown,
            Unauthenticated,
            "SES refused the credentials; save new ones, or check that the region is enabled for the account.",
        ),
        ("UnknownOperationException", _, _) => error(
            ProviderDown,
            Unavailable,
            "What answered does not know SES's API; check the region.",
        ),
        ("RequestTimeoutException", _, _) | (_, _, 408) => {
            error(Transient, Unavailable, "SES did not get the whole request.")
        }
        ("RequestAbortedException", _, _) => error(
            Ambiguous,
            Unavailable,
            "SES gave the request up before it answered; it may have taken the message.",
        ),
        (_, _, 429) => error(
            Transient,
            RateLimited,
            "SES was asked for too much at once.",
        )
        .health_unchanged(),
        (_, _, 500..=599) => error(
            Ambiguous,
            Unavailable,
            "SES failed while it had the message; it may have taken it.",
        ),
        ("", _, 300..=399 | 404 | 405) => {
            error(ProviderDown, Unexpected, "What answered is not SES.")
        }
        // What stands in front of SES may refuse one request so, and let the next one through.
        ("", _, 400..=499) => error(ProviderDown, Unexpected, "What answered is not SES.")
            .health_unchanged(),
        // A refusal, so the next provider cannot make a second copy; and whose fault it is, is not said.
        (_, _, 300..=499) => error(
            ProviderDown,
            Unexpected,
            "SES refused the message with a code that is not known here; look it up in its documentation.",
        )
        .health_unchanged(),
        _ => error(
            Ambiguous,
            Unexpected,
            "What answered is no answer of SES; it may have taken the message.",
        ),
    };
    let code = code.or_else(|| ProviderCode::parse(&status.to_string()));
    let classified = classified.with_code(code);
    match retry_after {
        Some(wait) if classified.disposition == Transient => classified.with_retry_after(wait),
        _ => classified,
    }
}

/// What it means that STS did not give credentials for the role. Nothing has been sent (STS API reference,
/// `AssumeRole`, and "Common errors").
fn classify_role(failure: SesFailure) -> ProviderError {
    use Disposition::{ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable, Unexpected};
    let error = ProviderError::new;
    let answer = match failure {
        SesFailure::Answered(answer) => answer,
        SesFailure::Handshake(HandshakeFailure::Certificate(_)) => {
            return error(
                ProviderDown,
                Unauthenticated,
                "What answered for STS does not prove that it is; the platform team has to look.",
            );
        }
        SesFailure::NoConnectionInTime | SesFailure::NoAnswerInTime => {
            return error(
                Transient,
                Timeout,
                "STS did not give credentials for the role in time; nothing was sent.",
            );
        }
        SesFailure::NotConnected
        | SesFailure::Handshake(HandshakeFailure::Refused | HandshakeFailure::Closed)
        | SesFailure::Interrupted
        | SesFailure::Unanswered => {
            return error(
                Transient,
                Unavailable,
                "STS, which gives credentials for the role, could not be reached; nothing was sent.",
            );
        }
        SesFailure::Sealed | SesFailure::NoRole(_) | SesFailure::Local => return local_failure(),
    };
    let known = answer.code.as_ref().map(ProviderCode::as_str);
    let classified = match (known.unwrap_or_default(), answer.status) {
        ("AccessDenied" | "AccessDeniedException", _) => error(
            ProviderDown,
            Unauthenticated,
            "The role may not be assumed: its trust policy must name the platform's account and this externalId.",
        ),
        ("RegionDisabledException", _) => error(
            ProviderDown,
            Unauthenticated,
            "The role's account has not activated STS in this region; activate it, or use another region.",
        ),
        ("ValidationError", _) => error(
            ProviderDown,
            Unauthenticated,
            "STS takes roleArn or externalId for malformed; check them.",
        ),
        ("Throttling" | "ThrottlingException" | "RequestTimeoutException", _)
        | (_, 429 | 500..=599) => error(
            Transient,
            Unavailable,
            "STS cannot give credentials for the role now; nothing was sent.",
        ),
        (_, 200..=299) => error(
            Transient,
            Unexpected,
            "STS's answer cannot be read; nothing was sent.",
        ),
        _ => error(
            ProviderDown,
            Unauthenticated,
            "STS refused the platform's own credentials in this region; the platform team has to look.",
        ),
    };
    classified.with_code(answer.code)
}

pub(super) const fn local_failure() -> ProviderError {
    ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::Unavailable,
        "The entry's settings could not be used on this side; nothing was sent.",
    )
    .health_unchanged()
}
