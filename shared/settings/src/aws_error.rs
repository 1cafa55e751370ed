//! The code of an AWS error: all of it that is kept. Messages may quote what was sent.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use comms_core::metric::METRICS;
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
    if !is_answer(code) {
        let throttled = is_throttling(code).then_some(1_u64);
        info!(target: METRICS, aws_errors = 1_u64, aws_throttled = throttled);
    }
    code.to_owned()
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
            | "ThrottlingException"
            | "Throttling"
    )
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{error::ErrorMetadata, operation::get_item::GetItemError};
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
