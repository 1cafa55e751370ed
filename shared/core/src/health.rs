//! How well a provider entry works for its tenant.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::failure::ErrorKind;

/// How well a provider entry works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HealthState {
    /// More than 95 % of what it was given in the window worked, or too little is known.
    Healthy,
    /// 80 % to 95 % worked.
    Degraded,
    /// Less than 80 % worked, or it refused the credentials or has suspended the account.
    Down,
}

impl HealthState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Down];

    /// The name in answers, logs and the health table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }

    /// The state with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl Serialize for HealthState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A change of an entry's health, as processes share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthRecord {
    /// The state it came to.
    pub state: HealthState,
    /// When.
    pub since: Timestamp,
    /// What failed last before it.
    pub last_error: Option<ErrorKind>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_agree_with_what_is_serialised() {
        for state in HealthState::ALL {
            assert_eq!(HealthState::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
