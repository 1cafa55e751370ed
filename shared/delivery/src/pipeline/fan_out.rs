//! All deliveries of a communication, several at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use comms_adapters::{Deadline, Message};
use comms_core::request::{CommunicationRequest, PlannedDelivery};
use futures_util::{StreamExt, stream};
use tracing::{Instrument, info_span};

use super::{
    Accepted, DeliveryResult, Limits, OnExhausted, Pipeline, Requeue, UrgentQuota,
    time_limits::{LEASE_MARGIN, MIN_START_DURATION},
};
use crate::slow_workers::WorkQueue;

/// Concurrent deliveries of one request.
const CONCURRENT_DELIVERIES: usize = 10;

impl Pipeline {
    /// Sends all deliveries of a communication that have not ended. Each is recorded or returns to the queue. A delivery
    /// starts only if the deadline leaves at least [`MIN_START_DURATION`]. `on_exhausted` decides what happens when no
    /// provider accepts it now.
    pub async fn deliver(
        &self,
        request: &CommunicationRequest,
        accepted: &Accepted,
        deadline: Deadline,
        on_exhausted: OnExhausted,
    ) -> Vec<DeliveryResult> {
        let was_given_back = AtomicBool::new(false);
        let is_queued = on_exhausted == OnExhausted::Requeue;
        self.deferred
            .serves_queue
            .store(is_queued, Ordering::Relaxed);
        let limits = Limits {
            expires_at: request.expires_at,
            priority: request.priority,
            deadline,
            on_exhausted,
            quota: &accepted.quota,
            queue: accepted.queue,
            is_alone: accepted.batch == 1 && accepted.planned.len() == 1,
            counts_as_urgent: accepted.queue == Some(WorkQueue::Urgent) && !accepted.was_counted,
            was_given_back: &was_given_back,
        };
        self.record_late(deadline).await;
        let all = accepted.planned.iter().enumerate();
        let all = all.filter(|(place, _)| !accepted.ended.has(*place));
        let all = all.collect();
        let mut results = self.deliver_these(request, accepted, all, limits).await;
        results.sort_unstable_by_key(|(place, _)| *place);
        // Deliveries that had ended before returned their quota, which others lacked: in a redelivered
        // message, the first deliveries have ended.
        while was_given_back.swap(false, Ordering::Relaxed) {
            let refused = results.iter().filter(|(_, result)| {
                matches!(
                    result,
                    DeliveryResult::Requeued(_, Requeue::OverQuota { .. })
                )
            });
            let refused = refused
                .filter_map(|(place, _)| Some((*place, accepted.planned.get(*place)?)))
                .collect();
            for (place, result) in self.deliver_these(request, accepted, refused, limits).await {
                let before = results.iter_mut().find(|(other, _)| *other == place);
                if let Some((_, before)) = before {
                    *before = result;
                }
            }
        }
        let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
        for result in &results {
            match result {
                DeliveryResult::Requeued(id, reason) => {
                    self.record_requeue(&accepted.record, id, *reason);
                }
                DeliveryResult::Unrecorded { delivery, after } => {
                    let reason = Requeue::NotRecorded { after: *after };
                    self.record_requeue(&accepted.record, &delivery.id, reason);
                }
                DeliveryResult::Recorded(_) => {}
            }
        }
        results
    }

    /// Sends some deliveries of a communication. Returns each with its index, in the order in which they end.
    async fn deliver_these(
        &self,
        request: &CommunicationRequest,
        accepted: &Accepted,
        these: Vec<(usize, &PlannedDelivery)>,
        limits: Limits<'_>,
    ) -> Vec<(usize, DeliveryResult)> {
        let deadline = limits.deadline;
        let content = Arc::new(request.content.clone());
        let mut work = Vec::with_capacity(these.len());
        for (place, planned) in these {
            let message = planned.target.clone().map(|target| Message {
                delivery: planned.id.clone(),
                target,
                content: content.clone(),
                reply_to: request.reply_to.clone(),
            });
            let span = info_span!(
                "delivery",
                clinic_id = %accepted.record.tenant,
                request_id = %accepted.record.id,
                delivery_id = %planned.id,
                channel = %planned.channel,
            );
            let result = async move {
                // This process knows its outcome already.
                let (record, id) = (&accepted.record, &planned.id);
                if let Some(kept) = self.result_of_kept(record, id, deadline).await {
                    return kept;
                }
                let start_by = deadline.less(MIN_START_DURATION);
                let ended = match self.slots.take(&accepted.record.tenant, start_by).await {
                    Some(_slot) => {
                        let mut urgent = UrgentQuota::default();
                        let one = self.deliver_one(record, planned, message, limits, &mut urgent);
                        // Each step has its own timeout; this one bounds their sum.
                        let ended = deadline.bound(Duration::MAX, one).await;
                        // A delivery that waits for quota itself would loop.
                        let waits = matches!(ended, Ok(Err(Requeue::OverQuota { .. })));
                        if urgent.is_held() && !waits {
                            limits.was_given_back.store(true, Ordering::Relaxed);
                        }
                        match ended {
                            Ok(ended) => ended,
                            Err(_) => return self.result_of_cut(record, id),
                        }
                    }
                    None => Err(Requeue::OutOfTime),
                };
                match ended {
                    Ok(delivery) if !delivery.is_recorded => DeliveryResult::Unrecorded {
                        delivery: Box::new(delivery),
                        after: deadline.remaining() + LEASE_MARGIN,
                    },
                    Ok(delivery) => DeliveryResult::Recorded(Box::new(delivery)),
                    Err(reason) => DeliveryResult::Requeued(planned.id.clone(), reason),
                }
            };
            let result = Box::pin(result.instrument(span));
            work.push(async move { (place, result.await) });
        }
        // Unordered: a slow delivery does not delay the next ones.
        stream::iter(work)
            .buffer_unordered(CONCURRENT_DELIVERIES)
            .collect()
            .await
    }
}
