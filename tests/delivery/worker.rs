//! Batches from the queue: what is done, what is redelivered, and that nothing is lost or sent by the wrong account.

mod dead_letters;
mod redelivery;

use std::{sync::Arc, time::Duration};

use comms_testkit::{aws::Fault, clock::ManualClock, smtp::SmtpServer};
use comms_tests::{CLINIC, FROM, World, communication, email, record};
use serde_json::{Value, json};

/// Handles a message of another clinic, so that everything but our clinic's settings is read already.
async fn warm_up(world: &World, global: &SmtpServer) {
    let mut other = communication();
    other["metadata"]["clinicId"] = json!("clinic-without-settings");
    assert!(
        world
            .work_on(&[record("warm-up", &other.to_string())])
            .await
            .is_empty()
    );
    assert_eq!(global.messages().len(), 1);
}

async fn delivery(world: &World, id: &str) -> Value {
    world.status(id).await.expect(200).body["deliveries"][0].clone()
}

#[tokio::test]
async fn unreadable_settings_do_not_fall_back_to_the_global_account() {
    for (service, operation) in [("dynamodb", "GetItem"), ("kms", "Decrypt")] {
        let world = World::saved().await;
        let global = world.save_global().await;
        warm_up(&world, &global).await;
        let accepted = world.post(&communication()).await.expect(202);
        world
            .aws
            .fail_next(service, operation, 1_000, Fault::AccessDenied);
        for _ in 0..2 {
            let batch = world.run_worker().await;
            assert_eq!(batch.failed.len(), 1, "{service} {operation}");
        }
        assert_eq!(world.smtp.connections(), 0);
        assert_eq!(global.messages().len(), 1, "only the warm-up");
        world.aws.clear_faults();
        assert_eq!(
            delivery(&world, &accepted.request_id()).await["status"],
            "queued"
        );

        let batch = world.run_worker().await;
        assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
        assert_eq!(world.smtp.messages().len(), 1);
        assert_eq!(global.messages().len(), 1);
        assert_eq!(
            delivery(&world, &accepted.request_id()).await["status"],
            "sent"
        );
    }
}

#[tokio::test]
async fn unreadable_global_account_is_not_taken_for_a_missing_one() {
    let world = World::new().await;
    let global = world.save_global().await;
    let accepted = world.post(&communication()).await.expect(202);
    world
        .aws
        .fail_next("kms", "Decrypt", 1_000, Fault::AccessDenied);
    assert_eq!(world.run_worker().await.failed.len(), 1);
    world.aws.clear_faults();
    assert_eq!(
        delivery(&world, &accepted.request_id()).await["status"],
        "queued"
    );
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(global.messages().len(), 1);
}

#[tokio::test]
async fn short_store_outage_is_retried_within_the_invocation() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    world.aws.fail_next("dynamodb", "GetItem", 1, Fault::Drop);
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn unclaimed_message_is_not_sent() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 1_000, Fault::AccessDenied);
    assert_eq!(world.run_worker().await.failed.len(), 1);
    assert_eq!(world.smtp.connections(), 0);
    world.aws.clear_faults();
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn message_expired_on_the_queue_is_recorded_and_not_sent() {
    let world = World::saved().await;
    // A producer that was late itself.
    let mut late = communication();
    late["expiresAt"] = json!("2020-01-01T00:00:00Z");
    let failed = world
        .work_on(&[record("message-1", &late.to_string())])
        .await;
    assert!(failed.is_empty(), "an expired message is done");

    // A queue that was slow.
    late["expiresAt"] = json!("2100-01-01T00:00:00Z");
    let id = world.post(&late).await.expect(202).request_id();
    let clock = Arc::new(ManualClock::new());
    clock.advance(Duration::from_hours(24 * 366 * 100));
    let worker = world.worker_with_clock(clock);
    let batch = world
        .run_worker_with(&worker, Duration::from_secs(30))
        .await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    let delivery = delivery(&world, &id).await;
    assert_eq!(delivery["status"], "expired");
    assert_eq!(delivery["reason"]["code"], "EXPIRED");
    assert_eq!(delivery["attempts"], json!([]));
    assert_eq!(world.smtp.connections(), 0);
}

#[tokio::test]
async fn with_two_seconds_left_every_message_returns_to_the_queue() {
    let world = World::saved().await;
    let accepted = world.post(&communication()).await.expect(202);
    let batch = world
        .run_worker_with(&world.worker, Duration::from_secs(2))
        .await;
    assert_eq!(batch.failed.len(), 1);
    assert_eq!(world.smtp.connections(), 0);
    assert_eq!(
        delivery(&world, &accepted.request_id()).await["status"],
        "queued"
    );
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(
        delivery(&world, &accepted.request_id()).await["status"],
        "sent"
    );
}

#[tokio::test]
async fn producers_messages_are_recorded_and_those_of_send_not_again() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    world.aws.clear_calls();
    assert!(world.run_worker().await.failed.is_empty());
    // The claim, the outcome, the usage, and once for the entry that it has sent.
    let writes = |world: &World| {
        (
            world.aws.count("dynamodb", "PutItem"),
            world.aws.count("dynamodb", "UpdateItem"),
        )
    };
    assert_eq!(writes(&world), (0, 4));

    let mut own = communication();
    own["idempotencyKey"] = json!("producers-own");
    world.aws.clear_calls();
    assert!(
        world
            .work_on(&[record("own", &own.to_string())])
            .await
            .is_empty()
    );
    assert_eq!(writes(&world), (1, 3));
    // Under the same key HTTP finds it, and takes no other body for it.
    own.as_object_mut().unwrap().remove("idempotencyKey");
    own["body"] = json!("Another text.");
    world.post_with_key(&own, "producers-own").await.expect(409);
}

#[tokio::test]
async fn a_batch_of_one_clinic_shares_its_few_connections() {
    let world = World::new().await;
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["primary"]["credentials"]["maxConnections"] = json!("2");
    world.put_settings(CLINIC, settings).await.expect(201);
    let records: Vec<_> = (0..10)
        .map(|n| {
            let mut many = communication();
            many["recipients"] = json!([{"email": format!("a{n}@example.com")}, {"email": format!("b{n}@example.com")}]);
            record(&format!("message-{n}"), &many.to_string())
        })
        .collect();
    assert!(world.work_on(&records).await.is_empty());
    let messages = world.smtp.messages();
    assert_eq!(messages.len(), 20);
    assert!(
        messages.iter().all(|message| message.rcpt_to.len() == 1),
        "nobody sees another's address"
    );
    assert!(
        world.smtp.connections() <= 2,
        "{}",
        world.smtp.connections()
    );
}
