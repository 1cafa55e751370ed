//! The `worker` function: delivers what is on the queues, a batch at a time, and names the messages
//! that SQS redelivers.
//!
//! | a message | goes |
//! | --- | --- |
//! | whose deliveries have all ended | away |
//! | that carries outcomes | away, once they are recorded |
//! | that has to wait: a provider, a lease, a store | back to its queue, for as long as it has to wait |
//! | that can never be worked on | to the dead-letter queue, with the reason |

mod acceptance;
mod attributes;
mod crashes;
mod dead_letter;
mod outcomes;
mod queues;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use acceptance::Refused;
use aws_lambda_events::sqs::SqsBatchResponse;
use comms_adapters::Deadline;
use comms_core::{ClinicId, DeadLetterReason, metric::METRICS};
use comms_delivery::{
    DeliveryResult, OUTCOMES_MAC, OnExhausted, Pipeline, PipelineConfig, Requeue, ShareLimits,
    WorkerShares, has_time_to_begin, next_receive,
};
use comms_runtime::{
    Environment, Function, aws,
    function::{SourceQueue, Trigger},
    http::remaining,
    lifetime::EndWithCredentials,
    sqs::{MessageResult, SqsEvent, SqsMessage, batch_response, handle_batch},
    telemetry::{self, TraceHeader},
};
use futures_util::future::join;
use jiff::Timestamp;
use lambda_runtime::{LambdaEvent, Runtime, layers::TracingLayer, service_fn};
use tracing::{Instrument, error, info, info_span, warn};

pub use dead_letter::DeadLetter;
pub use queues::{MessageError, Queues};

/// What is kept of the invocation's time for the answer: without one, SQS brings the whole batch again.
const RESPONSE_MARGIN: Duration = Duration::from_secs(2);

/// Messages of one batch that are worked on at once; a batch has at most ten.
const CONCURRENT_MESSAGES: usize = 10;

/// How often a message is handled that makes its handler panic.
const MAX_PANICS: u32 = 5;

/// What the handler works with.
#[derive(Debug)]
pub struct Deps {
    /// From request to outcome.
    pub pipeline: Pipeline,
    /// Where messages come from, and where those go that cannot be worked on.
    pub queues: Queues,
}

impl Deps {
    /// Reads the environment and puts the parts together. Connects to nothing.
    pub fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_runtime::Error> {
        let sdk = aws::sdk_config(environment)?;
        let config = PipelineConfig::from_variables(environment, share_limits(environment))?;
        let sources = ["QUEUE_URL", "URGENT_QUEUE_URL"].map(|name| environment.required(name));
        let dead_letters = environment.required("DEAD_LETTER_QUEUE_URL");
        environment.finish()?;
        Ok(Self {
            pipeline: Pipeline::assemble(&sdk, config),
            queues: Queues::new(&sdk, sources, dead_letters),
        })
    }
}

/// The platform's limits, of which the environment may name others.
fn share_limits(environment: &Environment<'_>) -> ShareLimits {
    let defaults = ShareLimits::default();
    let workers = environment.parsed_or("WORKER_CONCURRENCY", ShareLimits::WORKERS);
    let urgent_workers =
        environment.parsed_or("URGENT_WORKER_CONCURRENCY", ShareLimits::URGENT_WORKERS);
    let percent = environment.parsed_or("SLOW_WORKER_SHARE_PERCENT", ShareLimits::WORKER_PERCENT);
    ShareLimits {
        urgent_per_hour: environment.parsed_or("URGENT_PER_HOUR", defaults.urgent_per_hour),
        workers: WorkerShares::of(percent, workers, urgent_workers),
        ..defaults
    }
}

/// This function, for the list of all.
pub const FUNCTION: Function = Function {
    name: "worker",
    trigger: Trigger::Sqs(&[SourceQueue::Normal, SourceQueue::Urgent]),
    timeout_seconds: 30,
    run: || Box::pin(run()),
};

/// Runs the function under the Lambda runtime until the environment ends.
pub async fn run() -> Result<(), lambda_runtime::Error> {
    let environment = Environment::of_process();
    telemetry::init(&environment);
    let deps = Arc::new(Deps::from_environment(&environment)?);
    telemetry::ready();
    Runtime::new(service_fn(move |event| {
        let deps = deps.clone();
        async move { Ok::<_, lambda_runtime::Error>(handle(&deps, event).await) }
    }))
    .layer(TracingLayer::new())
    .layer(EndWithCredentials)
    .run_concurrent()
    .await
}

/// Handles one batch.
pub async fn handle(deps: &Deps, event: LambdaEvent<SqsEvent>) -> SqsBatchResponse {
    let trace = telemetry::trace_of(&event.context);
    let span = telemetry::invocation(&event.context, trace.as_ref());
    // On the heap: it is large, and nested deeply.
    Box::pin(handle_invocation(deps, event))
        .instrument(span)
        .await
}

async fn handle_invocation(deps: &Deps, event: LambdaEvent<SqsEvent>) -> SqsBatchResponse {
    let started = Instant::now();
    let time = remaining(&event.context);
    let (answer_by, deadline) = (
        Deadline::after(time),
        Deadline::after(time).less(RESPONSE_MARGIN).queued(),
    );
    let divided = crashes::divide(deps, &event.payload.records, deadline).await;
    let mut results = handle_together(deps, &divided.clear, deadline).await;
    let (mut begun, mut answered) = (divided.begun, 0);
    if let Some((alone, others)) = divided.suspects.split_first() {
        results.extend(others.iter().map(crashes::Suspect::returned));
        if has_time_to_begin(deadline) {
            // Whatever happens now happens to one message.
            begun = crashes::settle_now(deps, &results, &begun, answer_by).await;
            answered = results.len();
        }
        let result = match crashes::handle_alone(deps, alone, deadline).await {
            crashes::Alone::Ended(result) => {
                begun.push(alone.message);
                result
            }
            crashes::Alone::NotBegun(result) => result,
        };
        results.push((alone.message, result));
    }
    let response = batch_response(&results);
    // Without those answered for above: another worker may have received them by now.
    let waits = waits(results.get(answered..).unwrap_or_default());
    // At the same time: what others wait for is free as soon as possible.
    let told = answer_by.bound(RESPONSE_MARGIN / 2, deps.queues.change_visibility(&waits));
    let settled = join(
        deps.pipeline.settle(answer_by),
        crashes::end(deps, &begun, answer_by, RESPONSE_MARGIN / 2),
    );
    let (told, _) = join(told, settled).await;
    match told {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "messages wait for the queue's own time"),
        Err(_) => warn!("messages wait for the queue's own time: SQS did not answer"),
    }
    info!(
        received = event.payload.records.len(),
        failed = response.batch_item_failures.len(),
        duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "batch handled"
    );
    response
}

/// The messages that have to wait, and for how long.
fn waits<'m>(results: &[(&'m SqsMessage, MessageResult)]) -> Vec<(&'m SqsMessage, Duration)> {
    results
        .iter()
        .filter_map(|(message, result)| match result {
            MessageResult::Again(wait) => Some((*message, *wait)),
            MessageResult::Done | MessageResult::Panicked => None,
        })
        .collect()
}

async fn handle_together<'m>(
    deps: &Deps,
    messages: &[&'m SqsMessage],
    deadline: Deadline,
) -> Vec<(&'m SqsMessage, MessageResult)> {
    let mut results = handle_batch(messages, CONCURRENT_MESSAGES, |message| {
        let trace = message.trace();
        let span = info_span!(
            "message",
            sqs_message_id = message.message_id.as_str(),
            receive_count = message.receive_count(),
            // Whoever put it there, rather than the invocation, which has messages of many.
            trace_id = trace.as_ref().map(TraceHeader::id),
        );
        let batch = messages.len();
        handle_message(deps, message, batch, deadline).instrument(span)
    })
    .await;
    for (message, result) in &mut results {
        if *result == MessageResult::Panicked {
            *result = after_panic(deps, message).await;
        }
    }
    results
}

async fn handle_message(
    deps: &Deps,
    message: &SqsMessage,
    batch: usize,
    deadline: Deadline,
) -> MessageResult {
    if let Some(mac) = message.attribute(OUTCOMES_MAC) {
        return outcomes::record(deps, message, mac, deadline).await;
    }
    let (submission, accepted) = match Box::pin(acceptance::accept(deps, message)).await {
        Ok(accepted) => accepted,
        Err(Refused::Later(error)) => {
            error!(%error, "a message cannot be worked on at the moment");
            return MessageResult::Again(Requeue::Unreachable.wait(message.receive_count()));
        }
        Err(Refused::DeadLetter {
            reason,
            fields,
            clinic,
        }) => return dead_letter(deps, message, reason, fields, clinic.as_ref()).await,
    };
    let accepted = accepted
        .from_queue(deps.queues.kind_of(message))
        .in_batch_of(batch)
        .with_receive_count(
            message.receive_count(),
            message
                .sent_at()
                .and_then(|at| Timestamp::from_millisecond(at).ok()),
        );
    let clinic = submission.request.requested.clinic();
    let results = deps
        .pipeline
        .deliver(
            &submission.request,
            &accepted,
            deadline,
            OnExhausted::Requeue,
        )
        .await;
    let ended = outcomes::queue(deps, &accepted, deadline).await;
    let mut waits = Vec::new();
    for result in results {
        match result {
            DeliveryResult::Recorded(_) => {}
            DeliveryResult::Unrecorded { delivery, .. } if ended.has_ended(&delivery.id) => {}
            DeliveryResult::Requeued(id, Requeue::NotRecorded { .. }) if ended.has_ended(&id) => {}
            DeliveryResult::Unrecorded { after, .. } => {
                waits.push(Requeue::NotRecorded { after });
            }
            DeliveryResult::Requeued(_, Requeue::KeyConflict) => {
                let reason = DeadLetterReason::KeyConflict;
                return dead_letter(deps, message, reason, String::new(), clinic).await;
            }
            DeliveryResult::Requeued(_, why) => waits.push(why),
        }
    }
    next_receive(waits, message.receive_count()).map_or(MessageResult::Done, MessageResult::Again)
}

/// What panics every time would keep its neighbours waiting every time.
async fn after_panic(deps: &Deps, message: &SqsMessage) -> MessageResult {
    if message.receive_count() < MAX_PANICS {
        return MessageResult::Again(Requeue::Unreachable.wait(message.receive_count()));
    }
    let reason = DeadLetterReason::Panicked;
    dead_letter(deps, message, reason, String::new(), None).await
}

/// Sends a message that can never be worked on to the dead-letter queue, where somebody is told of it.
async fn dead_letter(
    deps: &Deps,
    message: &SqsMessage,
    reason: DeadLetterReason,
    fields: String,
    clinic: Option<&ClinicId>,
) -> MessageResult {
    error!(
        reason = reason.as_str(),
        fields,
        clinic_id = clinic.map(ClinicId::as_str),
        "a message is a dead letter"
    );
    let letter = DeadLetter {
        reason,
        fields,
        clinic,
        at: Timestamp::now(),
    };
    match deps.queues.dead_letter(message, &letter).await {
        Ok(()) => {
            info!(target: METRICS, dead_lettered = 1_u64, reason = reason.as_str());
            MessageResult::Done
        }
        Err(error) => {
            error!(%error, "a message could not be moved to the dead-letter queue");
            MessageResult::Again(Requeue::Unreachable.wait(message.receive_count()))
        }
    }
}
