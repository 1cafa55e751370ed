//! One provider of a chain.

use std::sync::Arc;

use comms_core::{Channel, EntryId, ErrorKind, HealthState, Position, metric::METRICS};
use tracing::{info, warn};

use crate::{
    account_rate_limit::AccountRateLimit,
    health::{Candidate, Health, Sample},
    layers::{deadline::AttemptBudget, retry::RetryPolicy},
    provider::Provider,
};

/// A provider in its place.
#[derive(Debug, Clone)]
pub struct ChainEntry {
    /// The entry's id in its tenant's settings.
    pub id: EntryId,
    /// Where in the chain.
    pub position: Position,
    /// The provider.
    pub provider: Arc<dyn Provider>,
    /// How often it is tried again.
    pub retry: RetryPolicy,
    /// How well it works.
    pub health: Arc<Health>,
    /// How fast it may be used, where that is limited.
    pub rate_limit: Option<AccountRateLimit>,
}

impl ChainEntry {
    /// Whether this is the entry of that name, of the tenant or of the global account as `position` says.
    pub fn is_at(&self, id: &EntryId, position: Position) -> bool {
        self.id == *id && self.position.is_global() == position.is_global()
    }

    /// How often it is tried again: a probe of an entry that is down only looks, unless no other entry is left.
    pub(super) fn retry_policy(&self, candidate: &Candidate, budget: AttemptBudget) -> RetryPolicy {
        match candidate {
            Candidate::Probe(_) if !budget.is_last() => RetryPolicy { retries: 0 },
            Candidate::Probe(_) | Candidate::InPlace | Candidate::Last | Candidate::Refused => {
                self.retry
            }
        }
    }

    /// Adds `sample` to the entry's health; a change of state is logged and counted.
    pub(super) fn record_health(&self, sample: Sample, channel: Channel) {
        let Some(change) = self.health.record(sample) else {
            return;
        };
        let kind = change.last_error.map(ErrorKind::as_str);
        let (from, to) = (change.from.as_str(), change.to.as_str());
        let provider = self.provider.kind();
        match change.to {
            HealthState::Healthy => {
                info!(%provider, entry = %self.id, position = %self.position, from, to, "provider health changed");
            }
            HealthState::Degraded | HealthState::Down => {
                warn!(%provider, entry = %self.id, position = %self.position, from, to, kind, "provider health changed");
            }
        }
        if change.to == HealthState::Down {
            info!(target: METRICS, provider_down = 1_u64, channel = channel.as_str(), %provider);
        }
    }
}
