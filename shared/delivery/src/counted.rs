//! What a clinic's quotas count.

use std::fmt;

use comms_core::Channel;

/// One thing that is counted. Each has windows and leases of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Envelope recipients on a channel.
    Channel(Channel),
    /// Deliveries marked urgent (`high` or `critical`).
    Urgent,
}

impl Counted {
    /// The name in the key of the quota's item.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Channel(channel) => channel.as_str(),
            Self::Urgent => "urgent",
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Channel> for Counted {
    fn from(channel: Channel) -> Self {
        Self::Channel(channel)
    }
}
