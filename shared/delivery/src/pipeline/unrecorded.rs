//! Outcomes that could not be written in their own invocation.
//!
//! They go on the queue ([`super::outcome_message`]), and the worker that receives them writes them. The process keeps them
//! as well, and writes them before its next deliveries. Its claim holds until another worker takes it over, after the
//! lease has ended. While the process keeps an outcome, it returns that outcome and takes nothing over. If the process is
//! killed, outcomes that are not on the queue are lost.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use comms_adapters::Deadline;
use comms_core::backoff::jitter;
use comms_core::{Delivery, DeliveryId, DeliveryStatus, RequestId, metric::METRICS};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tracing::{info, info_span, warn};

use super::{
    DeliveryResult, Pipeline, Requeue,
    time_limits::{ANSWER_MARGIN, CLAIM_TIMEOUT, LEASE_MARGIN},
    via,
};
use crate::ledger::{Ledger, LedgerError, Outcome, Owner, RequestRecord};

/// Outcomes that a process keeps. Each is some hundred bytes.
const MAX_UNRECORDED: usize = 256;
/// The longest that deliveries wait for outcomes of earlier ones.
pub(super) const LATE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that one of them is tried, so that an item that stays throttled takes no time from the others.
const WRITE_TIMEOUT: Duration = Duration::from_millis(300);
/// The least time before they are tried again where some could not be written; the most is twice as long.
const PAUSE: Duration = Duration::from_secs(5);
/// Writes at the same time.
pub(super) const CONCURRENT_WRITES: usize = 8;

/// An outcome that is not in the ledger yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LateOutcome {
    pub(super) request: RequestRecord,
    pub(super) owner: Owner,
    pub(super) outcome: Outcome,
    /// The delivery as the outcome says.
    pub(super) delivery: Delivery,
    pub(super) by_fallback: bool,
    /// When it ended.
    pub(super) at: Timestamp,
    /// Whether a message on the queue carries it.
    pub(super) is_on_queue: bool,
}

/// The outcomes that a process keeps.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    kept: Mutex<VecDeque<LateOutcome>>,
    /// When they may be tried again. Locked while they are written: one run at a time.
    next_run: tokio::sync::Mutex<Timestamp>,
}

impl Unrecorded {
    pub(super) fn keep(&self, late: LateOutcome) {
        let mut kept = self.kept();
        let victim = if kept.len() < MAX_UNRECORDED {
            None
        } else {
            least_valuable(&kept).and_then(|at| kept.remove(at))
        };
        kept.push_back(late);
        drop(kept);
        // What is on the queue is recorded from there; what was only claimed is taken over.
        let lost =
            |late: &LateOutcome| !late.is_on_queue && late.outcome.status != DeliveryStatus::Queued;
        if let Some(LateOutcome {
            request, delivery, ..
        }) = victim.filter(lost)
        {
            warn!(
                clinic_id = %request.tenant,
                request_id = %request.id,
                delivery_id = %delivery.id,
                "an outcome is forgotten: too many are not recorded"
            );
        }
    }

    /// Keeps an outcome if its write is cut off.
    pub(super) const fn recording(&self, late: LateOutcome) -> Recording<'_> {
        Recording {
            unrecorded: self,
            late: Some(late),
        }
    }

    /// The outcome that is kept for a delivery.
    pub(super) fn of(&self, request: &RequestId, delivery: &DeliveryId) -> Option<LateOutcome> {
        let kept = self.kept();
        kept.iter()
            .find(|late| late.is_of(request, delivery))
            .cloned()
    }

    fn forget(&self, late: &LateOutcome) {
        self.kept()
            .retain(|other| other.owner.token != late.owner.token);
    }

    /// Lets all others go before it.
    fn move_back(&self, late: &LateOutcome) {
        let mut kept = self.kept();
        let is_it = |other: &LateOutcome| other.owner.token == late.owner.token;
        if let Some(it) = kept.iter().position(is_it).and_then(|at| kept.remove(at)) {
            kept.push_back(it);
        }
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, VecDeque<LateOutcome>> {
        // Nothing panics while the lock is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome that goes when there are too many: the oldest that costs nobody a second message, else the oldest of the
/// clinic that has most.
fn least_valuable(kept: &VecDeque<LateOutcome>) -> Option<usize> {
    let is_cheap =
        |late: &LateOutcome| late.is_on_queue || late.outcome.status == DeliveryStatus::Queued;
    kept.iter().position(is_cheap).or_else(|| {
        let mut of_clinic = HashMap::new();
        for late in kept {
            *of_clinic.entry(&late.request.tenant).or_insert(0_usize) += 1;
        }
        let clinics = kept.iter().map(|late| &late.request.tenant);
        let most = |(at, tenant)| (of_clinic.get(tenant), Reverse(at));
        clinics
            .enumerate()
            .max_by_key(|one| most(*one))
            .map(|(at, _)| at)
    })
}

/// An outcome that is being written by its own invocation.
pub(super) struct Recording<'a> {
    unrecorded: &'a Unrecorded,
    late: Option<LateOutcome>,
}

impl Recording<'_> {
    /// Its write was answered, or given up.
    pub(super) fn end(mut self) {
        self.late = None;
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Some(late) = self.late.take() {
            info!(target: METRICS, unrecorded_outcomes = 1_u64);
            self.unrecorded.keep(late);
        }
    }
}

/// What became of a write.
pub(super) enum Late {
    Written,
    /// It is kept.
    Unwritten,
    /// Nothing can write it: the delivery is somebody else's, or the outcome is none that the table takes.
    GivenUp,
}

impl Pipeline {
    /// Writes the outcomes that earlier invocations of this process could not write. What cannot be written now either
    /// is kept, and is tried again after a pause.
    pub(super) async fn record_late(&self, deadline: Deadline) {
        // Who finds a run under way does not wait for it: a delivery asks for its own outcome.
        let Ok(mut next_run) = self.unrecorded.next_run.try_lock() else {
            return;
        };
        let late: Vec<_> = self.unrecorded.kept().iter().cloned().collect();
        if late.is_empty() || self.clock.now() < *next_run {
            return;
        }
        let until = Deadline::after(LATE_TIMEOUT).min(deadline);
        let mut writes = stream::iter(late)
            .map(|late| async move {
                if until.remaining() < WRITE_TIMEOUT {
                    return Late::Unwritten;
                }
                let written = self.write_late(&late, Deadline::after(WRITE_TIMEOUT)).await;
                if matches!(written, Late::Unwritten) {
                    self.unrecorded.move_back(&late);
                }
                written
            })
            .buffer_unordered(CONCURRENT_WRITES);
        let mut has_failed = false;
        while let Some(written) = writes.next().await {
            has_failed |= matches!(written, Late::Unwritten);
        }
        if has_failed {
            let pause = PAUSE.mul_f64(1.0 + jitter());
            *next_run = self
                .clock
                .now()
                .saturating_add(pause)
                .unwrap_or(Timestamp::MAX);
        }
    }

    /// The result of a delivery whose outcome this process keeps, written now where that is possible. Nothing where it
    /// keeps none, or one with which the delivery goes on.
    pub(super) async fn result_of_kept(
        &self,
        record: &RequestRecord,
        delivery: &DeliveryId,
        deadline: Deadline,
    ) -> Option<DeliveryResult> {
        let late = self.unrecorded.of(&record.id, delivery)?;
        if late.request.payload_hash != record.payload_hash {
            let conflict = Requeue::KeyConflict;
            return Some(DeliveryResult::Requeued(delivery.clone(), conflict));
        }
        let until = Deadline::after(CLAIM_TIMEOUT).min(deadline.less(ANSWER_MARGIN));
        match (self.write_late(&late, until).await, late.outcome.status) {
            (Late::GivenUp, _) | (Late::Written, DeliveryStatus::Queued) => None,
            (Late::Written, _) => Some(DeliveryResult::Recorded(Box::new(Delivery {
                is_recorded: true,
                ..late.delivery
            }))),
            (Late::Unwritten, _) => {
                let after = self.time_until(late.owner.lease_until).max(LEASE_MARGIN);
                Some(late.into_result(after))
            }
        }
    }

    /// The result of a delivery that its deadline cut off.
    pub(super) fn result_of_cut(&self, record: &RequestRecord, id: &DeliveryId) -> DeliveryResult {
        let after = LEASE_MARGIN;
        match self.unrecorded.of(&record.id, id) {
            Some(late) => late.into_result(after),
            None => DeliveryResult::Requeued(id.clone(), Requeue::NotRecorded { after }),
        }
    }

    pub(super) async fn write_late(&self, late: &LateOutcome, until: Deadline) -> Late {
        let (request, delivery) = (&late.request, &late.delivery);
        let (clinic_id, request_id, delivery_id) = (&request.tenant, &request.id, &delivery.id);
        match write(&self.ledger.until(until), late).await {
            Ok(is_first) => {
                self.unrecorded.forget(late);
                if is_first {
                    let status = delivery.status.as_str();
                    info!(%clinic_id, %request_id, %delivery_id, status, "outcome recorded late");
                    self.count_late(late);
                }
                Late::Written
            }
            Err(error) if is_final(&error) => {
                self.unrecorded.forget(late);
                // A claim of which nobody knew whether it was made, and which was not.
                if !late.outcome.is_untouched {
                    warn!(%clinic_id, %request_id, %delivery_id, %error, "an outcome is given up");
                }
                Late::GivenUp
            }
            Err(error) => {
                warn!(%clinic_id, %request_id, %delivery_id, %error, "an outcome is still not recorded");
                Late::Unwritten
            }
        }
    }

    fn count_late(&self, late: &LateOutcome) {
        let LateOutcome {
            request,
            outcome,
            delivery,
            by_fallback,
            ..
        } = late;
        let (tenant, now) = (&request.tenant, self.clock.now());
        // Of a message with outcomes, no other line says whose they are.
        let span = info_span!(
            "delivery",
            clinic_id = %tenant,
            request_id = %request.id,
            delivery_id = %delivery.id,
        );
        let _ids = span.entered();
        Self::record_late_outcome(delivery.channel, outcome);
        if outcome.status == DeliveryStatus::Sent {
            via::count_global(delivery.channel, outcome.via);
        }
        if outcome.status != DeliveryStatus::Queued {
            let category = request.details.category.as_deref();
            self.usage
                .count_ended(tenant, delivery, *by_fallback, category, now);
        } else if outcome.not_before.is_some() && outcome.waiting.is_none() {
            self.usage.count_deferral(tenant, delivery.channel, now);
        }
    }
}

impl LateOutcome {
    fn is_of(&self, request: &RequestId, delivery: &DeliveryId) -> bool {
        self.request.id == *request && self.delivery.id == *delivery
    }

    /// The result of a delivery that is not recorded.
    pub(super) fn into_result(self, after: Duration) -> DeliveryResult {
        if self.outcome.status == DeliveryStatus::Sent {
            return DeliveryResult::Unrecorded {
                delivery: Box::new(self.delivery),
                after,
            };
        }
        DeliveryResult::Requeued(self.delivery.id, Requeue::NotRecorded { after })
    }
}

/// DynamoDB's error code of a request that no table takes.
const INVALID_REQUEST: &str = "ValidationException";

/// Whether no later try can end otherwise. A refusal for want of a permission or of credentials can: people mend it.
fn is_final(error: &LedgerError) -> bool {
    match error {
        LedgerError::OwnershipLost => true,
        LedgerError::Table(error) | LedgerError::Uncertain(error) => {
            error.code().is_none_or(|code| code == INVALID_REQUEST)
        }
    }
}

/// Writes an outcome. Whether it is for the caller to count.
async fn write(ledger: &Ledger, late: &LateOutcome) -> Result<bool, LedgerError> {
    let LateOutcome {
        request,
        owner,
        outcome,
        delivery,
        at,
        ..
    } = late;
    let (request, delivery) = (&request.id, &delivery.id);
    if outcome.is_untouched {
        // A claim that was withdrawn is nothing to count.
        let withdrawn = ledger.finish(request, delivery, owner, outcome, *at);
        return withdrawn.await.map(|()| false);
    }
    ledger
        .finish_late(request, delivery, owner, outcome, *at)
        .await
}

#[cfg(test)]
mod tests {
    use comms_core::{Channel, HashKey, IdempotencyKey, Tenant};

    use super::*;
    use crate::ledger::RequestDetails;

    fn late(clinic: &str, status: DeliveryStatus) -> LateOutcome {
        let key = HashKey::from_bytes(&[1; 32]);
        let tenant = Tenant::parse(clinic).unwrap();
        let id = RequestId::derive(&key, &tenant, &IdempotencyKey::parse("one").unwrap());
        let delivery = DeliveryId::derive(&key, &id, "email", "address");
        LateOutcome {
            request: RequestRecord {
                id,
                tenant,
                payload_hash: "hash".to_owned(),
                details: RequestDetails::default(),
            },
            owner: Owner {
                token: clinic.to_owned(),
                lease_until: Timestamp::UNIX_EPOCH,
            },
            outcome: Outcome::new(status),
            delivery: Delivery::queued(delivery, Channel::Email, String::new()),
            by_fallback: false,
            at: Timestamp::UNIX_EPOCH,
            is_on_queue: false,
        }
    }

    #[test]
    fn one_clinics_outcomes_push_out_no_others() {
        let sent = |clinic| late(clinic, DeliveryStatus::Sent);
        let mut kept = VecDeque::from([sent("a"), sent("b"), sent("c"), sent("b")]);
        assert_eq!(least_valuable(&kept), Some(1));
        kept.push_back(late("a", DeliveryStatus::Queued));
        assert_eq!(least_valuable(&kept), Some(4));
        kept[2].is_on_queue = true;
        assert_eq!(least_valuable(&kept), Some(2));
        assert_eq!(least_valuable(&VecDeque::new()), None);
    }
}
