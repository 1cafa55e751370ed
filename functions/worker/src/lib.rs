//! The `worker` function: delivers what is on the queue, a batch at a time, and names the messages
//! that are to come again.

use std::{sync::Arc, time::Duration};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use comms_adapters::{Deadline, egress::EgressAllow, tls::TlsConfigs};
use comms_core::{IdempotencyKey, request::Submission};
use comms_delivery::{DeliveryResult, Patience, Pipeline, PipelineConfig, pipeline::ACCEPTED_AS};
use comms_runtime::{
    Environment, aws,
    http::remaining,
    sqs::{MessageResult, handle_batch, receive_count},
    telemetry::{self, LogLevel},
};
use lambda_runtime::{LambdaEvent, service_fn};
use tracing::{Instrument, error, info, info_span};

/// What is kept of the invocation's time for the answer: without one, SQS brings the whole batch again.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Messages of one batch that are worked on at once; a batch has at most ten.
const CONCURRENT_MESSAGES: usize = 10;

/// How often SQS hands a message out before it is a dead letter: the queue's `maxReceiveCount`.
pub const MAX_RECEIVES: u32 = 5;

/// What the handler works with.
#[derive(Debug)]
pub struct Deps {
    /// From request to outcome.
    pub pipeline: Pipeline,
}

impl Deps {
    /// Reads the environment and puts the parts together. Connects to nothing.
    pub fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_runtime::Error> {
        let sdk = aws::sdk_config(environment)?;
        let config = PipelineConfig {
            settings_table: environment.required("SETTINGS_TABLE"),
            deliveries_table: environment.required("DELIVERIES_TABLE"),
            kms_key_id: environment.required("KMS_KEY_ID"),
            egress_allow: environment.parsed::<EgressAllow>("EGRESS_ALLOW"),
            tls: TlsConfigs::new(environment.file("EXTRA_CA_FILE").as_deref())?,
        };
        environment.finish()?;
        Ok(Self {
            pipeline: Pipeline::assemble(&sdk, config),
        })
    }
}

/// Runs the function under the Lambda runtime until the environment ends.
pub async fn run() -> Result<(), lambda_runtime::Error> {
    let environment = Environment::of_process();
    telemetry::init(environment.parsed::<LogLevel>("LOG_LEVEL"));
    let deps = Arc::new(Deps::from_environment(&environment)?);
    lambda_runtime::run(service_fn(move |event| {
        let deps = deps.clone();
        async move { Ok::<_, lambda_runtime::Error>(handle(&deps, event).await) }
    }))
    .await
}

/// Handles one batch.
pub async fn handle(deps: &Deps, event: LambdaEvent<SqsEvent>) -> SqsBatchResponse {
    let deadline = Deadline::after(remaining(&event.context)).less(ANSWER_TIME);
    let event_id = event.context.request_id;
    let received = event.payload.records.len();
    let response = handle_batch(event.payload, CONCURRENT_MESSAGES, |message| {
        let span = info_span!(
            "message",
            invocation_id = event_id.as_str(),
            sqs_message_id = message.message_id.as_deref().unwrap_or_default(),
            receive_count = receive_count(&message),
        );
        async move { handle_message(deps, &message, deadline).await }.instrument(span)
    })
    .await;
    deps.pipeline.tell_connections();
    info!(
        invocation_id = event_id,
        received,
        failed = response.batch_item_failures.len(),
        "batch handled"
    );
    response
}

async fn handle_message(deps: &Deps, message: &SqsMessage, deadline: Deadline) -> MessageResult {
    let body = message.body.as_deref().unwrap_or_default();
    let submission = match Submission::parse(body.as_bytes()) {
        Ok(submission) => submission,
        Err(problems) => {
            // It stays on the queue until SQS moves it to the dead-letter queue.
            error!(
                problems = problems.as_slice().len(),
                fields = problems.known_pointers().join(" "),
                "a message is not a communication"
            );
            return MessageResult::Again;
        }
    };
    // A producer's own key, or SQS's id of the message: both survive a redelivery.
    let key = submission.idempotency_key.clone().map_or_else(
        || IdempotencyKey::parse(message.message_id.as_deref().unwrap_or_default()),
        Ok,
    );
    let Ok(key) = key else {
        error!("a message has neither a key of its own nor an id");
        return MessageResult::Again;
    };
    let accepted_as = message
        .message_attributes
        .get(ACCEPTED_AS)
        .and_then(|attribute| attribute.string_value.as_deref());
    let accepted = deps
        .pipeline
        .accept_queued(&submission.request, &key, accepted_as)
        .await;
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            error!(%error, "a message can not be worked on at the moment");
            return MessageResult::Again;
        }
    };
    // The last time that SQS hands a message out is the last chance to say how it ended.
    let patience = if receive_count(message) < MAX_RECEIVES {
        Patience::HandBack
    } else {
        Patience::GiveUp
    };
    let results = deps
        .pipeline
        .deliver(&submission.request, &accepted, deadline, patience)
        .await;
    let again = results
        .iter()
        .any(|result| matches!(result, DeliveryResult::HandBack(..)));
    if again {
        MessageResult::Again
    } else {
        MessageResult::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With more patience than the queue has, a delivery would end as a dead letter and stay queued
    /// in the ledger.
    #[test]
    fn the_queue_hands_a_message_out_as_often_as_the_worker_expects() {
        let template = include_str!("../../../template.yaml");
        assert!(template.contains(&format!("maxReceiveCount: {MAX_RECEIVES}\n")));
    }
}
