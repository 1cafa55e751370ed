//! An SQS batch: every message handled on its own, and those that failed named in the answer
//! (`ReportBatchItemFailures`), so that one bad message takes no other with it.

use std::{future::Future, panic::AssertUnwindSafe};

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::{FutureExt, StreamExt, stream};
use tracing::error;

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageResult {
    /// It is done, whatever became of it; SQS may delete it.
    Done,
    /// It is to come again.
    Again,
}

/// Handles the messages of a batch, at most `concurrency` at once.
///
/// A handler that panics is a message to come again: what it left is for the ledger to sort out.
pub async fn handle_batch<F, Fut>(
    event: SqsEvent,
    concurrency: usize,
    handle: F,
) -> SqsBatchResponse
where
    F: Fn(SqsMessage) -> Fut,
    Fut: Future<Output = MessageResult>,
{
    let failures: Vec<Option<String>> = stream::iter(event.records)
        .map(|message| {
            // Without an id Lambda takes the whole batch for failed, which is right.
            let id = message.message_id.clone().unwrap_or_default();
            let work = AssertUnwindSafe(handle(message)).catch_unwind();
            async move {
                match work.await {
                    Ok(MessageResult::Done) => None,
                    Ok(MessageResult::Again) => Some(id),
                    Err(_) => {
                        // The panic's text is not looked at: it may quote what it stumbled over.
                        error!(sqs_message_id = id, "handling a message panicked");
                        Some(id)
                    }
                }
            }
        })
        .buffered(concurrency.max(1))
        .collect()
        .await;
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = failures
        .into_iter()
        .flatten()
        .map(|id| {
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = id;
            failure
        })
        .collect();
    response
}

/// How often SQS has handed out this message, this time included.
pub fn receive_count(message: &SqsMessage) -> u32 {
    message
        .attributes
        .get("ApproximateReceiveCount")
        .and_then(|count| count.parse().ok())
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn event(ids: &[&str]) -> SqsEvent {
        let records: Vec<_> = ids
            .iter()
            .map(|id| serde_json::json!({"messageId": id, "body": "x"}))
            .collect();
        serde_json::from_value(serde_json::json!({"Records": records})).unwrap()
    }

    fn failed(response: &SqsBatchResponse) -> Vec<&str> {
        response
            .batch_item_failures
            .iter()
            .map(|failure| failure.item_identifier.as_str())
            .collect()
    }

    #[tokio::test]
    async fn failed_and_panicking_messages_are_named_and_take_no_other_with_them() {
        let handled = AtomicUsize::new(0);
        let response = handle_batch(event(&["a", "b", "c", "d"]), 2, |message| {
            let handled = &handled;
            async move {
                handled.fetch_add(1, Ordering::Relaxed);
                match message.message_id.as_deref() {
                    Some("b") => MessageResult::Again,
                    Some("c") => panic!("planted"),
                    _ => MessageResult::Done,
                }
            }
        })
        .await;
        assert_eq!(failed(&response), ["b", "c"]);
        assert_eq!(handled.into_inner(), 4);
    }

    #[tokio::test]
    async fn no_more_messages_are_handled_at_once_than_allowed() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        handle_batch(event(&["a"; 20]), 3, |_| async {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::Relaxed);
            MessageResult::Done
        })
        .await;
        assert_eq!(most.into_inner(), 3);
    }
}
