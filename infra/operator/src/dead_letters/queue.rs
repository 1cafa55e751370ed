//! The dead-letter queue at SQS, and the queues that dead letters come from.

use std::{collections::HashMap, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use comms_aws::{
    QueueClient, QueueError,
    queue::{MessageCounts, OutgoingMessage, is_named, text_attribute},
};
use comms_core::{
    Clock, DeadLetter, IdempotencyKey, RequestId,
    dead_letter::{MAX_ATTRIBUTES, OF_DEAD_LETTERS_ALONE, SOURCE_MESSAGE_ID, is_message_id},
    request::{Priority, Submission},
};
use comms_delivery::queue_claim::ACCEPTED_AS;
use serde_json::Value;

/// The visibility timeout of received messages: longer than a walk that only lists, and short enough after a walk that was
/// killed.
pub(super) const VISIBILITY: Duration = Duration::from_mins(5);

/// The dead-letter queue.
#[derive(Debug, Clone)]
pub struct DeadLetterQueue {
    client: QueueClient,
    url: String,
    /// How long a receive waits for a message. One that waits asks all of SQS's servers, and one that does not only
    /// some (SQS developer guide, "short and long polling").
    wait: Duration,
}

/// The queues that the worker takes messages from.
#[derive(Debug, Clone)]
pub struct SourceQueues {
    /// The URL of the normal queue.
    pub normal: String,
    /// The URL of the urgent queue.
    pub urgent: String,
}

/// A dead letter that this command has received.
pub(super) struct Received {
    pub(super) message_id: String,
    pub(super) letter: DeadLetter,
    /// Since it was sent. For what SQS moved: to the queue where it was first; SQS counts its retention from there.
    pub(super) age: Duration,
    /// How often it was received on this queue.
    pub(super) receives: u32,
    handle: String,
    body: String,
    group: Option<String>,
    attributes: HashMap<String, MessageAttributeValue>,
}

impl Received {
    fn new(message: Message, now: u64) -> Option<Self> {
        let system = message.attributes.unwrap_or_default();
        let system = |name| system.get(&name).cloned();
        let moved_from = system(MessageSystemAttributeName::DeadLetterQueueSourceArn);
        let number = |name| system(name)?.parse::<u64>().ok();
        let sent = number(MessageSystemAttributeName::SentTimestamp).unwrap_or(now);
        let receives = number(MessageSystemAttributeName::ApproximateReceiveCount);
        let body = message.body.unwrap_or_default();
        let attributes = message.message_attributes.unwrap_or_default();
        let letter = DeadLetter::read(
            moved_from.as_deref(),
            |name| attributes.get(name)?.string_value(),
            body.as_bytes(),
        );
        Some(Self {
            message_id: message.message_id?,
            handle: message.receipt_handle?,
            letter,
            age: Duration::from_millis(now.saturating_sub(sent)),
            receives: u32::try_from(receives.unwrap_or(1)).unwrap_or(u32::MAX),
            body,
            group: system(MessageSystemAttributeName::MessageGroupId),
            attributes,
        })
    }

    /// SQS's id of the message when it was first sent. SQS keeps it when it moves a message itself ("with its original
    /// message ID": SQS developer guide, "Configure a dead-letter queue").
    pub(super) fn source_message_id(&self) -> &str {
        let attribute = self.attributes.get(SOURCE_MESSAGE_ID);
        attribute
            .and_then(MessageAttributeValue::string_value)
            .filter(|id| is_message_id(id))
            .unwrap_or(&self.message_id)
    }

    /// The communication as part of which `send` put it on its queue, as its attribute says; nothing proves it.
    pub(super) fn accepted_as(&self) -> Option<RequestId> {
        let attribute = self.attributes.get(ACCEPTED_AS)?;
        RequestId::parse(attribute.string_value()?).ok()
    }

    /// The idempotency key of its body, whatever else the body is.
    pub(super) fn key(&self) -> Option<IdempotencyKey> {
        let body: Value = serde_json::from_str(&self.body).ok()?;
        IdempotencyKey::parse(body.get("idempotencyKey")?.as_str()?).ok()
    }

    /// Bytes of its body.
    pub(super) fn size(&self) -> u64 {
        self.body.len() as u64
    }

    /// Why it cannot be put back as its sender gave it, if that is so: names of attributes, and nothing of their values.
    pub(super) fn cannot_be_put_back(&self) -> Option<String> {
        if !self.letter.dropped.is_empty() {
            return Some(format!(
                "its sender's attributes {} had no room on the dead-letter queue",
                self.letter.dropped.join(", ")
            ));
        }
        let kept = self.attributes_to_keep()?;
        if kept.len() <= MAX_ATTRIBUTES {
            return None;
        }
        let mut names: Vec<_> = self.attributes.keys().map(String::as_str).collect();
        names.sort_unstable();
        Some(format!(
            "with {SOURCE_MESSAGE_ID} it has {} attributes and SQS takes {MAX_ATTRIBUTES}: {}",
            kept.len(),
            names.join(", ")
        ))
    }

    /// Its attributes as its sender gave them, and the id that it is known by.
    fn attributes_to_keep(&self) -> Option<HashMap<String, MessageAttributeValue>> {
        let id = text_attribute(self.source_message_id()).ok()?;
        let mut kept = self.attributes.clone();
        if !self.letter.moved_by_sqs {
            kept.retain(|name, _| !OF_DEAD_LETTERS_ALONE.contains(&name.as_str()));
        }
        kept.insert(SOURCE_MESSAGE_ID.to_owned(), id);
        Some(kept)
    }
}

impl SourceQueues {
    /// The URL of the queue that a dead letter came from. One that does not say goes by its priority: the worker takes
    /// from both alike. `None` where it names another one.
    pub(super) fn of(&self, found: &Received) -> Option<&str> {
        match found.letter.source_queue.as_deref() {
            Some(name) => [&self.normal, &self.urgent]
                .into_iter()
                .find(|url| is_named(url, name))
                .map(String::as_str),
            None => match Submission::parse(found.body.as_bytes()) {
                Ok(submission) => match submission.request.priority {
                    Priority::High | Priority::Critical => Some(&self.urgent),
                    Priority::Low | Priority::Normal => Some(&self.normal),
                },
                Err(_) => Some(&self.normal),
            },
        }
    }
}

/// What was received and has to become visible again: the latest handle of each message.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<String, String>);

impl Held {
    pub(super) fn hold(&mut self, found: &Received) {
        self.0
            .insert(found.message_id.clone(), found.handle.clone());
    }

    /// It is on this queue no more.
    pub(super) fn forget(&mut self, found: &Received) {
        self.0.remove(&found.message_id);
    }
}

impl DeadLetterQueue {
    /// The queue at `url`. A receive waits `wait` for a message, in whole seconds, 20 at most.
    pub fn new(config: &SdkConfig, url: impl Into<String>, wait: Duration) -> Self {
        Self {
            client: QueueClient::new(config, "dead letters"),
            url: url.into(),
            wait,
        }
    }

    pub(super) async fn count(&self) -> Result<MessageCounts, QueueError> {
        self.client.count(&self.url).await
    }

    pub(super) async fn receive(&self, clock: &dyn Clock) -> Result<Vec<Received>, QueueError> {
        let received = self.client.receive(&self.url, self.wait, VISIBILITY);
        let now = u64::try_from(clock.now().as_millisecond()).unwrap_or_default();
        Ok(received
            .await?
            .into_iter()
            .filter_map(|message| Received::new(message, now))
            .collect())
    }

    /// Sends a dead letter to `source` as it was before it was one.
    pub(super) async fn put_back(&self, found: &Received, source: &str) -> Result<(), QueueError> {
        let attributes = found
            .attributes_to_keep()
            .ok_or_else(|| QueueError::not_built("SendMessage"))?;
        let mut message = OutgoingMessage::new(&found.body).with_group(found.group.as_ref());
        for (name, value) in attributes {
            message = message.with_attribute(&name, value);
        }
        self.client.send(source, message).await
    }

    pub(super) async fn delete(&self, found: &Received) -> Result<(), QueueError> {
        self.client.delete(&self.url, &found.handle).await
    }

    /// Makes the received messages visible again. Returns the number of failures.
    pub(super) async fn release(&self, held: Held) -> u64 {
        let handles: Vec<String> = held.0.into_values().collect();
        let visible: Vec<_> = handles
            .iter()
            .map(|handle| (handle.as_str(), Duration::ZERO))
            .collect();
        self.client
            .change_visibility(&self.url, &visible)
            .await
            .len() as u64
    }
}
