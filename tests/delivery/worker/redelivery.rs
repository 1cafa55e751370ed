//! Messages that SQS delivers again.

use std::{sync::Arc, time::Duration};

use comms_core::Clock;
use comms_core::{DeliveryStatus, RequestId};
use comms_delivery::{Ledger, deferral::MAX_DEFERRALS};
use comms_testkit::{
    aws::Fault,
    clock::ManualClock,
    smtp::{Action, Stage},
};
use comms_tests::{CLINIC, FROM, Mail, World, communication, email, handle_records, record};
use serde_json::json;

use super::delivery;

#[tokio::test]
async fn unrecorded_outcome_is_flagged_or_held_after_the_lease() {
    for (policy, copies, status) in [("failover", 2, "sent"), ("hold", 1, "unknown")] {
        // The claim is written; then the mail server takes the message, and the ledger is gone.
        let world = World::with(|server, aws| {
            let (aws, first) = (aws.clone(), std::sync::Once::new());
            server.on_message(Arc::new(move |_| {
                first.call_once(|| {
                    aws.fail_next("dynamodb", "UpdateItem", 1_000, Fault::AccessDenied);
                    // Else the outcome is recorded from there.
                    aws.fail_next("sqs", "SendMessage", 1_000, Fault::AccessDenied);
                });
            }))
        })
        .await;
        let mut settings = email(&world.entry(), FROM);
        settings["email"]["onAmbiguous"] = json!(policy);
        world.put_settings(CLINIC, settings).await.expect(201);
        let id = world.post(&communication()).await.expect(202).request_id();

        let clock = Arc::new(ManualClock::new());
        let run = async || {
            // A new process each time: what it knows is what the ledger knows.
            let worker = world.worker_with_clock(clock.clone());
            world
                .run_worker_with(&worker, Duration::from_secs(9))
                .await
                .failed
                .len()
        };
        assert_eq!(run().await, 1, "not recorded, so not done");
        assert_eq!(world.smtp.messages().len(), 1);
        world.aws.clear_faults();
        assert_eq!(run().await, 1, "its lease holds");
        let ledger = Ledger::new(
            &world.aws.sdk_config(),
            &world.aws.resources().deliveries_table,
        );
        let request = RequestId::parse(&id).unwrap();
        let known = ledger.read(&request, clock.now()).await;
        let known = known.unwrap().unwrap().deliveries;
        assert_eq!(known[0].status, DeliveryStatus::Sending);
        assert_eq!(world.smtp.messages().len(), 1);

        clock.advance(Duration::from_mins(1));
        assert_eq!(run().await, 0);
        let delivery = delivery(&world, &id).await;
        assert_eq!(delivery["status"], status);
        assert_eq!(delivery["possibleDuplicate"] == true, copies > 1);
        let messages = world.smtp.messages();
        assert_eq!(messages.len(), copies, "{policy}");
        let mut ids: Vec<_> = messages.iter().map(|m| Mail::of(m).message_id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "copies can be told to be one");
    }
}

#[tokio::test]
async fn redelivered_message_sends_only_what_was_not_sent() {
    // One recipient is sent; for the other the process dies with the message in flight.
    let world = World::with(|server, _| server.on_rcpt("slow@example.com", Action::Hang)).await;
    world.save_clinic().await;
    let mut two = communication();
    two["recipients"] = json!([{"email": "patient@example.com"}, {"email": "slow@example.com"}]);
    let records = [record("message-1", &two.to_string())];
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let work = handle_records(&worker, &records, Duration::from_secs(30));
    tokio::select! {
        failed = work => panic!("{failed:?}"),
        () = async {
            world.smtp.wait_for_stage(Stage::Rcpt, 2).await;
            world.smtp.wait_for_messages(1).await;
            // The outcome of the first is written before the process dies.
            while world.aws.count("dynamodb", "UpdateItem") < 3 {
                tokio::task::yield_now().await;
            }
            while !world.aws.dump_tables().await.contains("\"sent\"") {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    world.smtp.clear_script();
    // The lease of the one that died, and the grace in which its outcome may still come.
    clock.advance(Duration::from_mins(2));
    let worker = world.worker_with_clock(clock);
    assert!(
        handle_records(&worker, &records, Duration::from_secs(30))
            .await
            .is_empty()
    );
    let mut sent: Vec<_> = world
        .smtp
        .messages()
        .iter()
        .map(|m| Mail::of(m).to)
        .collect();
    sent.sort();
    assert_eq!(sent, ["patient@example.com", "slow@example.com"]);
}

#[tokio::test]
async fn greylisted_message_is_redelivered_until_accepted() {
    let later = Action::reply("451 4.7.1 greylisted, come back later");
    let world = World::with(|server, _| server.on(Stage::Rcpt, later)).await;
    world.save_clinic().await;
    let id = world.post(&communication()).await.expect(202).request_id();
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let run = async || {
        let batch = world.run_worker_with(&worker, Duration::from_secs(30));
        batch.await.failed.len()
    };
    assert_eq!(run().await, 1);
    let queued = delivery(&world, &id).await;
    assert_eq!(queued["status"], "queued");
    assert_eq!(queued["attempts"][0]["code"], "451 4.7.1");

    clock.advance(Duration::from_secs(29));
    assert_eq!(run().await, 1, "not so soon");
    assert_eq!(delivery(&world, &id).await, queued);
    clock.advance(Duration::from_mins(10));
    assert_eq!(run().await, 0);
    let sent = delivery(&world, &id).await;
    assert_eq!(sent["status"], "sent");
    assert!(sent.get("reason").is_none(), "{sent}");
    let outcomes: Vec<_> = sent["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["outcome"])
        .collect();
    assert_eq!(outcomes, ["failed", "accepted"]);
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn message_that_is_never_accepted_fails_and_is_no_dead_letter() {
    let world =
        World::with(|server, _| server.always(Stage::Mail, Action::reply("451 4.3.0 later"))).await;
    world.save_clinic().await;
    let id = world.post(&communication()).await.expect(202).request_id();
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    for _ in 0..MAX_DEFERRALS {
        let batch = world.run_worker_with(&worker, Duration::from_secs(30));
        assert_eq!(batch.await.failed.len(), 1);
        assert_eq!(delivery(&world, &id).await["status"], "queued");
        clock.advance(Duration::from_mins(20));
    }
    let last = world
        .run_worker_with(&worker, Duration::from_secs(30))
        .await;
    assert_eq!((last.records.len(), last.failed.len()), (1, 0));
    let failed = delivery(&world, &id).await;
    assert_eq!(failed["reason"]["code"], "ALL_PROVIDERS_FAILED");
    assert!(world.run_worker().await.records.is_empty());
}

#[tokio::test]
async fn worker_sets_when_a_message_is_redelivered() {
    let later = Action::reply("451 4.3.0 later");
    let world = World::with(|server, _| server.always(Stage::Mail, later)).await;
    world.save_clinic().await;
    world.post(&communication()).await.expect(202);
    let waits = || world.aws.count("sqs", "ChangeMessageVisibilityBatch");

    // There was no time: whoever has some may have it at once.
    let (_, _, records) = world.take_batch().await;
    let failed = handle_records(&world.worker, &records, Duration::from_secs(2)).await;
    assert_eq!((failed.len(), waits()), (1, 1));

    // The provider has to wait, and the message does.
    let (_, _, records) = world.take_batch().await;
    let failed = handle_records(&world.worker, &records, Duration::from_secs(30)).await;
    assert_eq!((failed.len(), waits()), (1, 2));
    assert!(world.take_batch().await.2.is_empty());
}
