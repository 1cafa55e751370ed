//! A delivery: one recipient on one channel of a request, and its result.

mod attempt;
mod attempt_json;
mod skipped;
mod status;
mod stored;

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    channel::Channel,
    id::DeliveryId,
    provider::{Position, ProviderKind},
    via::SentVia,
    waiting::{Waited, Waiting},
};

pub use attempt::{Attempt, AttemptOutcome, MAX_ATTEMPTS, accepted_position};
pub use skipped::SkippedEntry;
pub use status::{DeliveryStatus, FailureReason};

/// A delivery as answers show it: the recipient masked, without content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The id.
    pub id: DeliveryId,
    /// The channel.
    pub channel: Channel,
    /// The recipient's address, masked.
    pub recipient: String,
    /// The state.
    pub status: DeliveryStatus,
    /// The provider that accepted it.
    pub provider: Option<ProviderKind>,
    /// That provider's message id.
    pub message_id: Option<String>,
    /// Why it was not sent.
    pub reason: Option<FailureReason>,
    /// What it waits for, while it is queued and waits for something.
    pub waiting: Option<Waiting>,
    /// What it waited for last, before it was tried again.
    pub waited: Option<Waited>,
    /// Whether the recipient may have got it twice.
    pub possible_duplicate: bool,
    /// The attempts so far, oldest first.
    pub attempts: Vec<Attempt>,
    /// Whose account it goes or went by, where that is known.
    pub via: Option<SentVia>,
    /// When it came to its end.
    pub ended_at: Option<Timestamp>,
    /// Entries that were left out because they were down.
    pub skipped: Vec<SkippedEntry>,
    /// False where a provider accepted it and that could not be written to the ledger, which does not know it.
    pub is_recorded: bool,
}

impl Delivery {
    /// A delivery of which nothing has happened yet.
    pub fn queued(id: DeliveryId, channel: Channel, recipient: String) -> Self {
        Self {
            id,
            channel,
            recipient,
            status: DeliveryStatus::Queued,
            provider: None,
            message_id: None,
            reason: None,
            waiting: None,
            waited: None,
            possible_duplicate: false,
            attempts: Vec::new(),
            via: None,
            ended_at: None,
            skipped: Vec::new(),
            is_recorded: true,
        }
    }

    /// Whether the platform's account has it, may have it, or will be tried: not where nothing went out.
    pub fn may_be_of_global(status: DeliveryStatus, attempts: &[Attempt]) -> bool {
        match status {
            DeliveryStatus::Queued | DeliveryStatus::Sending | DeliveryStatus::Sent => true,
            // Nothing is recorded of an attempt whose process went away.
            DeliveryStatus::Unknown => {
                attempts.is_empty() || attempts.iter().any(|one| one.position.is_global())
            }
            DeliveryStatus::Failed | DeliveryStatus::Expired => false,
        }
    }

    /// Whether the platform's own account accepted it.
    pub fn was_sent_by_global(&self) -> bool {
        accepted_position(&self.attempts).is_some_and(Position::is_global)
    }
}

impl Serialize for Delivery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Reason {
            code: FailureReason,
            detail: &'static str,
        }
        let mut json = serializer.serialize_struct("Delivery", 15)?;
        json.serialize_field("deliveryId", &self.id)?;
        json.serialize_field("channel", &self.channel)?;
        json.serialize_field("recipient", &self.recipient)?;
        json.serialize_field("status", &self.status)?;
        if let Some(provider) = &self.provider {
            json.serialize_field("provider", provider)?;
        }
        if let Some(message_id) = &self.message_id {
            json.serialize_field("messageId", message_id)?;
        }
        if let Some(code) = self.reason {
            json.serialize_field(
                "reason",
                &Reason {
                    code,
                    detail: code.detail(),
                },
            )?;
        }
        if let Some(waiting) = &self.waiting {
            json.serialize_field("waiting", waiting)?;
        }
        if let Some(waited) = &self.waited {
            json.serialize_field("waited", waited)?;
        }
        if self.possible_duplicate {
            json.serialize_field("possibleDuplicate", &true)?;
        }
        if let Some(via) = self.via {
            json.serialize_field("via", via.as_str())?;
            if let Some(cause) = via.because() {
                json.serialize_field("because", &cause)?;
            }
        }
        if let Some(at) = &self.ended_at {
            json.serialize_field("endedAt", at)?;
        }
        if !self.skipped.is_empty() {
            json.serialize_field("skipped", &self.skipped)?;
        }
        if !self.is_recorded {
            json.serialize_field("recorded", &false)?;
        }
        json.serialize_field("attempts", &self.attempts)?;
        json.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for channel in Channel::ALL {
            assert_eq!(Channel::parse(channel.as_str()), Some(channel));
        }
        for status in DeliveryStatus::ALL {
            assert_eq!(DeliveryStatus::parse(status.as_str()), Some(status));
        }
        for reason in FailureReason::ALL {
            assert_eq!(FailureReason::parse(reason.as_str()), Some(reason));
        }
    }
}
