//! An SQS batch: every message handled on its own, and the failed ones listed in the response
//! (`ReportBatchItemFailures`), so that one bad message takes no other with it.

use std::{collections::HashMap, fmt, future::Future, panic::AssertUnwindSafe, time::Duration};

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse};
use futures_util::{FutureExt, StreamExt, stream};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use tracing::error;

use crate::telemetry::TraceHeader;

/// The system attribute with a message's trace (Amazon SQS API reference, `SendMessage`,
/// `MessageSystemAttribute`), and the attribute that those set who trace otherwise.
const TRACE_HEADER: &str = "AWSTraceHeader";
const TRACE_PARENT: &str = "traceparent";

/// The event of a batch (AWS Lambda Developer Guide, "Using Lambda with Amazon SQS").
#[derive(Debug, Deserialize)]
pub struct SqsEvent {
    /// The messages, ten at most.
    #[serde(rename = "Records")]
    pub records: Vec<SqsMessage>,
}

/// One message.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SqsMessage {
    /// SQS's id of it. Without one Lambda takes the whole batch for failed, which is right.
    #[serde(default)]
    pub message_id: String,
    /// What this receiving of it is called by.
    #[serde(default)]
    pub receipt_handle: String,
    /// What it says. Bytes, because a text that is none must not cost the other messages of the batch.
    #[serde(default, deserialize_with = "bytes")]
    pub body: Vec<u8>,
    /// What SQS says of it.
    #[serde(default)]
    pub attributes: HashMap<String, String>,
    /// What its sender says of it.
    #[serde(default)]
    pub message_attributes: HashMap<String, MessageAttribute>,
    /// The queue that it came from.
    #[serde(default, rename = "eventSourceARN")]
    pub event_source_arn: String,
}

/// Something that a sender says of a message.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageAttribute {
    /// Its value, where that is a text.
    #[serde(default)]
    pub string_value: Option<String>,
    /// Its value in Base64, where that is bytes.
    #[serde(default)]
    pub binary_value: Option<String>,
    /// `String`, `Number` or `Binary`, with or without a kind of its own after a dot.
    #[serde(default)]
    pub data_type: String,
}

impl SqsMessage {
    /// How often SQS has handed it out, this time included.
    pub fn receive_count(&self) -> u32 {
        self.attributes
            .get("ApproximateReceiveCount")
            .and_then(|count| count.parse().ok())
            .unwrap_or(1)
    }

    /// When it was put on its queue, in milliseconds of Unix time.
    pub fn sent_at(&self) -> Option<i64> {
        self.attributes.get("SentTimestamp")?.parse().ok()
    }

    /// When SQS delivered it first, in milliseconds of Unix time.
    pub fn first_received_at(&self) -> Option<i64> {
        self.attributes
            .get("ApproximateFirstReceiveTimestamp")?
            .parse()
            .ok()
    }

    /// The principal that put it on its queue (Amazon SQS API reference, `ReceiveMessage`, `SenderId`): a user's id, or
    /// a role's with the name of the session.
    pub fn sender_id(&self) -> Option<&str> {
        self.attributes.get("SenderId").map(String::as_str)
    }

    /// What its sender says of it under this name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.message_attributes.get(name)?.string_value.as_deref()
    }

    /// The trace of its producer.
    pub fn trace(&self) -> Option<TraceHeader> {
        let header = self.attributes.get(TRACE_HEADER);
        header
            .and_then(|header| TraceHeader::parse(header))
            .or_else(|| TraceHeader::from_traceparent(self.attribute(TRACE_PARENT)?))
    }

    /// The name of the queue that it came from.
    pub fn queue(&self) -> &str {
        self.event_source_arn.rsplit(':').next().unwrap_or_default()
    }
}

impl fmt::Debug for SqsMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqsMessage({}, …)", self.message_id)
    }
}

impl fmt::Debug for MessageAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageAttribute(…)")
    }
}

/// A JSON text as its bytes, which need not be UTF-8: an escape of half a surrogate pair is none.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
            Ok(text.as_bytes().to_vec())
        }
    }

    deserializer.deserialize_bytes(Bytes)
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageResult {
    /// It is done, whatever became of it; SQS may delete it.
    Done,
    /// It is to be redelivered, after this time.
    Again(Duration),
    /// Its handler panicked: SQS redelivers it, and the ledger decides what is left to do.
    Panicked,
}

/// Handles the messages of a batch, at most `concurrency` at once. Returns the result of each, in the order of their ends.
pub async fn handle_batch<'m, F, Fut>(
    messages: &[&'m SqsMessage],
    concurrency: usize,
    handle: F,
) -> Vec<(&'m SqsMessage, MessageResult)>
where
    F: Fn(&'m SqsMessage) -> Fut,
    Fut: Future<Output = MessageResult>,
{
    let work = messages.iter().map(|&message| {
        let work = AssertUnwindSafe(handle(message)).catch_unwind();
        // On the heap: it is large, and lists and streams move their elements.
        Box::pin(work.map(move |result| {
            let result = result.unwrap_or_else(|_| {
                // The panic's text is dropped: it may quote data.
                error!(
                    sqs_message_id = message.message_id,
                    "handling a message panicked"
                );
                MessageResult::Panicked
            });
            (message, result)
        }))
    });
    // In a list and not by the stream, which would have to be `Send` for messages of any lifetime.
    stream::iter(work.collect::<Vec<_>>())
        .buffer_unordered(concurrency.max(1))
        .collect()
        .await
}

/// The response that lists the messages that SQS redelivers.
pub fn batch_response(results: &[(&SqsMessage, MessageResult)]) -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    for (message, result) in results {
        match result {
            MessageResult::Done => {}
            MessageResult::Again(_) | MessageResult::Panicked => {
                let mut failure = BatchItemFailure::default();
                failure.item_identifier.clone_from(&message.message_id);
                response.batch_item_failures.push(failure);
            }
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    fn event(ids: &[&str]) -> SqsEvent {
        let records: Vec<_> = ids
            .iter()
            .map(|id| json!({"messageId": id, "body": "x"}))
            .collect();
        serde_json::from_value(json!({"Records": records})).unwrap()
    }

    #[tokio::test]
    async fn failed_and_panicking_messages_are_named_and_take_no_other_with_them() {
        let handled = AtomicUsize::new(0);
        let event = event(&["a", "b", "c", "d"]);
        let results = handle_batch(&event.records.iter().collect::<Vec<_>>(), 2, |message| {
            let handled = &handled;
            async move {
                handled.fetch_add(1, Ordering::Relaxed);
                match message.message_id.as_str() {
                    "b" => MessageResult::Again(Duration::ZERO),
                    "c" => panic!("planted"),
                    _ => MessageResult::Done,
                }
            }
        })
        .await;
        let failed: Vec<_> = batch_response(&results)
            .batch_item_failures
            .into_iter()
            .map(|failure| failure.item_identifier)
            .collect();
        assert_eq!(failed, ["b", "c"]);
        assert_eq!(handled.into_inner(), 4);
    }

    #[tokio::test]
    async fn no_more_messages_are_handled_at_once_than_allowed() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let event = event(&["a"; 20]);
        handle_batch(&event.records.iter().collect::<Vec<_>>(), 3, |_| async {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::Relaxed);
            MessageResult::Done
        })
        .await;
        assert_eq!(most.into_inner(), 3);
    }

    #[tokio::test]
    async fn a_message_that_takes_long_keeps_no_other_from_being_begun() {
        let event = event(&["hangs", "a", "b", "c"]);
        let others = tokio::sync::Semaphore::new(0);
        let messages: Vec<_> = event.records.iter().collect();
        let handling = handle_batch(&messages, 2, |message| {
            let others = &others;
            async move {
                if message.message_id == "hangs" {
                    others.acquire_many(3).await.unwrap().forget();
                } else {
                    others.add_permits(1);
                }
                MessageResult::Done
            }
        });
        let results = handling.now_or_never();
        assert_eq!(results.map(|results| results.len()), Some(4));
    }

    #[test]
    fn a_message_belongs_to_the_trace_of_its_sender() {
        let root = "1-5759e988-bd862e3fe1be46a994272793";
        let w3c = "00-0000e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
        let message = |header: Option<&str>, parent: Option<&str>| -> SqsMessage {
            let mut message = json!({"messageId": "a"});
            if let Some(header) = header {
                message["attributes"] = json!({"AWSTraceHeader": header});
            }
            if let Some(parent) = parent {
                message["messageAttributes"] =
                    json!({"traceparent": {"stringValue": parent, "dataType": "String"}});
            }
            serde_json::from_value(message).unwrap()
        };
        let id = |header, parent| {
            let trace = message(header, parent).trace();
            trace.map(|trace| trace.id().to_owned())
        };
        let header = format!("Root={root};Sampled=0");
        assert_eq!(id(Some(&header), Some(w3c)).as_deref(), Some(root));
        let of_w3c = "1-0000e988-bd862e3fe1be46a994272793";
        assert_eq!(id(Some("nothing"), Some(w3c)).as_deref(), Some(of_w3c));
        assert_eq!(id(None, None), None);
    }

    #[test]
    fn a_body_that_is_no_text_is_read_as_it_is_and_costs_no_other_message() {
        let mut text = br#"{"Records":[
            {"messageId":"half","body":"\ud800"},
            {"messageId":"bytes","body":""#
            .to_vec();
        text.extend([0xff, 0xfe]);
        text.extend(
            br#""},
            {"messageId":"good","receiptHandle":"h","body":"{\"a\":\"\u00e9\"}",
             "attributes":{"ApproximateReceiveCount":"3"},
             "messageAttributes":{"acceptedAs":{"stringValue":"r","dataType":"String"}},
             "eventSourceARN":"arn:aws:sqs:eu-central-1:123456789012:the-queue","awsRegion":"x"}]}"#,
        );
        let event: SqsEvent = serde_json::from_slice(&text).unwrap();
        let [half, bytes, good] = event.records.as_slice() else {
            panic!("{event:?}")
        };
        assert!(std::str::from_utf8(&half.body).is_err());
        assert_eq!(bytes.body, [0xff, 0xfe]);
        assert_eq!(good.body, "{\"a\":\"é\"}".as_bytes());
        assert_eq!(good.receive_count(), 3);
        assert_eq!(good.attribute("acceptedAs"), Some("r"));
        assert_eq!(good.queue(), "the-queue");
        assert!(!format!("{event:?}").contains("a\""));
    }
}
