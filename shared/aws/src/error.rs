//! The code of an AWS error, and what it says about the request. Nothing else of an error is kept: messages may quote what
//! was sent.

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

/// The code of a service's error that has none.
pub(crate) const UNKNOWN: &str = "Unknown";
/// The code of a request that was not answered in time.
pub(crate) const TIMEOUT: &str = "Timeout";
/// The code of a request that the SDK could not build.
pub const NOT_BUILT: &str = "RequestNotBuilt";

/// The service's own code, or what kept the request from being answered.
pub fn error_code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    let code = match error {
        SdkError::ServiceError(answer) => answer.err().code().unwrap_or(UNKNOWN),
        SdkError::TimeoutError(_) => TIMEOUT,
        SdkError::DispatchFailure(_) => "DispatchFailure",
        SdkError::ResponseError(_) => "ResponseError",
        SdkError::ConstructionFailure(_) => NOT_BUILT,
        // A kind of failure that a later SDK adds.
        _ => UNKNOWN,
    };
    code.to_owned()
}

/// Whether the service has understood the request and will refuse it again. What is no such answer (throttling, a server
/// error, a lost or unreadable answer, a page of something in between) is worth another try of a request that may be
/// repeated.
pub fn is_refusal<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let code = error.as_service_error().and_then(|service| service.code());
    let passes = |code| is_throttling(code) || is_expired_credentials(code) || is_race(code);
    had_no_effect(error) && !code.is_some_and(passes)
}

/// Whether the service said that it did not do what it was asked. Any other error leaves open whether the request had its
/// effect.
pub fn had_no_effect<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    if matches!(error, SdkError::ConstructionFailure(_)) {
        return true;
    }
    let Some((service, response)) = error.as_service_error().zip(error.raw_response()) else {
        return false;
    };
    (400..500).contains(&response.status().as_u16()) && service.code().is_some()
}

/// Whether AWS refused the request because the credentials of the process are over or unknown. The process cannot change
/// them.
pub fn is_for_credentials<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    let code = error.as_service_error().and_then(|service| service.code());
    code.is_some_and(is_of_credentials)
}

/// Whether this is the code of an error that [`is_for_credentials`].
pub(crate) fn is_of_credentials(code: &str) -> bool {
    is_expired_credentials(code) || is_unknown_credentials(code)
}

/// Requests that came too slowly, or met another one at the same item (DynamoDB developer guide, "Error handling with
/// DynamoDB").
fn is_race(code: &str) -> bool {
    matches!(
        code,
        "RequestTimeout" | "RequestTimeoutException" | "TransactionConflictException"
    )
}

/// Credentials that AWS does not know, or no longer: a role that was deleted and made again (DynamoDB and KMS; SQS).
fn is_unknown_credentials(code: &str) -> bool {
    matches!(code, "UnrecognizedClientException" | "InvalidClientTokenId")
}

/// Credentials that were right once (AWS general reference, "Common error types"; DynamoDB, KMS and SQS each have their
/// own spelling).
fn is_expired_credentials(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired"
    )
}

/// Too many requests, as DynamoDB ("Error handling with DynamoDB"), KMS ("Throttling AWS KMS requests") and SQS
/// (API reference, "Common errors") call it.
pub fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "LimitExceededException"
            | "TooManyRequestsException"
            | "ThrottlingException"
            | "Throttling"
    )
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{error::ErrorMetadata, operation::get_item::GetItemError};
    use aws_smithy_types::body::SdkBody;

    use super::*;

    #[test]
    fn only_what_the_service_understood_and_refuses_is_a_refusal() {
        let error = |code: Option<&str>, status: u16| {
            let mut metadata = ErrorMetadata::builder();
            if let Some(code) = code {
                metadata = metadata.code(code);
            }
            let response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
            SdkError::service_error(GetItemError::generic(metadata.build()), response)
        };
        let refusals = ["AccessDeniedException", "ValidationException"];
        for code in refusals {
            assert!(is_refusal(&error(Some(code), 400)), "{code}");
        }
        let passing = [
            ("ProvisionedThroughputExceededException", 400),
            ("ThrottlingException", 400),
            ("RequestLimitExceeded", 400),
            ("ExpiredTokenException", 400),
            ("RequestTimeoutException", 408),
            ("TransactionConflictException", 400),
            ("InternalServerError", 500),
        ];
        for (code, status) in passing {
            assert!(!is_refusal(&error(Some(code), status)), "{code}");
        }
        // A page of something in between.
        for status in [200, 403, 503] {
            assert!(!is_refusal(&error(None, status)), "{status}");
        }
        let lost = SdkError::<GetItemError, HttpResponse>::timeout_error("planted");
        assert!(!is_refusal(&lost));
        // Whether it had its effect is another question.
        assert!(had_no_effect(&error(Some("ThrottlingException"), 400)));
        for uncertain in [
            error(Some("InternalServerError"), 500),
            error(None, 403),
            lost,
        ] {
            assert!(!had_no_effect(&uncertain), "{uncertain:?}");
        }
    }
}
