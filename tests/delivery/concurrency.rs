//! Several invocations at once in one process, as a Lambda managed instance has them.

use std::pin::pin;

use comms_testkit::smtp::{Action, Stage};
use comms_tests::{World, communication, http_event, immediate, process::Process, record, service};
use serde_json::{Value, json};

/// How many invocations a process may have at once, as Lambda says it.
const TWO: [(&str, &str); 1] = [("AWS_LAMBDA_MAX_CONCURRENCY", "2")];

/// Gives a process an invocation in which the mail server falls silent, and meanwhile another, whose answer it gives back.
async fn beside_one_that_hangs(
    world: &World,
    process: &Process,
    hangs: &str,
    other: &str,
) -> Value {
    world.smtp.on(Stage::Body, Action::Hang);
    let mut hanging = pin!(process.invoke(hangs));
    tokio::select! {
        answer = &mut hanging => panic!("{answer}\n{}", process.said()),
        () = world.smtp.wait_for_stage(Stage::Body, 1) => {}
    }
    tokio::select! {
        answer = &mut hanging => panic!("{answer}\n{}", process.said()),
        answer = process.invoke(other) => answer,
    }
}

#[tokio::test]
async fn a_batch_that_waits_for_a_mail_server_keeps_no_other_waiting() {
    let world = World::saved().await;
    let process = Process::start_with(&world, "worker", &TWO).await;
    let batch = |id: &str| {
        let record = record(id, &communication().to_string());
        json!({"Records": [record]}).to_string()
    };
    let answer = beside_one_that_hangs(&world, &process, &batch("first"), &batch("second")).await;
    assert_eq!(answer, json!({"batchItemFailures": []}));
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn a_request_that_waits_for_a_mail_server_keeps_no_other_waiting() {
    let world = World::saved().await;
    let process = Process::start_with(&world, "send", &TWO).await;
    let post = || {
        let path = "/api/v1/communications";
        let body = immediate().to_string();
        http_event("POST", path, Some(&body), &service(), &[])
    };
    let answer = beside_one_that_hangs(&world, &process, &post(), &post()).await;
    assert_eq!(answer["statusCode"], 200, "{}", process.said());
    assert_eq!(world.smtp.messages().len(), 1);
}
