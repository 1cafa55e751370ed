//! The remainder of an immediate request: deliveries that the worker completes, and outcomes that could not be recorded.
//!
//! Both go on the queue. An outcome has a message of its own, which says how the delivery ended and is recorded by the worker;
//! the rest of the request names the deliveries that have one, and the worker sends none of them.

use std::time::Duration;

use comms_adapters::Deadline;
use comms_core::{Delivery, DeliveryStatus, FailureReason, request::Submission};
use comms_delivery::{Accepted, DeliveryResult, OutcomesOf, PendingOutcomes, Requeue};
use comms_runtime::{HttpProblem, telemetry::TraceHeader};
use tracing::error;

use crate::{Deps, EnqueueError, QueueMessages, problems::key_conflict};

/// Time limit of queueing outcomes, a part of the time that is reserved for the queue.
const OUTCOMES_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The time that is kept for the answer when the queue does not respond.
const RESPONSE_MARGIN: Duration = Duration::from_millis(200);

/// The deliveries of an immediate request that have no recorded end, by their index.
#[derive(Debug, Default)]
pub(crate) struct Remainder {
    /// The number of deliveries that the answer calls queued.
    pub(crate) queued: usize,
    /// Deliveries that the worker has to complete.
    left: Vec<usize>,
    /// Deliveries that have ended without a record. Their outcomes are on the queue or in this process only.
    ended: Vec<usize>,
    /// Whether a provider accepted one of them.
    has_unrecorded: bool,
}

impl Remainder {
    /// Sorts the results of all deliveries, copies them into `deliveries`, and queues the outcomes that could not be
    /// recorded.
    pub(crate) async fn of(
        deps: &Deps,
        accepted: &Accepted,
        results: Vec<DeliveryResult>,
        deliveries: &mut [Delivery],
        deadline: Deadline,
    ) -> Result<Self, HttpProblem> {
        let pending = deps
            .pipeline
            .pending_outcomes(accepted, OutcomesOf::AllDeliveries);
        let are_queued = queue_outcomes(deps, accepted, &pending, deadline).await;
        let mut remainder = Self::default();
        for (place, (delivery, result)) in deliveries.iter_mut().zip(results).enumerate() {
            match result {
                DeliveryResult::Recorded(known) => *delivery = *known,
                // The provider has the message, although the ledger does not know it: it must not be sent again.
                DeliveryResult::Unrecorded { delivery: sent, .. } => {
                    *delivery = *sent;
                    remainder.ended.push(place);
                    remainder.has_unrecorded = true;
                }
                DeliveryResult::Requeued(_, Requeue::KeyConflict) => return Err(key_conflict()),
                DeliveryResult::Requeued(id, Requeue::NotRecorded { .. })
                    if are_queued && pending.has_ended(&id) =>
                {
                    remainder.queued += 1;
                    remainder.ended.push(place);
                }
                // Another copy of the request has it. The queue sends it only if that copy never says how it ended.
                DeliveryResult::Requeued(_, Requeue::Busy { .. }) => {
                    delivery.status = DeliveryStatus::Sending;
                    remainder.queued += 1;
                    remainder.left.push(place);
                }
                DeliveryResult::Requeued(
                    _,
                    Requeue::OutOfTime
                    | Requeue::Unreachable
                    | Requeue::NotRecorded { .. }
                    | Requeue::Deferred { .. }
                    | Requeue::OverQuota { .. }
                    | Requeue::ShareTaken { .. }
                    | Requeue::WaitingForProvider { .. }
                    | Requeue::RateLimited { .. }
                    | Requeue::NoConnection { .. },
                ) => {
                    remainder.queued += 1;
                    remainder.left.push(place);
                }
            }
        }
        Ok(remainder)
    }

    /// Puts the recipients with a delivery that is left on the queue, without their deliveries that have ended.
    pub(crate) async fn queue(
        &self,
        deps: &Deps,
        submission: &Submission,
        accepted: &Accepted,
        trace: Option<&TraceHeader>,
        deadline: Deadline,
    ) -> Result<(), EnqueueError> {
        let channels = submission.request.channels.len().max(1);
        let mut recipients: Vec<_> = self.left.iter().map(|place| place / channels).collect();
        recipients.dedup();
        if recipients.is_empty() {
            return Ok(());
        }
        let ended = self.ended.iter().filter_map(|place| {
            let of_rest = recipients.iter().position(|left| *left == place / channels);
            Some(of_rest? * channels + place % channels)
        });
        let ended: Vec<_> = ended.collect();
        let all = &submission.request.recipients;
        let rest = recipients.iter().filter_map(|place| all.get(*place));
        let rest = submission.for_recipients(rest.cloned().collect());
        let messages = QueueMessages::new(&rest)?.without(&ended);
        let sent = deps.queue.send(messages, accepted, trace);
        if self.has_unrecorded {
            // The caller hears that it was sent, whatever the queue does.
            let answered_by = deadline.less(RESPONSE_MARGIN);
            let sent = answered_by.bound(Duration::MAX, sent).await;
            return sent.unwrap_or_else(|_| Err(not_answered()));
        }
        sent.await
    }

    /// Completes the answer when the remainder could not be queued. An error would make the caller repeat messages that were
    /// sent, so the remaining deliveries become `unknown`. Returns false if every sent message has a record: then an error
    /// is safe.
    pub(crate) fn end_without_queue(&mut self, deliveries: &mut [Delivery]) -> bool {
        if !self.has_unrecorded {
            return false;
        }
        for place in &self.left {
            if let Some(delivery) = deliveries.get_mut(*place) {
                delivery.status = DeliveryStatus::Unknown;
                delivery.reason = Some(FailureReason::OutcomeUnknown);
                delivery.is_recorded = false;
            }
        }
        self.queued = self.queued.saturating_sub(self.left.len());
        true
    }
}

fn not_answered() -> EnqueueError {
    EnqueueError::Incomplete {
        queued: 0,
        left: Vec::new(),
        code: "Timeout".to_owned(),
    }
}

/// Whether all outcomes are on the queue. Those that are not are kept by this process.
async fn queue_outcomes(
    deps: &Deps,
    accepted: &Accepted,
    pending: &PendingOutcomes,
    deadline: Deadline,
) -> bool {
    let sent = deps.queue.send_outcomes(pending.messages(), accepted);
    match deadline.bound(OUTCOMES_TIMEOUT, sent).await {
        Ok(Ok(())) => {
            deps.pipeline.note_on_queue(pending);
            true
        }
        Ok(Err(error)) => {
            error!(request_id = %accepted.id(), %error, "outcomes could not be queued");
            false
        }
        Err(_) => {
            error!(request_id = %accepted.id(), "outcomes could not be queued in time");
            false
        }
    }
}
