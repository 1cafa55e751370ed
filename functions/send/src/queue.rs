//! The queues, as the sender sees them.

mod outcomes;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    error::BuildError,
    types::{
        MessageAttributeValue, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
        SendMessageBatchRequestEntry,
    },
};
use comms_core::backoff::{Backoff, jitter};
use comms_core::request::{Priority, Recipient, Submission};
use comms_delivery::{
    Accepted,
    queue_claim::{ACCEPTANCE_MAC, ACCEPTED_AS, ENDED_DELIVERIES, EndedDeliveries, PAYLOAD_HASH},
};
use comms_runtime::telemetry::TraceHeader;
use comms_settings::{error_code, retries::retry_partition};
use futures_util::FutureExt as _;
use thiserror::Error;

/// Bytes of a message, and of all messages of one request (Amazon SQS, message quotas: 1 MiB).
const MAX_MESSAGE_BYTES: usize = 1_048_576;

/// Of those, reserved for a message's attributes: four names and types with their hashes and up to 13 digits (182 bytes), and
/// a margin.
const ATTRIBUTE_BYTES: usize = 256;

/// Bytes of a communication, or of a part of one, in a message.
pub(crate) const MAX_PART_BYTES: usize = MAX_MESSAGE_BYTES - ATTRIBUTE_BYTES;

/// Messages of one `SendMessageBatch`.
const MAX_ENTRIES: usize = 10;

/// Deliveries of one message: what one worker has time for even when the providers are slow.
const MESSAGE_DELIVERIES: usize = 10;

/// Of a content of more than [`LARGE_CONTENT`] bytes, which would be on the queue once for every few
/// recipients.
const LARGE_MESSAGE_DELIVERIES: usize = 50;
const LARGE_CONTENT: usize = 65_536;

/// How often what SQS did not take is offered again, beside the SDK's own retries of whole requests.
const RETRIES: u32 = 3;

/// The waits before those, of up to 400 ms.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));

/// Why a communication is not on the queue, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueueError {
    /// A part of it is larger than a message may be.
    #[error("the communication is larger than a queue message may be")]
    TooLarge,
    /// It could not be written as JSON.
    #[error("the communication could not be written as JSON")]
    Unreadable,
    /// SQS did not take it, or not all of it.
    #[error("SQS took {queued} of {} messages ({code})", queued + left.len())]
    Sqs {
        /// Messages that it took.
        queued: usize,
        /// The others: which recipients each is for, counted from 0.
        left: Vec<std::ops::Range<usize>>,
        /// SQS's error code for the first of them, or what kept the request from being answered.
        code: String,
    },
}

/// A communication as it goes on the queue: a message, or several, each with the same content for some
/// of the recipients.
#[derive(Debug)]
pub struct QueueMessages {
    parts: Vec<Part>,
    /// Deliveries of each recipient.
    channels: usize,
    group: String,
    is_urgent: bool,
}

struct Part {
    body: String,
    recipients: std::ops::Range<usize>,
    ended: EndedDeliveries,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({:?}, …)", self.recipients)
    }
}

impl QueueMessages {
    /// Writes a communication as messages, if none of them is too large to be one.
    pub fn new(submission: &Submission) -> Result<Self, QueueError> {
        let request = &submission.request;
        let per_message = |deliveries: usize| (deliveries / request.channels.len().max(1)).max(1);
        let all = request.recipients.len();
        let mut parts = Vec::new();
        // Whether the content is large, the first part shows.
        let mut step = per_message(MESSAGE_DELIVERIES).min(all);
        let mut start = 0;
        while start < all {
            let mut end = (start + step).min(all);
            let mut body = body_for(submission, &request.recipients[start..end])?;
            if start == 0 && end < all && body.len() > LARGE_CONTENT {
                step = per_message(LARGE_MESSAGE_DELIVERIES);
                end = step.min(all);
                body = body_for(submission, &request.recipients[..end])?;
            }
            parts.push(Part {
                body,
                recipients: start..end,
                ended: EndedDeliveries::default(),
            });
            start = end;
        }
        Ok(Self {
            parts,
            channels: request.channels.len().max(1),
            group: request.tenant().as_str().to_owned(),
            is_urgent: match request.priority {
                Priority::High | Priority::Critical => true,
                Priority::Low | Priority::Normal => false,
            },
        })
    }
}

impl QueueMessages {
    /// The same without the deliveries at these places, which have ended: the worker sends none of them.
    #[must_use]
    pub(crate) fn without(mut self, ended: &[usize]) -> Self {
        for part in &mut self.parts {
            let first = part.recipients.start * self.channels;
            let end = part.recipients.end * self.channels;
            let of_part = ended.iter().filter(|place| (first..end).contains(*place));
            part.ended = EndedDeliveries::at(of_part.map(|place| place - first));
        }
        self
    }
}

fn body_for(submission: &Submission, recipients: &[Recipient]) -> Result<String, QueueError> {
    let body = submission
        .to_json_for(recipients)
        .map_err(|_| QueueError::Unreadable)?;
    if body.len() > MAX_PART_BYTES {
        return Err(QueueError::TooLarge);
    }
    Ok(body)
}

/// The queues that the worker reads.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
    urgent_url: String,
}

impl Queue {
    /// Uses the queue at `url`, and the one at `urgent_url` for what is urgent.
    pub fn new(config: &SdkConfig, url: impl Into<String>, urgent_url: impl Into<String>) -> Self {
        let client = aws_sdk_sqs::config::Builder::from(config);
        let client = client.retry_partition(retry_partition("queue"));
        Self {
            client: Client::from_conf(client.build()),
            url: url.into(),
            urgent_url: urgent_url.into(),
        }
    }

    /// Puts a communication on its queue, in the group of its clinic: SQS's fair queues then keep one
    /// clinic's campaign from holding up the others.
    ///
    /// The attributes [`ACCEPTED_AS`] and [`PAYLOAD_HASH`] tell the worker that the ledger has it, [`ACCEPTANCE_MAC`]
    /// proves that, and the system attribute for traces says that it belongs to `trace`.
    pub async fn send(
        &self,
        messages: QueueMessages,
        accepted: &Accepted,
        trace: Option<&TraceHeader>,
    ) -> Result<(), QueueError> {
        let url = if messages.is_urgent {
            &self.urgent_url
        } else {
            &self.url
        };
        let all = messages.parts.len();
        let mut left = Vec::new();
        let mut code = String::new();
        let mut parts = messages.parts.into_iter().peekable();
        while parts.peek().is_some() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while let Some(part) = parts.next_if(|part| {
                batch.len() < MAX_ENTRIES
                    && (batch.is_empty()
                        || bytes + part.body.len() + ATTRIBUTE_BYTES <= MAX_MESSAGE_BYTES)
            }) {
                bytes += part.body.len() + ATTRIBUTE_BYTES;
                batch.push(part);
            }
            if let Err(refused) = self
                .send_batch(url, &messages.group, batch, accepted, trace)
                .await
            {
                left.extend(refused.parts.into_iter().map(|part| part.recipients));
                if code.is_empty() {
                    code = refused.code;
                }
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(QueueError::Sqs {
            queued: all - left.len(),
            left,
            code,
        })
    }

    /// Offers messages to SQS until it has taken all, or for long enough.
    async fn send_batch(
        &self,
        url: &str,
        group: &str,
        mut parts: Vec<Part>,
        accepted: &Accepted,
        trace: Option<&TraceHeader>,
    ) -> Result<(), Refused> {
        let mut retry = 0;
        loop {
            let entries = parts
                .iter()
                .enumerate()
                .map(|(number, part)| entry(number, part, group, accepted, trace))
                .collect::<Result<Vec<_>, BuildError>>();
            let Ok(entries) = entries else {
                return Err(Refused::new(parts, "RequestNotBuilt"));
            };
            let sent = self
                .client
                .send_message_batch()
                .queue_url(url)
                .set_entries(Some(entries))
                .send()
                .boxed()
                .await;
            let failed = match sent {
                Ok(answer) => answer.failed,
                // The SDK has made its own retries.
                Err(error) => return Err(Refused::new(parts, &error_code(&error))),
            };
            let Some(first) = failed.first() else {
                return Ok(());
            };
            let code = first.code.clone();
            let is_refused = failed.iter().any(|entry| entry.sender_fault);
            let mut number = 0;
            parts.retain(|_| {
                let id = number.to_string();
                number += 1;
                failed.iter().any(|entry| entry.id == id)
            });
            if is_refused || retry == RETRIES {
                return Err(Refused::new(parts, &code));
            }
            tokio::time::sleep(BACKOFF.with_full_jitter(retry, jitter())).await;
            retry += 1;
        }
    }
}

/// Messages that SQS did not take.
struct Refused {
    parts: Vec<Part>,
    code: String,
}

impl Refused {
    fn new(parts: Vec<Part>, code: &str) -> Self {
        Self {
            parts,
            code: code.to_owned(),
        }
    }
}

fn entry(
    number: usize,
    part: &Part,
    group: &str,
    accepted: &Accepted,
    trace: Option<&TraceHeader>,
) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let mut entry = SendMessageBatchRequestEntry::builder();
    // It takes precedence over the header of the HTTP request (X-Ray developer guide, "Amazon SQS and AWS X-Ray").
    if let Some(trace) = trace {
        let value = MessageSystemAttributeValue::builder()
            .data_type("String")
            .string_value(trace.to_string())
            .build()?;
        entry = entry
            .message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, value);
    }
    let ended = part.ended.attribute();
    let ended = ended.as_deref();
    if let Some(ended) = ended {
        entry = entry.message_attributes(ENDED_DELIVERIES, text(ended)?);
    }
    entry
        .id(number.to_string())
        .message_body(&part.body)
        .message_group_id(group)
        .message_attributes(ACCEPTED_AS, text(accepted.id().as_str())?)
        .message_attributes(PAYLOAD_HASH, text(accepted.payload_hash())?)
        .message_attributes(ACCEPTANCE_MAC, text(&accepted.mac(&part.body, ended))?)
        .build()
}

fn text(value: &str) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder()
        .data_type("String")
        .string_value(value)
        .build()
}
