//! A delivery: one recipient on one channel of a request, and what became of it.

mod skipped;
mod stored;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

use crate::{
    channel::Channel,
    failure::{Disposition, ErrorKind, ProviderCode, ProviderError},
    id::{DeliveryId, EntryId},
    provider::{CopyField, Position, ProviderKind, RefusedCopy},
    via::SentVia,
    waiting::{Waited, Waiting},
};

pub use skipped::SkippedEntry;

/// The states of a delivery in the ledger: `queued -> sending -> sent | failed | unknown | expired`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Accepted, no attempt started.
    Queued,
    /// Owned by an invocation that may have started an attempt.
    Sending,
    /// A provider accepted it.
    Sent,
    /// It will not be sent; the reason says why.
    Failed,
    /// It may have been sent, and will not be tried again.
    Unknown,
    /// Its `expiresAt` passed before it was sent.
    Expired,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Sending,
        Self::Sent,
        Self::Failed,
        Self::Unknown,
        Self::Expired,
    ];

    /// The name in ledger and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
        }
    }

    /// Reads what [`DeliveryStatus::as_str`] gives.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// Why a delivery ended without being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureReason {
    /// The recipient has no address for the channel.
    NoAddress,
    /// Neither the clinic nor the global account has a provider for the channel.
    NoProvider,
    /// A provider found the message or the recipient at fault.
    Rejected,
    /// Every provider of the chain was tried or skipped.
    AllProvidersFailed,
    /// An attempt may have succeeded, and no other did or was to be made.
    OutcomeUnknown,
    /// `expiresAt` passed.
    Expired,
    /// A limit of the clinic's, or a provider's rate, left no room for it for too long.
    QuotaExceeded,
}

impl FailureReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::NoAddress,
        Self::NoProvider,
        Self::Rejected,
        Self::AllProvidersFailed,
        Self::OutcomeUnknown,
        Self::Expired,
        Self::QuotaExceeded,
    ];

    /// The code in ledger, logs and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoAddress => "NO_ADDRESS",
            Self::NoProvider => "NO_PROVIDER",
            Self::Rejected => "REJECTED",
            Self::AllProvidersFailed => "ALL_PROVIDERS_FAILED",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::Expired => "EXPIRED",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
        }
    }

    /// Reads what [`FailureReason::as_str`] gives.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// What it means and what to do.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::NoAddress => {
                "The recipient has no address for this channel; add one or drop the channel."
            }
            Self::NoProvider => {
                "No provider is enabled for this channel; save one in the settings of the clinic, or in the platform's where no clinic is named."
            }
            Self::Rejected => {
                "The message or the recipient is at fault, and no other provider would take it. The last attempt says why."
            }
            Self::AllProvidersFailed => {
                "No provider of the chain accepted the message; the attempts say why. Test the clinic's settings."
            }
            Self::OutcomeUnknown => {
                "A provider may have accepted the message before the connection ended, and no other accepted it or was to be tried. Ask the recipient before sending it again."
            }
            Self::Expired => "The message was not sent before its expiresAt.",
            Self::QuotaExceeded => {
                "There was no room for the message within the clinic's rateLimit, or a provider's rate, for as long as it was kept. Raise the limit, or send less."
            }
        }
    }
}

impl Serialize for FailureReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Attempts of a delivery that are remembered: two runs through the longest chain with all its retries, and
/// far less than a ledger item may have (DynamoDB: 400 KB).
pub const MAX_ATTEMPTS: usize = 200;

/// One try of one provider for a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The provider.
    pub provider: ProviderKind,
    /// The provider entry in the settings.
    pub entry: EntryId,
    /// Its place in the chain.
    pub position: Position,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// When it began; unknown of earlier releases.
    pub at: Option<Timestamp>,
    /// How long it took.
    pub duration: Duration,
    /// Whether an earlier attempt of the same delivery may already have been accepted.
    pub possible_duplicate: bool,
    /// Whether the message went without its Reply-To, which was not verified for the platform's account.
    pub reply_to_dropped: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The provider accepted the message.
    Accepted {
        /// Those of its copies that it refused.
        refused_copies: Vec<RefusedCopy>,
    },
    /// It did not, or it is not known whether it did.
    Failed {
        /// What to do about it.
        disposition: Disposition,
        /// What happened.
        kind: ErrorKind,
        /// The provider's own code.
        code: Option<ProviderCode>,
    },
}

impl From<&ProviderError> for AttemptOutcome {
    fn from(error: &ProviderError) -> Self {
        Self::Failed {
            disposition: error.disposition,
            kind: error.kind,
            code: error.code.clone(),
        }
    }
}

/// What is known of a delivery, as it is answered to callers: the recipient masked, no content.
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

/// The place of the entry that accepted a message, where one did.
pub fn accepted_position(attempts: &[Attempt]) -> Option<Position> {
    let accepted = attempts.iter().rev().find(|attempt| match attempt.outcome {
        AttemptOutcome::Accepted { .. } => true,
        AttemptOutcome::Failed { .. } => false,
    });
    accepted.map(|attempt| attempt.position)
}

// The same JSON in the ledger and in answers.
impl Serialize for Attempt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("Attempt", 13)?;
        json.serialize_field("provider", &self.provider)?;
        json.serialize_field("entry", &self.entry)?;
        json.serialize_field("position", &self.position)?;
        match &self.outcome {
            AttemptOutcome::Accepted { refused_copies } => {
                json.serialize_field("outcome", "accepted")?;
                if !refused_copies.is_empty() {
                    json.serialize_field("refusedCopies", refused_copies)?;
                }
            }
            AttemptOutcome::Failed {
                disposition,
                kind,
                code,
            } => {
                json.serialize_field("outcome", "failed")?;
                json.serialize_field("disposition", disposition)?;
                json.serialize_field("kind", kind)?;
                json.serialize_field("detail", kind.detail_of(*disposition))?;
                if let Some(code) = code {
                    json.serialize_field("code", code)?;
                }
            }
        }
        if let Some(at) = &self.at {
            json.serialize_field("at", at)?;
        }
        json.serialize_field(
            "durationMs",
            &u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
        )?;
        if self.possible_duplicate {
            json.serialize_field("possibleDuplicate", &true)?;
        }
        if self.reply_to_dropped {
            json.serialize_field("replyTo", REPLY_TO_DROPPED)?;
        }
        json.end()
    }
}

/// The `replyTo` of an attempt without the Reply-To that was wanted.
const REPLY_TO_DROPPED: &str = "dropped";

impl Attempt {
    /// Reads what `Serialize` writes; `None` for anything else.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name)?.as_str();
        let outcome = match text("outcome")? {
            "accepted" => AttemptOutcome::Accepted {
                refused_copies: match value.get("refusedCopies") {
                    Some(copies) => copies
                        .as_array()?
                        .iter()
                        .map(refused_copy_from_json)
                        .collect::<Option<_>>()?,
                    None => Vec::new(),
                },
            },
            "failed" => AttemptOutcome::Failed {
                disposition: Disposition::parse(text("disposition")?)?,
                kind: ErrorKind::parse(text("kind")?)?,
                code: code_from_json(value)?,
            },
            _ => return None,
        };
        Some(Self {
            provider: ProviderKind::parse(text("provider")?)?,
            entry: EntryId::parse(text("entry")?).ok()?,
            position: Position::parse(text("position")?)?,
            outcome,
            at: stored::time_from_json(value)?,
            duration: Duration::from_millis(value.get("durationMs")?.as_u64()?),
            possible_duplicate: match value.get("possibleDuplicate") {
                Some(flag) => flag.as_bool()?,
                None => false,
            },
            reply_to_dropped: match value.get("replyTo") {
                Some(what) => (what.as_str()? == REPLY_TO_DROPPED).then_some(true)?,
                None => false,
            },
        })
    }

    /// Adds `newer` to the attempts of a delivery. Of more than [`MAX_ATTEMPTS`] the oldest are forgotten; the
    /// log has them.
    pub fn remember(attempts: &mut Vec<Self>, newer: Vec<Self>) {
        attempts.extend(newer);
        attempts.drain(..attempts.len().saturating_sub(MAX_ATTEMPTS));
    }
}

/// The code of an attempt or a refused copy, which may have none.
#[allow(clippy::option_option, reason = "unreadable, absent, and there")]
fn code_from_json(value: &Value) -> Option<Option<ProviderCode>> {
    match value.get("code") {
        Some(code) => ProviderCode::parse(code.as_str()?).map(Some),
        None => Some(None),
    }
}

// `{"copy":"cc/0","code":"550 5.1.1"}`: the place in the request as a JSON pointer would have it.
impl Serialize for RefusedCopy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("RefusedCopy", 3)?;
        json.serialize_field("copy", &format!("{}/{}", self.field.as_str(), self.index))?;
        if let Some(code) = &self.code {
            json.serialize_field("code", code)?;
        }
        if self.is_unknown {
            json.serialize_field("outcome", UNKNOWN)?;
        }
        json.end()
    }
}

/// The outcome of a copy that may have gone out.
const UNKNOWN: &str = "unknown";

fn refused_copy_from_json(value: &Value) -> Option<RefusedCopy> {
    let (field, index) = value.get("copy")?.as_str()?.split_once('/')?;
    let field = [CopyField::Cc, CopyField::Bcc]
        .into_iter()
        .find(|known| known.as_str() == field)?;
    Some(RefusedCopy {
        field,
        index: index.parse().ok()?,
        code: code_from_json(value)?,
        is_unknown: match value.get("outcome") {
            Some(outcome) => outcome.as_str()? == UNKNOWN,
            None => false,
        },
    })
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

    #[test]
    fn attempts_read_back_as_they_were_written() {
        let failed = AttemptOutcome::Failed {
            disposition: Disposition::ProviderDown,
            kind: ErrorKind::Unauthenticated,
            code: ProviderCode::parse("535 5.7.8"),
        };
        let accepted = |refused_copies| AttemptOutcome::Accepted { refused_copies };
        let refused = vec![
            RefusedCopy {
                field: CopyField::Cc,
                index: 0,
                code: ProviderCode::parse("550 5.1.1"),
                is_unknown: false,
            },
            RefusedCopy {
                field: CopyField::Bcc,
                index: 11,
                code: None,
                is_unknown: true,
            },
        ];
        for (outcome, possible_duplicate) in [
            (accepted(Vec::new()), true),
            (accepted(refused), false),
            (failed, false),
        ] {
            let attempt = Attempt {
                provider: ProviderKind::new("smtp"),
                entry: EntryId::primary(),
                position: Position::Fallback(1),
                outcome,
                at: Some("2026-12-01T09:00:00.123Z".parse().unwrap()),
                duration: Duration::from_millis(12),
                possible_duplicate,
                reply_to_dropped: possible_duplicate,
            };
            let json = serde_json::to_value(&attempt).unwrap();
            assert_eq!(Attempt::from_json(&json), Some(attempt.clone()), "{json}");
            let stored = Attempt::to_stored(std::slice::from_ref(&attempt)).unwrap();
            assert!(
                !stored.contains("detail") && stored.contains("\"at\":1796115600123"),
                "{stored}"
            );
            let stored: Value = serde_json::from_str(&stored).unwrap();
            assert_eq!(Attempt::from_json(&stored[0]), Some(attempt), "{stored}");
        }
        assert_eq!(Attempt::from_json(&Value::Null), None);
    }

    #[test]
    fn what_is_there_and_can_not_be_read_is_not_taken_for_absent() {
        let attempt = serde_json::json!({"provider": "smtp", "entry": "primary", "position": "primary",
            "outcome": "failed", "disposition": "final", "kind": "timeout", "code": "550 5.1.1", "durationMs": 1,
            "possibleDuplicate": true});
        assert!(Attempt::from_json(&attempt).is_some());
        for (name, wrong) in [
            ("code", serde_json::json!("planted@example.com")),
            ("code", Value::Null),
            ("possibleDuplicate", serde_json::json!("true")),
            ("replyTo", serde_json::json!("kept")),
            ("durationMs", serde_json::json!(-1)),
            ("at", serde_json::json!("yesterday")),
            ("at", Value::Null),
        ] {
            let mut attempt = attempt.clone();
            attempt[name] = wrong;
            assert_eq!(Attempt::from_json(&attempt), None, "{attempt}");
        }
    }

    #[test]
    fn of_too_many_attempts_the_newest_are_remembered() {
        let attempt = |milliseconds| Attempt {
            provider: ProviderKind::new("smtp"),
            entry: EntryId::primary(),
            position: Position::Primary,
            outcome: AttemptOutcome::Accepted {
                refused_copies: Vec::new(),
            },
            at: None,
            duration: Duration::from_millis(milliseconds),
            possible_duplicate: false,
            reply_to_dropped: false,
        };
        let most = u64::try_from(MAX_ATTEMPTS).unwrap();
        let mut attempts = Vec::new();
        Attempt::remember(&mut attempts, (0..most).map(attempt).collect());
        assert_eq!(attempts.len(), MAX_ATTEMPTS);
        Attempt::remember(&mut attempts, vec![attempt(most)]);
        assert_eq!(attempts, (1..=most).map(attempt).collect::<Vec<_>>());
    }
}
