//! Accepts a communication: checks it, takes quota and permits, records it, then queues or sends it.

use comms_adapters::Deadline;
use comms_core::{
    IdempotencyKey, Problems,
    request::{Strategy, Submission},
};
use comms_delivery::Immediate;
use comms_runtime::{
    HttpProblem, Trail,
    auth::Principal,
    http::{json_response, routes::HandlerResult, time_left, trace},
};
use lambda_http::{
    Body, Request,
    http::{HeaderValue, header},
};
use serde_json::json;
use tracing::info;

use crate::{
    CommunicationOutcome, Deps, EnqueueError, QueueMessages, immediate, key, now, problems, queue,
    submission, tenant,
};

/// Answers `POST /api/v1/communications`.
pub(crate) async fn post(deps: &Deps, request: &Request) -> HandlerResult {
    let deadline = Deadline::after(time_left(request));
    let answer = accept(deps, request, deadline).await;
    // A refused request has returned its permit and quota by now; settling lets others use them at once.
    deps.pipeline.settle(deadline).await;
    answer
}

async fn accept(deps: &Deps, request: &Request, deadline: Deadline) -> HandlerResult {
    let asked = deps.pipeline.settings_moment();
    let principal = Principal::of(request, &deps.claims)?;
    let mut submission = submission::read(deps, &principal, request, asked).await?;
    tenant::authorize(&principal, &submission.request)?;
    immediate::check_priority(deps, &principal, &submission.request).await?;
    check_expiry(deps, &submission).await?;
    let is_own_key = submission.idempotency_key.is_some();
    let key = submission
        .idempotency_key
        .get_or_insert_with(IdempotencyKey::random)
        .clone();
    // The answer does not repeat a key of the caller's own, which may contain personal data.
    let unknown_key = (!is_own_key).then_some(key.as_str());
    // Before anything is recorded under the key: a communication that is too large for the queue can still be sent
    // at once, under the same key.
    let mut messages = match submission.request.strategy {
        Strategy::Queued => {
            Some(QueueMessages::new(&submission).map_err(|error| problems::too_large(&error))?)
        }
        // Only the deliveries that do not end at once are queued.
        Strategy::Immediate => {
            rest_fits_queue(&submission, request.body())
                .map_err(|error| problems::too_large(&error))?;
            None
        }
    };
    // Before anything is recorded as well: a refused request leaves no record.
    let (quota, permit) = match submission.request.strategy {
        Strategy::Queued => (None, None),
        Strategy::Immediate => {
            let pipeline = &deps.pipeline;
            let admitted = pipeline.admit_immediate(&submission.request, &key, deadline);
            match Box::pin(admitted).await.map_err(immediate::problem)? {
                Immediate::Now { quota, permit } => (Some(quota), permit),
                Immediate::Queue => {
                    messages = Some(immediate::queued_instead(&submission)?);
                    (None, None)
                }
            }
        }
    };
    let own_key = is_own_key.then_some(&key);
    let expected_via = tenant::check(deps, &submission.request, own_key, asked, deadline).await?;
    // Last, since only an accepted request takes urgent quota.
    let urgent = deps
        .pipeline
        .take_urgent(&submission.request, own_key, deadline);
    let mut urgent = urgent.await.map_err(immediate::urgent_problem)?;
    let mut accepted = deps
        .pipeline
        .accept(&submission.request, &key, &principal.subject)
        .await
        .map_err(problems::pipeline_problem)?;
    Trail::of(request).note_request_id(accepted.id());
    if !accepted.is_repeated() {
        urgent.spend();
    }
    drop(urgent);
    if let Some(quota) = quota {
        accepted = accepted.with_quota(quota);
    }
    let trace = trace(request);
    let trace = trace.as_ref();
    let (outcome, deliveries) = if let Some(messages) = messages {
        let queued = deps.queue.send(messages, &accepted, trace).await;
        queued.map_err(|error| problems::not_queued(error, &accepted, unknown_key))?;
        info!(
            clinic_id = %submission.request.tenant(),
            request_id = %accepted.id(),
            deliveries = accepted.queued().len(),
            "queued"
        );
        (CommunicationOutcome::Queued, accepted.queued())
    } else {
        let sent = now::send_now(
            deps,
            &submission,
            unknown_key,
            &accepted,
            deadline,
            permit,
            trace,
        );
        sent.await?
    };
    let mut deliveries = deliveries;
    tenant::note_via(&mut deliveries, &expected_via);
    let body =
        json!({"requestId": accepted.id(), "status": outcome.as_str(), "deliveries": deliveries});
    let mut response = json_response(outcome.http_status(), &body);
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/communications/{}", accepted.id()))
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if accepted.is_repeated() {
        let (name, value) = key::REPLAYED;
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// Checks that the deliveries which an immediate send cannot end would fit on the queue. A single delivery is never queued:
/// the answer says whether it was sent.
fn rest_fits_queue(submission: &Submission, body: &Body) -> Result<(), EnqueueError> {
    /// Bytes by which the queue's JSON may exceed the caller's: defaults that are written out, and the key.
    const DEFAULTS: usize = 4_096;
    let request = &submission.request;
    let is_one = request.recipients.len() * request.channels.len() <= 1;
    if is_one || body.len() + DEFAULTS <= queue::MAX_PART_BYTES {
        return Ok(());
    }
    QueueMessages::new(submission).map(drop)
}

/// Refuses a communication that has expired. A repeated request that was accepted before it expired is
/// answered as it was.
async fn check_expiry(deps: &Deps, submission: &Submission) -> Result<(), HttpProblem> {
    let (request, key) = (&submission.request, submission.idempotency_key.as_ref());
    if !deps.pipeline.has_expired(request) || tenant::is_known(deps, request, key).await? {
        return Ok(());
    }
    Err(HttpProblem::invalid(&Problems::one(
        "/expiresAt",
        "must be in the future",
    )))
}
