//! How far a delivery is, and why it ended without being sent.

use serde::{Serialize, Serializer};

/// The status of a delivery: `queued -> sending -> sent | failed | unknown | expired`.
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

    /// The status with this name.
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

    /// The reason with this code.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// The meaning and the remedy, as a sentence.
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
