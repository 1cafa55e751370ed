//! Versions: what a change leaves behind for those who ask later who changed what.

use std::str::FromStr;

use jiff::Timestamp;
use thiserror::Error;

/// The largest number that a version may have: the sort keys of versions have ten digits.
pub const MAX_VERSION: u64 = 9_999_999_999;

/// Which version of a tenant's settings, by whom, and what it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Counted from 1. Never given twice, not even after a deletion.
    pub number: u64,
    /// When it was saved.
    pub saved_at: Timestamp,
    /// The subject of the token it was saved with.
    pub saved_by: String,
    /// The address it was saved from.
    pub source_address: Option<String>,
    /// How it came about.
    pub change: Change,
    /// The fields that changed, as JSON pointers. Names only. None are named of a deletion, which
    /// leaves no field; all are of a version that replaced settings that could not be read.
    pub changed: Vec<String>,
}

/// How a version came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Somebody saved a document.
    Saved,
    /// Somebody deleted the settings.
    Deleted,
    /// Somebody brought an earlier version back.
    Restored {
        /// The number of the earlier version.
        from: u64,
    },
    /// Somebody deleted the settings with all versions up to this one.
    Purged {
        /// Until then an earlier version can be restored. In whole seconds.
        at: Timestamp,
    },
}

impl Change {
    /// The name in the store and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Deleted => "deleted",
            Self::Restored { .. } => "restored",
            Self::Purged { .. } => "purged",
        }
    }
}

/// Who saves.
#[derive(Debug, Clone)]
pub struct Author {
    /// The subject of the token.
    pub subject: String,
    /// The address that the request came from.
    pub source_address: Option<String>,
}

/// Some versions of a tenant, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPage {
    /// The versions.
    pub versions: Vec<Version>,
    /// Where there are older ones: the number before which to go on.
    pub next: Option<u64>,
}

/// For how long a version is kept after it was saved: 1 to 3650 days, 400 where nothing is said. It
/// is read from a whole number of days. The present settings are kept whatever their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRetention {
    days: u16,
}

impl VersionRetention {
    const MAX_DAYS: u16 = 3_650;

    /// When a version that is saved at `saved_at` expires, in seconds of the Unix epoch, which is
    /// what DynamoDB's time to live understands.
    pub(crate) fn expires_at(self, saved_at: Timestamp) -> i64 {
        saved_at.as_second() + i64::from(self.days) * 86_400
    }
}

impl Default for VersionRetention {
    fn default() -> Self {
        Self { days: 400 }
    }
}

/// How long a purge of settings can be undone: 1 to 30 days, 7 where nothing is said. It is read from a whole number of
/// days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeDelay {
    days: u8,
}

impl PurgeDelay {
    const MAX_DAYS: u8 = 30;

    /// When a purge that is asked for `now` takes effect, in whole seconds.
    pub fn after(self, now: Timestamp) -> Timestamp {
        let seconds = now.as_second() + i64::from(self.days) * 86_400;
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    }
}

impl Default for PurgeDelay {
    fn default() -> Self {
        Self { days: 7 }
    }
}

/// The text is no [`PurgeDelay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be a whole number of days from 1 to {}", PurgeDelay::MAX_DAYS)]
pub struct PurgeDelayError;

impl FromStr for PurgeDelay {
    type Err = PurgeDelayError;

    fn from_str(text: &str) -> Result<Self, PurgeDelayError> {
        let days = text.parse().map_err(|_| PurgeDelayError)?;
        (1..=Self::MAX_DAYS)
            .contains(&days)
            .then_some(Self { days })
            .ok_or(PurgeDelayError)
    }
}

/// The text is no such time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "must be a whole number of days from 1 to {}",
    VersionRetention::MAX_DAYS
)]
pub struct RetentionError;

impl FromStr for VersionRetention {
    type Err = RetentionError;

    fn from_str(text: &str) -> Result<Self, RetentionError> {
        let days = text.parse().map_err(|_| RetentionError)?;
        if (1..=Self::MAX_DAYS).contains(&days) {
            Ok(Self { days })
        } else {
            Err(RetentionError)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_kept_for_a_day_to_ten_years() {
        let saved_at = Timestamp::from_second(1_767_225_600).unwrap();
        for (text, days) in [("1", 1), ("400", 400), ("3650", 3_650)] {
            let retention: VersionRetention = text.parse().unwrap();
            assert_eq!(
                retention.expires_at(saved_at),
                1_767_225_600 + days * 86_400
            );
        }
        for text in ["", "0", "3651", "-1", "1.5", "a year", "70000"] {
            assert!(text.parse::<VersionRetention>().is_err(), "{text}");
        }
        let default = VersionRetention::default();
        assert_eq!("400".parse(), Ok(default));
    }
}
