//! SQS: messages, batches and their partial failures.

mod batch;
mod error;
mod message;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    types::{Message, MessageSystemAttributeName, QueueAttributeName},
};
use futures_util::FutureExt as _;

pub use self::{
    batch::{ATTRIBUTE_BYTES, FailedEntry, MAX_ENTRIES, MAX_MESSAGE_BYTES},
    error::QueueError,
    message::{OutgoingMessage, text_attribute},
};
use crate::clients;

const SEND: &str = "SendMessage";

/// An SQS client.
#[derive(Debug, Clone)]
pub struct QueueClient(Client);

/// How many messages a queue has, approximately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageCounts {
    /// Messages that can be received.
    pub visible: u64,
    /// Messages that were received, and whose visibility timeout is not over.
    pub not_visible: u64,
}

/// Whether a queue's URL is that of the queue with this name.
pub fn is_named(url: &str, name: &str) -> bool {
    url.rsplit('/').next() == Some(name)
}

impl QueueClient {
    /// A client with retries of its own. `name` is for the SDK's own logs.
    pub fn new(config: &SdkConfig, name: &'static str) -> Self {
        Self(clients::sqs(config, name))
    }

    /// Sends one message.
    pub async fn send(&self, url: &str, message: OutgoingMessage) -> Result<(), QueueError> {
        let system_attributes = message
            .system_attributes()
            .map_err(|_| QueueError::not_built(SEND))?;
        let attributes = Some(message.attributes).filter(|attributes| !attributes.is_empty());
        self.0
            .send_message()
            .queue_url(url)
            .message_body(message.body)
            .set_message_group_id(message.group)
            .set_message_attributes(attributes)
            .set_message_system_attributes(system_attributes)
            .send()
            .boxed()
            .await
            .map(drop)
            .map_err(|error| QueueError::new(SEND, &error))
    }

    /// Receives up to [`MAX_ENTRIES`] messages with all of their attributes. The request waits up to `wait` for a message
    /// (20 s at most), and hides what it receives for `visibility`; both in whole seconds.
    pub async fn receive(
        &self,
        url: &str,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Message>, QueueError> {
        let seconds = |time: Duration| i32::try_from(time.as_secs()).unwrap_or(i32::MAX);
        let received = self
            .0
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(MAX_ENTRIES).unwrap_or(1))
            .visibility_timeout(seconds(visibility))
            .wait_time_seconds(seconds(wait))
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .boxed()
            .await
            .map_err(|error| QueueError::new("ReceiveMessage", &error))?;
        Ok(received.messages.unwrap_or_default())
    }

    /// Deletes one message.
    pub async fn delete(&self, url: &str, receipt_handle: &str) -> Result<(), QueueError> {
        self.0
            .delete_message()
            .queue_url(url)
            .receipt_handle(receipt_handle)
            .send()
            .boxed()
            .await
            .map(drop)
            .map_err(|error| QueueError::new("DeleteMessage", &error))
    }

    /// How many messages the queue has.
    pub async fn count(&self, url: &str) -> Result<MessageCounts, QueueError> {
        let answer = self
            .0
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .send()
            .boxed()
            .await
            .map_err(|error| QueueError::new("GetQueueAttributes", &error))?;
        let number = |name| {
            let text = answer.attributes().and_then(|all| all.get(&name));
            text.and_then(|text| text.parse().ok()).unwrap_or_default()
        };
        Ok(MessageCounts {
            visible: number(QueueAttributeName::ApproximateNumberOfMessages),
            not_visible: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        })
    }
}
