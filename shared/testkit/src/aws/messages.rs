//! What SQS says of messages and the emulated service does not: the group of a message of a standard queue (fair
//! queues), its trace, the queue from which a dead letter was moved, and how many messages can be received that were received
//! before.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{ACCOUNT, REGION};

/// How many messages are known at most; the oldest go first.
const MAX: usize = 100_000;

/// What passed by of the messages that are on any queue.
#[derive(Debug, Default)]
pub(super) struct Messages {
    by_id: HashMap<String, Message>,
    /// The ids, oldest first, so that the oldest can go. Those of deleted messages are among them.
    order: VecDeque<String>,
    /// The message's id by each handle that was given out for it.
    by_handle: HashMap<String, String>,
}

#[derive(Debug)]
struct Message {
    group: Option<String>,
    trace: Option<String>,
    /// The name of the queue that it was sent to.
    sent_to: String,
    /// The name of the queue that it was last received from. What is moved after that is taken for there until it is
    /// received as a dead letter.
    received_from: Option<String>,
    handles: Vec<String>,
}

impl Messages {
    /// Learns from a call that succeeded, and returns the answer as SQS would have given it where that is another.
    pub(super) fn pass(&mut self, operation: &str, request: &[u8], answer: &[u8]) -> Option<Bytes> {
        let request: Value = serde_json::from_slice(request).ok()?;
        let queue = request["QueueUrl"].as_str()?.rsplit('/').next()?;
        // Not every answer has a body.
        let mut answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        match operation {
            "SendMessage" => self.sent(queue, &request, &answer),
            "SendMessageBatch" => {
                for (entry, sent) in succeeded(&request, &answer) {
                    self.sent(queue, entry, sent);
                }
            }
            "DeleteMessage" => self.deleted(&request),
            "DeleteMessageBatch" => {
                for (entry, _) in succeeded(&request, &answer) {
                    self.deleted(entry);
                }
            }
            "PurgeQueue" => self.by_id.retain(|_, message| {
                message.received_from.as_deref().unwrap_or(&message.sent_to) != queue
            }),
            "ReceiveMessage" => {
                let wanted: Vec<&str> = ["MessageSystemAttributeNames", "AttributeNames"]
                    .into_iter()
                    .filter_map(|names| request[names].as_array())
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                for received in answer["Messages"].as_array_mut()? {
                    self.received(queue, received, &wanted);
                }
                return Some(answer.to_string().into());
            }
            "GetQueueAttributes" => {
                let attributes = answer["Attributes"].as_object_mut()?;
                let count = |name: &str| attributes.get(name)?.as_str()?.parse::<usize>().ok();
                let never_received = count("ApproximateNumberOfMessages")?;
                let at_work = count("ApproximateNumberOfMessagesNotVisible")?;
                let received = self.by_id.values().filter(|message| {
                    message.received_from.as_deref() == Some(queue) && !message.handles.is_empty()
                });
                let visible = never_received + received.count().saturating_sub(at_work);
                attributes.insert(
                    "ApproximateNumberOfMessages".to_owned(),
                    json!(visible.to_string()),
                );
                return Some(answer.to_string().into());
            }
            _ => {}
        }
        None
    }

    fn sent(&mut self, queue: &str, sent: &Value, result: &Value) {
        let Some(id) = result["MessageId"].as_str() else {
            return;
        };
        if self.order.len() >= MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.forget(&oldest);
        }
        let message = Message {
            group: sent["MessageGroupId"].as_str().map(str::to_owned),
            trace: sent["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"]
                .as_str()
                .map(str::to_owned),
            sent_to: queue.to_owned(),
            received_from: None,
            handles: Vec::new(),
        };
        self.by_id.insert(id.to_owned(), message);
        self.order.push_back(id.to_owned());
    }

    fn received(&mut self, queue: &str, received: &mut Value, wanted: &[&str]) {
        let (Some(id), Some(handle)) = (
            received["MessageId"].as_str().map(str::to_owned),
            received["ReceiptHandle"].as_str().map(str::to_owned),
        ) else {
            return;
        };
        let Some(message) = self.by_id.get_mut(&id) else {
            return;
        };
        message.received_from = Some(queue.to_owned());
        message.handles.push(handle.clone());
        let source = (message.sent_to != queue)
            .then(|| format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{}", message.sent_to));
        for (name, value) in [
            ("MessageGroupId", message.group.clone()),
            ("AWSTraceHeader", message.trace.clone()),
            ("DeadLetterQueueSourceArn", source),
        ] {
            if let Some(value) = value
                && (wanted.contains(&"All") || wanted.contains(&name))
            {
                received["Attributes"][name] = json!(value);
            }
        }
        self.by_handle.insert(handle, id);
    }

    fn deleted(&mut self, entry: &Value) {
        let handle = entry["ReceiptHandle"].as_str().unwrap_or_default();
        if let Some(id) = self.by_handle.get(handle).cloned() {
            self.forget(&id);
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(message) = self.by_id.remove(id) {
            for handle in message.handles {
                self.by_handle.remove(&handle);
            }
        }
    }
}

/// The entries of a batch that succeeded, each with its result.
fn succeeded<'a>(
    request: &'a Value,
    answer: &'a Value,
) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    let entries = request["Entries"].as_array();
    let results = answer["Successful"].as_array().into_iter().flatten();
    results.filter_map(move |result| {
        let entry = entries?.iter().find(|entry| entry["Id"] == result["Id"])?;
        Some((entry, result))
    })
}
