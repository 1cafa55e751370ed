//! Batches from the queue: what is done, what is redelivered, and that nothing is lost or sent by the wrong account.

use std::{sync::Arc, time::Duration};

use comms_core::{Clock, DeliveryStatus, RequestId};
use comms_delivery::{Ledger, deferral::MAX_DEFERRALS};
use comms_testkit::{
    aws::Fault,
    clock::ManualClock,
    smtp::{Action, SmtpServer, Stage},
};
use comms_tests::{CLINIC, FROM, Mail, World, communication, email, handle_records, record};
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
async fn poison_is_a_dead_letter_with_its_reason_and_takes_no_other_along() {
    let world = World::saved().await;
    let mut unknown_field = communication();
    unknown_field["colour"] = json!("red");
    let mut nobody = communication();
    nobody["recipients"] = json!([]);
    let mut records = vec![
        record("no-json", "{\"category\":"),
        record("unknown-field", &unknown_field.to_string()),
        record("nobody", &nobody.to_string()),
        record("empty", ""),
    ];
    for n in 0..6 {
        let mut good = communication();
        good["recipients"] = json!([{"email": format!("patient-{n}@example.com")}]);
        records.insert(
            n * 2 % records.len(),
            record(&format!("good-{n}"), &good.to_string()),
        );
    }
    assert!(world.work_on(&records).await.is_empty());
    let mut dead: Vec<_> = world
        .dead_letters()
        .await
        .into_iter()
        .map(|letter| {
            let of = |name: &str| letter["attributes"][name].as_str().unwrap_or_default();
            assert_eq!(of("sourceQueue"), "clinic-comms");
            assert_eq!(letter["group"], CLINIC);
            let said = (of("sourceMessageId"), of("reason"), of("fields"));
            format!("{} {} {}", said.0, said.1, said.2)
        })
        .collect();
    dead.sort();
    assert_eq!(
        dead,
        [
            "empty not_a_communication ",
            "no-json not_a_communication ",
            "nobody not_a_communication /recipients",
            "unknown-field not_a_communication ",
        ]
    );
    let mut sent: Vec<_> = world
        .smtp
        .messages()
        .iter()
        .map(|m| Mail::of(m).to)
        .collect();
    sent.sort();
    let expected: Vec<_> = (0..6).map(|n| format!("patient-{n}@example.com")).collect();
    assert_eq!(sent, expected);
}

/// Attributes of a sender, as an event of Lambda has them.
fn of_the_sender(count: usize) -> Value {
    let mut attributes = json!({
        "attempt": {"stringValue": "3", "dataType": "Number", "stringListValues": [], "binaryListValues": []},
        "weight": {"stringValue": "1.5", "dataType": "Number.float"},
        "blob": {"binaryValue": "AAEC", "dataType": "Binary"},
    });
    for number in 3..count {
        attributes[format!("own-{number:02}")] = json!({"stringValue": "x", "dataType": "String"});
    }
    attributes
}

#[tokio::test]
async fn a_dead_letter_keeps_its_senders_attributes_and_their_types() {
    let world = World::saved().await;
    let mut poison = record("poison", "{");
    poison["messageAttributes"] = of_the_sender(3);
    assert!(world.work_on(&[poison]).await.is_empty());
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["attributes"]["attempt"], "3");
    assert_eq!(letters[0]["types"]["attempt"], "Number");
    assert_eq!(letters[0]["types"]["weight"], "Number.float");
    assert_eq!(letters[0]["types"]["blob"], "Binary");
    assert!(letters[0]["attributes"]["droppedAttributes"].is_null());
}

#[tokio::test]
async fn a_dead_letter_names_the_attributes_for_which_it_has_no_room() {
    let world = World::saved().await;
    let mut poison = record("poison", "{");
    poison["messageAttributes"] = of_the_sender(10);
    assert!(world.work_on(&[poison]).await.is_empty());
    let letters = world.dead_letters().await;
    let attributes = letters[0]["attributes"].as_object().unwrap();
    assert_eq!(attributes.len(), 10);
    let dropped: Vec<_> = attributes["droppedAttributes"]
        .as_str()
        .unwrap()
        .split(' ')
        .collect();
    let mut all: Vec<_> = attributes.keys().map(String::as_str).collect();
    all.extend(&dropped);
    for name in of_the_sender(10).as_object().unwrap().keys() {
        assert!(
            all.contains(&name.as_str()),
            "{name} is neither kept nor named"
        );
    }
}

#[tokio::test]
async fn settings_that_can_not_be_read_are_no_reason_to_send_through_the_global_account() {
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
async fn a_global_account_that_can_not_be_read_is_not_taken_for_none() {
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
async fn a_short_outage_of_the_store_is_over_before_anybody_notices() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    world.aws.fail_next("dynamodb", "GetItem", 1, Fault::Drop);
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn nothing_is_sent_that_the_ledger_has_not_claimed() {
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
async fn what_has_expired_on_the_queue_is_recorded_as_expired_and_not_sent() {
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
async fn with_two_seconds_left_nothing_is_begun_and_everything_is_given_back() {
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
async fn what_a_producer_puts_on_the_queue_is_recorded_and_what_send_has_recorded_is_not_again() {
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
async fn an_outcome_that_was_not_recorded_comes_again_and_is_flagged_or_held_after_the_lease() {
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
async fn of_a_message_that_comes_again_only_what_was_not_done_is_done() {
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
async fn a_greylisted_message_comes_again_until_it_is_taken_and_its_attempts_add_up() {
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
async fn a_message_that_is_never_taken_ends_as_failed_and_not_as_a_dead_letter() {
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

#[tokio::test]
async fn the_worker_says_when_a_message_is_to_come_again() {
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

#[tokio::test]
async fn a_dead_letter_that_is_put_back_is_known_by_the_id_that_it_had() {
    let world = World::saved().await;
    let mut first = record("first-id", &communication().to_string());
    assert!(world.work_on(std::slice::from_ref(&first)).await.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
    first["messageId"] = json!("second-id");
    first["messageAttributes"] =
        json!({"sourceMessageId": {"stringValue": "first-id", "dataType": "String"}});
    assert!(world.work_on(&[first]).await.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn poison_that_the_dead_letter_queue_refuses_is_redelivered() {
    let world = World::saved().await;
    world
        .aws
        .fail_next("sqs", "SendMessage", 100, Fault::AccessDenied);
    let poison = [record("poison", "no communication")];
    assert_eq!(world.work_on(&poison).await, ["poison"]);
    world.aws.clear_faults();
    assert!(world.work_on(&poison).await.is_empty());
    assert_eq!(world.dead_letters().await.len(), 1);
}

#[tokio::test]
async fn poison_without_room_for_its_reason_is_a_dead_letter_all_the_same() {
    let world = World::saved().await;
    let poison = "p".repeat(1_048_576);
    assert!(world.work_on(&[record("large", &poison)]).await.is_empty());
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["body"].as_str().unwrap().len(), poison.len());
    assert_eq!(letters[0]["attributes"], json!({}));
}
