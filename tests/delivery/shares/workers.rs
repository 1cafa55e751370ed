//! Workers: how many of them the deliveries of one clinic occupy.

use std::{sync::Arc, time::Duration};

use comms_core::{Channel, SystemClock, Tenant};
use comms_delivery::{
    ShareLimits, WorkQueue,
    slow_workers::{SLOW_AFTER, SlowWorkers},
};
use comms_tests::{CLINIC, FROM, World, communication, email};
use futures_util::future::join_all;
use serde_json::json;

use super::{OTHER, deadline, items};

/// What one process of the worker knows of slow deliveries.
fn slow_workers(world: &World) -> SlowWorkers {
    SlowWorkers::new(
        &world.sdk_of("worker"),
        &world.aws.resources().deliveries_table,
        Arc::new(SystemClock),
        ShareLimits::default().workers,
    )
}

#[tokio::test]
async fn slow_clinic_gets_no_worker_beyond_its_share_and_others_do() {
    let mut world = Box::pin(World::saved()).await;
    let other = email(&world.entry(), FROM);
    world.put_settings(OTHER, other).await.expect(201);
    let limits = ShareLimits::default().workers;
    let table = &world.aws.resources().deliveries_table;
    let process = || {
        SlowWorkers::new(
            &world.sdk_of("worker"),
            table,
            Arc::new(SystemClock),
            limits,
        )
    };
    let processes: Vec<_> = (0..limits.urgent.get()).map(|_| process()).collect();
    let clinic = Tenant::parse(CLINIC).unwrap();
    let slow = join_all(processes.iter().map(async |process| {
        let begun = process.begin(WorkQueue::Urgent, &clinic, Channel::Email, deadline());
        let mut working = begun.await.unwrap();
        let silent = tokio::time::sleep(SLOW_AFTER + Duration::from_millis(100));
        process
            .watch(&mut working, deadline(), || Duration::ZERO, silent)
            .await;
        working
    }));
    let slow = slow.await;

    world.post(&communication()).await.expect(202);
    let mut neighbor = communication();
    neighbor["metadata"]["clinicId"] = json!(OTHER);
    world.post(&neighbor).await.expect(202);
    let before = items(&world).await;
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (2, 1));
    assert_eq!(world.smtp.messages().len(), 1, "the neighbor's");
    // Its delivery, what became of it, the health of its provider, which has sent for the first time, and the permits of
    // its mail server's login.
    let neighbors_items = 4;
    assert_eq!(items(&world).await, before + neighbors_items);

    drop(slow);
    for process in &processes {
        process.release(deadline()).await;
    }
    world.restart();
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn ten_slow_deliveries_of_one_process_take_one_worker_of_the_share() {
    let world = Box::pin(World::saved()).await;
    let process = slow_workers(&world);
    let clinic = Tenant::parse(CLINIC).unwrap();
    let begin = async || {
        let begun = process.begin(WorkQueue::Normal, &clinic, Channel::Email, deadline());
        begun.await.unwrap()
    };
    let ten = || (0..10).map(|_| begin());
    let slots = async || {
        let item = world
            .aws
            .item(
                &world.aws.resources().deliveries_table,
                &format!("slow#normal#{CLINIC}"),
                "permits",
            )
            .await
            .unwrap()
            .unwrap_or_default();
        let names = item.as_object().into_iter().flatten();
        names.filter(|(name, _)| name.starts_with("slot")).count()
    };
    // All become slow at the same time.
    let slow = join_all(ten().map(async |begun| {
        let mut working = begun.await;
        let silent = tokio::time::sleep(SLOW_AFTER + Duration::from_millis(100));
        process
            .watch(&mut working, deadline(), || Duration::ZERO, silent)
            .await;
        working
    }));
    let slow = slow.await;
    assert_eq!((slots().await, process.take_writes()), (1, 1));
    drop(slow);
    process.release(deadline()).await;
    assert_eq!(slots().await, 0);
    process.take_writes();
    // And all take the permit first from now on.
    let all_at_once = join_all(ten()).await;
    assert_eq!((slots().await, process.take_writes()), (1, 1));
    drop(all_at_once);
    process.release(deadline()).await;
    assert_eq!(slots().await, 0);
}

#[tokio::test]
async fn wait_for_a_connection_makes_no_delivery_slow() {
    let world = Box::pin(World::saved()).await;
    let table = &world.aws.resources().deliveries_table;
    let limits = ShareLimits::default().workers;
    let sdk = world.sdk_of("worker");
    let process = SlowWorkers::new(&sdk, table, Arc::new(SystemClock), limits);
    let clinic = Tenant::parse(CLINIC).unwrap();
    let begun = process.begin(WorkQueue::Normal, &clinic, Channel::Email, deadline());
    let mut working = begun.await.unwrap();
    let work = tokio::time::sleep(SLOW_AFTER + Duration::from_millis(100));
    let waited = || Duration::from_secs(1);
    process.watch(&mut working, deadline(), waited, work).await;
    drop(working);
    process.release(deadline()).await;
    assert_eq!(process.take_writes(), 0);
}

#[tokio::test]
async fn delivery_that_is_cancelled_leaves_its_worker_to_others() {
    let world = Box::pin(World::saved()).await;
    let process = slow_workers(&world);
    let clinic = Tenant::parse(CLINIC).unwrap();
    let begun = process.begin(WorkQueue::Normal, &clinic, Channel::Email, deadline());
    let mut working = begun.await.unwrap();
    let silent = std::future::pending::<()>();
    let watched = process.watch(&mut working, deadline(), || Duration::ZERO, silent);
    let cancelled = tokio::time::timeout(SLOW_AFTER + Duration::from_secs(1), watched).await;
    assert!(cancelled.is_err());
    drop(working);
    process.release(deadline()).await;
    assert_eq!(process.take_writes(), 2, "it was taken and released");
}
