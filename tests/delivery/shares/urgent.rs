//! Urgent messages: how many a clinic may send, and whose are critical.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use comms_core::{Channel, Tenant};
use comms_delivery::in_flight::{Dispatch, HUNG_REQUESTS, InFlight, RequestEnd};
use comms_testkit::clock::ManualClock;
use comms_tests::{CLINIC, World, communication, handle_records, immediate, service, super_admin};
use serde_json::{Value, json};

use super::{
    clinic_admin, critical, deadline, documented, in_flight, items, set_ceilings, take, to,
};

/// The only permit of the clinic, held by another process.
pub(super) async fn hold_the_only_permit(process: &InFlight) -> Dispatch {
    let clinic = Tenant::parse(CLINIC).unwrap();
    let asked = process.dispatch(&clinic, &[Channel::Email], NonZeroU32::MIN, deadline());
    asked.await.unwrap()
}

pub(super) fn normal(mut communication: Value) -> Value {
    communication["priority"] = json!("normal");
    communication
}

/// A clinic with these ceilings and this hourly limit, and `send` as a process that has counted nothing.
async fn limited(ceilings: Value, max_per_hour: u32) -> World {
    let mut world = Box::pin(World::saved()).await;
    let patch = json!({"ceilings": ceilings, "email": {"rateLimit": {"maxPerHour": max_per_hour}}});
    Box::pin(world.patch_settings(CLINIC, patch))
        .await
        .expect(200);
    world.restart();
    world
}

#[tokio::test]
async fn refused_requests_leave_their_quota_to_other_processes() {
    let ceilings = json!({"immediateInFlight": 1, "urgentPerHour": 40});
    let mut world = Box::pin(limited(ceilings, 40)).await;
    let other = in_flight(&world);
    let held = hold_the_only_permit(&other).await;
    for _ in 0..3 {
        let refused = world.post(&to(immediate(), 12)).await.expect(429);
        assert_eq!(refused.body["code"], "too_many_in_flight");
    }
    drop(held);
    other.release(deadline()).await;
    world.restart();
    world.post(&to(immediate(), 40)).await.expect(200);
    assert_eq!(world.smtp.messages().len(), 40);
}

#[tokio::test]
async fn diverted_requests_leave_their_quota_to_the_workers() {
    let world = Box::pin(limited(json!({}), 20)).await;
    let other = in_flight(&world);
    for permit in take(&other, HUNG_REQUESTS).await {
        permit.end(RequestEnd::Hung);
    }
    other.release(deadline()).await;
    world.post(&to(normal(immediate()), 20)).await.expect(202);
    let batch = world.run_worker().await;
    assert_eq!(batch.failed, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 20);
}

#[tokio::test]
async fn request_without_urgent_quota_leaves_the_other_quota_to_all() {
    let mut world = Box::pin(limited(json!({"urgentPerHour": 12}), 30)).await;
    world.post(&to(immediate(), 10)).await.expect(200);
    for _ in 0..2 {
        world.post(&to(immediate(), 10)).await.expect(429);
    }
    world.restart();
    world.post(&to(normal(immediate()), 20)).await.expect(200);
}

#[tokio::test]
async fn critical_is_for_the_platform_and_for_clinics_that_it_allowed() {
    let world = Box::pin(World::saved()).await;
    let before = items(&world).await;
    for mut refused in [critical(), critical()] {
        refused["strategy"] = json!("immediate");
        let answer = world.post_as(&refused, clinic_admin(), &[]).await;
        let answer = answer.expect(403);
        assert_eq!(answer.pointers(), ["/priority"]);
        documented(&answer);
    }
    assert_eq!(items(&world).await, before);
    for caller in [service(), super_admin()] {
        world.post_as(&critical(), caller, &[]).await.expect(202);
    }
    let allowed = async |status: u16| {
        let mut world = Box::pin(World::saved()).await;
        let own = (status == 403).then(|| json!({"critical": false}));
        Box::pin(world.save_global()).await;
        set_ceilings(&world, "_global", json!({"critical": true})).await;
        if let Some(own) = own {
            set_ceilings(&world, CLINIC, own).await;
        }
        world.restart();
        let posted = critical();
        let posted = world.post_as(&posted, clinic_admin(), &[]).await;
        posted.expect(status);
    };
    allowed(202).await;
    allowed(403).await;
}

#[tokio::test]
async fn urgent_messages_over_the_quota_are_refused_and_counted_once() {
    let world = Box::pin(World::saved()).await;
    set_ceilings(&world, CLINIC, json!({"urgentPerHour": 2})).await;
    world.post_with_key(&communication(), "1").await.expect(202);
    world.post_with_key(&immediate(), "2").await.expect(200);
    let before = items(&world).await;
    let refused = world.post_with_key(&communication(), "3").await;
    let refused = refused.expect(429);
    assert_eq!(refused.body["code"], "rate_limited");
    documented(&refused);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(items(&world).await, before);
    // The worker takes no quota for what was accepted, and what was accepted is accepted again.
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_eq!(world.smtp.messages().len(), 2);
    let again = world.post_with_key(&communication(), "1").await;
    again.expect(202);
    assert_eq!(world.run_worker().await.failed, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 2);
    let mut normal = communication();
    normal["priority"] = json!("normal");
    world.post(&normal).await.expect(202);
}

/// A producer's message on the urgent queue.
fn urgent_record(world: &World, communication: &Value) -> Value {
    let mut record = comms_tests::record("m-1", &communication.to_string());
    let name = world.aws.resources().urgent_queue_url.clone();
    let name = name.rsplit('/').next().unwrap();
    record["eventSourceARN"] = json!(format!("arn:aws:sqs:us-east-1:123456789012:{name}"));
    record
}

#[tokio::test]
async fn producers_urgent_message_over_the_quota_waits() {
    let world = Box::pin(World::saved()).await;
    set_ceilings(&world, CLINIC, json!({"urgentPerHour": 1})).await;
    world.post(&immediate()).await.expect(200);
    let record = urgent_record(&world, &communication());
    assert_eq!(world.work_on(std::slice::from_ref(&record)).await, ["m-1"]);
    assert_eq!(world.smtp.messages().len(), 1);
    set_ceilings(&world, CLINIC, json!({"urgentPerHour": 10})).await;
    let mut world = world;
    world.restart();
    assert_eq!(world.work_on(&[record]).await, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn repeat_of_an_urgent_request_takes_no_urgent_quota() {
    let mut world = Box::pin(limited(json!({"urgentPerHour": 10}), 100)).await;
    for strategy in [immediate(), communication()] {
        let request = to(strategy, 4);
        let key = request["strategy"].as_str().unwrap();
        let first = world.post_with_key(&request, key).await;
        for _ in 0..2 {
            world.restart();
            let again = world.post_with_key(&request, key).await;
            assert_eq!(again.status, first.status, "{}", again.text);
        }
    }
    world.restart();
    world.post(&to(immediate(), 2)).await.expect(200);
    world.post(&to(immediate(), 2)).await.expect(429);
}

#[tokio::test]
async fn producers_urgent_message_over_an_hours_quota_ends_in_the_next() {
    let world = Box::pin(World::saved()).await;
    set_ceilings(&world, CLINIC, json!({"urgentPerHour": 5})).await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let record = urgent_record(&world, &to(communication(), 10));
    let time = Duration::from_secs(30);
    let work = async || handle_records(&worker, std::slice::from_ref(&record), time).await;
    assert_eq!(work().await, ["m-1"]);
    assert_eq!(world.smtp.messages().len(), 5);
    clock.advance(Duration::from_hours(1));
    assert_eq!(work().await, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 10);
}
