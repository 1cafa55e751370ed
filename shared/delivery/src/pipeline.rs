//! The pipeline turns an accepted communication into deliveries. Each is claimed in the ledger, sent through its tenant's
//! chain of providers, and recorded.

mod accept;
mod address_hash;
mod admission;
mod attempts;
mod chains;
mod claim;
mod connection;
mod delivery;
mod fan_out;
mod freshness;
mod immediate;
mod limits;
mod message_starts;
mod next_receive;
mod outcome_message;
mod parts;
mod probes;
mod queued_outcomes;
mod quota_wait;
mod record;
mod requeue;
mod settings_change;
mod settle;
mod start;
mod tenant_settings;
mod time_limits;
mod unrecorded;
mod urgent;
mod via;
mod waiting;
mod worker_share;

use std::{sync::Arc, time::Duration};

use comms_adapters::{Deadline, ProviderFactory};
use comms_core::{AddressMask, Clock, HashKey};
use comms_settings::{HashKeys, SettingsCache};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    health::SharedHealth,
    ledger::{Ledger, Owner},
    quota::Quotas,
    rate_limit::SharedRateLimiter,
    reply_to::ReplyTos,
    require_clinic::RequireClinic,
    shares::Shares,
    slots::Slots,
    usage::Usage,
};

use accept::QuotaSource;
pub use accept::{Accepted, PipelineError, QueuedMessage};
pub use admission::QuotaError;
pub use immediate::{Immediate, ImmediateError};
use limits::Limits;
pub use message_starts::has_time_to_begin;
pub use next_receive::next_receive;
pub use outcome_message::{OUTCOMES_MAC, OutcomeMessage};
pub use parts::{Concurrency, Parts, PipelineConfig};
pub use queued_outcomes::{OutcomesOf, PendingOutcomes, RecordedOutcomes};
use requeue::{Deferred, unreachable};
pub use requeue::{DeliveryResult, OnExhausted, Requeue};
pub use tenant_settings::CountryLookup;
use time_limits::LEASE_MARGIN;
use unrecorded::Unrecorded;
pub use urgent::{UrgentError, UrgentQuota};
pub use via::{ClinicMissing, ExpectedVia};

/// Everything between an accepted communication and its recorded outcome.
pub struct Pipeline {
    settings: Arc<SettingsCache>,
    reply_tos: ReplyTos,
    hash_keys: HashKeys,
    factory: ProviderFactory,
    ledger: Ledger,
    health: SharedHealth,
    quotas: Quotas,
    rate_limiter: SharedRateLimiter,
    usage: Usage,
    shares: Shares,
    deferred: Deferred,
    unrecorded: Unrecorded,
    slots: Slots,
    mask: AddressMask,
    require_clinic: RequireClinic,
    clock: Arc<dyn Clock>,
}

impl Pipeline {
    /// The key by which logs name callers ([`HashKeys::for_logs`]).
    pub async fn key_for_logs(&self) -> Option<&HashKey> {
        self.hash_keys.for_logs().await
    }

    /// Zero if `time` has passed.
    fn time_until(&self, time: Timestamp) -> Duration {
        Duration::try_from(time.duration_since(self.clock.now())).unwrap_or_default()
    }

    fn owner(&self, deadline: Deadline) -> Owner {
        Owner {
            token: Uuid::new_v4().to_string(),
            lease_until: self
                .clock
                .now()
                .saturating_add(deadline.remaining() + LEASE_MARGIN)
                .unwrap_or(Timestamp::MAX),
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipeline(…)")
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
