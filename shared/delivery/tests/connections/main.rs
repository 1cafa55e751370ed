//! Connections of one login, counted over processes that know nothing of each other but the table.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod front;
mod world;

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use comms_core::{AfterRetries, Clock as _};
use comms_delivery::connections::{Asking, FIRST_LIMIT};
use comms_testkit::aws::Fault;

use world::{INVOCATION, PUBLISHED, Process, World, queued, seconds};

#[tokio::test]
async fn permits_hold_over_all_processes_until_the_invocation_ends() {
    let world = World::new().await;
    let processes = world.published::<4>();
    let mut used = Vec::new();
    for process in &processes[..3] {
        used.push(process.begin().await.unwrap());
    }
    let wait = processes[3].begin().await.unwrap_err();
    assert!(wait < seconds(2), "{wait:?}");
    // The process that has one uses it for its next message too.
    let next = processes[0].begin().await.unwrap();
    drop((next, used.remove(0)));
    processes[0].end_invocation().await;
    world.clock.advance(seconds(1));
    assert!(processes[3].begin().await.is_ok());
}

#[tokio::test]
async fn permits_of_a_killed_process_expire_with_its_invocation() {
    let world = World::new().await;
    let processes = world.published::<4>();
    for process in &processes[..3] {
        let used = process.begin().await.unwrap();
        std::mem::forget(used);
    }
    world.clock.advance(INVOCATION);
    assert!(processes[3].begin().await.is_err());
    world.clock.advance(seconds(6));
    assert!(processes[3].begin().await.is_ok());
}

#[tokio::test]
async fn limit_of_a_mailbox_does_not_bind_who_lacks_its_password() {
    let world = World::new().await;
    let processes = world.published::<3>();
    let mut used = Vec::new();
    for process in &processes {
        used.push(process.begin().await.unwrap());
    }
    let other = world.process(PUBLISHED, 587, "guessed");
    assert!(other.begin().await.is_ok());
    assert!(world.published::<1>()[0].begin().await.is_err());
}

#[tokio::test]
async fn found_limit_is_told_to_others_and_tried_again_after_its_time() {
    let world = World::new().await;
    let server = world.server(1).await;
    let [one, two, three, four] = world.at::<4>(&server);
    let used = one.begin().await.unwrap();
    one.send().await.unwrap();
    // Its connection is idle and open: the server has no place left.
    let refused = two.begin().await.unwrap();
    let error = two.send().await.unwrap_err();
    assert_eq!(error.after_retries, AfterRetries::WhenConnectionFree);
    assert!(!error.unhealthy);
    drop(refused);
    assert!(three.begin().await.is_err());
    assert_eq!(server.refused_logins(), 1);

    drop(used);
    one.end_invocation().await;
    world.clock.advance(seconds(5));
    let both = (four.begin().await.unwrap(), two.begin().await.unwrap());
    four.send().await.unwrap();
    two.send().await.unwrap_err();
    drop(both);
    assert!(three.begin().await.is_err());
    assert_eq!(server.refused_logins(), 2);
}

#[tokio::test]
async fn limit_grows_while_the_server_takes_every_connection() {
    let world = World::new().await;
    let server = world.server(100).await;
    let first: [Process; FIRST_LIMIT as usize] = world.at(&server);
    let more: [Process; FIRST_LIMIT as usize + 1] = world.at(&server);
    let mut used = Vec::new();
    for process in first.iter().chain(&more) {
        used.push(process.begin().await.unwrap());
        process.send().await.unwrap();
    }
    assert_eq!(server.open_connections(), used.len());
    assert_eq!(server.refused_logins(), 0);
}

#[tokio::test]
async fn single_message_to_an_unknown_server_takes_no_permit() {
    let world = World::new().await;
    let server = world.server(1).await;
    let [one, two] = world.at::<2>(&server);
    let asking = Asking {
        is_alone: true,
        ..queued()
    };
    let used = one.ask(asking).await.unwrap();
    one.send().await.unwrap();
    assert_eq!(one.connections.take_writes(), 0);
    // Refused beside it: from now on connections are counted.
    let refused = two.ask(asking).await.unwrap();
    let error = two.send().await.unwrap_err();
    assert_eq!(error.after_retries, AfterRetries::WhenConnectionFree);
    drop((used, refused));
    one.end_invocation().await;
    two.connections.take_writes();
    let used = two.ask(asking).await.unwrap();
    assert_eq!(two.connections.take_writes(), 1);
    two.send().await.unwrap();
    drop(used);
}

#[tokio::test]
async fn record_without_its_mac_is_ignored() {
    let world = World::new().await;
    let server = world.server(100).await;
    let processes = world.at::<3>(&server);
    let account = processes[0].limit().account(&processes[0].key).unwrap();
    let number = |value: i64| AttributeValue::N(value.to_string());
    let reached = AttributeValue::S("reached".to_owned());
    let since = world.clock.now().as_microsecond();
    let forged = aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .put_item()
        .table_name(&world.aws.resources().deliveries_table)
        .item("pk", AttributeValue::S(format!("connections#{account}")))
        .item("sk", AttributeValue::S("permits".to_owned()))
        .item("limitState", reached)
        .item("limitConnections", number(1))
        .item("limitSince", number(since))
        .item("limitMac", AttributeValue::S("0".repeat(32)));
    forged.send().await.unwrap();
    let mut used = Vec::new();
    for process in &processes {
        used.push(process.begin().await.unwrap());
    }
}

#[tokio::test]
async fn process_goes_by_what_it_knows_while_dynamodb_is_down() {
    let world = World::new().await;
    let [process] = world.published::<1>();
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 50, Fault::AccessDenied);
    let mut used = Vec::new();
    for _ in 0..5 {
        used.push(process.begin().await.unwrap());
    }
    world.aws.clear_faults();
    drop(used);
    world.clock.advance(seconds(3));
    let used = process.begin().await.unwrap();
    assert!(used.is_some());
}

#[tokio::test]
async fn messages_that_find_no_permit_return_together() {
    let world = World::new().await;
    let processes = world.published::<4>();
    let mut used = Vec::new();
    for process in &processes[..3] {
        used.push(process.begin().await.unwrap());
    }
    let asking = Asking {
        age: Duration::from_mins(2),
        ..queued()
    };
    let mut waits = Vec::new();
    for _ in 0..10 {
        waits.push(processes[3].ask(asking).await.unwrap_err());
    }
    assert!(waits.iter().all(|wait| *wait == waits[0]), "{waits:?}");
}

#[tokio::test]
async fn old_message_makes_no_later_one_wait_as_long() {
    let world = World::new().await;
    let processes = world.published::<4>();
    let mut used = Vec::new();
    for process in &processes[..3] {
        used.push(process.begin().await.unwrap());
    }
    let old = Asking {
        receives: 75,
        age: Duration::from_hours(2),
        ..queued()
    };
    let long = processes[3].ask(old).await.unwrap_err();
    let short = processes[3].ask(queued()).await.unwrap_err();
    assert!(
        long > Duration::from_secs(100) && short < Duration::from_secs(2),
        "{long:?} {short:?}"
    );
}
