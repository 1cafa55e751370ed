//! Messages that may have ended their worker: how they are counted, isolated and given up, and that no other message is.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use comms_core::Clock as _;
use comms_testkit::{
    aws::{Fault, Moment, PassingCall},
    clock::ManualClock,
};
use comms_tests::{CLINIC, World, communication, handle_records, record};
use serde_json::{Value, json};

/// What Lambda gives an invocation.
const INVOCATION: Duration = Duration::from_secs(30);

/// A record that SQS delivers for the `receives`-th time.
fn received(id: &str, clinic: &str, receives: u32) -> Value {
    let mut message = communication();
    message["metadata"]["clinicId"] = json!(clinic);
    message["recipients"] = json!([{"email": format!("{id}@example.com")}]);
    let mut record = record(id, &message.to_string());
    record["attributes"]["ApproximateReceiveCount"] = json!(receives.to_string());
    record
}

/// A message whose worker is gone when it reads the clinic's settings takes its neighbors along twice, and is a dead
/// letter at its sixth receive.
#[tokio::test]
async fn message_that_ends_its_worker_is_isolated_and_then_a_dead_letter() {
    const KILLER: &str = "clinic-killer";
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    let (reached, mut reaching) = tokio::sync::mpsc::unbounded_channel();
    world.aws.watch(move |call| {
        let is_killer = call.moment == Moment::Arrived
            && call.request["Key"]["pk"]["S"] == KILLER
            && call.call.operation == "GetItem";
        let reached = reached.clone();
        Box::pin(async move {
            if is_killer {
                reached.send(()).unwrap();
                pending::<()>().await;
            }
            None
        })
    });
    let mut crash = async |batch: &[Value]| {
        clock.advance(Duration::from_mins(4));
        let worker = world.worker_with_clock(clock.clone());
        let work = handle_records(&worker, batch, INVOCATION);
        tokio::select! {
            failed = work => panic!("{failed:?}"),
            _ = reaching.recv() => {}
        }
        while reaching.try_recv().is_ok() {}
    };
    let neighbors = ["neighbor-1", "neighbor-2"];
    for receives in 1..=3 {
        let mut batch = vec![received("killer", KILLER, receives)];
        batch.extend(neighbors.map(|id| received(id, CLINIC, receives)));
        world.aws.clear_calls();
        crash(&batch).await;
        // The third time the killer is alone: its neighbors are on their queue again before it is touched.
        let returned = world.aws.count("sqs", "ChangeMessageVisibilityBatch");
        assert_eq!(returned, usize::from(receives == 3), "{receives}");
    }
    for id in neighbors {
        let worker = world.worker_with_clock(clock.clone());
        let batch = [received(id, CLINIC, 4)];
        let failed = handle_records(&worker, &batch, INVOCATION).await;
        assert!(failed.is_empty(), "{failed:?}");
    }
    for receives in 4..=5 {
        crash(&[received("killer", KILLER, receives)]).await;
    }
    let worker = world.worker_with_clock(clock.clone());
    let last = [
        received("killer", KILLER, 6),
        received("neighbor-3", CLINIC, 1),
    ];
    let failed = handle_records(&worker, &last, INVOCATION).await;
    assert!(failed.is_empty(), "{failed:?}");
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["attributes"]["reason"], "panicked");
}

/// What an update notes of a message's starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    /// It is begun.
    Begun,
    /// It is begun although an earlier start has not ended.
    BegunAgain,
    /// It came to an end.
    Ended,
}

fn note(call: &PassingCall) -> Option<Note> {
    let request = &call.request;
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    let key = request["Key"]["pk"]["S"].as_str().unwrap_or_default();
    if call.moment != Moment::Arrived || !key.starts_with("started#") {
        return None;
    }
    let condition = text("ConditionExpression");
    let is_again = text("UpdateExpression").contains("ADD") || condition.contains(":unfinished");
    Some(match (is_again, condition) {
        (true, _) => Note::BegunAgain,
        (false, "") => Note::Ended,
        (false, _) => Note::Begun,
    })
}

/// Faults of the notes: of each of these the first so many writes.
fn fail_notes<const N: usize>(world: &World, mut faults: [(Note, usize, Fault); N]) {
    let left = Mutex::new(move |note: Note| {
        let fault = faults
            .iter_mut()
            .find(|(of, left, _)| *of == note && *left > 0)?;
        fault.1 -= 1;
        Some(fault.2)
    });
    world.aws.watch(move |call| {
        let mut next = left.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = note(&call).and_then(&mut *next);
        Box::pin(async move { fault })
    });
}

/// Lets writes of this note hang.
fn hang_notes(world: &World, hanging: Note) {
    world.aws.watch(move |call| {
        let hangs = note(&call) == Some(hanging);
        Box::pin(async move {
            if hangs {
                pending::<()>().await;
            }
            None
        })
    });
}

/// Notes that a message was begun so often without an end.
async fn set_starts(world: &World, id: &str, starts: u32) {
    let table = &world.aws.resources().deliveries_table;
    let text = |value: &str| AttributeValue::S(value.to_owned());
    Client::new(&world.aws.sdk_config())
        .put_item()
        .table_name(table)
        .item("pk", text(&format!("started#{id}")))
        .item("sk", text("message"))
        .item("starts", AttributeValue::N(starts.to_string()))
        .send()
        .await
        .unwrap();
}

/// How often a message was begun without an end.
async fn starts(world: &World, id: &str) -> Value {
    let table = &world.aws.resources().deliveries_table;
    let key = format!("started#{id}");
    let item = world.aws.item(table, &key, "message").await.unwrap();
    item.map_or(Value::Null, |item| item["starts"]["N"].clone())
}

#[tokio::test]
async fn suspect_whose_start_is_not_noted_waits_and_keeps_its_count() {
    let world = World::saved().await;
    set_starts(&world, "suspect", 3).await;
    fail_notes(
        &world,
        [(Note::BegunAgain, usize::MAX, Fault::AccessDenied)],
    );
    assert_eq!(
        world.work_on(&[received("suspect", CLINIC, 5)]).await,
        ["suspect"]
    );
    assert_eq!(starts(&world, "suspect").await, "3");
    assert_eq!(world.smtp.messages().len(), 0);
}

#[tokio::test]
async fn suspect_without_time_to_start_waits_and_keeps_its_count() {
    let world = World::saved().await;
    set_starts(&world, "suspect", 3).await;
    let batch = [received("suspect", CLINIC, 5)];
    let failed = handle_records(&world.worker, &batch, Duration::from_secs(5)).await;
    assert_eq!(failed, ["suspect"]);
    assert_eq!(starts(&world, "suspect").await, "3");
    // It is handled when there is time.
    assert!(world.work_on(&batch).await.is_empty());
    assert_eq!(starts(&world, "suspect").await, "0");
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn suspect_that_cannot_be_a_dead_letter_yet_keeps_its_count() {
    let world = World::saved().await;
    set_starts(&world, "suspect", 4).await;
    world
        .aws
        .fail_next("sqs", "SendMessage", 100, Fault::AccessDenied);
    let batch = [received("suspect", CLINIC, 6)];
    assert_eq!(world.work_on(&batch).await, ["suspect"]);
    assert_eq!(starts(&world, "suspect").await, "4");
    world.aws.clear_faults();
    assert!(world.work_on(&batch).await.is_empty());
    assert_eq!(world.dead_letters().await.len(), 1);
}

#[tokio::test]
async fn lost_answers_and_ends_make_no_dead_letter_of_an_innocent_message() {
    let world = World::saved().await;
    fail_notes(
        &world,
        [
            (Note::Begun, 2, Fault::LoseAnswer),
            (Note::BegunAgain, 3, Fault::LoseAnswer),
            (Note::Ended, usize::MAX, Fault::Throttle),
        ],
    );
    // Its own write is no suspicion: it is handled at once.
    assert!(
        world
            .work_on(&[received("innocent", CLINIC, 2)])
            .await
            .is_empty()
    );
    assert_eq!(starts(&world, "innocent").await, "1");
    assert_eq!(world.smtp.messages().len(), 1);
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test]
async fn start_of_a_suspect_counts_once_although_its_answers_are_lost() {
    let world = World::saved().await;
    set_starts(&world, "suspect", 1).await;
    fail_notes(
        &world,
        [
            (Note::BegunAgain, 2, Fault::LoseAnswer),
            (Note::Ended, usize::MAX, Fault::Throttle),
        ],
    );
    assert!(
        world
            .work_on(&[received("suspect", CLINIC, 3)])
            .await
            .is_empty()
    );
    assert_eq!(starts(&world, "suspect").await, "2");
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn suspect_that_is_not_begun_because_answers_are_lost_keeps_its_count() {
    let world = World::saved().await;
    set_starts(&world, "suspect", 3).await;
    fail_notes(&world, [(Note::BegunAgain, usize::MAX, Fault::LoseAnswer)]);
    let batch = [received("suspect", CLINIC, 5)];
    assert_eq!(world.work_on(&batch).await, ["suspect"]);
    assert_eq!(starts(&world, "suspect").await, "3");
}

#[tokio::test]
async fn end_of_a_message_is_noted_although_it_is_throttled() {
    let world = World::saved().await;
    fail_notes(&world, [(Note::Ended, 3, Fault::Throttle)]);
    assert!(
        world
            .work_on(&[received("innocent", CLINIC, 2)])
            .await
            .is_empty()
    );
    assert_eq!(starts(&world, "innocent").await, "0");
}

#[tokio::test]
async fn message_that_was_received_five_times_at_most_is_not_given_up() {
    let world = World::saved().await;
    set_starts(&world, "suspect", 4).await;
    assert!(
        world
            .work_on(&[received("suspect", CLINIC, 5)])
            .await
            .is_empty()
    );
    assert_eq!(world.smtp.messages().len(), 1);
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test]
async fn hanging_note_of_a_start_leaves_a_message_time_to_be_sent() {
    let world = World::saved().await;
    hang_notes(&world, Note::Begun);
    let batch = [
        received("innocent", CLINIC, 2),
        received("first", CLINIC, 1),
    ];
    let failed = handle_records(&world.worker, &batch, Duration::from_secs(9)).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn hanging_note_of_a_suspect_is_given_up_before_lambda_ends_the_worker() {
    let world = World::saved().await;
    set_starts(&world, "suspect", 3).await;
    hang_notes(&world, Note::BegunAgain);
    let (batch, time) = ([received("suspect", CLINIC, 5)], Duration::from_secs(8));
    let handled = handle_records(&world.worker, &batch, time);
    let failed = tokio::time::timeout(time, handled).await;
    assert_eq!(
        failed.expect("an answer before Lambda ends the process"),
        ["suspect"]
    );
    assert_eq!(starts(&world, "suspect").await, "3");
}

#[tokio::test]
async fn visibility_of_a_message_beside_a_suspect_is_changed_once() {
    let world = World::saved().await;
    for (id, unfinished) in [("first-suspect", 1), ("second-suspect", 2)] {
        set_starts(&world, id, unfinished).await;
    }
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    world.aws.watch(move |call| {
        if call.moment == Moment::Arrived && call.call.operation == "ChangeMessageVisibilityBatch" {
            let entries = call.request["Entries"].as_array().map(Vec::len);
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(entries);
        }
        Box::pin(async { None })
    });
    let suspects = ["first-suspect", "second-suspect"].map(|id| received(id, CLINIC, 4));
    assert_eq!(world.work_on(&suspects).await, ["second-suspect"]);
    assert_eq!(*calls.lock().unwrap(), [Some(1)]);
}

#[tokio::test]
async fn message_that_grows_old_while_it_is_handled_leaves_no_note() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    let mut young = received("young", CLINIC, 2);
    let first = clock.now().as_millisecond() - 100_000;
    young["attributes"]["ApproximateFirstReceiveTimestamp"] = json!(first.to_string());
    let worker = world.worker_with_clock(clock.clone());
    world.aws.watch(move |call| {
        if call.moment == Moment::Arrived && call.call.operation == "PutItem" {
            clock.advance(Duration::from_mins(2));
        }
        Box::pin(async { None })
    });
    let failed = handle_records(&worker, &[young], INVOCATION).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(starts(&world, "young").await, Value::Null);
}
