//! What was accepted and could not be recorded travels on the queue: the outcome outlives its process, and neither the rest
//! of its request nor a repeat of it sends the message again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use comms_testkit::{
    aws::{Fault, Moment, PassingCall},
    clock::ManualClock,
};
use comms_tests::{
    ApiResponse, CLINIC, FROM, World, communication, email, immediate,
    logs::start_listening,
    outcomes::{SHORT_BATCH, fail_outcomes},
    post_to,
};
use serde_json::{Value, json};

use crate::recording::{sent, work_off};

/// A repeat of a request whose first copy is at work.
const REPEAT: Duration = Duration::from_secs(10);

async fn delivery(world: &World, id: &str, place: usize) -> Value {
    let status = world.status(id).await.expect(200);
    status.body["deliveries"][place].clone()
}

/// Posts under a key to a process of its own, which is gone afterwards.
async fn post_to_new_process(
    world: &World,
    message: &Value,
    clock: &Arc<ManualClock>,
) -> ApiResponse {
    let send = world.send_with(&world.sdk_of("send"), clock.clone());
    let key = [("idempotency-key", "key-of-the-request")];
    post_to(&send, message, &key, REPEAT).await
}

#[tokio::test]
async fn accepted_delivery_is_not_sent_again_with_the_rest_of_its_recipient() {
    let world = World::saved().await;
    fail_outcomes(&world.aws, usize::MAX, Fault::Throttle);
    let mut both = immediate();
    both["channels"] = json!(["email", "whatsapp"]);
    both["recipients"][0]["phoneNumber"] = json!("+4915112345678");
    let clock = Arc::new(ManualClock::new());
    let answer = post_to_new_process(&world, &both, &clock).await.expect(207);
    assert_eq!(answer.body["deliveries"][0]["recorded"], false);
    world.aws.watch(|_| Box::pin(async { None }));
    work_off(&world, &clock).await;
    assert_eq!(world.smtp.messages().len(), 1);
    let id = answer.request_id();
    let (mail, whatsapp) = (
        delivery(&world, &id, 0).await,
        delivery(&world, &id, 1).await,
    );
    assert_eq!(
        (&mail["status"], &whatsapp["status"]),
        (&json!("sent"), &json!("failed"))
    );
    assert_ne!(mail["possibleDuplicate"], true);
    assert!(mail["messageId"].is_string() && mail["attempts"][0]["outcome"] == "accepted");
    assert_eq!(sent(&world).await, 1);
}

#[tokio::test]
async fn worker_records_an_immediate_outcome_before_its_lease_ends() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    fail_outcomes(&world.aws, usize::MAX, Fault::Throttle);
    let answer = post_to_new_process(&world, &immediate(), &clock)
        .await
        .expect(200);
    assert_eq!(answer.body["deliveries"][0]["recorded"], false);
    // The table still refuses: the outcome stays on the queue.
    let worker = world.worker_with_clock(clock.clone());
    let first = world.run_worker_with(&worker, SHORT_BATCH).await;
    assert_eq!((first.records.len(), first.failed.len()), (1, 1));
    let body = first.records[0]["body"].as_str().unwrap();
    assert!(
        !body.contains("patient@example.com") && !body.contains("Monday"),
        "{body}"
    );
    world.aws.watch(|_| Box::pin(async { None }));
    let listening = start_listening();
    let second = world.run_worker_with(&worker, SHORT_BATCH).await;
    let late = &listening.metrics("Sent")[0];
    assert_eq!(
        (listening.sum("Sent"), &late["clinicId"]),
        (1, &json!(CLINIC))
    );
    assert!(late["deliveryId"].is_string() && late["requestId"].is_string());
    assert_eq!((second.records.len(), second.failed.len()), (1, 0));
    let recorded = delivery(&world, &answer.request_id(), 0).await;
    assert_eq!(recorded["status"], "sent");
    assert_eq!(
        (world.smtp.messages().len(), sent(&world).await),
        (1, json!(1))
    );
}

#[tokio::test]
async fn repeat_of_a_request_without_a_record_sends_no_second_message() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    fail_outcomes(&world.aws, usize::MAX, Fault::Throttle);
    let first = post_to_new_process(&world, &immediate(), &clock)
        .await
        .expect(200);
    assert_eq!(first.body["deliveries"][0]["recorded"], false);
    let repeat = post_to_new_process(&world, &immediate(), &clock)
        .await
        .expect(202);
    world.aws.watch(|_| Box::pin(async { None }));
    // Whatever is on the queue, as SQS delivers it: what has to wait is received when its time has come.
    work_off(&world, &clock).await;
    assert_eq!(world.smtp.messages().len(), 1);
    assert_eq!(repeat.body["deliveries"][0]["status"], "sending");
    let recorded = delivery(&world, &first.request_id(), 0).await;
    assert_eq!(recorded["status"], "sent");
    assert_ne!(recorded["possibleDuplicate"], true);
}

#[tokio::test]
async fn unrecorded_outcome_is_queued_and_its_message_deleted() {
    let world = World::saved().await;
    let id = world.post(&communication()).await.expect(202).request_id();
    let clock = Arc::new(ManualClock::new());
    fail_outcomes(&world.aws, usize::MAX, Fault::ServerError);
    let worker = world.worker_with_clock(clock.clone());
    let first = world.run_worker_with(&worker, SHORT_BATCH).await;
    assert_eq!((first.records.len(), first.failed.len()), (1, 0));
    world.aws.watch(|_| Box::pin(async { None }));
    work_off(&world, &clock).await;
    let recorded = delivery(&world, &id, 0).await;
    assert_eq!(recorded["status"], "sent");
    assert_ne!(recorded["possibleDuplicate"], true);
    assert_eq!(
        (world.smtp.messages().len(), sent(&world).await),
        (1, json!(1))
    );
}

/// Whether a call has arrived that claims a delivery.
fn is_claim(call: &PassingCall) -> bool {
    let update = call.request["UpdateExpression"].as_str();
    call.moment == Moment::Arrived
        && update.is_some_and(|update| update.starts_with("SET #status = :sending"))
}

#[tokio::test]
async fn message_with_lost_claim_answers_is_sent_unflagged() {
    let world = World::new().await;
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["onAmbiguous"] = json!("hold");
    world.put_settings(CLINIC, settings).await.expect(201);
    let id = world.post(&communication()).await.expect(202).request_id();
    let is_lost = Arc::new(AtomicBool::new(true));
    let loses = is_lost.clone();
    world.aws.watch(move |call| {
        let fails = is_claim(&call) && loses.load(Ordering::Relaxed);
        Box::pin(async move { fails.then_some(Fault::LoseAnswer) })
    });
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let first = world.run_worker_with(&worker, SHORT_BATCH).await;
    assert_eq!((first.failed.len(), world.smtp.messages().len()), (1, 0));
    is_lost.store(false, Ordering::Relaxed);
    work_off(&world, &clock).await;
    let recorded = delivery(&world, &id, 0).await;
    assert_eq!(
        (&recorded["status"], world.smtp.messages().len()),
        (&json!("sent"), 1)
    );
    assert_ne!(recorded["possibleDuplicate"], true);
}

#[tokio::test]
async fn forged_outcome_is_a_dead_letter_and_changes_nothing() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    fail_outcomes(&world.aws, usize::MAX, Fault::Throttle);
    let answer = post_to_new_process(&world, &immediate(), &clock).await;
    let (_, _, mut records) = world.take_batch().await;
    let mut body: Value = serde_json::from_str(records[0]["body"].as_str().unwrap()).unwrap();
    body["outcomes"][0]["status"] = json!("failed");
    records[0]["body"] = json!(body.to_string());
    world.aws.watch(|_| Box::pin(async { None }));
    assert!(world.work_on(&records).await.is_empty());
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["attributes"]["reason"], "not_a_communication");
    assert!(letters[0]["attributes"]["outcomesMac"].is_string());
    let untouched = delivery(&world, &answer.request_id(), 0).await;
    assert_ne!(untouched["status"], "failed");
}

#[tokio::test]
async fn outcome_whose_answers_were_all_lost_is_counted_once() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    fail_outcomes(&world.aws, usize::MAX, Fault::LoseAnswer);
    let answer = post_to_new_process(&world, &immediate(), &clock)
        .await
        .expect(200);
    assert_eq!(answer.body["deliveries"][0]["recorded"], false);
    world.aws.watch(|_| Box::pin(async { None }));
    let worker = world.worker_with_clock(clock.clone());
    let listening = start_listening();
    let batch = world.run_worker_with(&worker, SHORT_BATCH).await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_eq!((listening.sum("Sent"), sent(&world).await), (1, json!(1)));
    // The same message once more.
    let again = world.work_on(&batch.records).await;
    assert!(again.is_empty());
    assert_eq!((listening.sum("Sent"), sent(&world).await), (1, json!(1)));
}
