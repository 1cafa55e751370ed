//! The attempts of a delivery.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    failure::{Disposition, ErrorKind, ProviderCode, ProviderError},
    id::EntryId,
    provider::{Position, ProviderKind, RefusedCopy},
};

/// Attempts of a delivery that the ledger keeps: two runs through the longest chain with all its retries, and far less than
/// an item may hold (DynamoDB: 400 KB).
pub const MAX_ATTEMPTS: usize = 200;

/// One attempt to send a delivery by one provider.
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
        /// The copies that it refused.
        refused_copies: Vec<RefusedCopy>,
    },
    /// The provider refused it, or may have accepted it.
    Failed {
        /// The consequence for the delivery.
        disposition: Disposition,
        /// The kind of error.
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

impl Attempt {
    /// Adds `newer` to the attempts of a delivery. Beyond [`MAX_ATTEMPTS`] the oldest are dropped; the log has them.
    pub fn remember(attempts: &mut Vec<Self>, newer: Vec<Self>) {
        attempts.extend(newer);
        attempts.drain(..attempts.len().saturating_sub(MAX_ATTEMPTS));
    }
}

/// The position of the entry that accepted the message, if one did.
pub fn accepted_position(attempts: &[Attempt]) -> Option<Position> {
    let accepted = attempts.iter().rev().find(|attempt| match attempt.outcome {
        AttemptOutcome::Accepted { .. } => true,
        AttemptOutcome::Failed { .. } => false,
    });
    accepted.map(|attempt| attempt.position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_attempts_the_newest_are_remembered() {
        let attempt = |milliseconds: u64| {
            let json = serde_json::json!({"provider": "smtp", "entry": "primary", "position": "primary",
                "outcome": "accepted", "durationMs": milliseconds});
            Attempt::from_json(&json).unwrap()
        };
        let most = u64::try_from(MAX_ATTEMPTS).unwrap();
        let mut attempts = Vec::new();
        Attempt::remember(&mut attempts, (0..most).map(attempt).collect());
        assert_eq!(attempts.len(), MAX_ATTEMPTS);
        Attempt::remember(&mut attempts, vec![attempt(most)]);
        assert_eq!(attempts, (1..=most).map(attempt).collect::<Vec<_>>());
    }
}
