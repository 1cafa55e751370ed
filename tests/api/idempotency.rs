//! One communication is one message, however often it is brought and by whichever way.

use comms_tests::{CLINIC, FROM, World, communication, email, immediate, record, service};
use futures_util::future::join_all;
use serde_json::json;

#[tokio::test]
async fn the_same_key_and_the_same_body_are_answered_the_same_and_sent_once() {
    let world = World::saved().await;
    let first = world.post_with_key(&immediate(), "key-1").await.expect(200);
    let second = world.post_with_key(&immediate(), "key-1").await.expect(200);
    assert_eq!(first.body, second.body);
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn the_same_key_with_another_body_is_a_conflict_and_sends_nothing() {
    let world = World::saved().await;
    world.post_with_key(&immediate(), "key-1").await.expect(200);
    let mut other = immediate();
    other["body"] = json!("See you on Tuesday.");
    let conflict = world.post_with_key(&other, "key-1").await.expect(409);
    assert_eq!(conflict.body["code"], "idempotency_key_conflict");
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn without_a_key_two_posts_are_two_communications() {
    let world = World::saved().await;
    let first = world.post(&immediate()).await.expect(200);
    let second = world.post(&immediate()).await.expect(200);
    assert_ne!(first.request_id(), second.request_id());
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn unfinished_immediate_send_is_queued_and_sent_once() {
    let world = World::saved().await;
    // The acceptance is recorded; then the ledger cannot be written.
    world.fail_deliveries(1_000);
    let accepted = world.post(&immediate()).await.expect(202);
    assert_eq!(accepted.body["deliveries"][0]["status"], "queued");
    assert!(world.smtp.messages().is_empty());
    world.fail_deliveries(0);
    assert!(world.run_worker().await.failed.is_empty());
    let status = world.status(&accepted.request_id()).await.expect(200);
    assert_eq!(status.body["deliveries"][0]["status"], "sent");
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn twenty_at_once_with_one_key_are_one_message() {
    let world = World::saved().await;
    let ceilings = json!({"ceilings": {"immediateInFlight": 100}});
    world.patch_settings(CLINIC, ceilings).await.expect(200);
    let communication = immediate();
    let posts = (0..20).map(|_| world.post_with_key(&communication, "key-1"));
    let answers = join_all(posts).await;
    for answer in &answers {
        // Those that found it under way put it on the queue, where it is found to have ended.
        assert!([200, 202].contains(&answer.status), "{}", answer.text);
    }
    assert!(answers.iter().any(|answer| answer.status == 200));
    assert_eq!(world.smtp.messages().len(), 1);
    while !world.run_worker().await.records.is_empty() {}
    assert_eq!(world.smtp.messages().len(), 1);
    let late = world.post_with_key(&communication, "key-1").await;
    late.expect(200);
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn a_message_that_sqs_delivers_twice_is_sent_once() {
    let world = World::saved().await;
    let message = record(
        "059f36b4-87a3-44ab-83d2-661975970001",
        &communication().to_string(),
    );
    for _ in 0..2 {
        assert!(
            world
                .work_on(std::slice::from_ref(&message))
                .await
                .is_empty()
        );
    }
    // Both copies in one batch.
    let another = record(
        "059f36b4-87a3-44ab-83d2-661975970002",
        &communication().to_string(),
    );
    world.work_on(&[another.clone(), another]).await;
    assert_eq!(world.smtp.messages().len(), 2, "two ids, two messages");
}

#[tokio::test]
async fn queued_request_that_the_worker_gets_twice_is_sent_once() {
    let world = World::saved().await;
    let accepted = world.post(&communication()).await.expect(202);
    let batch = world.run_worker().await;
    assert!(world.work_on(&batch.records).await.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
    let status = world.status(&accepted.request_id()).await.expect(200);
    assert_eq!(status.body["deliveries"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn post_repeated_after_a_lost_answer_is_sent_once() {
    let world = World::saved().await;
    let first = world.post_with_key(&communication(), "key-1").await;
    let second = world.post_with_key(&communication(), "key-1").await;
    assert_eq!(
        first.expect(202).request_id(),
        second.expect(202).request_id()
    );
    let batch = world.run_worker().await;
    // Where both copies are in one batch, one may be busy and be redelivered.
    for _ in 0..batch.failed.len() {
        assert!(world.run_worker().await.failed.is_empty());
    }
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn a_key_means_the_same_in_the_header_in_the_body_and_on_the_queue() {
    let world = World::saved().await;
    let mut with_key = communication();
    with_key["idempotencyKey"] = json!("key-1");
    let by_header = world.post_with_key(&communication(), "key-1").await;
    let by_body = world.post(&with_key).await;
    let id = by_header.expect(202).request_id();
    assert_eq!(by_body.expect(202).request_id(), id);
    assert!(
        world
            .work_on(&[record("message-1", &with_key.to_string())])
            .await
            .is_empty()
    );
    let status = world.status(&id).await.expect(200);
    assert_eq!(status.body["deliveries"][0]["status"], "sent");
    world.run_worker().await;
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn a_producers_own_key_makes_two_messages_on_the_queue_one_communication() {
    let world = World::saved().await;
    let mut with_key = communication();
    with_key["idempotencyKey"] = json!("reminder-appt-456");
    for id in ["message-1", "message-2"] {
        let failed = world.work_on(&[record(id, &with_key.to_string())]).await;
        assert!(failed.is_empty());
    }
    assert_eq!(world.smtp.messages().len(), 1);
    // The key stands for this body; another one under it is for a person to look at.
    with_key["title"] = json!("Appointment cancelled");
    let failed = world
        .work_on(&[record("message-3", &with_key.to_string())])
        .await;
    assert_eq!(failed, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 1);
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["attributes"]["reason"], "key_conflict");
    assert_eq!(letters[0]["attributes"]["clinicId"], CLINIC);
}

#[tokio::test]
async fn a_header_and_a_body_with_different_keys_are_refused() {
    let world = World::new().await;
    let mut with_key = communication();
    with_key["idempotencyKey"] = json!("key-1");
    let refused = world.post_with_key(&with_key, "key-2").await.expect(422);
    assert_eq!(refused.pointers(), ["/idempotencyKey"]);
    let long = "k".repeat(256);
    for key in ["", "two words", &long] {
        let headers = [("idempotency-key", key)];
        let refused = world.post_as(&communication(), service(), &headers).await;
        assert_eq!(refused.expect(422).pointers(), ["/idempotencyKey"], "{key}");
    }
}

#[tokio::test]
async fn the_same_key_of_two_clinics_is_two_communications() {
    let world = World::saved().await;
    world
        .put_settings("clinic-456", email(&world.entry(), FROM))
        .await
        .expect(201);
    let first = world.post_with_key(&immediate(), "key-1").await.expect(200);
    let mut other = immediate();
    other["metadata"]["clinicId"] = json!("clinic-456");
    let second = world.post_with_key(&other, "key-1").await.expect(200);
    assert_ne!(first.request_id(), second.request_id());
    assert_eq!(world.smtp.messages().len(), 2);
    let status = world.status(&first.request_id()).await.expect(200);
    assert_eq!(status.body["clinicId"], CLINIC);
}
