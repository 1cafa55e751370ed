//! The SQS event source mappings, one for each queue: they receive messages, invoke the worker with them, and delete those
//! that it did not report as failed (`ReportBatchItemFailures`).
//!
//! They behave like AWS's: up to ten messages per batch; a limit of concurrent batches for each queue; a function error, an
//! invalid answer, or an identifier that was not in the batch leaves the whole batch on the queue. They do not change the
//! visibility timeout, so a failed message is redelivered when its timeout is over, or when the worker has set another. Unlike
//! in production that timeout is [`VISIBILITY_TIMEOUT`] rather than three minutes, because a developer is waiting. Unlike in SQS, whose fair queues deliver the messages of quiet groups first once one group is
//! noisy, the local SQS delivers in the order of arrival: here only the worker itself keeps a slow clinic to its share.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName, QueueAttributeName,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use comms_core::backoff::Backoff;
use comms_functions::{Function, SourceQueue, Trigger};
use comms_testkit::aws::{ACCOUNT, LocalAws, REGION};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::console::warn;
use crate::event_source::EventSource;
use crate::processes::Processes;

/// Messages in one batch at most.
const BATCH: usize = 10;

/// How long one look at a queue waits for a message, in seconds.
const LONG_POLL_SECONDS: i32 = 20;

/// Seconds until a message that failed is tried again: the worker's time-out and a little more, or a message would
/// be redelivered while it is still being delivered.
pub(crate) const VISIBILITY_TIMEOUT: u64 = 35;

/// The waits after failures of the queue itself.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// One queue's place between SQS and the worker.
#[derive(Clone)]
pub(crate) struct Poller {
    sqs: aws_sdk_sqs::Client,
    function: &'static Function,
    source: EventSource,
    queue: String,
    processes: Processes,
}

impl Poller {
    /// A poller for every queue that invokes a function.
    pub(crate) fn all(aws: &LocalAws, processes: &Processes) -> Vec<Self> {
        let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config());
        let resources = aws.resources();
        let of_queue = |function, queue| Self {
            sqs: sqs.clone(),
            function,
            source: EventSource::of(queue),
            queue: match queue {
                SourceQueue::Normal => resources.queue_url.clone(),
                SourceQueue::Urgent => resources.urgent_queue_url.clone(),
            },
            processes: processes.clone(),
        };
        comms_functions::ALL
            .into_iter()
            .filter_map(|function| match function.trigger {
                Trigger::Http(_) => None,
                Trigger::Sqs(queues) => Some((function, queues)),
            })
            .flat_map(|(function, queues)| queues.iter().map(move |queue| (function, *queue)))
            .map(|(function, queue)| of_queue(function, queue))
            .collect()
    }

    /// Shortens the queue's visibility timeout for a developer who watches.
    pub(crate) async fn set_visibility_timeout(&self) -> Result<(), String> {
        self.sqs
            .set_queue_attributes()
            .queue_url(&self.queue)
            .attributes(
                QueueAttributeName::VisibilityTimeout,
                VISIBILITY_TIMEOUT.to_string(),
            )
            .send()
            .await
            .map(drop)
            .map_err(|error| DisplayErrorContext(error).to_string())
    }

    /// Polls until the task ends.
    pub(crate) async fn run(self) {
        let slots = Arc::new(Semaphore::new(self.source.batches));
        let mut failures = 0_u32;
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match self.receive().await {
                Ok(batch) if batch.is_empty() => failures = 0,
                Ok(batch) => {
                    failures = 0;
                    let poller = self.clone();
                    tokio::spawn(async move {
                        poller.deliver(batch).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    let backoff = BACKOFF.without_jitter(failures);
                    failures = failures.saturating_add(1);
                    warn(format_args!(
                        "[poller] the {} does not answer: {error}; trying again in {backoff:?}",
                        self.source.name
                    ));
                    tokio::time::sleep(backoff).await;
                }
            }
        }
    }

    /// A batch: the first messages, and those that arrive within the batching window.
    async fn receive(&self) -> Result<Vec<Message>, String> {
        let mut batch = self.receive_up_to(BATCH, LONG_POLL_SECONDS).await?;
        if !batch.is_empty() && batch.len() < BATCH && !self.source.window.is_zero() {
            tokio::time::sleep(self.source.window).await;
            match self.receive_up_to(BATCH - batch.len(), 0).await {
                Ok(more) => batch.extend(more),
                // What is there already must not wait for its visibility timeout.
                Err(error) => warn(format_args!("[poller] {error}")),
            }
        }
        Ok(batch)
    }

    async fn receive_up_to(&self, messages: usize, wait: i32) -> Result<Vec<Message>, String> {
        let received = self
            .sqs
            .receive_message()
            .queue_url(&self.queue)
            .max_number_of_messages(i32::try_from(messages).unwrap_or(1))
            .wait_time_seconds(wait)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await
            .map_err(|error| DisplayErrorContext(error).to_string())?;
        Ok(received.messages.unwrap_or_default())
    }

    async fn deliver(&self, batch: Vec<Message>) {
        let name = self.queue.rsplit('/').next().unwrap_or_default();
        let payload = Bytes::from(event(name, &batch).to_string());
        let failed = match self.processes.invoke(self.function, payload).await {
            Ok(answer) => failures(&batch, &answer),
            Err(error) => Err(error.to_string()),
        };
        let failed = match failed {
            Ok(failed) => failed,
            Err(reason) => {
                warn(format_args!(
                    "[poller] a batch of {} from the {} failed and is redelivered within {VISIBILITY_TIMEOUT} s: {reason}",
                    batch.len(),
                    self.source.name
                ));
                return;
            }
        };
        if let Err(error) = self.delete(&batch, &failed).await {
            warn(format_args!(
                "[poller] delivered messages could not be deleted and will be redelivered: {error}"
            ));
        }
    }

    async fn delete(&self, batch: &[Message], failed: &HashSet<String>) -> Result<(), String> {
        let mut entries = Vec::new();
        for (number, message) in batch.iter().enumerate() {
            if message.message_id().is_some_and(|id| failed.contains(id)) {
                continue;
            }
            let entry = DeleteMessageBatchRequestEntry::builder()
                .id(number.to_string())
                .set_receipt_handle(message.receipt_handle.clone())
                .build()
                .map_err(|error| error.to_string())?;
            entries.push(entry);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let deleted = self
            .sqs
            .delete_message_batch()
            .queue_url(&self.queue)
            .set_entries(Some(entries))
            .send()
            .await
            .map_err(|error| DisplayErrorContext(error).to_string())?;
        match deleted.failed() {
            [] => Ok(()),
            [first, ..] => Err(format!(
                "{} entries, first {}: {}",
                deleted.failed().len(),
                first.code(),
                first.message().unwrap_or_default()
            )),
        }
    }
}

/// The Lambda event of a batch of the queue with this name.
fn event(queue: &str, batch: &[Message]) -> Value {
    let arn = format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}");
    let records: Vec<Value> = batch
        .iter()
        .map(|message| {
            let attributes: Map<String, Value> = message
                .attributes()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str().to_owned(), json!(value)))
                .collect();
            let message_attributes: Map<String, Value> = message
                .message_attributes()
                .into_iter()
                .flatten()
                .map(|(name, value)| {
                    let mut attribute = json!({
                        "stringListValues": [],
                        "binaryListValues": [],
                        "dataType": value.data_type(),
                    });
                    if let Some(text) = value.string_value() {
                        attribute["stringValue"] = json!(text);
                    }
                    if let Some(bytes) = value.binary_value() {
                        attribute["binaryValue"] = json!(BASE64.encode(bytes));
                    }
                    (name.clone(), attribute)
                })
                .collect();
            json!({
                "messageId": message.message_id(),
                "receiptHandle": message.receipt_handle(),
                "body": message.body(),
                "attributes": attributes,
                "messageAttributes": message_attributes,
                "md5OfBody": message.md5_of_body(),
                "eventSource": "aws:sqs",
                "eventSourceARN": arn,
                "awsRegion": REGION,
            })
        })
        .collect();
    json!({"Records": records})
}

/// The messages that the worker reports as failed, by id. `Err` means that the whole batch failed, and why.
fn failures(batch: &[Message], answer: &[u8]) -> Result<HashSet<String>, String> {
    let answer: Value = serde_json::from_slice(answer)
        .map_err(|error| format!("the worker's answer is not JSON: {error}"))?;
    let items = match &answer {
        Value::Null => return Ok(HashSet::new()),
        Value::Object(members) => match members.get("batchItemFailures") {
            None | Some(Value::Null) => return Ok(HashSet::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err("batchItemFailures is not a list".to_owned()),
        },
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err("the worker's answer is not an object".to_owned());
        }
    };
    let known: HashSet<&str> = batch.iter().filter_map(Message::message_id).collect();
    items
        .iter()
        .map(|item| match item["itemIdentifier"].as_str() {
            None | Some("") => Err("a failure has no itemIdentifier".to_owned()),
            Some(id) if !known.contains(id) => {
                Err(format!("the itemIdentifier {id} is not in the batch"))
            }
            Some(id) => Ok(id.to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::MessageAttributeValue;

    use super::*;

    fn batch() -> Vec<Message> {
        ["a", "b"]
            .map(|id| Message::builder().message_id(id).body("{}").build())
            .into()
    }

    fn reported(answer: &str) -> Result<Vec<String>, String> {
        failures(&batch(), answer.as_bytes()).map(|failed| failed.into_iter().collect())
    }

    #[test]
    fn only_the_reported_messages_fail() {
        assert_eq!(
            reported(r#"{"batchItemFailures":[{"itemIdentifier":"b"}]}"#),
            Ok(vec!["b".to_owned()])
        );
    }

    #[test]
    fn an_answer_without_failures_is_a_success_of_all() {
        for answer in [
            "null",
            "{}",
            r#"{"batchItemFailures":null}"#,
            r#"{"batchItemFailures":[]}"#,
        ] {
            assert_eq!(reported(answer), Ok(Vec::new()), "{answer}");
        }
    }

    #[test]
    fn an_unknown_empty_or_missing_identifier_fails_the_whole_batch() {
        for item in [
            r#"{"itemIdentifier":"z"}"#,
            r#"{"itemIdentifier":""}"#,
            r#"{"itemIdentifier":null}"#,
            r#"{"id":"a"}"#,
        ] {
            let answer = format!(r#"{{"batchItemFailures":[{{"itemIdentifier":"a"}},{item}]}}"#);
            assert!(reported(&answer).is_err(), "{answer}");
        }
    }

    #[test]
    fn what_is_not_an_answer_fails_the_whole_batch() {
        for answer in ["", "oops", "[]", "true", r#"{"batchItemFailures":{}}"#] {
            assert!(reported(answer).is_err(), "{answer}");
        }
    }

    #[test]
    fn the_event_has_the_shape_that_lambda_gives_it() {
        let message = Message::builder()
            .message_id("059f36b4")
            .receipt_handle("AQEB")
            .body("{}")
            .md5_of_body("99914b932bd37a50b983c5e7c90ae93b")
            .attributes(MessageSystemAttributeName::ApproximateReceiveCount, "1")
            .attributes(MessageSystemAttributeName::MessageGroupId, "clinic-123")
            .message_attributes(
                "traceparent",
                MessageAttributeValue::builder()
                    .data_type("String")
                    .string_value("00-a")
                    .build()
                    .unwrap(),
            )
            .build();
        assert_eq!(
            event("clinic-comms", &[message]),
            json!({"Records": [{
                "messageId": "059f36b4",
                "receiptHandle": "AQEB",
                "body": "{}",
                "attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": "clinic-123"},
                "messageAttributes": {"traceparent": {
                    "stringValue": "00-a",
                    "stringListValues": [],
                    "binaryListValues": [],
                    "dataType": "String",
                }},
                "md5OfBody": "99914b932bd37a50b983c5e7c90ae93b",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:clinic-comms",
                "awsRegion": "us-east-1",
            }]})
        );
    }
}
