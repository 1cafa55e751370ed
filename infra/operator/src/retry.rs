//! Repeating a call to the settings store after a temporary error.

use std::time::Duration;

use comms_settings::{StoreError, envelope::EnvelopeError};
use tokio::time::sleep;

/// Waits between attempts. The SDK has made three of its own before each.
const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];

/// Codes of temporary errors. `DynamoDB`: "Error handling with DynamoDB" in its developer guide, and
/// `TransactionConflictException` of `UpdateItem`, while a save of the same item is under way. KMS: the retryable codes of
/// its API reference's common errors and of `ReEncrypt`. The last three stand for a request without a response.
const TEMPORARY: [&str; 12] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "RequestLimitExceeded",
    "InternalServerError",
    "ServiceUnavailable",
    "TransactionConflictException",
    "KMSInternalException",
    "KeyUnavailableException",
    "DependencyTimeoutException",
    "Timeout",
    "DispatchFailure",
    "ResponseError",
];

/// Repeats `call` after growing waits while its error is temporary.
pub(crate) async fn with_retries<T>(
    call: impl AsyncFn() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    for wait in WAITS {
        match call().await {
            Err(error) if is_temporary(&error) => sleep(wait).await,
            answer => return answer,
        }
    }
    call().await
}

fn is_temporary(error: &StoreError) -> bool {
    match error {
        StoreError::Table(error) => error.code().is_some_and(|code| TEMPORARY.contains(&code)),
        StoreError::Envelope(EnvelopeError::Kms { code, .. }) => TEMPORARY.contains(&code.as_str()),
        StoreError::Envelope(
            EnvelopeError::WrongDataKey { .. } | EnvelopeError::WrongEntry | EnvelopeError::Sealing,
        )
        | StoreError::Conflict
        | StoreError::Refused(_)
        | StoreError::Invalid(_)
        | StoreError::TooLarge => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    fn failure(code: &str) -> StoreError {
        StoreError::Envelope(EnvelopeError::Kms {
            operation: "ReEncrypt",
            code: code.to_owned(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_call_is_repeated_five_times_with_growing_waits() {
        for (failures, made, waited) in [(0, 1, 0), (1, 2, 1), (3, 4, 7), (5, 6, 31), (9, 6, 31)] {
            let (start, calls) = (Instant::now(), Cell::new(0));
            let answer = with_retries(async || {
                calls.set(calls.get() + 1);
                if calls.get() > failures {
                    Ok(())
                } else {
                    Err(failure("ThrottlingException"))
                }
            })
            .await;
            assert_eq!(answer.is_ok(), failures < 6, "{failures}");
            assert_eq!(calls.get(), made, "{failures}");
            assert_eq!(
                start.elapsed(),
                Duration::from_secs(waited),
                "after {failures}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_is_not_temporary_is_not_repeated() {
        for error in [
            failure("AccessDeniedException"),
            failure("DisabledException"),
            failure("IncompleteAnswer"),
            StoreError::corrupt("keyArn"),
        ] {
            let calls = Cell::new(0);
            let answer: Result<(), _> = with_retries(async || {
                calls.set(calls.get() + 1);
                Err(error.clone())
            })
            .await;
            assert_eq!((answer, calls.get()), (Err(error), 1));
        }
    }
}
