//! Connections of a delivery's providers, which belong to the mailbox's owner.

use std::{sync::atomic::Ordering, time::Duration};

use comms_adapters::{Chain, Deadline};
use comms_core::{DeliveryStatus, FailureReason, HashKey};

use super::{Limits, OnExhausted, Pipeline, QuotaSource, Requeue};
use crate::ledger::Outcome;
use crate::{
    allowance::Allowance,
    connections::{Asking, Gate},
    quota,
    slow_workers::WorkQueue,
};

/// The longest that the end of an invocation waits for servers to close connections. `send` waits for none: there the
/// permits of its connections expire a moment later.
const CLOSING_TIMEOUT: Duration = Duration::from_millis(500);

impl Pipeline {
    /// A delivery's way to a connection.
    pub(super) fn gate<'a>(&'a self, hash: &'a HashKey, limits: Limits<'_>) -> Gate<'a> {
        let queued_at = match limits.quota {
            QuotaSource::Deliveries { queued_at, .. } => *queued_at,
            QuotaSource::Taken(_) => None,
        };
        let now = self.clock.now();
        let age = queued_at.and_then(|at| Duration::try_from(now.duration_since(at)).ok());
        let asking = Asking {
            is_alone: limits.is_alone,
            is_queued: limits.on_exhausted == OnExhausted::Requeue,
            is_urgent: limits.queue == Some(WorkQueue::Urgent),
            receives: limits.receives(),
            age: age.unwrap_or_default(),
            deadline: limits.deadline,
        };
        Gate::new(&self.shares.connections, hash, asking)
    }

    /// Reserves a connection to the provider that is tried first, or returns the delivery untouched. Where another
    /// provider follows, an immediate delivery goes on to that one.
    pub(super) async fn connect(
        &self,
        chain: &Chain,
        allowance: &Allowance<'_>,
        limits: Limits<'_>,
    ) -> Result<(), Requeue> {
        let first = chain.first_choice();
        let Some(limit) = first.and_then(|entry| entry.provider.connection_limit()) else {
            return Ok(());
        };
        match allowance.connection().connect(limit).await {
            Err(_) if limits.on_exhausted == OnExhausted::Fail && chain.entries.len() > 1 => Ok(()),
            Err(after) => {
                let after = self.before_expiry(after, limits);
                Err(Requeue::NoConnection { after })
            }
            Ok(()) => Ok(()),
        }
    }

    /// What becomes of a delivery that found no connection in its chain: it waits. Nothing says that it failed.
    pub(super) fn wait_for_connection(
        &self,
        after: Duration,
        limits: Limits<'_>,
        unknown_outcomes: usize,
        outcome: &mut Outcome,
    ) -> Option<Requeue> {
        // It went without a permit for some time, and the server itself refused it; the queue gives it up soon.
        let is_over = limits.receives() >= quota::MAX_RECEIVES;
        // Who waits for the answer is told what is known.
        if unknown_outcomes > 0 && (is_over || limits.on_exhausted == OnExhausted::Fail) {
            outcome.status = DeliveryStatus::Unknown;
            outcome.reason = Some(FailureReason::OutcomeUnknown);
            return None;
        }
        if is_over {
            outcome.reason = Some(FailureReason::AllProvidersFailed);
            return None;
        }
        outcome.status = DeliveryStatus::Queued;
        outcome.possible_duplicate = unknown_outcomes > 0;
        let after = self.before_expiry(after, limits);
        Some(Requeue::NoConnection { after })
    }

    /// Closes idle connections, and then releases their permits.
    pub(super) async fn end_connections(&self, deadline: Deadline) {
        let limit = if self.deferred.serves_queue.load(Ordering::Relaxed) {
            CLOSING_TIMEOUT.min(deadline.remaining() / 2)
        } else {
            Duration::ZERO
        };
        self.factory.sockets().close_at_invocation_end(limit).await;
        self.shares.connections.release(deadline).await;
    }
}
