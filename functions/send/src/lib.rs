//! The `send` function: accepts a communication and queues it, or sends it while the caller waits.
//!
//! [`ROUTES`] has its routes; `infra/openapi.yaml` says what each answers.

mod immediate;
mod key;
mod outcome;
mod queue;
mod remainder;
mod submission;
mod tenant;

pub use outcome::CommunicationOutcome;

use std::time::{Duration, Instant};

use comms_adapters::{Deadline, egress::EgressAllow, tls::TlsConfigs};
use comms_core::{
    Delivery, IdempotencyKey, Problems,
    request::{Strategy, Submission},
};
use comms_delivery::{
    Accepted, ClinicMissing, Immediate, OnExhausted, Payer, Pipeline, PipelineConfig,
    PipelineError, QuotaError, in_flight::InFlightPermit, quota::Exhausted,
};
use comms_runtime::{
    AuditSubjects, Environment, Exchange, Function, HttpProblem, Trail,
    auth::{ClaimNames, Principal},
    aws,
    function::Trigger,
    http::{
        json_response,
        routes::{Endpoint, dispatch, routes},
        serve, time_left, trace,
    },
    telemetry::TraceHeader,
};
use lambda_http::{
    Body, Request, Response,
    http::{HeaderValue, StatusCode, header},
};
use serde_json::json;
use tracing::{error, info, warn};

pub use queue::{Queue, QueueError, QueueMessages};
use remainder::Remainder;

/// What is kept of the time of an immediate send for putting on the queue what it could not end.
const QUEUE_MARGIN: Duration = Duration::from_secs(3);

/// What the handler works with.
#[derive(Debug)]
pub struct Deps {
    /// From request to outcome.
    pub pipeline: Pipeline,
    /// Where queued communications go.
    pub queue: Queue,
    /// The names of the token's claims.
    pub claims: ClaimNames,
    /// How logs name callers.
    pub audit_subjects: AuditSubjects,
}

impl Deps {
    /// Reads the environment and puts the parts together. Connects to nothing.
    pub fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(environment)?;
        let config = PipelineConfig {
            settings_table: environment.required("SETTINGS_TABLE"),
            deliveries_table: environment.required("DELIVERIES_TABLE"),
            kms_key_id: environment.required("KMS_KEY_ID"),
            address_mask: environment.parsed("ADDRESS_MASK"),
            require_clinic: environment.parsed("REQUIRE_CLINIC"),
            accept_unsealed_settings: environment.parsed("ACCEPT_UNSEALED_SETTINGS"),
            egress_allow: environment.parsed::<EgressAllow>("EGRESS_ALLOW"),
            concurrency: environment.parsed("AWS_LAMBDA_MAX_CONCURRENCY"),
            shares: immediate::share_limits(environment),
            tls: TlsConfigs::new(environment.file("EXTRA_CA_FILE").as_deref())?,
        };
        let queue_url = environment.required("QUEUE_URL");
        let urgent_queue_url = environment.required("URGENT_QUEUE_URL");
        let claims = ClaimNames::from_environment(environment);
        let audit_subjects = environment.parsed("AUDIT_SUBJECTS");
        environment.finish()?;
        Ok(Self {
            pipeline: Pipeline::assemble(&sdk, config),
            queue: Queue::new(&sdk, queue_url, urgent_queue_url),
            claims,
            audit_subjects,
        })
    }
}

/// The routes that this function answers.
pub const ROUTES: &[Endpoint<Deps>] = &[Endpoint::post("/api/v1/communications", |deps, call| {
    Box::pin(post(deps, call.request))
})];

/// This function, for the list of all.
pub const FUNCTION: Function = Function {
    name: "send",
    trigger: Trigger::Http(|| routes(ROUTES)),
    timeout_seconds: 29,
    run: || Box::pin(run()),
};

/// Runs the function under the Lambda runtime until the environment ends.
pub async fn run() -> Result<(), lambda_http::Error> {
    serve(Deps::from_environment, |deps, request| {
        Box::pin(handle(deps, request))
    })
    .await
}

/// Answers one request.
pub async fn handle(deps: &Deps, mut request: Request) -> Response<Body> {
    let exchange = Exchange::begin(&mut request, deps.audit_subjects);
    let work = Box::pin(dispatch(ROUTES, deps, &request));
    exchange.answer(work, deps.pipeline.key_for_logs()).await
}

async fn post(deps: &Deps, request: &Request) -> Result<Response<Body>, HttpProblem> {
    let deadline = Deadline::after(time_left(request));
    let answer = accept(deps, request, deadline).await;
    // What was refused has given back its permit and quota by now: others can use them at once.
    deps.pipeline.settle(deadline).await;
    answer
}

async fn accept(
    deps: &Deps,
    request: &Request,
    deadline: Deadline,
) -> Result<Response<Body>, HttpProblem> {
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
    // A key of the caller's own is not repeated: it may say more than a key should.
    let unknown_key = (!is_own_key).then_some(key.as_str());
    // Before anything is recorded under the key: what is too large for the queue can still be sent
    // at once, under the same key.
    let mut messages = match submission.request.strategy {
        Strategy::Queued => {
            Some(QueueMessages::new(&submission).map_err(|error| too_large(&error))?)
        }
        // Only what cannot be ended at once is queued.
        Strategy::Immediate => {
            rest_fits_queue(&submission, request.body()).map_err(|error| too_large(&error))?;
            None
        }
    };
    // Before anything is recorded as well: what is refused has left nothing behind.
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
    // Last, since only what is accepted is to take any.
    let urgent = deps
        .pipeline
        .take_urgent(&submission.request, own_key, deadline);
    let mut urgent = urgent.await.map_err(immediate::urgent_problem)?;
    let mut accepted = deps
        .pipeline
        .accept(&submission.request, &key, &principal.subject)
        .await
        .map_err(pipeline_problem)?;
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
        queued.map_err(|error| not_queued(error, &accepted, unknown_key))?;
        info!(
            clinic_id = %submission.request.tenant(),
            request_id = %accepted.id(),
            deliveries = accepted.queued().len(),
            "queued"
        );
        (CommunicationOutcome::Queued, accepted.queued())
    } else {
        let sent = send_now(
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

/// Sends while the caller waits. What could not be brought to an end goes on the queue, so that it is
/// neither lost nor sent again by a caller who knows no better than to repeat everything.
async fn send_now(
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
    // Before the rest, which may take what is left of the time.
    pipeline.settle(deadline).await;
    let queued = remainder.queue(deps, submission, accepted, trace, deadline);
    let queued = queued.await;
    if let Err(error) = queued {
        let problem = not_queued(error, accepted, unknown_key);
        if !remainder.end_without_queue(&mut deliveries) {
            return Err(problem);
        }
    }
    let outcome = CommunicationOutcome::of(&deliveries, remainder.queued);
    Ok((outcome, deliveries))
}

/// Whether what an immediate send cannot end would fit on the queue. One delivery alone leaves no rest: it is sent or
/// the answer says that it was not.
fn rest_fits_queue(submission: &Submission, body: &Body) -> Result<(), QueueError> {
    /// Bytes that the queue's JSON may have more than the caller's: defaults that are written out, and the key.
    const DEFAULTS: usize = 4_096;
    let request = &submission.request;
    let is_one = request.recipients.len() * request.channels.len() <= 1;
    if is_one || body.len() + DEFAULTS <= queue::MAX_PART_BYTES {
        return Ok(());
    }
    QueueMessages::new(submission).map(drop)
}

/// Refuses a communication that has expired. One that was accepted before it did is answered as before.
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

/// 503, which says for whom it is not on the queue. The same request again, under the same key, puts there
/// what is left; what is put there twice is sent once.
fn not_queued(error: QueueError, accepted: &Accepted, unknown_key: Option<&str>) -> HttpProblem {
    error!(request_id = %accepted.id(), %error, "a communication could not be queued");
    let mut problems = Problems::default();
    match error {
        QueueError::TooLarge | QueueError::Unreadable => {}
        QueueError::Sqs { left, .. } => {
            for recipients in left {
                problems.add(
                    format!("/recipients/{}", recipients.start),
                    format!(
                        "{} recipients from here on are not queued",
                        recipients.len()
                    ),
                );
            }
        }
    }
    let problem = HttpProblem::unavailable()
        .with_detail(
            "Not everything is queued. Send the same request again with the same idempotency key, which is \
             idempotencyKey where it had none: what is queued or sent is not sent again.",
        )
        .with_errors(&problems)
        .with_member("requestId", accepted.id().as_str());
    match unknown_key {
        Some(key) => problem.with_member("idempotencyKey", key),
        None => problem,
    }
}

fn too_large(error: &QueueError) -> HttpProblem {
    match error {
        QueueError::TooLarge => HttpProblem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The communication is too large for the queue",
            format!(
                "A communication may have {} bytes as JSON on the queue, where an immediate one goes too if it cannot be sent at \
                 once. Send fewer attachments, or use the immediate strategy for one recipient and one channel.",
                queue::MAX_PART_BYTES
            ),
        ),
        QueueError::Unreadable | QueueError::Sqs { .. } => HttpProblem::unavailable(),
    }
}

fn key_conflict() -> HttpProblem {
    HttpProblem::new(
        StatusCode::CONFLICT,
        "idempotency_key_conflict",
        "The idempotency key was used for another communication",
        "Use a new key for a new communication, or send the first one unchanged.",
    )
}

fn quota_problem(error: QuotaError) -> HttpProblem {
    match error {
        QuotaError::Store(error) => pipeline_problem(error.into()),
        QuotaError::Ledger(error) => pipeline_problem(error.into()),
        QuotaError::Exhausted {
            payer,
            channel,
            exhausted: Exhausted { period, limit, .. },
            after,
        } => HttpProblem::rate_limited(
            format!(
                "Nothing was sent: {} limit of {limit} {channel} recipients in a {period} (rateLimit.{}) leaves \
                 no room for this request. Wait as long as Retry-After says, or use the queued strategy.",
                whose(payer),
                period.field()
            ),
            after,
        ),
        QuotaError::TooMany {
            payer,
            channel,
            count,
            period,
            limit,
        } => HttpProblem::invalid(&Problems::one(
            "/recipients",
            format!(
                "must make at most {limit} {channel} recipients together, copies included, not {count}: {} limit for a \
                 {period} (rateLimit.{}); send fewer at once, or use the queued strategy",
                whose(payer),
                period.field()
            ),
        )),
    }
}

const fn whose(payer: Payer) -> &'static str {
    match payer {
        Payer::Clinic => "the clinic's",
        Payer::Platform => "the platform account's",
    }
}

fn pipeline_problem(error: PipelineError) -> HttpProblem {
    match error {
        PipelineError::KeyConflict => key_conflict(),
        PipelineError::ClinicRequired => tenant::problem(&ClinicMissing::NoClinicId),
        PipelineError::Store(error) if error.is_worth_a_retry() => {
            warn!(%error, "the settings store cannot be reached");
            HttpProblem::unavailable()
        }
        PipelineError::Store(error) => {
            error!(%error, "the stored settings cannot be used");
            HttpProblem::unreadable_settings(StatusCode::INTERNAL_SERVER_ERROR)
        }
        PipelineError::Ledger(error) => {
            error!(%error, "the ledger cannot be used");
            HttpProblem::unavailable()
        }
    }
}
