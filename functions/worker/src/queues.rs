//! The queues, as the worker sees them: messages that have to wait, and messages that move to the dead-letter queue.

mod delete;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    error::BuildError,
    types::{
        ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue,
        MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
    },
};
use comms_delivery::{OUTCOMES_MAC, OutcomeMessage, WorkQueue};
use comms_runtime::sqs::SqsMessage;
use comms_settings::{error_code, retries::retry_partition};
use futures_util::FutureExt as _;
use thiserror::Error;

use crate::{attributes, dead_letter::DeadLetter};

/// Bytes of a message with its attributes (Amazon SQS, message quotas).
const MAX_MESSAGE_BYTES: usize = 1_048_576;

/// Entries of one `ChangeMessageVisibilityBatch`.
const MAX_ENTRIES: usize = 10;

/// SQS did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueueError {
    /// SQS refused, or did not answer.
    #[error("SQS {operation} failed ({code})")]
    Sqs {
        /// The operation.
        operation: &'static str,
        /// SQS's error code, or what kept the request from being answered.
        code: String,
    },
    /// The message cannot be sent anywhere, because it is no text.
    #[error("the message is no text, and only the queue itself can move it")]
    NoText,
    /// The message is from a queue that the worker was not told of.
    #[error("the message is from a queue that is not in the environment")]
    UnknownQueue,
}

/// The worker's queues.
#[derive(Debug, Clone)]
pub struct Queues {
    client: Client,
    sources: [String; 2],
    dead_letters: String,
}

impl Queues {
    /// Takes messages from the queues with the URLs `sources`, the second of which is the urgent one, and sets them aside on `dead_letters`.
    pub fn new(
        config: &SdkConfig,
        sources: [impl Into<String>; 2],
        dead_letters: impl Into<String>,
    ) -> Self {
        let client = aws_sdk_sqs::config::Builder::from(config);
        let client = client.retry_partition(retry_partition("queues"));
        Self {
            client: Client::from_conf(client.build()),
            sources: sources.map(Into::into),
            dead_letters: dead_letters.into(),
        }
    }

    /// Sends a message on to the dead-letter queue as it is, with the reason. Once that is done the
    /// message itself is done.
    pub async fn dead_letter(
        &self,
        message: &SqsMessage,
        letter: &DeadLetter<'_>,
    ) -> Result<(), QueueError> {
        let body = std::str::from_utf8(&message.body).map_err(|_| QueueError::NoText)?;
        // An empty message cannot be sent.
        let body = if body.is_empty() { " " } else { body };
        let attributes = attributes::of_dead_letter(message, letter);
        let size: usize = attributes
            .iter()
            .map(|(name, value)| name.len() + value.size())
            .sum();
        let mut request = self
            .client
            .send_message()
            .queue_url(&self.dead_letters)
            .message_body(body)
            .set_message_group_id(message.attributes.get("MessageGroupId").cloned());
        if let Some(trace) = message.trace() {
            let trace = MessageSystemAttributeValue::builder()
                .data_type("String")
                .string_value(trace.to_string())
                .build()
                .map_err(|_| not_built("SendMessage"))?;
            request = request.message_system_attributes(
                MessageSystemAttributeNameForSends::AwsTraceHeader,
                trace,
            );
        }
        // Better without a word than not at all: what is wrong with it can be found out again.
        if body.len() + size <= MAX_MESSAGE_BYTES {
            for (name, value) in attributes {
                let value = value.build().map_err(|_| not_built("SendMessage"))?;
                request = request.message_attributes(name, value);
            }
        }
        request
            .send()
            .boxed()
            .await
            .map_err(|error| QueueError::Sqs {
                operation: "SendMessage",
                code: error_code(&error),
            })?;
        Ok(())
    }

    /// Puts outcomes of a clinic on the urgent queue, where no campaign is in front of them.
    pub async fn send_outcomes(
        &self,
        messages: &[OutcomeMessage],
        group: &str,
    ) -> Result<(), QueueError> {
        let [_, urgent] = &self.sources;
        for OutcomeMessage { body, mac } in messages {
            let mac = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(mac)
                .build()
                .map_err(|_| not_built("SendMessage"))?;
            let sent = self
                .client
                .send_message()
                .queue_url(urgent)
                .message_body(body)
                .message_group_id(group)
                .message_attributes(OUTCOMES_MAC, mac)
                .send()
                .boxed()
                .await;
            sent.map_err(|error| QueueError::Sqs {
                operation: "SendMessage",
                code: error_code(&error),
            })?;
        }
        Ok(())
    }

    /// Redelivers messages of one batch after the time beside each, rounded up to seconds. One for
    /// which this fails is redelivered when the queue's own visibility timeout is over.
    pub async fn change_visibility(
        &self,
        waits: &[(&SqsMessage, Duration)],
    ) -> Result<(), QueueError> {
        let Some((first, _)) = waits.first() else {
            return Ok(());
        };
        // An event has messages of one queue.
        let url = self.url_of(first.queue())?;
        let mut failed = None;
        for waits in waits.chunks(MAX_ENTRIES) {
            let entries = waits
                .iter()
                .enumerate()
                .map(|(number, (message, wait))| {
                    let seconds = wait.as_millis().div_ceil(1_000);
                    ChangeMessageVisibilityBatchRequestEntry::builder()
                        .id(number.to_string())
                        .receipt_handle(&message.receipt_handle)
                        .visibility_timeout(i32::try_from(seconds).unwrap_or(i32::MAX))
                        .build()
                })
                .collect::<Result<Vec<_>, BuildError>>()
                .map_err(|_| not_built("ChangeMessageVisibilityBatch"))?;
            let answer = self
                .client
                .change_message_visibility_batch()
                .queue_url(url)
                .set_entries(Some(entries))
                .send()
                .boxed()
                .await
                .map_err(|error| QueueError::Sqs {
                    operation: "ChangeMessageVisibilityBatch",
                    code: error_code(&error),
                })?;
            failed = failed.or_else(|| answer.failed.into_iter().next());
        }
        match failed {
            None => Ok(()),
            Some(entry) => Err(QueueError::Sqs {
                operation: "ChangeMessageVisibilityBatch",
                code: entry.code,
            }),
        }
    }

    /// Which of the queues a message is from.
    pub fn kind_of(&self, message: &SqsMessage) -> WorkQueue {
        let [_, urgent] = &self.sources;
        if urgent.rsplit('/').next() == Some(message.queue()) {
            WorkQueue::Urgent
        } else {
            WorkQueue::Normal
        }
    }

    fn url_of(&self, name: &str) -> Result<&str, QueueError> {
        let url = self
            .sources
            .iter()
            .find(|url| url.rsplit('/').next() == Some(name));
        url.map(String::as_str).ok_or(QueueError::UnknownQueue)
    }
}
fn not_built(operation: &'static str) -> QueueError {
    QueueError::Sqs {
        operation,
        code: "RequestNotBuilt".to_owned(),
    }
}
