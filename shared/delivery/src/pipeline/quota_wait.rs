//! How long a delivery waits for a quota, a turn or a worker, and when it has waited for long enough.

use std::time::Duration;

use comms_core::backoff::jitter;
use jiff::Timestamp;

use super::{Limits, OnExhausted, Pipeline, QuotaSource, Requeue};
use crate::{allowance::Refusal, quota};

impl Pipeline {
    /// How a delivery waits for a quota; `None` if it does not.
    pub(super) fn wait_for_quota(&self, refusal: Refusal, limits: Limits<'_>) -> Option<Requeue> {
        match refusal {
            Refusal::Exhausted(exhausted) => {
                let now = self.clock.now();
                let after = quota::wait_for(&exhausted, limits.receives(), now, jitter());
                let after = self.before_expiry(after, limits);
                let is_over = self.has_waited_enough(after, limits);
                (!is_over).then_some(Requeue::OverQuota { after })
            }
            Refusal::TooMany => None,
            Refusal::Unreachable => Some(Requeue::Unreachable),
        }
    }

    /// True if waiting `after` longer for quota or a permit would exceed the limit.
    pub(super) fn has_waited_enough(&self, after: Duration, limits: Limits<'_>) -> bool {
        let (receives, queued_at) = match limits.quota {
            QuotaSource::Deliveries {
                receives,
                queued_at,
            } => (*receives, *queued_at),
            QuotaSource::Taken(_) => return false,
        };
        let next = self.clock.now().saturating_add(after);
        let next = next.unwrap_or(Timestamp::MAX);
        limits.on_exhausted == OnExhausted::Fail
            || receives >= quota::MAX_RECEIVES
            || queued_at.is_some_and(|at| next.duration_since(at) > quota::MAX_QUEUE_DURATION)
    }

    pub(super) fn is_expired(&self, limits: Limits<'_>) -> bool {
        limits
            .expires_at
            .is_some_and(|expires_at| expires_at <= self.clock.now())
    }

    /// What expires meanwhile is to come back when it does, and to be recorded as that.
    pub(super) fn before_expiry(&self, after: Duration, limits: Limits<'_>) -> Duration {
        limits
            .expires_at
            .map_or(after, |expires_at| after.min(self.time_until(expires_at)))
    }
}
