//! Metrics of failed requests. An interceptor of every client counts them, so that no caller can forget to.

use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::FinalizerInterceptorContextRef,
    },
    error::{BoxError, ProvideErrorMetadata},
    operation as dynamodb,
};
use aws_sdk_kms::operation as kms;
use aws_sdk_sqs::operation as sqs;
use aws_smithy_runtime_api::client::{
    interceptors::{context::Error, dyn_dispatch_hint},
    orchestrator::OrchestratorError,
};
use comms_core::{metric::METRICS, process_credentials};
use tracing::info;

use crate::error::{UNKNOWN, is_of_credentials, is_throttling};

/// Counts every request that failed after the SDK's retries, except expected condition failures.
#[derive(Debug)]
pub(crate) struct CountFailedRequests {
    is_kms: bool,
}

impl CountFailedRequests {
    /// For DynamoDB and SQS.
    pub(crate) const AWS: Self = Self { is_kms: false };
    /// For KMS, whose failures have a metric of their own as well.
    pub(crate) const KMS: Self = Self { is_kms: true };
}

#[dyn_dispatch_hint]
impl Intercept for CountFailedRequests {
    fn name(&self) -> &'static str {
        "CountFailedRequests"
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Err(error)) = context.output_or_error() {
            if self.is_kms {
                info!(target: METRICS, kms_errors = 1_u64);
            }
            count_failure(code_of(error));
        }
        Ok(())
    }
}

/// Counts a failed request with this error code, and notes when it says that the process's credentials have expired. For
/// callers that make the retries themselves; every other request is counted by its client.
pub fn count_failure(code: &str) {
    if is_of_credentials(code) {
        process_credentials::note_expired();
    }
    if !is_condition_failure(code) {
        let throttled = is_throttling(code).then_some(1_u64);
        info!(target: METRICS, aws_errors = 1_u64, aws_throttled = throttled);
    }
}

/// Refusals by which DynamoDB says that an item is not as a write expects it. A transaction that was cancelled for
/// too many requests is among them: DynamoDB counts that itself, as a throttle event of the table.
fn is_condition_failure(code: &str) -> bool {
    matches!(
        code,
        "ConditionalCheckFailedException" | "TransactionCanceledException"
    )
}

/// The code of an error of one of the operations that this workspace uses. An error of another operation, or one without an
/// answer of the service, has none: it is counted, and as no throttling.
fn code_of(error: &OrchestratorError<Error>) -> &str {
    let code = error.as_operation_error().and_then(service_code);
    code.unwrap_or(UNKNOWN)
}

fn service_code(error: &Error) -> Option<&str> {
    macro_rules! code {
        ($($operation:ty),+ $(,)?) => {
            $(if let Some(error) = error.downcast_ref::<$operation>() {
                return error.code();
            })+
        };
    }
    code!(
        dynamodb::update_item::UpdateItemError,
        dynamodb::get_item::GetItemError,
        dynamodb::put_item::PutItemError,
        dynamodb::delete_item::DeleteItemError,
        dynamodb::query::QueryError,
        dynamodb::scan::ScanError,
        dynamodb::transact_write_items::TransactWriteItemsError,
        kms::decrypt::DecryptError,
        kms::generate_data_key::GenerateDataKeyError,
        kms::re_encrypt::ReEncryptError,
        sqs::send_message::SendMessageError,
        sqs::send_message_batch::SendMessageBatchError,
        sqs::change_message_visibility_batch::ChangeMessageVisibilityBatchError,
        sqs::delete_message::DeleteMessageError,
        sqs::delete_message_batch::DeleteMessageBatchError,
        sqs::receive_message::ReceiveMessageError,
        sqs::get_queue_attributes::GetQueueAttributesError,
    );
    None
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::error::ErrorMetadata;
    use comms_testkit::logs::{Captured, listen};

    use super::*;

    /// The metrics of a failed request.
    fn counted(error: Error) -> String {
        let lines = Captured::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(lines.clone())
            .finish();
        let guard = listen(subscriber);
        count_failure(code_of(&OrchestratorError::operation(error)));
        drop(guard);
        lines.text()
    }

    fn metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder().code(code).build()
    }

    #[test]
    fn failed_requests_are_counted_and_condition_failures_are_not() {
        let put = |code| Error::erase(dynamodb::put_item::PutItemError::generic(metadata(code)));
        assert_eq!(counted(put("ConditionalCheckFailedException")), "");
        let error = counted(put("AccessDeniedException"));
        assert!(error.contains("aws_errors=1") && !error.contains("aws_throttled"));
        let throttled = counted(put("ThrottlingException"));
        assert!(
            throttled.contains("aws_errors=1 aws_throttled=1"),
            "{throttled}"
        );
    }

    #[test]
    fn throttling_is_told_from_other_errors_for_every_service() {
        let errors = [
            Error::erase(kms::decrypt::DecryptError::generic(metadata(
                "ThrottlingException",
            ))),
            Error::erase(sqs::send_message::SendMessageError::generic(metadata(
                "RequestThrottled",
            ))),
        ];
        for error in errors {
            assert!(counted(error).contains("aws_throttled=1"));
        }
    }

    #[test]
    fn unknown_operation_and_missing_answer_are_counted() {
        let error = OrchestratorError::<Error>::timeout("planted".into());
        assert_eq!(code_of(&error), UNKNOWN);
        assert!(counted(Error::erase(std::fmt::Error)).contains("aws_errors=1"));
    }
}
