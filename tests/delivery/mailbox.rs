//! A mailbox whose server allows its login one connection, which several processes need.

use std::{sync::Arc, time::Duration};

use comms_core::SystemClock;
use comms_testkit::{
    aws::Moment,
    smtp::{Action, ReceivedMessage, SmtpServer, Stage},
};
use comms_tests::{
    CLINIC, FROM, Mail, World, communication, email, entry, handle_records, immediate, record,
};
use futures_util::future::{Either, join, select};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const OTHER: &str = "other-clinic";
const INVOCATION: Duration = Duration::from_secs(30);

/// Calls of `config` and `worker` that were seen.
struct Seen {
    permit: Arc<Semaphore>,
    in_front: Arc<Semaphore>,
}

/// Adds a permit for each answered write of a connection's permit, and of a place in front.
fn watched(world: &World) -> Seen {
    let seen = Seen {
        permit: Arc::new(Semaphore::new(0)),
        in_front: Arc::new(Semaphore::new(0)),
    };
    let (permit, in_front) = (seen.permit.clone(), seen.in_front.clone());
    world.aws.watch(move |call| {
        let key = call.request["Key"]["pk"]["S"].as_str().unwrap_or_default();
        let is_written = matches!(call.moment, Moment::Answered(status) if status.is_success());
        if is_written && call.call.operation == "UpdateItem" {
            if key.starts_with("connections#") {
                permit.add_permits(1);
            } else if key.starts_with("connections-next#") {
                in_front.add_permits(1);
            }
        }
        Box::pin(async { None })
    });
    seen
}

async fn next(seen: &Semaphore) {
    seen.acquire().await.unwrap().forget();
}

fn title(number: usize) -> String {
    format!("Message {number}")
}

fn message_of(clinic: &str, number: usize) -> Value {
    let mut message = communication();
    message["metadata"]["clinicId"] = json!(clinic);
    message["title"] = json!(title(number));
    message["idempotencyKey"] = json!(format!("{clinic}-{number}"));
    record(&format!("message-{clinic}-{number}"), &message.to_string())
}

/// A world whose clinic's mailbox is allowed one connection by a server that answers after `delay`.
async fn one_connection(delay: Duration) -> World {
    let world = World::with(|server, _| server.max_connections_per_login(1).reply_delay(delay));
    let world = world.await;
    world.save_clinic().await;
    world
}

async fn save_other(world: &World, server: &SmtpServer) {
    let entry = entry(server.port(), "other-user", "other-password-19c7");
    world
        .put_settings(OTHER, email(&entry, FROM))
        .await
        .expect(201);
}

#[tokio::test]
async fn slow_neighbor_does_not_hold_the_connection_of_a_mailbox() {
    let world = one_connection(Duration::ZERO).await;
    let hanging = world
        .server("other-user", "other-password-19c7")
        .always(Stage::Body, Action::Hang);
    let hanging = hanging.start().await;
    save_other(&world, &hanging).await;
    let seen = watched(&world);
    let [first, second] = [(); 2].map(|()| world.worker_with_clock(Arc::new(SystemClock)));
    let batch = [message_of(CLINIC, 1), message_of(OTHER, 1)];
    let slow = Box::pin(handle_records(&first, &batch, INVOCATION));
    let quick = Box::pin(async {
        next(&seen.permit).await;
        world.smtp.wait_for_messages(1).await;
        handle_records(&second, &[message_of(CLINIC, 2)], INVOCATION).await
    });
    match select(slow, quick).await {
        Either::Left((failed, _)) => panic!("the slow neighbor ended first: {failed:?}"),
        Either::Right((failed, _)) => assert!(failed.is_empty(), "{failed:?}"),
    }
    assert_eq!(world.smtp.messages().len(), 2);
}

/// Two processes send by the mailbox; while the second one waits for the connection, the clinic moves to another one.
async fn moves_while_waiting(world: &World, round: usize) {
    let seen = watched(world);
    let [first, second] = [(); 2].map(|()| world.worker_with_clock(Arc::new(SystemClock)));
    let other = world
        .server("other-user", "other-password-19c7")
        .start()
        .await;
    let batch: Vec<_> = (0..6)
        .map(|number| message_of(CLINIC, 10 * round + number))
        .collect();
    let waiting = message_of(CLINIC, 10 * round + 9);
    let sending = Box::pin(handle_records(&first, &batch, INVOCATION));
    let waits = Box::pin(async {
        next(&seen.permit).await;
        let waits = handle_records(&second, std::slice::from_ref(&waiting), INVOCATION);
        let saves = async {
            next(&seen.in_front).await;
            let entry = entry(other.port(), "other-user", "other-password-19c7");
            let saved = world.put_settings(CLINIC, email(&entry, FROM)).await;
            saved.expect(200);
        };
        join(waits, saves).await.0
    });
    let (_, failed) = join(sending, waits).await;
    assert!(failed.is_empty(), "{failed:?}");
    let is_waiting = |mail: &ReceivedMessage| Mail::of(mail).subject == title(10 * round + 9);
    let (mails, others) = (world.smtp.messages(), other.messages());
    assert!(others.iter().any(is_waiting), "round {round}");
    assert!(!mails.iter().any(is_waiting), "round {round}");
}

#[tokio::test]
async fn message_that_waited_for_a_connection_goes_by_what_was_saved_meanwhile() {
    let world = one_connection(Duration::from_millis(150)).await;
    // The limit is found by a refused connection, and known to the next two.
    for round in 1..=2 {
        moves_while_waiting(&world, round).await;
        let back = world
            .put_settings(CLINIC, email(&world.entry(), FROM))
            .await;
        back.expect(200);
    }
}

#[tokio::test]
async fn message_whose_fallback_has_no_free_connection_is_queued() {
    let world = one_connection(Duration::ZERO).await;
    world.smtp.always(Stage::Body, Action::Hang);
    let gone = world.server("gone", "gone-password-77d0").start().await;
    let wrong = entry(gone.port(), "gone", "another-password");
    let mut document = email(&wrong, FROM);
    document["email"]["fallback"] = json!([world.entry()]);
    world.put_settings(OTHER, document).await.expect(201);
    let seen = watched(&world);
    let first = world.worker_with_clock(Arc::new(SystemClock));
    let batch = [message_of(CLINIC, 1), message_of(CLINIC, 2)];
    let sending = Box::pin(handle_records(&first, &batch, INVOCATION));
    let mut message = immediate();
    message["metadata"]["clinicId"] = json!(OTHER);
    let posted = Box::pin(async {
        next(&seen.permit).await;
        world.smtp.wait_for_stage(Stage::Body, 1).await;
        world.post(&message).await
    });
    let Either::Right((answer, _)) = select(sending, posted).await else {
        panic!("the hanging server answered");
    };
    let answer = answer.expect(202);
    assert_eq!(answer.body["status"], "queued", "{}", answer.text);
}
