//! The code of an AWS error: all of it that is kept. Messages may quote what was sent.

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use comms_core::{metric::METRICS, process_credentials};
use tracing::info;

/// The service's own code, or what kept the request from being answered.
///
/// Every failed request comes by here, once, and is counted: unless it is an answer that was reckoned with.
pub fn error_code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    let code = if let Some(error) = error.as_service_error() {
        error.code().unwrap_or("Unknown")
    } else if matches!(error, SdkError::TimeoutError(_)) {
        "Timeout"
    } else if matches!(error, SdkError::DispatchFailure(_)) {
        "DispatchFailure"
    } else if matches!(error, SdkError::ResponseError(_)) {
        "ResponseError"
    } else {
        "RequestNotBuilt"
    };
    if is_expired_credentials(code) || is_unknown_credentials(code) {
        process_credentials::note_expired();
    }
    if !is_answer(code) {
        let throttled = is_throttling(code).then_some(1_u64);
        info!(target: METRICS, aws_errors = 1_u64, aws_throttled = throttled);
    }
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
    code.is_some_and(|code| is_expired_credentials(code) || is_unknown_credentials(code))
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

/// Refusals by which DynamoDB says that an item is not as a write expects it. A transaction that was cancelled for
/// too many requests is among them: DynamoDB counts that itself, as a throttle event of the table.
fn is_answer(code: &str) -> bool {
    matches!(
        code,
        "ConditionalCheckFailedException" | "TransactionCanceledException"
    )
}

/// Too many requests, as DynamoDB ("Error handling with DynamoDB"), KMS ("Throttling AWS KMS requests") and SQS
/// (API reference, "Common errors") call it.
fn is_throttling(code: &str) -> bool {
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
    use comms_testkit::logs::{Captured, listen};

    use super::*;

    fn counted(code: &str) -> String {
        let lines = Captured::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(lines.clone())
            .finish();
        let guard = listen(subscriber);
        let metadata = ErrorMetadata::builder().code(code).build();
        let error = SdkError::service_error(GetItemError::generic(metadata), ());
        assert_eq!(error_code(&error), code);
        drop(guard);
        lines.text()
    }

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

    #[test]
    fn failed_requests_are_counted_and_answers_that_were_reckoned_with_are_not() {
        assert_eq!(counted("ConditionalCheckFailedException"), "");
        let error = counted("AccessDeniedException");
        assert!(error.contains("aws_errors=1") && !error.contains("aws_throttled"));
        let throttled = counted("ThrottlingException");
        assert!(
            throttled.contains("aws_errors=1 aws_throttled=1"),
            "{throttled}"
        );
    }
}
