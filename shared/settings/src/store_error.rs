//! Why stored settings could not be read, changed or believed.

use comms_aws::TableError;
use comms_core::Problems;
use thiserror::Error;

use crate::envelope::EnvelopeError;

/// Why settings could not be read or saved. No text here comes from a document or a credential.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The table did not answer, or an item in it is corrupt.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The envelope could not be made or opened.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Somebody else saved in between, or the version is not the one that was expected.
    #[error("the settings are at another version than the one this change was made for")]
    Conflict,
    /// A stored item is not what this service wrote last.
    #[error("the stored settings are refused: {0}")]
    Refused(Refusal),
    /// Stored settings are not valid any more.
    #[error("stored settings cannot be read: {0}")]
    Invalid(Problems),
    /// The settings are larger than an item may be (DynamoDB: 400 KB).
    #[error("the settings are too large to be stored")]
    TooLarge,
}

impl StoreError {
    /// The attribute `name` of a stored item is not as this service writes it.
    pub const fn corrupt(name: &'static str) -> Self {
        Self::Table(TableError::Corrupt(name))
    }

    /// Whether the same call may work later without anybody doing anything.
    pub const fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Table(error) => error.is_worth_a_retry(),
            Self::Envelope(EnvelopeError::Kms { .. }) => true,
            Self::Envelope(
                EnvelopeError::WrongDataKey { .. }
                | EnvelopeError::WrongEntry
                | EnvelopeError::Sealing,
            )
            | Self::Conflict
            | Self::Refused(_)
            | Self::Invalid(_)
            | Self::TooLarge => false,
        }
    }
}

/// Why stored settings are not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// An earlier version of this service wrote them, or somebody else.
    #[error("they have no seal")]
    Unsealed,
    /// They were changed after they were sealed.
    #[error("their seal does not hold")]
    WrongSeal,
    /// There is a counter and nothing else.
    #[error("they are missing, and nobody deleted them")]
    Missing,
    /// There is no counter.
    #[error("their counter is missing")]
    CounterMissing,
    /// The counter's MAC does not hold.
    #[error("their counter was changed")]
    CounterForged,
    /// They are not at the counter's number.
    #[error("they are not the version that was saved last")]
    OtherVersion,
    /// This process has seen a later version.
    #[error("they are older than what was read before")]
    RolledBack,
}

impl Refusal {
    /// Whether a save between two reads looks the same.
    pub(crate) const fn may_be_a_race(self) -> bool {
        match self {
            Self::Missing | Self::CounterMissing | Self::OtherVersion | Self::RolledBack => true,
            Self::Unsealed | Self::WrongSeal | Self::CounterForged => false,
        }
    }
}
