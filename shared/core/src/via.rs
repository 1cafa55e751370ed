//! Whose account a delivery goes by: the clinic's or the platform's, and why the platform's.

use serde::{Serialize, Serializer};

/// Whose account a delivery goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentVia {
    /// The clinic's own providers.
    Clinic,
    /// The platform's account.
    Global(GlobalCause),
}

/// Why a delivery goes by the platform's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GlobalCause {
    /// The communication names no clinic.
    NoClinicId,
    /// The communication names the platform's account itself, as `_global`.
    Requested,
    /// The clinic has no provider for the channel, or none that is enabled.
    NoSettings,
    /// None of the clinic's own providers took it.
    OwnFailed,
}

impl GlobalCause {
    /// Every cause.
    pub const ALL: [Self; 4] = [
        Self::NoClinicId,
        Self::Requested,
        Self::NoSettings,
        Self::OwnFailed,
    ];

    /// The name in answers, ledger, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoClinicId => "no clinicId",
            Self::Requested => "requested",
            Self::NoSettings => "no settings",
            Self::OwnFailed => "own failed",
        }
    }

    /// The cause with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }
}

impl Serialize for GlobalCause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl SentVia {
    /// The name in answers, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clinic => "clinic",
            Self::Global(_) => "global",
        }
    }

    /// Why, where it is the platform's account.
    pub const fn because(self) -> Option<GlobalCause> {
        match self {
            Self::Clinic => None,
            Self::Global(cause) => Some(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_read_back() {
        for cause in GlobalCause::ALL {
            assert_eq!(GlobalCause::parse(cause.as_str()), Some(cause));
        }
        assert_eq!(GlobalCause::parse("clinic"), None);
    }
}
