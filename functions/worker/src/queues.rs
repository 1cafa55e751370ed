//! The worker's queues: redelivery after a time, deletion before the answer, and the dead-letter queue.

use std::time::Duration;

use aws_config::SdkConfig;
use comms_aws::{
    QueueClient, QueueError,
    queue::{FailedEntry, MAX_MESSAGE_BYTES, OutgoingMessage, is_named},
};
use comms_delivery::{OutcomeMessage, WorkQueue, send_outcomes};
use comms_runtime::sqs::SqsMessage;
use thiserror::Error;

use crate::{attributes, dead_letter::DeadLetter};

/// Why a message could not be moved, redelivered or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// SQS refused, or did not answer.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The body is no text, so that only SQS itself can move the message.
    #[error("the message is no text, and only the queue itself can move it")]
    NoText,
    /// The message is from a queue that is not in the environment.
    #[error("the message is from a queue that is not in the environment")]
    UnknownQueue,
}

/// The worker's queues.
#[derive(Debug, Clone)]
pub struct Queues {
    client: QueueClient,
    sources: [String; 2],
    dead_letters: String,
}

impl Queues {
    /// Uses the queues with the URLs `sources`, the second of which is the urgent one, and the dead-letter queue at
    /// `dead_letters`.
    pub fn new(
        config: &SdkConfig,
        sources: [impl Into<String>; 2],
        dead_letters: impl Into<String>,
    ) -> Self {
        Self {
            client: QueueClient::new(config, "queues"),
            sources: sources.map(Into::into),
            dead_letters: dead_letters.into(),
        }
    }

    /// Sends a message unchanged to the dead-letter queue, with the reason. The original can be deleted afterwards.
    pub async fn dead_letter(
        &self,
        message: &SqsMessage,
        letter: &DeadLetter<'_>,
    ) -> Result<(), MessageError> {
        let body = std::str::from_utf8(&message.body).map_err(|_| MessageError::NoText)?;
        // An empty message cannot be sent.
        let body = if body.is_empty() { " " } else { body };
        let attributes = attributes::of_dead_letter(message, letter);
        let size: usize = attributes
            .iter()
            .map(|(name, value)| name.len() + value.size())
            .sum();
        let mut copy = OutgoingMessage::new(body)
            .with_group(message.attributes.get("MessageGroupId"))
            .with_trace(message.trace());
        // Better without a word than not at all: what is wrong with it can be found out again.
        if body.len() + size <= MAX_MESSAGE_BYTES {
            for (name, value) in attributes {
                let value = value.build();
                let value = value.map_err(|_| QueueError::not_built("SendMessage"))?;
                copy = copy.with_attribute(&name, value);
            }
        }
        Ok(self.client.send(&self.dead_letters, copy).await?)
    }

    /// Sends outcomes of the clinic `group` to the urgent queue.
    pub async fn send_outcomes(
        &self,
        messages: &[OutcomeMessage],
        group: &str,
    ) -> Result<(), QueueError> {
        let [_, urgent] = &self.sources;
        send_outcomes(&self.client, urgent, messages, group).await
    }

    /// Has SQS redeliver messages of one batch after the time beside each, rounded up to seconds. One for which this fails
    /// is redelivered when the queue's own visibility timeout is over.
    pub async fn change_visibility(
        &self,
        waits: &[(&SqsMessage, Duration)],
    ) -> Result<(), MessageError> {
        let Some((first, _)) = waits.first() else {
            return Ok(());
        };
        let url = self.url_of(first)?;
        let waits: Vec<_> = waits
            .iter()
            .map(|(message, wait)| (message.receipt_handle.as_str(), *wait))
            .collect();
        first_error(self.client.change_visibility(url, &waits).await)
    }

    /// Deletes messages of one batch before the invocation's answer, which deletes all that it does not name. One that is
    /// not deleted is redelivered, and its deliveries have ended.
    pub(crate) async fn delete(&self, done: &[&SqsMessage]) -> Result<(), MessageError> {
        let Some(first) = done.first() else {
            return Ok(());
        };
        let url = self.url_of(first)?;
        let handles: Vec<_> = done
            .iter()
            .map(|message| message.receipt_handle.as_str())
            .collect();
        first_error(self.client.delete_all(url, &handles).await)
    }

    /// Which of the queues a message is from.
    pub fn kind_of(&self, message: &SqsMessage) -> WorkQueue {
        let [_, urgent] = &self.sources;
        if is_named(urgent, message.queue()) {
            WorkQueue::Urgent
        } else {
            WorkQueue::Normal
        }
    }

    /// The URL of the queue of an event's messages, which are all from one queue.
    fn url_of(&self, message: &SqsMessage) -> Result<&str, MessageError> {
        let mut urls = self.sources.iter();
        let url = urls.find(|url| is_named(url, message.queue()));
        url.map(String::as_str).ok_or(MessageError::UnknownQueue)
    }
}

fn first_error(failed: Vec<FailedEntry>) -> Result<(), MessageError> {
    match failed.into_iter().next() {
        None => Ok(()),
        Some(entry) => Err(entry.error.into()),
    }
}
