//! Deleting messages before the invocation's answer, which does so for all that it does not name.

use aws_sdk_sqs::{error::BuildError, types::DeleteMessageBatchRequestEntry};
use comms_runtime::sqs::SqsMessage;
use comms_settings::error_code;
use futures_util::FutureExt as _;

use super::{MAX_ENTRIES, QueueError, Queues, not_built};

impl Queues {
    /// Deletes messages of one batch that are done.
    pub(crate) async fn delete(&self, done: &[&SqsMessage]) -> Result<(), QueueError> {
        let Some(first) = done.first() else {
            return Ok(());
        };
        let url = self.url_of(first.queue())?;
        for messages in done.chunks(MAX_ENTRIES) {
            let entries = messages
                .iter()
                .enumerate()
                .map(|(number, message)| {
                    DeleteMessageBatchRequestEntry::builder()
                        .id(number.to_string())
                        .receipt_handle(&message.receipt_handle)
                        .build()
                })
                .collect::<Result<Vec<_>, BuildError>>()
                .map_err(|_| not_built("DeleteMessageBatch"))?;
            // One that is not deleted is delivered again, and is found to have ended.
            self.client
                .delete_message_batch()
                .queue_url(url)
                .set_entries(Some(entries))
                .send()
                .boxed()
                .await
                .map_err(|error| QueueError::Sqs {
                    operation: "DeleteMessageBatch",
                    code: error_code(&error),
                })?;
        }
        Ok(())
    }
}
