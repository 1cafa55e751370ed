//! What was accepted is recorded, whatever the table does meanwhile: nobody gets a second message because an outcome
//! could not be written at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use comms_testkit::{
    aws::{Fault, LocalAws, Moment},
    clock::ManualClock,
};
use comms_tests::{
    CLINIC, World, communication, immediate,
    outcomes::{SHORT_BATCH, fail_outcomes, is_outcome},
    super_admin,
};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// What Lambda gives an invocation.
const INVOCATION: Duration = Duration::from_secs(30);
/// An invocation of `send` with little time beyond what a delivery must have left to be started.
const SHORT_REQUEST: Duration = Duration::from_secs(10);
/// Longer than any lease.
const BEYOND_A_LEASE: Duration = Duration::from_mins(1);

/// Lets nobody put anything on a queue.
fn fail_queue(aws: &LocalAws) {
    aws.fail_next("sqs", "SendMessage", usize::MAX, Fault::ServerError);
}

/// How many messages each recipient got.
fn copies(world: &World) -> HashMap<String, usize> {
    let mut copies = HashMap::new();
    for message in world.smtp.messages() {
        for to in &message.rcpt_to {
            *copies.entry(to.clone()).or_default() += 1;
        }
    }
    copies
}

fn to_patient(number: usize) -> Value {
    let mut message = communication();
    message["priority"] = json!("normal");
    message["recipients"] = json!([{"email": format!("patient-{number}@example.com")}]);
    message
}

/// The worker's runs until nothing is on the queue, each by a new process after every lease has ended.
pub(crate) async fn work_off(world: &World, clock: &Arc<ManualClock>) {
    loop {
        clock.advance(BEYOND_A_LEASE);
        let worker = world.worker_with_clock(clock.clone());
        let batch = world.run_worker_with(&worker, INVOCATION).await;
        if batch.records.is_empty() {
            break;
        }
    }
}

#[tokio::test]
async fn throttled_outcome_is_written_in_its_own_invocation() {
    for throttles in [3, 6] {
        let world = World::saved().await;
        let id = world.post(&communication()).await.expect(202).request_id();
        let clock = Arc::new(ManualClock::new());
        let failed = fail_outcomes(&world.aws, throttles, Fault::Throttle);
        let worker = world.worker_with_clock(clock.clone());
        let first = world.run_worker_with(&worker, INVOCATION).await;
        work_off(&world, &clock).await;
        assert_eq!(failed.load(Ordering::Relaxed), throttles);
        assert_eq!(
            (world.smtp.messages().len(), first.failed.len()),
            (1, 0),
            "mails and returned messages after {throttles} throttles"
        );
        let delivery = &world.status(&id).await.expect(200).body["deliveries"][0];
        assert_eq!(delivery["status"], "sent");
        assert_ne!(delivery["possibleDuplicate"], true);
    }
}

#[tokio::test]
async fn immediate_send_whose_outcome_was_throttled_answers_sent() {
    let world = World::saved().await;
    fail_outcomes(&world.aws, 3, Fault::Throttle);
    let answer = world.post(&immediate()).await;
    assert_eq!(world.smtp.messages().len(), 1);
    assert_eq!(answer.body["status"], "sent", "{}", answer.text);
    assert_eq!(answer.status, 200);
    let status = world.status(&answer.request_id()).await.expect(200);
    assert_eq!(status.body["deliveries"][0]["status"], "sent");
}

/// How many deliveries the clinic's statistics have as sent.
pub(crate) async fn sent(world: &World) -> Value {
    let path =
        format!("/api/v1/clinics/{CLINIC}/communication/stats?from=2025-12-01&to=2026-11-30");
    let stats = world.config("GET", &path, None, super_admin(), &[]).await;
    stats.expect(200).body["totals"]["email"]["sent"].clone()
}

#[tokio::test]
async fn unrecorded_immediate_send_says_so_and_queues_its_outcome() {
    let world = World::saved().await;
    fail_outcomes(&world.aws, usize::MAX, Fault::Throttle);
    let answer = world
        .post_within(&immediate(), SHORT_REQUEST)
        .await
        .expect(200);
    assert_eq!(answer.body["status"], "sent");
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(
        (&delivery["status"], &delivery["recorded"]),
        (&json!("sent"), &json!(false))
    );
    let queued = world.run_worker().await;
    assert_eq!((queued.records.len(), queued.failed.len()), (1, 1));
    world.aws.watch(|_| Box::pin(async { None }));
    // The same process records it before it sends the next one, and the worker finds it recorded.
    world.post(&immediate()).await.expect(200);
    assert!(world.run_worker().await.failed.is_empty());
    let status = world.status(&answer.request_id()).await.expect(200);
    let delivery = &status.body["deliveries"][0];
    assert_eq!(
        (&delivery["status"], &delivery["recorded"]),
        (&json!("sent"), &Value::Null)
    );
    assert_eq!(world.smtp.messages().len(), 2);
    assert_eq!(sent(&world).await, 2);
}

#[tokio::test]
async fn outcome_that_outlasts_its_invocation_is_written_by_the_next_one() {
    let world = World::saved().await;
    let id = world.post(&communication()).await.expect(202).request_id();
    fail_outcomes(&world.aws, usize::MAX, Fault::ServerError);
    fail_queue(&world.aws);
    let first = world.run_worker_with(&world.worker, SHORT_BATCH).await;
    assert_eq!((first.failed.len(), sent(&world).await), (1, Value::Null));
    world.aws.watch(|_| Box::pin(async { None }));
    world.aws.clear_faults();
    assert!(world.run_worker().await.failed.is_empty());
    let status = world.status(&id).await.expect(200);
    let delivery = &status.body["deliveries"][0];
    assert_eq!(delivery["status"], "sent");
    assert_ne!(delivery["possibleDuplicate"], true);
    assert_eq!(
        (world.smtp.messages().len(), sent(&world).await),
        (1, json!(1))
    );
}

#[tokio::test]
async fn outcome_whose_answers_are_lost_is_counted_once() {
    let world = World::saved().await;
    for number in 0..3 {
        world.post(&to_patient(number)).await.expect(202);
    }
    fail_outcomes(&world.aws, 3, Fault::LoseAnswer);
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(
        (world.smtp.messages().len(), sent(&world).await),
        (3, json!(3))
    );
}

#[tokio::test]
async fn half_of_all_updates_throttled_doubles_no_message() {
    const MESSAGES: usize = 60;
    let world = World::saved().await;
    for number in 0..MESSAGES {
        world.post(&to_patient(number)).await.expect(202);
    }
    // A generator of Knuth's (MMIX): the same half in every run.
    let state = AtomicU64::new(17);
    world.aws.watch(move |call| {
        let is_update = call.moment == Moment::Arrived && call.call.operation == "UpdateItem";
        let next = |state: u64| {
            let product = state.wrapping_mul(6_364_136_223_846_793_005);
            product.wrapping_add(1_442_695_040_888_963_407)
        };
        let drawn = state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            Some(next(state))
        });
        let fails = is_update && drawn.unwrap() >> 63 == 1;
        Box::pin(async move { fails.then_some(Fault::Throttle) })
    });
    let clock = Arc::new(ManualClock::new());
    for _ in 0..MESSAGES / 10 {
        let worker = world.worker_with_clock(clock.clone());
        world.run_worker_with(&worker, INVOCATION).await;
    }
    world.aws.watch(|_| Box::pin(async { None }));
    work_off(&world, &clock).await;
    let copies = copies(&world);
    assert_eq!(copies.len(), MESSAGES);
    let doubled = copies.values().filter(|copies| **copies > 1).count();
    assert_eq!(doubled, 0, "patients with two mails of {MESSAGES}");
}

#[tokio::test]
async fn failing_reads_leave_the_writes_of_the_ledger_their_retries() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    world
        .aws
        .fail_next("dynamodb", "GetItem", 1_000, Fault::ServerError);
    let reads = (0..40).map(|number| {
        let mut message = immediate();
        message["metadata"]["clinicId"] = json!(format!("clinic-read-{number}"));
        let world = &world;
        async move { world.post(&message).await.status }
    });
    assert_eq!(join_all(reads).await, [503; 40]);
    world.aws.clear_faults();
    let mut refused = 0;
    for _ in 0..12 {
        world
            .aws
            .fail_next("dynamodb", "PutItem", 1, Fault::ServerError);
        let answer = world.post(&communication()).await;
        refused += usize::from(answer.status == 503);
    }
    assert_eq!(refused, 0, "of 12 requests with a single 500");
}

/// Throttles the writes of the first outcome that comes, without end, and says how many there were.
fn fail_first_outcome(aws: &LocalAws) -> Arc<AtomicUsize> {
    let failed = Arc::new(AtomicUsize::new(0));
    let (counter, stuck) = (failed.clone(), OnceLock::new());
    aws.watch(move |call| {
        let key = call.request["Key"].clone();
        let fails = is_outcome(&call) && *stuck.get_or_init(|| key.clone()) == key;
        if fails {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Box::pin(async move { fails.then_some(Fault::Throttle) })
    });
    failed
}

#[tokio::test]
async fn outcome_that_stays_unwritten_is_tried_once_for_a_whole_batch() {
    /// Tries that have room in the time of one write.
    const TRIES: usize = 8;
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    let failed = fail_first_outcome(&world.aws);
    let worker = world.worker_with_clock(Arc::new(ManualClock::new()));
    world.run_worker_with(&worker, SHORT_BATCH).await;
    // Received by somebody else.
    assert_eq!(world.take_batch().await.1.len(), 1);
    for number in 0..10 {
        world.post(&to_patient(number)).await.expect(202);
    }
    failed.store(0, Ordering::Relaxed);
    let second = world.run_worker_with(&worker, INVOCATION).await;
    assert_eq!((second.failed.len(), world.smtp.messages().len()), (0, 11));
    let tries = failed.load(Ordering::Relaxed);
    assert!((1..=TRIES).contains(&tries), "{tries} tries");
}

#[tokio::test]
async fn process_takes_over_no_delivery_whose_outcome_it_keeps() {
    let world = World::saved().await;
    let id = world.post(&communication()).await.expect(202).request_id();
    fail_outcomes(&world.aws, usize::MAX, Fault::Throttle);
    fail_queue(&world.aws);
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    for _ in 0..2 {
        let batch = world.run_worker_with(&worker, SHORT_BATCH).await;
        assert_eq!(batch.failed.len(), 1);
        clock.advance(BEYOND_A_LEASE);
    }
    world.aws.watch(|_| Box::pin(async { None }));
    let last = world.run_worker_with(&worker, SHORT_BATCH).await;
    assert!(last.failed.is_empty());
    work_off(&world, &clock).await;
    assert_eq!(world.smtp.messages().len(), 1);
    let status = world.status(&id).await.expect(200);
    let delivery = &status.body["deliveries"][0];
    assert_eq!(delivery["status"], "sent");
    assert_ne!(delivery["possibleDuplicate"], true);
}
