//! What a tenant wants where it is not known whether a message went out.

/// What to do when it is not known whether a message went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmbiguityPolicy {
    /// Try the next provider: perhaps two copies.
    Failover,
    /// Stop: at most one copy.
    Hold,
}

impl AmbiguityPolicy {
    /// The name in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Hold => "hold",
        }
    }
}
