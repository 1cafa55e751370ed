//! One delivery: settings, start, claim, attempts, record.
//!
//! The version of its settings is read concurrently with its start, and awaited before the first attempt. A warm delivery
//! has waited longer for its claim by then.

use std::time::Duration;

use comms_adapters::Message;
use comms_core::{
    Channel, Delivery, DeliveryStatus, Tenant, WaitReason, Waited, Waiting,
    request::PlannedDelivery,
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    Limits, Pipeline, Requeue, UrgentQuota,
    attempts::Attempted,
    chains::ResolvedChain,
    freshness::Freshness,
    limits::Started,
    start::{Claimed, Stop, Work},
    unreachable, via,
};
use crate::{
    allowance::Allowance,
    ledger::{DeliveryHistory, Outcome, RequestRecord},
};

/// The time that publishing health and limits leaves until the deadline, so that the result is not cut off.
const SHARING_MARGIN: Duration = Duration::from_millis(100);

/// Whether the ledger did not take the outcome of the delivery.
fn is_unrecorded(recorded: &Result<Delivery, Requeue>) -> bool {
    match recorded {
        Ok(delivery) => !delivery.is_recorded,
        Err(reason) => matches!(reason, Requeue::NotRecorded { .. }),
    }
}

impl Pipeline {
    pub(super) async fn deliver_one(
        &self,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        message: Option<Message>,
        limits: Limits<'_>,
        urgent: &mut UrgentQuota,
    ) -> Result<Delivery, Requeue> {
        let started = Instant::now();
        limits.has_time_to_start()?;
        let (tenant, channel) = (&record.tenant, planned.channel);
        let asked = limits.quota.settings_asked();
        let asked = asked.unwrap_or_else(|| self.settings.moment());
        // Before the claim: if settings cannot be read, nothing was written.
        let known = self.remembered_settings(tenant).await;
        let known = known.map_err(unreachable)?;
        let needs_platform = known.policy(tenant, channel).is_global_only;
        let owner = self.owner(limits.deadline);
        let work = Work {
            record,
            planned,
            owner: &owner,
            limits,
            started,
            recipients: message.as_ref().map(Message::envelope_recipients),
        };
        let confirm = self.confirmed_settings(tenant, &known, needs_platform, asked);
        let begun = self.begin_beside(confirm, work, &known, urgent).await;
        let mut claimed = match begun {
            Ok(claimed) => claimed,
            Err(stop) => {
                if let Stop::OverQuota(_) = &stop {
                    self.note_quota_wait(record, planned, limits).await;
                }
                return stop.into_result();
            }
        };
        let asked = self
            .confirm_after_wait(&mut claimed, work, needs_platform, asked)
            .await;
        let ready = self.go_by_last_settings(&mut claimed, work, urgent).await;
        let Claimed {
            chain,
            mut allowance,
            mut working,
            is_refused,
            history,
            ..
        } = claimed;
        // If settings and claim took too long, it returns to the queue unchanged.
        if let Err(reason) = ready.and_then(|()| limits.has_time_to_start()) {
            return self.requeue_untouched(work, history, reason).await;
        }
        // A delivery that started before took its urgent quota then.
        let has_paid = history.deferrals > 0 || !history.attempts.is_empty();
        let attempts_before = history.attempts.len();
        let (waited, waited_until) = (history.waiting.clone(), self.clock.now());
        let fresh = Freshness::new(
            self,
            tenant,
            channel,
            limits.deadline,
            asked,
            chain,
            needs_platform,
        );
        let waited_time = allowance.connection().waited();
        let attempted = self.attempt(&fresh, message, limits, history, is_refused, &mut allowance);
        let attempted = Box::pin(attempted);
        let attempted = self.watch(working.as_mut(), limits, &waited_time, attempted);
        let Attempted {
            mut outcome,
            returned,
        } = attempted.await;
        via::note(&mut outcome, record, &fresh.current());
        if outcome.waiting.is_none() {
            outcome.waited = waited.map(|waiting| Waited::until(waiting, waited_until));
        }
        if !has_paid && outcome.attempts.len() > attempts_before {
            urgent.spend();
        }
        if outcome.status == DeliveryStatus::Sent
            && let Some(working) = &working
        {
            working.sent();
        }
        let used = fresh.current();
        let tried = outcome.attempts.last();
        let by_fallback = tried
            .zip(used.chain.entries.first())
            .is_some_and(|(tried, first)| !first.is_at(&tried.entry, tried.position));
        let started = Started {
            at: started,
            limits,
            by_fallback,
        };
        let recorded = self
            .record(record, planned, &owner, outcome, started)
            .await
            .or_requeue(returned.unwrap_or(Requeue::OutOfTime));
        self.count(record, channel, by_fallback, &recorded);
        if is_unrecorded(&recorded) {
            // The time that is left is for the queue.
            return recorded;
        }
        // The outcome is recorded, however long this takes.
        let shared = self.share_what_was_learned(&allowance, &used, tenant, channel, limits);
        let time = limits.deadline.less(SHARING_MARGIN);
        let _ = time.bound(Duration::MAX, Box::pin(shared)).await;
        recorded
    }

    /// Publishes connection limits and provider health, and asks providers for their rate limits.
    async fn share_what_was_learned(
        &self,
        allowance: &Allowance<'_>,
        used: &ResolvedChain,
        tenant: &Tenant,
        channel: Channel,
        limits: Limits<'_>,
    ) {
        allowance.connection().publish(&used.chain).await;
        match self.hash_keys.get().await {
            Ok(hash) => {
                for (tenant, version, own) in used.parts(tenant) {
                    self.health
                        .publish(hash, tenant, version, channel, own, limits.deadline)
                        .await;
                }
            }
            Err(error) => warn!(%error, "a provider's health was not told to others"),
        }
        used.chain.learn_rates(limits.deadline).await;
    }

    /// Returns a claimed delivery to the queue unchanged.
    async fn requeue_untouched(
        &self,
        work: Work<'_>,
        history: DeliveryHistory,
        reason: Requeue,
    ) -> Result<Delivery, Requeue> {
        let untouched = Outcome {
            possible_duplicate: history.possible_duplicate,
            attempts: history.attempts,
            is_untouched: true,
            waiting: if matches!(reason, Requeue::OverQuota { .. }) {
                let (before, now) = (history.waiting.as_ref(), self.clock.now());
                Some(Waiting::after(before, WaitReason::Quota, now))
            } else {
                history.waiting
            },
            ..Outcome::new(DeliveryStatus::Queued)
        };
        let (started, limits) = (work.started, work.limits);
        let started = Started {
            at: started,
            limits,
            by_fallback: false,
        };
        let recorded = self.record(work.record, work.planned, work.owner, untouched, started);
        recorded.await.or_requeue(reason)
    }
}
