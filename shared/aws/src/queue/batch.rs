//! Batches of ten, each entry of which succeeds or fails by itself.

use std::time::Duration;

use aws_sdk_sqs::{
    error::BuildError,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry,
        DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry,
    },
};
use comms_core::backoff::{Backoff, jitter};
use futures_util::FutureExt as _;

use super::{OutgoingMessage, QueueClient, QueueError};

/// Entries of one batch (Amazon SQS, message quotas).
pub const MAX_ENTRIES: usize = 10;

/// Bytes of a message with its attributes, and of all messages of a batch (Amazon SQS, message quotas: 1 MiB).
pub const MAX_MESSAGE_BYTES: usize = 1_048_576;

/// Of those, reserved for a message's attributes: four names and types with their hashes and up to 13 digits (182 bytes), and
/// a margin.
pub const ATTRIBUTE_BYTES: usize = 256;

/// How often entries that SQS did not take are sent again, beside the SDK's own retries of whole requests.
const RETRIES: u32 = 3;

/// The waits before those.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));

const SEND: &str = "SendMessageBatch";
const CHANGE_VISIBILITY: &str = "ChangeMessageVisibilityBatch";
const DELETE: &str = "DeleteMessageBatch";

/// An entry that SQS did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedEntry {
    /// Its index in what was passed.
    pub index: usize,
    /// Why.
    pub error: QueueError,
}

impl QueueClient {
    /// Sends messages, each with up to [`ATTRIBUTE_BYTES`] of attributes. Entries that SQS fails for reasons of its own are
    /// retried for less than a second. Returns the messages that SQS did not take, in their order.
    pub async fn send_all(&self, url: &str, messages: &[OutgoingMessage]) -> Vec<FailedEntry> {
        let mut failed = Vec::new();
        let mut start = 0;
        while start < messages.len() {
            let end = start + batch_length(&messages[start..]);
            failed.extend(self.send_batch(url, messages, (start..end).collect()).await);
            start = end;
        }
        failed
    }

    async fn send_batch(
        &self,
        url: &str,
        messages: &[OutgoingMessage],
        mut left: Vec<usize>,
    ) -> Vec<FailedEntry> {
        let mut retry = 0;
        loop {
            let entries = entries(&left, |id, index| send_entry(id, &messages[*index]));
            let Ok(entries) = entries else {
                return all_failed(left, &QueueError::not_built(SEND));
            };
            let request = self.0.send_message_batch().queue_url(url);
            let sent = request.set_entries(Some(entries)).send().boxed().await;
            let refused = match sent {
                Ok(answer) => answer.failed,
                Err(error) => return all_failed(left, &QueueError::new(SEND, &error)),
            };
            let is_final = retry == RETRIES || refused.iter().any(|entry| entry.sender_fault);
            let failed = failed_entries(SEND, &left, &refused);
            if failed.is_empty() || is_final {
                return failed;
            }
            left = failed.into_iter().map(|entry| entry.index).collect();
            tokio::time::sleep(BACKOFF.with_full_jitter(retry, jitter())).await;
            retry += 1;
        }
    }

    /// Sets the visibility timeout of received messages, given by their receipt handles: SQS redelivers each after the time
    /// beside it, rounded up to seconds. Returns those for which this failed; the queue's own timeout applies to them.
    pub async fn change_visibility(
        &self,
        url: &str,
        messages: &[(&str, Duration)],
    ) -> Vec<FailedEntry> {
        let mut failed = Vec::new();
        for batch in batches(messages.len()) {
            let entries = entries(&batch, |id, index| {
                let (receipt_handle, wait) = messages[*index];
                let seconds = wait.as_millis().div_ceil(1_000);
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(id)
                    .receipt_handle(receipt_handle)
                    .visibility_timeout(i32::try_from(seconds).unwrap_or(i32::MAX))
                    .build()
            });
            let Ok(entries) = entries else {
                failed.extend(all_failed(batch, &QueueError::not_built(CHANGE_VISIBILITY)));
                continue;
            };
            let request = self.0.change_message_visibility_batch().queue_url(url);
            match request.set_entries(Some(entries)).send().boxed().await {
                Ok(answer) => {
                    failed.extend(failed_entries(CHANGE_VISIBILITY, &batch, &answer.failed));
                }
                Err(error) => {
                    let error = QueueError::new(CHANGE_VISIBILITY, &error);
                    failed.extend(all_failed(batch, &error));
                }
            }
        }
        failed
    }

    /// Deletes messages, given by their receipt handles. Returns those that were not deleted.
    pub async fn delete_all(&self, url: &str, receipt_handles: &[&str]) -> Vec<FailedEntry> {
        let mut failed = Vec::new();
        for batch in batches(receipt_handles.len()) {
            let entries = entries(&batch, |id, index| {
                DeleteMessageBatchRequestEntry::builder()
                    .id(id)
                    .receipt_handle(receipt_handles[*index])
                    .build()
            });
            let Ok(entries) = entries else {
                failed.extend(all_failed(batch, &QueueError::not_built(DELETE)));
                continue;
            };
            let request = self.0.delete_message_batch().queue_url(url);
            match request.set_entries(Some(entries)).send().boxed().await {
                Ok(answer) => failed.extend(failed_entries(DELETE, &batch, &answer.failed)),
                Err(error) => failed.extend(all_failed(batch, &QueueError::new(DELETE, &error))),
            }
        }
        failed
    }
}

/// How many of the messages fit into one batch: one at least.
fn batch_length(messages: &[OutgoingMessage]) -> usize {
    let mut bytes = 0;
    let fits = |message: &&OutgoingMessage| {
        bytes += message.body_bytes() + ATTRIBUTE_BYTES;
        bytes <= MAX_MESSAGE_BYTES
    };
    let count = messages.iter().take(MAX_ENTRIES).take_while(fits).count();
    count.max(1)
}

/// The indexes of `length` entries, a batch at a time.
fn batches(length: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..length)
        .step_by(MAX_ENTRIES)
        .map(move |start| (start..length.min(start + MAX_ENTRIES)).collect())
}

/// The entries of a request. An entry's id is its place in the batch.
fn entries<T>(
    batch: &[usize],
    entry: impl Fn(String, &usize) -> Result<T, BuildError>,
) -> Result<Vec<T>, BuildError> {
    let numbered = batch.iter().enumerate();
    numbered
        .map(|(id, index)| entry(id.to_string(), index))
        .collect()
}

fn send_entry(
    id: String,
    message: &OutgoingMessage,
) -> Result<SendMessageBatchRequestEntry, BuildError> {
    SendMessageBatchRequestEntry::builder()
        .id(id)
        .message_body(&message.body)
        .set_message_group_id(message.group.clone())
        .set_message_attributes(message.non_empty_attributes())
        .set_message_system_attributes(message.system_attributes()?)
        .build()
}

fn failed_entries(
    operation: &'static str,
    batch: &[usize],
    refused: &[BatchResultErrorEntry],
) -> Vec<FailedEntry> {
    let of = |(id, index): (usize, &usize)| {
        let id = id.to_string();
        let entry = refused.iter().find(|entry| entry.id == id)?;
        Some(FailedEntry {
            index: *index,
            error: QueueError::with_code(operation, &entry.code),
        })
    };
    batch.iter().enumerate().filter_map(of).collect()
}

fn all_failed(batch: Vec<usize>, error: &QueueError) -> Vec<FailedEntry> {
    let failed = |index| FailedEntry {
        index,
        error: error.clone(),
    };
    batch.into_iter().map(failed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> OutgoingMessage {
        OutgoingMessage::new("x".repeat(bytes))
    }

    #[test]
    fn a_batch_has_ten_entries_and_a_mebibyte_at_most() {
        assert_eq!(batch_length(&vec![message(1); 11]), MAX_ENTRIES);
        assert_eq!(batch_length(&vec![message(1); 3]), 3);
        assert_eq!(batch_length(&vec![message(300_000); 5]), 3);
        // SQS says what is wrong with it.
        assert_eq!(batch_length(&vec![message(2_000_000); 2]), 1);
        let batches: Vec<_> = batches(21).map(|batch| batch.len()).collect();
        assert_eq!(batches, [10, 10, 1]);
    }

    #[test]
    fn an_entry_that_failed_is_known_by_its_index() {
        let refused = BatchResultErrorEntry::builder();
        let refused = refused
            .id("1")
            .code("InternalError")
            .sender_fault(false)
            .build();
        let failed = failed_entries(DELETE, &[10, 11, 12], &[refused.unwrap()]);
        assert_eq!(
            failed,
            [FailedEntry {
                index: 11,
                error: QueueError::with_code(DELETE, "InternalError"),
            }]
        );
    }
}
