//! An immediate communication: sent while the caller waits.

use std::time::{Duration, Instant};

use comms_adapters::Deadline;
use comms_core::{Delivery, request::Submission};
use comms_delivery::{Accepted, OnExhausted, in_flight::InFlightPermit};
use comms_runtime::{HttpProblem, telemetry::TraceHeader};

use crate::{CommunicationOutcome, Deps, problems, remainder::Remainder};

/// The part of an immediate request's time that is kept for queueing the deliveries that did not end.
const QUEUE_MARGIN: Duration = Duration::from_secs(3);

/// Sends while the caller waits. Deliveries that do not end go on the queue, so that they are neither lost nor sent twice
/// by a caller who repeats the request.
pub(crate) async fn send_now(
    deps: &Deps,
    submission: &Submission,
    unknown_key: Option<&str>,
    accepted: &Accepted,
    deadline: Deadline,
    permit: Option<InFlightPermit>,
    trace: Option<&TraceHeader>,
) -> Result<(CommunicationOutcome, Vec<Delivery>), HttpProblem> {
    let pipeline = &deps.pipeline;
    let started = Instant::now();
    let results = pipeline
        .deliver(
            &submission.request,
            accepted,
            deadline.less(QUEUE_MARGIN),
            OnExhausted::Fail,
        )
        .await;
    if let Some(permit) = permit {
        permit.end_with(accepted, &results, started.elapsed());
    }
    let mut deliveries = accepted.queued();
    let remainder = Remainder::of(deps, accepted, results, &mut deliveries, deadline);
    let mut remainder = remainder.await?;
    // Before the remainder is queued, which may take the rest of the time.
    pipeline.settle(deadline).await;
    let queued = remainder.queue(deps, submission, accepted, trace, deadline);
    let queued = queued.await;
    if let Err(error) = queued {
        let problem = problems::not_queued(error, accepted, unknown_key);
        if !remainder.end_without_queue(&mut deliveries) {
            return Err(problem);
        }
    }
    let outcome = CommunicationOutcome::of(&deliveries, remainder.queued);
    Ok((outcome, deliveries))
}
