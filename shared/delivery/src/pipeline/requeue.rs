//! Why a delivery returns to the queue, and how long its message stays invisible there.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use comms_core::{Delivery, DeliveryId};
use tracing::{info, warn};

use super::Pipeline;
use crate::{
    deferral,
    ledger::{OUTCOME_GRACE, RequestRecord},
};

/// The result of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryResult {
    /// It ended, now or before, and the ledger has its outcome.
    Recorded(Box<Delivery>),
    /// A provider accepted it, and the outcome could not be recorded. Its claim holds until the lease ends; then another
    /// worker takes it over as possibly sent.
    Unrecorded {
        /// The delivery, `sent`.
        delivery: Box<Delivery>,
        /// The time until the lease ends.
        after: Duration,
    },
    /// It has not ended and returns to the queue.
    Requeued(DeliveryId, Requeue),
}

/// Why a delivery returns to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// Another invocation holds its lease.
    Busy {
        /// The time until it may be taken over.
        after: Duration,
    },
    /// The deadline left too little time.
    OutOfTime,
    /// Settings, keys or ledger could not be reached.
    Unreachable,
    /// Its outcome, or that nothing was sent, could not be recorded.
    NotRecorded {
        /// The time until this process's lease ends.
        after: Duration,
    },
    /// Another communication was accepted under this key.
    KeyConflict,
    /// No provider accepts it now.
    Deferred {
        /// The time until the next try can succeed.
        after: Duration,
    },
    /// A limit is used up. The delivery was not claimed.
    OverQuota {
        /// The time until the next try can succeed.
        after: Duration,
    },
    /// The clinic's slow deliveries hold its share of the workers. Nothing was written.
    ShareTaken {
        /// The time until the next try can succeed.
        after: Duration,
    },
    /// Every provider refuses the clinic until a person fixes the cause.
    WaitingForProvider {
        /// The time until the next try can succeed.
        after: Duration,
    },
    /// The rate limit of the next provider is reached.
    RateLimited {
        /// The time until the next try can succeed.
        after: Duration,
    },
    /// All connections of the provider's login are in use.
    NoConnection {
        /// The time until the next try can succeed.
        after: Duration,
    },
}

/// What happens to a delivery that no provider accepts now and one may accept later, such as a greylisted
/// mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// Return it to the queue, which redelivers it. After [`deferral::MAX_DEFERRALS`] it has failed.
    Requeue,
    /// Record it as failed.
    Fail,
}

impl Requeue {
    /// The name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::OutOfTime => "out_of_time",
            Self::Unreachable => "unreachable",
            Self::NotRecorded { .. } => "not_recorded",
            Self::KeyConflict => "key_conflict",
            Self::Deferred { .. } => "deferred",
            Self::OverQuota { .. } => "over_quota",
            Self::ShareTaken { .. } => "share_taken",
            Self::WaitingForProvider { .. } => "waiting_for_provider",
            Self::RateLimited { .. } => "paced",
            Self::NoConnection { .. } => "no_connection",
        }
    }

    /// How long the message stays invisible after `receives` receives.
    pub fn wait(self, receives: u32) -> Duration {
        let wait = match self {
            Self::NotRecorded { after } => after + OUTCOME_GRACE,
            Self::OutOfTime => Duration::ZERO,
            Self::Unreachable | Self::KeyConflict => deferral::backoff(receives.saturating_sub(1)),
            Self::Busy { after }
            | Self::Deferred { after }
            | Self::OverQuota { after }
            | Self::ShareTaken { after }
            | Self::WaitingForProvider { after }
            | Self::RateLimited { after }
            | Self::NoConnection { after } => after,
        };
        wait.min(deferral::MAX_DEFERRAL_DURATION)
    }
}

/// Deliveries that returned to the queue since the last metrics, by reason.
#[derive(Default)]
pub(super) struct Deferred {
    pub(super) quota: AtomicU64,
    pub(super) rate_limiter: AtomicU64,
    pub(super) provider: AtomicU64,
    pub(super) worker_share: AtomicU64,
    pub(super) connections: AtomicU64,
    /// Whether deliveries came from a queue, where no caller waits.
    pub(super) serves_queue: AtomicBool,
}

impl Pipeline {
    pub(super) fn record_requeue(&self, record: &RequestRecord, id: &DeliveryId, reason: Requeue) {
        let deferred = match reason {
            Requeue::OverQuota { .. } => Some(&self.deferred.quota),
            Requeue::RateLimited { .. } => Some(&self.deferred.rate_limiter),
            Requeue::WaitingForProvider { .. } => Some(&self.deferred.provider),
            Requeue::ShareTaken { .. } => Some(&self.deferred.worker_share),
            Requeue::NoConnection { .. } => Some(&self.deferred.connections),
            Requeue::Busy { .. }
            | Requeue::OutOfTime
            | Requeue::Unreachable
            | Requeue::NotRecorded { .. }
            | Requeue::KeyConflict
            | Requeue::Deferred { .. } => None,
        };
        let (tenant, request, reason) = (&record.tenant, &record.id, reason.as_str());
        // A campaign over its quota is expected.
        if let Some(deferred) = deferred {
            deferred.fetch_add(1, Ordering::Relaxed);
            info!(clinic_id = %tenant, request_id = %request, delivery_id = %id, reason, "delivery returned to the queue");
        } else {
            warn!(clinic_id = %tenant, request_id = %request, delivery_id = %id, reason, "delivery returned to the queue");
        }
    }
}

pub(super) fn unreachable(error: impl std::fmt::Display) -> Requeue {
    warn!(%error, "a delivery cannot be worked on");
    Requeue::Unreachable
}
