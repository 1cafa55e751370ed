//! Whose account sends, as callers are told of it, when settings or the platform's rules change between two attempts.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use comms_core::Clock;
use comms_testkit::{
    aws::{Fault, Moment},
    clock::ManualClock,
    smtp::{Action, Stage},
};
use comms_tests::{CLINIC, World, communication, email, entry, immediate};
use serde_json::{Value, json};

use crate::{
    callers::{via, without_clinic},
    required_clinic::require_clinic,
};

const TIME: Duration = Duration::from_secs(30);

async fn delivery(world: &World, id: &str) -> Value {
    world.status(id).await.expect(200).body["deliveries"][0].clone()
}

#[tokio::test]
async fn clinic_that_saves_its_own_provider_in_between_is_the_sender() {
    let world = World::new().await;
    let global = world.save_global().await;
    global.on(Stage::Mail, Action::reply("451 4.3.0 later"));
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let id = world.post(&communication()).await.expect(202).request_id();
    world.run_worker_with(&worker, TIME).await;
    let before = delivery(&world, &id).await;
    assert_eq!(
        (&before["status"], &before["via"], &before["because"]),
        (&json!("queued"), &json!("global"), &json!("no settings"))
    );

    world.save_clinic().await;
    clock.advance(Duration::from_hours(1));
    world.run_worker_with(&worker, TIME).await;
    let after = delivery(&world, &id).await;
    assert_eq!(
        (&after["status"], &after["via"], &after["because"]),
        (&json!("sent"), &json!("clinic"), &Value::Null),
        "{after}"
    );
    assert_eq!(
        (global.messages().len(), world.smtp.messages().len()),
        (0, 1)
    );
}

#[tokio::test]
async fn platforms_account_is_not_promised_where_it_may_not_send() {
    let world = World::new().await;
    let global = world.server("global-user", "global-password").start().await;
    let entry = entry(global.port(), "global-user", "global-password");
    let mut settings = email(&entry, "platform@global.example");
    settings["ceilings"] = json!({"useGlobal": false});
    world.put_settings("_global", settings).await.expect(201);
    let nobody = (Value::Null, Value::Null);
    let queued = world.post(&communication()).await.expect(202);
    assert_eq!(via(&queued), nobody, "{}", queued.text);
    world.run_worker().await;
    assert_eq!(via(&world.status(&queued.request_id()).await), nobody);
    let failed = world.post(&immediate()).await.expect(207);
    assert_eq!(
        failed.body["deliveries"][0]["reason"]["code"],
        "NO_PROVIDER"
    );
    assert_eq!(via(&failed), nobody, "{}", failed.text);
    assert_eq!(via(&world.status(&failed.request_id()).await), nobody);
    assert!(global.messages().is_empty());
}

#[tokio::test]
async fn accepted_request_is_sent_although_a_clinic_is_required_since() {
    let mut world = World::saved().await;
    let global = world.save_global().await;
    let posted = world.post(&without_clinic(communication())).await;
    let id = posted.expect(202).request_id();
    require_clinic(&mut world);
    world.run_worker().await;
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(delivery(&world, &id).await["status"], "sent");
    assert_eq!(global.messages().len(), 1);
}

#[tokio::test]
async fn producers_message_that_waits_is_sent_although_a_clinic_is_required_since() {
    let mut world = World::saved().await;
    let global = world.save_global().await;
    global.on(Stage::Mail, Action::reply("451 4.3.0 later"));
    let mut waiting = without_clinic(communication());
    waiting["idempotencyKey"] = json!("key-1");
    world.enqueue(&waiting.to_string()).await;
    assert_eq!(world.run_worker().await.failed.len(), 1);
    require_clinic(&mut world);
    // Its time has not come; and it is no dead letter.
    assert_eq!(world.run_worker().await.failed.len(), 1);
    assert!(world.dead_letters().await.is_empty());
    waiting["idempotencyKey"] = json!("key-2");
    world.enqueue(&waiting.to_string()).await;
    world.run_worker().await;
    assert_eq!(world.dead_letters().await.len(), 1);
}

#[tokio::test]
async fn repeat_is_answered_although_a_clinic_is_required_since() {
    let mut world = World::saved().await;
    world.save_global().await;
    let unnamed = without_clinic(communication());
    let first = world.post_with_key(&unnamed, "key-1").await.expect(202);
    let saved = world
        .post_with_key(&communication(), "key-2")
        .await
        .expect(202);
    world.delete_settings(CLINIC, &[]).await.expect(204);
    require_clinic(&mut world);
    for (request, key, first) in [
        (&unnamed, "key-1", &first),
        (&communication(), "key-2", &saved),
    ] {
        let again = world.post_with_key(request, key).await.expect(202);
        assert_eq!(again.request_id(), first.request_id());
        assert_eq!(again.header("idempotency-replayed"), "true");
        world.post_with_key(request, "key-3").await.expect(422);
    }
    let mut other = communication();
    other["title"] = json!("Another title");
    world.post_with_key(&other, "key-2").await.expect(409);
}

#[tokio::test]
async fn repeat_is_answered_although_it_has_expired_since() {
    let mut world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    world.send.pipeline = world.pipeline_with_clock("send", clock.clone());
    let mut request = communication();
    request["expiresAt"] = json!((clock.now() + Duration::from_hours(1)).to_string());
    let first = world.post_with_key(&request, "key-1").await.expect(202);
    clock.advance(Duration::from_hours(2));
    let again = world.post_with_key(&request, "key-1").await.expect(202);
    assert_eq!(again.request_id(), first.request_id());
    assert_eq!(again.header("idempotency-replayed"), "true");
    let refused = world.post_with_key(&request, "key-2").await.expect(422);
    assert_eq!(refused.pointers(), ["/expiresAt"]);
}

#[tokio::test]
async fn first_answer_is_no_replay_although_a_writes_answer_was_lost() {
    let world = World::saved().await;
    world
        .aws
        .fail_next("dynamodb", "PutItem", 1, Fault::LoseAnswer);
    let first = world.post_with_key(&communication(), "key-1").await;
    let first = first.expect(202);
    assert_eq!(first.header("idempotency-replayed"), "");
    let read = world.status(&first.request_id()).await.expect(200);
    assert_eq!(read.body["replayed"], 0);
    let second = world.post_with_key(&communication(), "key-1").await;
    assert_eq!(second.expect(202).header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn queued_request_does_not_wait_for_settings_that_it_does_not_need() {
    let mut world = World::saved().await;
    world.restart();
    // So that the process has the key of the ids, and not the clinic's settings.
    let other = without_clinic(communication());
    world.post(&other).await.expect(202);
    let tries = Arc::<AtomicUsize>::default();
    let counting = tries.clone();
    world.aws.watch(move |call| {
        let hangs = call.moment == Moment::Arrived && call.call.operation == "Decrypt";
        if hangs {
            counting.fetch_add(1, Ordering::Relaxed);
        }
        Box::pin(async move {
            if hangs {
                pending::<()>().await;
            }
            None
        })
    });
    // An attempt of the SDK lasts longer than either wait: who waits for a second one has waited for settings.
    for (priority, most) in [("normal", 1), ("high", 2)] {
        tries.store(0, Ordering::Relaxed);
        let mut communication = communication();
        communication["priority"] = json!(priority);
        world.post(&communication).await.expect(202);
        let tries = tries.load(Ordering::Relaxed);
        assert!((1..=most).contains(&tries), "{priority}: {tries}");
    }
}
