//! Records the outcome of a delivery in the ledger, logs, metrics and usage.

use std::time::Duration;

use comms_aws::TableError;
use comms_core::{
    Channel, Delivery, DeliveryStatus, FailureReason, GlobalCause, ProviderKind, SentVia,
    metric::METRICS, request::PlannedDelivery,
};
use jiff::Timestamp;
use tracing::{error, info};

use super::{
    OnExhausted, Pipeline, QuotaSource, Requeue,
    limits::Started,
    milliseconds,
    time_limits::{ANSWER_MARGIN, QUEUE_MARGIN},
    unrecorded::LateOutcome,
    via,
};
use crate::ledger::{LedgerError, Outcome, Owner, RequestRecord};

/// What became of a delivery whose outcome was written, or could not be.
pub(super) enum RecordResult {
    /// It ended. [`Delivery::is_recorded`] is false if a provider accepted it and the write failed.
    Ended(Box<Delivery>),
    /// The ledger has it as queued, with a time before which it is not sent.
    Deferred(Requeue),
    /// The ledger has it as queued, to be sent at once. The caller knows why it did not end.
    Requeued,
    /// The write failed. The claim holds until its lease ends.
    NotRecorded {
        /// The time until the lease ends.
        after: Duration,
    },
}

impl RecordResult {
    /// The delivery, or why it returns to the queue: `reason` if it was requeued at once.
    pub(super) fn or_requeue(self, reason: Requeue) -> Result<Delivery, Requeue> {
        match self {
            Self::Ended(delivery) => Ok(*delivery),
            Self::Deferred(deferred) => Err(deferred),
            Self::Requeued => Err(reason),
            Self::NotRecorded { after } => Err(Requeue::NotRecorded { after }),
        }
    }
}

impl Pipeline {
    /// Writes an outcome to the ledger, and repeats the write until the deadline. If it fails, a delivery that a provider
    /// accepted is still [`RecordResult::Ended`].
    pub(super) async fn record(
        &self,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        owner: &Owner,
        outcome: Outcome,
        started: Started<'_>,
    ) -> RecordResult {
        let now = self.clock.now();
        let until = started
            .limits
            .deadline
            .less(match started.limits.on_exhausted {
                OnExhausted::Requeue => QUEUE_MARGIN,
                OnExhausted::Fail => ANSWER_MARGIN,
            });
        let ledger = self.ledger.until(until);
        let late = LateOutcome {
            request: record.clone(),
            owner: owner.clone(),
            outcome: outcome.clone(),
            delivery: Delivery {
                is_recorded: false,
                ..ended(planned, outcome.clone(), now)
            },
            by_fallback: started.by_fallback,
            at: now,
            is_on_queue: false,
        };
        // The outcome is kept even if this future is dropped.
        let recording = self.unrecorded.recording(late.clone());
        let finished = ledger.finish(&record.id, &planned.id, owner, &outcome, now);
        let finished = Box::pin(finished).await;
        recording.end();
        if let Err(error) = finished {
            return self.not_recorded(&error, late);
        }
        info!(
            status = outcome.status.as_str(),
            reason = outcome.reason.map(FailureReason::as_str),
            attempts = outcome.attempts.len(),
            possible_duplicate = outcome.possible_duplicate,
            latency_ms = milliseconds(started.at.elapsed()),
            via = outcome.via.map(SentVia::as_str),
            because = outcome
                .via
                .and_then(SentVia::because)
                .map(GlobalCause::as_str),
            "delivery recorded"
        );
        self.record_outcome(planned.channel, &outcome, started);
        if outcome.status == DeliveryStatus::Sent {
            via::count_global(planned.channel, outcome.via);
        }
        if outcome.status == DeliveryStatus::Queued {
            let is_waiting = outcome.waiting.is_some();
            let Some(time) = outcome.not_before else {
                return RecordResult::Requeued;
            };
            let after = self.time_until(time);
            return RecordResult::Deferred(if is_waiting {
                Requeue::WaitingForProvider { after }
            } else {
                Requeue::Deferred { after }
            });
        }
        RecordResult::Ended(Box::new(ended(planned, outcome, now)))
    }

    /// The claim holds until its lease ends. Then another worker takes it over as possibly sent, unless this process writes
    /// the outcome first.
    fn not_recorded(&self, error: &LedgerError, late: LateOutcome) -> RecordResult {
        let status = late.outcome.status;
        error!(%error, status = status.as_str(), "the outcome of a delivery was not recorded");
        if status != DeliveryStatus::Queued {
            info!(target: METRICS, unrecorded_outcomes = 1_u64);
        }
        let delivery = late.delivery.clone();
        let after = self.time_until(late.owner.lease_until);
        match error {
            // Another owner's delivery, or an outcome that cannot be written.
            LedgerError::OwnershipLost | LedgerError::Table(TableError::Corrupt(_)) => {}
            LedgerError::Table(_) | LedgerError::Uncertain(_) => self.unrecorded.keep(late),
        }
        if status == DeliveryStatus::Sent {
            return RecordResult::Ended(Box::new(delivery));
        }
        RecordResult::NotRecorded { after }
    }

    /// Emits the metrics of an outcome. A delivery that was requeued unchanged has none.
    fn record_outcome(&self, channel: Channel, outcome: &Outcome, started: Started<'_>) {
        let is = |status| (outcome.status == status).then_some(1_u64);
        let is_deferred = outcome.not_before.is_some() && outcome.waiting.is_none();
        if outcome.status == DeliveryStatus::Queued && !is_deferred {
            return;
        }
        let sent_by = outcome.receipt.as_ref().map(|(provider, _)| *provider);
        let last = outcome.attempts.last().map(|attempt| attempt.provider);
        let queued_at = match started.limits.quota {
            QuotaSource::Deliveries { queued_at, .. } if !is_deferred => *queued_at,
            QuotaSource::Deliveries { .. } | QuotaSource::Taken(_) => None,
        };
        let on_its_way = queued_at.map(|at| self.clock.now().duration_since(at));
        info!(
            target: METRICS,
            sent = is(DeliveryStatus::Sent),
            failed = is(DeliveryStatus::Failed),
            unknown = is(DeliveryStatus::Unknown),
            expired = is(DeliveryStatus::Expired),
            deferred = is_deferred.then_some(1_u64),
            possible_duplicate = (outcome.possible_duplicate && !is_deferred).then_some(1_u64),
            latency_ms = milliseconds(started.at.elapsed()),
            time_to_outcome_ms =
                on_its_way.map(|time| u64::try_from(time.as_millis()).unwrap_or_default()),
            channel = channel.as_str(),
            provider = sent_by.or(last).as_ref().map_or("none", ProviderKind::as_str),
            reason = outcome.reason.map(FailureReason::as_str),
            attempts = outcome.attempts.len(),
        );
    }

    /// Emits the metrics of an outcome that a later invocation recorded. They have no latency.
    pub(super) fn record_late_outcome(channel: Channel, outcome: &Outcome) {
        if outcome.status == DeliveryStatus::Queued {
            return;
        }
        let is = |status| (outcome.status == status).then_some(1_u64);
        let sent_by = outcome.receipt.as_ref().map(|(provider, _)| *provider);
        let last = outcome.attempts.last().map(|attempt| attempt.provider);
        info!(
            target: METRICS,
            sent = is(DeliveryStatus::Sent),
            failed = is(DeliveryStatus::Failed),
            unknown = is(DeliveryStatus::Unknown),
            expired = is(DeliveryStatus::Expired),
            possible_duplicate = outcome.possible_duplicate.then_some(1_u64),
            channel = channel.as_str(),
            provider = sent_by.or(last).as_ref().map_or("none", ProviderKind::as_str),
            reason = outcome.reason.map(FailureReason::as_str),
            attempts = outcome.attempts.len(),
        );
    }

    /// Counts a recorded delivery for its tenant, whichever account sent it.
    pub(super) fn count(
        &self,
        record: &RequestRecord,
        channel: Channel,
        by_fallback: bool,
        recorded: &Result<Delivery, Requeue>,
    ) {
        let now = self.clock.now();
        match recorded {
            Ok(delivery) if delivery.is_recorded => {
                let category = record.details.category.as_deref();
                self.usage
                    .count_ended(&record.tenant, delivery, by_fallback, category, now);
            }
            Err(Requeue::Deferred { .. }) => {
                self.usage.count_deferral(&record.tenant, channel, now);
            }
            // Counted when it is recorded, or unchanged.
            Ok(_)
            | Err(
                Requeue::Busy { .. }
                | Requeue::OutOfTime
                | Requeue::Unreachable
                | Requeue::NotRecorded { .. }
                | Requeue::KeyConflict
                | Requeue::OverQuota { .. }
                | Requeue::ShareTaken { .. }
                | Requeue::WaitingForProvider { .. }
                | Requeue::RateLimited { .. }
                | Requeue::NoConnection { .. },
            ) => {}
        }
    }
}

/// A delivery as its outcome says.
fn ended(planned: &PlannedDelivery, outcome: Outcome, at: Timestamp) -> Delivery {
    let (provider, message_id) = outcome.receipt.unzip();
    Delivery {
        id: planned.id.clone(),
        channel: planned.channel,
        recipient: planned.masked().to_owned(),
        status: outcome.status,
        provider,
        message_id,
        reason: outcome.reason,
        waiting: None,
        waited: outcome.waited,
        possible_duplicate: outcome.possible_duplicate,
        attempts: outcome.attempts,
        via: outcome.via,
        ended_at: Some(at),
        skipped: outcome.skipped.unwrap_or_default(),
        is_recorded: true,
    }
}
