//! Invocations of the functions' handlers in this process.

use std::time::Duration;

use comms_runtime::sqs::SqsEvent;
use lambda_http::RequestExt;
use lambda_runtime::LambdaEvent;
use serde_json::{Value, json};

use crate::{
    api_response::ApiResponse,
    events::{context, http_event, service},
};

/// POSTs a communication to a process of the send function, in an invocation that may last `time`.
pub async fn post_to(
    send: &comms_send::Deps,
    communication: &Value,
    headers: &[(&str, &str)],
    time: Duration,
) -> ApiResponse {
    let (path, body) = ("/api/v1/communications", communication.to_string());
    let event = http_event("POST", path, Some(&body), &service(), headers);
    let request = lambda_http::request::from_str(&event).unwrap();
    let request = request.with_lambda_context(context(time));
    ApiResponse::of(Box::pin(comms_send::handle(send, request)).await)
}

/// Gives records to a worker in an invocation that may last `time`.
pub async fn handle_records(
    worker: &comms_worker::Deps,
    records: &[Value],
    time: Duration,
) -> Vec<String> {
    let event: SqsEvent = serde_json::from_value(json!({"Records": records})).unwrap();
    let response = Box::pin(comms_worker::handle(
        worker,
        LambdaEvent::new(event, context(time)),
    ))
    .await;
    response
        .batch_item_failures
        .into_iter()
        .map(|failure| failure.item_identifier)
        .collect()
}
