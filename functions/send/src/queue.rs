//! The queue, as the sender sees it.

use aws_config::SdkConfig;
use aws_sdk_sqs::{Client, types::MessageAttributeValue};
use comms_core::{RequestId, request::Submission};
use comms_delivery::pipeline::ACCEPTED_AS;
use comms_settings::error_code;
use thiserror::Error;

/// Bytes of a message with its attributes (Amazon SQS, message quotas: 1 MiB).
const MAX_SQS_BYTES: usize = 1_048_576;
/// Bytes of the communication in a message: names, types and values of its attributes count too.
pub(crate) const MAX_MESSAGE_BYTES: usize =
    MAX_SQS_BYTES - ACCEPTED_AS.len() - "String".len() - RequestId::LENGTH;

/// Why a communication is not on the queue.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueueError {
    /// It is larger than a message may be.
    #[error("the communication is larger than a queue message may be")]
    TooLarge,
    /// It could not be written as JSON.
    #[error("the communication could not be written as JSON")]
    Unreadable,
    /// SQS did not take it.
    #[error("SQS SendMessage failed ({code})")]
    Sqs {
        /// SQS's error code, or what kept the request from being answered.
        code: String,
    },
}

/// A communication as it goes on the queue.
pub struct QueueMessage {
    body: String,
    group: String,
}

impl QueueMessage {
    /// Writes a communication as a message, if it is not too large to be one.
    pub fn new(submission: &Submission) -> Result<Self, QueueError> {
        let body = submission.to_json().map_err(|_| QueueError::Unreadable)?;
        if body.len() > MAX_MESSAGE_BYTES {
            return Err(QueueError::TooLarge);
        }
        let group = submission.request.tenant().as_str().to_owned();
        Ok(Self { body, group })
    }
}

/// The queue that the worker reads.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    /// Uses the queue at `url`.
    pub fn new(config: &SdkConfig, url: impl Into<String>) -> Self {
        Self {
            client: Client::new(config),
            url: url.into(),
        }
    }

    /// Puts a communication on the queue, in the group of its clinic: SQS's fair queues then keep
    /// one clinic's campaign from holding up the others.
    ///
    /// The attribute [`ACCEPTED_AS`] tells the worker that the ledger knows of it.
    pub async fn send(&self, message: QueueMessage, id: &RequestId) -> Result<(), QueueError> {
        let accepted_as = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(id.as_str())
            .build()
            .map_err(|_| QueueError::Unreadable)?;
        self.client
            .send_message()
            .queue_url(&self.url)
            .message_body(message.body)
            .message_group_id(message.group)
            .message_attributes(ACCEPTED_AS, accepted_as)
            .send()
            .await
            .map_err(|error| QueueError::Sqs {
                code: error_code(&error),
            })?;
        Ok(())
    }
}
