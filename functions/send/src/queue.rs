//! The queues, as the sender sees them.

use aws_config::SdkConfig;
use comms_aws::{
    QueueClient, QueueError,
    queue::{ATTRIBUTE_BYTES, MAX_MESSAGE_BYTES, OutgoingMessage, text_attribute},
};
use comms_core::request::{Priority, Recipient, Submission};
use comms_delivery::{
    Accepted, OutcomeMessage,
    queue_claim::{ACCEPTANCE_MAC, ACCEPTED_AS, ENDED_DELIVERIES, EndedDeliveries, PAYLOAD_HASH},
    send_outcomes,
};
use comms_runtime::telemetry::TraceHeader;
use thiserror::Error;

/// Bytes of a communication, or of a part of one, in a message.
pub(crate) const MAX_PART_BYTES: usize = MAX_MESSAGE_BYTES - ATTRIBUTE_BYTES;

/// Deliveries of one message: what one worker has time for even when the providers are slow.
const MESSAGE_DELIVERIES: usize = 10;

/// Of a content of more than [`LARGE_CONTENT`] bytes, which would be on the queue once for every few
/// recipients.
const LARGE_MESSAGE_DELIVERIES: usize = 50;
const LARGE_CONTENT: usize = 65_536;

/// Why a communication is not on the queue, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnqueueError {
    /// A part of it is larger than a message may be.
    #[error("the communication is larger than a queue message may be")]
    TooLarge,
    /// It could not be written as JSON.
    #[error("the communication could not be written as JSON")]
    Unreadable,
    /// SQS did not take it, or not all of it.
    #[error("SQS took {queued} of {} messages ({code})", queued + left.len())]
    Incomplete {
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
    pub fn new(submission: &Submission) -> Result<Self, EnqueueError> {
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

fn body_for(submission: &Submission, recipients: &[Recipient]) -> Result<String, EnqueueError> {
    let body = submission
        .to_json_for(recipients)
        .map_err(|_| EnqueueError::Unreadable)?;
    if body.len() > MAX_PART_BYTES {
        return Err(EnqueueError::TooLarge);
    }
    Ok(body)
}

/// The queues that the worker reads.
#[derive(Debug, Clone)]
pub struct Queue {
    client: QueueClient,
    url: String,
    urgent_url: String,
}

impl Queue {
    /// Uses the queue at `url`, and the one at `urgent_url` for what is urgent.
    pub fn new(config: &SdkConfig, url: impl Into<String>, urgent_url: impl Into<String>) -> Self {
        Self {
            client: QueueClient::new(config, "queue"),
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
    ) -> Result<(), EnqueueError> {
        let url = if messages.is_urgent {
            &self.urgent_url
        } else {
            &self.url
        };
        let QueueMessages { parts, group, .. } = messages;
        let recipients: Vec<_> = parts.iter().map(|part| part.recipients.clone()).collect();
        let messages = parts
            .into_iter()
            .map(|part| outgoing(part, &group, accepted, trace))
            .collect::<Result<Vec<_>, _>>();
        let messages = messages.map_err(|error| EnqueueError::Incomplete {
            queued: 0,
            left: recipients.clone(),
            code: error.code,
        })?;
        let failed = self.client.send_all(url, &messages).await;
        let Some(first) = failed.first() else {
            return Ok(());
        };
        Err(EnqueueError::Incomplete {
            queued: messages.len() - failed.len(),
            code: first.error.code.clone(),
            left: failed
                .iter()
                .filter_map(|entry| recipients.get(entry.index).cloned())
                .collect(),
        })
    }

    /// Sends outcomes of a communication to the urgent queue.
    pub async fn send_outcomes(
        &self,
        messages: &[OutcomeMessage],
        accepted: &Accepted,
    ) -> Result<(), QueueError> {
        send_outcomes(&self.client, &self.urgent_url, messages, accepted.group()).await
    }
}

fn outgoing(
    part: Part,
    group: &str,
    accepted: &Accepted,
    trace: Option<&TraceHeader>,
) -> Result<OutgoingMessage, QueueError> {
    let ended = part.ended.attribute();
    let mac = accepted.mac(&part.body, ended.as_deref());
    let mut message = OutgoingMessage::new(part.body)
        .with_group(Some(group))
        .with_trace(trace)
        .with_attribute(ACCEPTED_AS, text_attribute(accepted.id().as_str())?)
        .with_attribute(PAYLOAD_HASH, text_attribute(accepted.payload_hash())?)
        .with_attribute(ACCEPTANCE_MAC, text_attribute(&mac)?);
    if let Some(ended) = &ended {
        message = message.with_attribute(ENDED_DELIVERIES, text_attribute(ended)?);
    }
    Ok(message)
}
