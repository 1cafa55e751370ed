//! Clients of AWS services whose retries are their own.
//!
//! The SDK pays for retries from a bucket of tokens that all clients of a service and Region share by default, and that
//! only successes fill again (AWS SDKs reference guide, "Retry behavior"). Forty failing reads empty it, and then a
//! single 500 fails a write of another purpose. So each client made here has a bucket of its own, which time fills.

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    config::retry::{ClassifyRetry, RetryAction, RetryConfig, RetryPartition, TokenBucket},
    operation::transact_write_items::TransactWriteItemsError,
    types::CancellationReason,
};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;

use crate::failed_requests::CountFailedRequests;

/// Tokens of a full bucket, as many as the SDK's own has: a retry costs 5 to 14 of them.
const CAPACITY: usize = 500;
/// Tokens that come back in each second: about one retry's, so that an outage is not answered with a storm of them.
const REFILL_PER_SECOND: f32 = 10.0;

/// The retries of one purpose, which no other purpose can use up.
fn retry_partition(name: &'static str) -> RetryPartition {
    let bucket = TokenBucket::builder()
        .capacity(CAPACITY)
        .refill_rate(REFILL_PER_SECOND)
        .build();
    RetryPartition::custom(name).token_bucket(bucket).build()
}

/// A DynamoDB client with retries of its own. `name` is for the SDK's own logs.
pub fn dynamodb(config: &SdkConfig, name: &'static str) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::from(config)
        .retry_partition(retry_partition(name))
        .retry_classifier(CancelledByThrottling)
        .interceptor(CountFailedRequests::AWS);
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

/// A DynamoDB client that makes one try. Its caller decides about retries, and counts what failed after those with
/// [`crate::count_failure`].
pub fn dynamodb_without_retries(config: &SdkConfig) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::from(config);
    aws_sdk_dynamodb::Client::from_conf(config.retry_config(RetryConfig::disabled()).build())
}

/// A KMS client with retries of its own.
pub fn kms(config: &SdkConfig) -> aws_sdk_kms::Client {
    let config = aws_sdk_kms::config::Builder::from(config)
        .retry_partition(retry_partition("kms"))
        .interceptor(CountFailedRequests::KMS);
    aws_sdk_kms::Client::from_conf(config.build())
}

/// An SQS client with retries of its own. `name` is for the SDK's own logs.
pub(crate) fn sqs(config: &SdkConfig, name: &'static str) -> aws_sdk_sqs::Client {
    let config = aws_sdk_sqs::config::Builder::from(config)
        .retry_partition(retry_partition(name))
        .interceptor(CountFailedRequests::AWS);
    aws_sdk_sqs::Client::from_conf(config.build())
}

/// Whether a transaction was cancelled because of too many requests, and of nothing that the next try would meet again
/// (DynamoDB API reference, `TransactWriteItems`, "Cancellation Reasons").
fn is_cancelled_by_throttling(reasons: &[CancellationReason]) -> bool {
    let codes = || reasons.iter().filter_map(CancellationReason::code);
    let is_throttling = |code: &str| {
        matches!(
            code,
            "ThrottlingError" | "ProvisionedThroughputExceeded" | "RequestLimitExceeded"
        )
    };
    let passes = |code| is_throttling(code) || matches!(code, "None" | "TransactionConflict");
    codes().any(is_throttling) && codes().all(passes)
}

/// Has the SDK try a transaction again that was cancelled because of too many requests, as it does with any other
/// request. The SDK's idempotency token makes it the same transaction.
#[derive(Debug)]
struct CancelledByThrottling;

impl ClassifyRetry for CancelledByThrottling {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err);
        let error = error.and_then(|error| error.as_operation_error());
        match error.and_then(|error| error.downcast_ref()) {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled))
                if is_cancelled_by_throttling(cancelled.cancellation_reasons()) =>
            {
                RetryAction::throttling_error()
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "transactions cancelled by throttling"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_throttled(codes: &[&str]) -> bool {
        let reasons = codes
            .iter()
            .map(|code| CancellationReason::builder().code(*code).build());
        is_cancelled_by_throttling(&reasons.collect::<Vec<_>>())
    }

    #[test]
    fn transaction_is_throttled_if_nothing_else_cancelled_it() {
        assert!(is_throttled(&["None", "ThrottlingError"]));
        assert!(is_throttled(&[
            "ProvisionedThroughputExceeded",
            "TransactionConflict"
        ]));
        assert!(!is_throttled(&[]));
        assert!(!is_throttled(&["None", "TransactionConflict"]));
        assert!(!is_throttled(&[
            "ConditionalCheckFailed",
            "ThrottlingError"
        ]));
    }
}
