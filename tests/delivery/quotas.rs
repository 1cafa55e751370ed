//! Quotas from the outside: who is refused while waiting, and how a campaign over its quota ends.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use comms_core::Clock as _;
use comms_delivery::quota::MAX_RECEIVES;
use comms_testkit::clock::ManualClock;
use comms_tests::{
    ApiResponse, CLINIC, Mail, World, communication, handle_records, immediate, record,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_mins(1);

/// A world in which the clinic has this limit for e-mail, and whose send function has a clock that the test moves.
async fn limited(limit: Value) -> (World, Arc<ManualClock>) {
    let mut world = Box::pin(World::saved()).await;
    let clock = Arc::new(ManualClock::new());
    world.send.pipeline = world.pipeline_with_clock("send", clock.clone());
    let patch = json!({"email": {"rateLimit": limit}});
    Box::pin(world.patch_settings(CLINIC, patch))
        .await
        .expect(200);
    (world, clock)
}

/// An immediate communication to so many.
fn to(recipients: usize) -> Value {
    let mut communication = immediate();
    communication["recipients"] = patients(recipients);
    communication
}

fn patients(count: usize) -> Value {
    let patient = |n| json!({"email": format!("patient-{n}@example.com")});
    (0..count).map(patient).collect()
}

fn detail(answer: &ApiResponse) -> &str {
    answer.body["detail"].as_str().unwrap()
}

/// How often each recipient got a message.
fn copies(world: &World) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for message in world.smtp.messages() {
        *copies.entry(Mail::of(&message).to).or_default() += 1;
    }
    copies
}

#[tokio::test]
async fn immediate_request_over_the_limit_is_refused_unrecorded() {
    let (world, clock) = limited(json!({"maxPerMinute": 3, "maxPerDay": 4})).await;
    clock.advance(Duration::from_millis(18_500));
    world.post(&to(2)).await.expect(200);
    let items = world.aws.dump_tables().await.lines().count();
    let refused = world.post_with_key(&to(2), "refused").await.expect(429);
    assert_eq!(refused.header("retry-after"), "42");
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.body["code"], "rate_limited");
    let said = "limit of 3 email recipients in a minute (rateLimit.maxPerMinute)";
    assert!(detail(&refused).contains(said), "{}", refused.text);
    let after = world.aws.dump_tables().await.lines().count();
    assert_eq!(after, items, "nothing was recorded under its key");

    // What there is room for goes, all of it or nothing.
    world.post(&to(1)).await.expect(200);
    clock.advance(MINUTE);
    let refused = world.post_with_key(&to(2), "refused").await.expect(429);
    let said = "limit of 4 email recipients in a day (rateLimit.maxPerDay)";
    assert!(detail(&refused).contains(said), "{}", refused.text);
    assert_eq!(refused.header("retry-after"), (86_400 - 78).to_string());
    world.post(&to(1)).await.expect(200);
    clock.advance(Duration::from_hours(24));
    // The key is still free for another communication.
    world.post_with_key(&to(3), "refused").await.expect(200);
    assert_eq!(world.smtp.messages().len(), 7);
}

#[tokio::test]
async fn request_larger_than_the_limit_is_refused_without_waiting() {
    let (world, _) = limited(json!({"maxPerSecond": 3, "maxPerDay": 1_000})).await;
    let answer = world.post(&to(4)).await.expect(422);
    assert_eq!(answer.pointers(), ["/recipients"]);
    let said = answer.body["errors"][0]["detail"].as_str().unwrap();
    for part in [
        "at most 3 email recipients",
        "not 4",
        "rateLimit.maxPerSecond",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let mut queued = to(4);
    queued["strategy"] = json!("queued");
    world.post(&queued).await.expect(202);
    assert!(world.smtp.messages().is_empty());
}

#[tokio::test]
async fn finished_immediate_request_is_answered_again_over_the_limit() {
    let (world, clock) = limited(json!({"maxPerDay": 2})).await;
    let first = world.post_with_key(&to(2), "first").await.expect(200);
    for _ in 0..2 {
        let again = world.post_with_key(&to(2), "first").await.expect(200);
        assert_eq!(again.body, first.body);
        world.post_with_key(&to(2), "second").await.expect(429);
        let mut other = to(2);
        other["title"] = json!("Another");
        world.post_with_key(&other, "first").await.expect(409);
        // Not all of it was sent before.
        world.post_with_key(&to(1), "third").await.expect(429);
        clock.advance(MINUTE);
    }
    assert_eq!(world.smtp.messages().len(), 2);
    // Where there is room a repeated one takes none of it.
    clock.advance(Duration::from_hours(24));
    for _ in 0..3 {
        world.post_with_key(&to(2), "first").await.expect(200);
    }
    world.post_with_key(&to(2), "second").await.expect(200);
    assert_eq!(world.smtp.messages().len(), 4);
}

#[tokio::test]
async fn unreadable_quota_sends_nothing() {
    let (world, _) = limited(json!({"maxPerDay": 2})).await;
    world.fail_updates(1, |pk, _| pk == "quota#clinic-123#email");
    world.post(&to(1)).await.expect(503);
    assert!(world.smtp.messages().is_empty());
    world.post(&to(2)).await.expect(200);
}

#[tokio::test]
async fn a_clinic_without_limits_makes_no_request_for_them() {
    let world = World::saved().await;
    let mut normal = to(1);
    normal["priority"] = json!("normal");
    world.post(&normal).await.expect(200);
    world.aws.clear_calls();
    world.post(&normal).await.expect(200);
    let writes = world.aws.count("dynamodb", "UpdateItem");
    assert_eq!(
        writes, 5,
        "the claim, the outcome, the usage, and the permit taken and released"
    );
}

#[tokio::test]
async fn campaign_over_its_quota_is_sent_once_in_later_windows() {
    let (world, clock) = limited(json!({"maxPerMinute": 7})).await;
    let mut campaign = communication();
    // In messages of ten deliveries, more than a window lets through.
    campaign["recipients"] = patients(25);
    campaign["priority"] = json!("normal");
    let id = world.post(&campaign).await.expect(202).request_id();
    let workers = [
        world.worker_with_clock(clock.clone()),
        world.worker_with_clock(clock.clone()),
    ];
    let mut sent = 0;
    let mut windows = 0;
    while sent < 25 {
        windows += 1;
        assert!(windows <= 5, "{sent} are sent");
        for worker in &workers {
            world.run_worker_with(worker, Duration::from_secs(30)).await;
        }
        let now = world.smtp.messages().len();
        assert!(now - sent <= 7, "{} in one minute", now - sent);
        sent = now;
        clock.advance(MINUTE);
    }
    assert_eq!(windows, 4);
    let copies = copies(&world);
    assert_eq!(copies.len(), 25);
    assert!(copies.values().all(|copies| *copies == 1), "{copies:?}");
    let deliveries = world.status(&id).await.expect(200).body["deliveries"].clone();
    for delivery in deliveries.as_array().unwrap() {
        assert_eq!(delivery["status"], "sent", "{delivery}");
    }
    let left = world.run_worker().await;
    assert!(left.records.is_empty(), "{left:?}");
}

#[tokio::test]
async fn wait_for_a_quota_is_recorded_once_over_redeliveries() {
    let (world, clock) = limited(json!({"maxPerDay": 1})).await;
    let worker = world.worker_with_clock(clock.clone());
    let messages: Vec<_> = (0..10)
        .map(|n| record(&format!("message-{n}"), &communication().to_string()))
        .collect();
    let time = Duration::from_secs(30);
    assert_eq!(handle_records(&worker, &messages, time).await.len(), 9);
    world.aws.clear_calls();
    let mut again = messages[1..].to_vec();
    for message in &mut again {
        message["attributes"]["ApproximateReceiveCount"] = json!("2");
        let first = clock.now().as_millisecond().to_string();
        message["attributes"]["ApproximateFirstReceiveTimestamp"] = json!(first);
    }
    assert_eq!(handle_records(&worker, &again, time).await.len(), 9);
    let calls: Vec<_> = world.aws.calls();
    let updates = calls.iter().filter(|call| call.operation == "UpdateItem");
    assert_eq!(updates.count(), 0, "{calls:?}");
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn message_that_waits_too_long_for_a_quota_fails_with_the_reason() {
    let (world, clock) = limited(json!({"maxPerDay": 1})).await;
    world.post(&to(1)).await.expect(200);
    let worker = world.worker_with_clock(clock.clone());
    let queued = world.post(&communication()).await.expect(202);
    assert_eq!(world.run_worker_with(&worker, MINUTE).await.failed.len(), 1);
    let mut batch = world.run_worker_with(&worker, MINUTE).await;
    assert_eq!(batch.failed.len(), 1);
    let message = &mut batch.records[0];
    message["attributes"]["ApproximateReceiveCount"] = json!(MAX_RECEIVES.to_string());
    let records = std::slice::from_ref(&*message);
    assert!(handle_records(&worker, records, MINUTE).await.is_empty());
    let answer = world.status(&queued.request_id()).await.expect(200);
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(delivery["status"], "failed", "{delivery}");
    assert_eq!(delivery["reason"]["code"], "QUOTA_EXCEEDED");
    assert_eq!(delivery["attempts"], json!([]));

    // Or before the queue forgets it.
    let queued = world.post(&communication()).await.expect(202);
    let mut batch = world.run_worker_with(&worker, MINUTE).await;
    // The first is still on the queue as well, and would have to wait before anybody sees that it has ended.
    let accepted_as = json!(queued.request_id());
    let message = batch
        .records
        .iter_mut()
        .find(|message| message["messageAttributes"]["acceptedAs"]["stringValue"] == accepted_as)
        .unwrap();
    assert!(
        batch
            .failed
            .iter()
            .any(|id| message["messageId"] == json!(id))
    );
    // The clock shows 2026-01-01.
    message["attributes"]["SentTimestamp"] = json!("1766600000000");
    let records = std::slice::from_ref(&*message);
    assert!(handle_records(&worker, records, MINUTE).await.is_empty());
    let answer = world.status(&queued.request_id()).await.expect(200);
    let reason = &answer.body["deliveries"][0]["reason"]["code"];
    assert_eq!(reason, "QUOTA_EXCEEDED");
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn items_of_quotas_and_rate_limits_have_no_address() {
    let (world, clock) = limited(json!({"maxPerDay": 5})).await;
    let paced = json!({"email": {"primary": {"rateLimit": {"maxPerSecond": 100}}}});
    world.patch_settings(CLINIC, paced).await.expect(200);
    // What the function remembers is up to a minute old.
    clock.advance(MINUTE);
    world.post(&to(2)).await.expect(200);
    let dump = world.aws.dump_tables().await;
    let items: Vec<_> = dump
        .lines()
        .filter(|item| {
            let prefixes = ["quota#", "pace#", "in-flight#"];
            prefixes.iter().any(|prefix| item.contains(prefix))
        })
        .collect();
    // Two quotas, e-mail and urgent, the turns, and the permits.
    assert_eq!(items.len(), 4, "{items:?}");
    for item in items {
        assert!(!item.contains('@') && !item.contains("127.0.0.1"), "{item}");
    }
}
