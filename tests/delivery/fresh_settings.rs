//! A save that was answered counts for every send that begins after it, in processes that have remembered other settings:
//! `config` saves, and `send` and `worker` each have a memory of their own.

use std::time::Duration;

use comms_testkit::{
    aws::{Fault, Moment},
    clock::ManualClock,
    smtp::{Action, SmtpServer, Stage},
};
use comms_tests::{CLINIC, FROM, Mail, World, communication, email, entry};
use serde_json::{Value, json};

const STRATEGIES: [&str; 2] = ["immediate", "queued"];

/// Sends a communication, by the worker where it is queued, and returns its delivery.
async fn sent_as(world: &World, strategy: &str, communication: &Value) -> Value {
    let mut communication = communication.clone();
    communication["strategy"] = json!(strategy);
    let answer = world.post(&communication).await;
    if strategy == "queued" {
        let id = answer.expect(202).request_id();
        world.run_worker().await;
        return world.status(&id).await.expect(200).body["deliveries"][0].clone();
    }
    answer.body["deliveries"][0].clone()
}

async fn delivered(world: &World, strategy: &str) -> Value {
    sent_as(world, strategy, &normal()).await
}

/// With a priority that needs no urgent quota.
fn normal() -> Value {
    let mut communication = communication();
    communication["priority"] = json!("normal");
    communication
}

fn as_immediate() -> Value {
    let mut communication = normal();
    communication["strategy"] = json!("immediate");
    communication
}

#[track_caller]
fn assert_status(delivery: &Value, expected: &str) {
    assert_eq!(delivery["status"], expected, "{delivery}");
}

/// Makes the functions' processes remember the present settings.
async fn warm(world: &World) {
    for strategy in STRATEGIES {
        delivered(world, strategy).await;
    }
}

async fn other_server(world: &World) -> SmtpServer {
    world
        .server("other-user", "other-password-19c7")
        .start()
        .await
}

fn other_entry(server: &SmtpServer) -> Value {
    entry(server.port(), "other-user", "other-password-19c7")
}

/// How many messages arrived at the clinic's own server, and at the other one.
fn arrived(world: &World, other: &SmtpServer) -> (usize, usize) {
    (world.smtp.messages().len(), other.messages().len())
}

#[tokio::test]
async fn no_message_goes_by_an_account_that_was_replaced() {
    for strategy in STRATEGIES {
        let world = World::saved().await;
        warm(&world).await;
        let other = other_server(&world).await;
        let document = email(&other_entry(&other), FROM);
        world.put_settings(CLINIC, document).await.expect(200);
        assert_status(&delivered(&world, strategy).await, "sent");
        assert_eq!(arrived(&world, &other), (2, 1), "{strategy}");
    }
}

#[tokio::test]
async fn a_corrected_host_is_used_by_the_next_send() {
    for strategy in STRATEGIES {
        let world = World::new().await;
        let gone = other_server(&world).await;
        let wrong = email(&other_entry(&gone), FROM);
        world.put_settings(CLINIC, wrong).await.expect(201);
        drop(gone);
        let failed = delivered(&world, "immediate").await;
        assert_status(&failed, "failed");
        let corrected = email(&world.entry(), FROM);
        world.put_settings(CLINIC, corrected).await.expect(200);
        assert_status(&delivered(&world, strategy).await, "sent");
    }
}

#[tokio::test]
async fn a_channel_that_was_added_is_used_by_the_next_send() {
    for strategy in STRATEGIES {
        let world = World::new().await;
        let whatsapp = json!({"whatsapp": {"primary": {"provider": "meta_business", "credentials": {
            "apiKey": "planted-token", "phoneNumberId": "123456789"}}}});
        world.put_settings(CLINIC, whatsapp).await.expect(201);
        for strategy in STRATEGIES {
            let delivery = delivered(&world, strategy).await;
            assert_eq!(delivery["reason"]["code"], "NO_PROVIDER", "{delivery}");
        }
        let added = email(&world.entry(), FROM);
        world.patch_settings(CLINIC, added).await.expect(200);
        assert_status(&delivered(&world, strategy).await, "sent");
    }
}

#[tokio::test]
async fn a_changed_sender_is_on_the_next_message() {
    for strategy in STRATEGIES {
        let world = World::saved().await;
        warm(&world).await;
        let patch = json!({"email": {"defaultFrom": "desk@clinic.example"}});
        world.patch_settings(CLINIC, patch).await.expect(200);
        assert_status(&delivered(&world, strategy).await, "sent");
        let messages = world.smtp.messages();
        let from = Mail::of(messages.last().unwrap()).from;
        assert_eq!(from, "desk@clinic.example", "{strategy}");
    }
}

#[tokio::test]
async fn an_entry_that_was_removed_is_not_used() {
    for strategy in STRATEGIES {
        let world = World::new().await;
        let other = other_server(&world).await;
        let mut document = email(&other_entry(&other), FROM);
        document["email"]["fallback"] = json!([world.entry()]);
        world.put_settings(CLINIC, document).await.expect(201);
        warm(&world).await;
        let without = email(&world.entry(), FROM);
        world.put_settings(CLINIC, without).await.expect(200);
        assert_status(&delivered(&world, strategy).await, "sent");
        let arrived = (other.messages().len(), world.smtp.messages().len());
        assert_eq!(arrived, (2, 1), "{strategy}");
    }
}

#[tokio::test]
async fn a_changed_rate_limit_holds_for_the_next_request() {
    let world = World::saved().await;
    warm(&world).await;
    let limit = |limit: Value| json!({"email": {"rateLimit": limit}});
    let lowered = limit(json!({"maxPerDay": 1}));
    world.patch_settings(CLINIC, lowered).await.expect(200);
    let request = as_immediate();
    world.post(&request).await.expect(200);
    world.post(&request).await.expect(429);
    let waiting = delivered(&world, "queued").await;
    assert_status(&waiting, "queued");

    let raised = limit(json!({"maxPerDay": 1_000}));
    world.patch_settings(CLINIC, raised).await.expect(200);
    world.post(&request).await.expect(200);
    assert_status(&delivered(&world, "queued").await, "sent");
}

#[tokio::test]
async fn deleted_settings_send_nothing_any_more() {
    for strategy in STRATEGIES {
        let world = World::saved().await;
        let global = world.save_global().await;
        warm(&world).await;
        world.delete_settings(CLINIC, &[]).await.expect(204);
        assert_status(&delivered(&world, strategy).await, "sent");
        assert_eq!(
            arrived(&world, &global),
            (2, 1),
            "{strategy}: by the platform's account"
        );
        // And a clinic that saves its first settings leaves the platform's account at once.
        let document = email(&world.entry(), FROM);
        world.put_settings(CLINIC, document).await.expect(201);
        assert_status(&delivered(&world, strategy).await, "sent");
        assert_eq!(arrived(&world, &global), (3, 1), "{strategy}: by its own");
    }
}

#[tokio::test]
async fn nothing_goes_by_the_platform_after_a_clinic_opted_out() {
    for strategy in STRATEGIES {
        let world = World::new().await;
        let global = world.save_global().await;
        let mut document = email(&world.entry(), FROM);
        document["email"]["primary"]["enabled"] = json!(false);
        world.put_settings(CLINIC, document).await.expect(201);
        warm(&world).await;
        let patch = json!({"email": {"fallbackStrategy": {"useGlobal": false}}});
        world.patch_settings(CLINIC, patch).await.expect(200);
        let delivery = delivered(&world, strategy).await;
        assert_eq!(delivery["reason"]["code"], "NO_PROVIDER", "{delivery}");
        assert_eq!(global.messages().len(), 2, "{strategy}");
    }
}

#[tokio::test]
async fn no_message_goes_by_a_platform_account_that_was_replaced() {
    // A clinic without settings, and one whose own provider does not take its messages.
    for has_own in [false, true] {
        for strategy in STRATEGIES {
            let world = World::new().await;
            let global = world.save_global().await;
            if has_own {
                let gone = other_server(&world).await;
                let document = email(&other_entry(&gone), FROM);
                world.put_settings(CLINIC, document).await.expect(201);
            }
            warm(&world).await;
            let other = other_server(&world).await;
            let document = email(&other_entry(&other), "platform@global.example");
            world.put_settings("_global", document).await.expect(200);
            assert_status(&delivered(&world, strategy).await, "sent");
            let arrived = (global.messages().len(), other.messages().len());
            assert_eq!(arrived, (2, 1), "{strategy}, own settings: {has_own}");
        }
    }
}

#[tokio::test]
async fn settings_that_moved_and_cannot_be_opened_leave_the_delivery_waiting() {
    for strategy in STRATEGIES {
        let world = World::saved().await;
        warm(&world).await;
        let other = other_server(&world).await;
        let document = email(&other_entry(&other), FROM);
        world.put_settings(CLINIC, document).await.expect(200);
        world
            .aws
            .fail_next("kms", "Decrypt", 1_000, Fault::AccessDenied);
        if strategy == "immediate" {
            world.post(&as_immediate()).await.expect(503);
            world.aws.clear_faults();
            world.post(&as_immediate()).await.expect(200);
        } else {
            let id = world.post(&normal()).await.expect(202).request_id();
            assert_eq!(world.run_worker().await.failed.len(), 1);
            let delivery = world.status(&id).await.body["deliveries"][0].clone();
            assert_status(&delivery, "queued");
            assert_eq!(delivery["attempts"], json!([]));
            world.aws.clear_faults();
            world.run_worker().await;
        }
        assert_eq!(arrived(&world, &other), (2, 1), "{strategy}");
    }
}

#[tokio::test]
async fn cached_settings_are_used_for_a_minute_while_dynamodb_is_down() {
    let mut world = World::saved().await;
    let clock = std::sync::Arc::new(ManualClock::new());
    world.send.pipeline = world.pipeline_with_clock("send", clock.clone());
    delivered(&world, "immediate").await;
    let table = world.aws.resources().settings_table.clone();
    world.aws.watch(move |call| {
        let is_settings = call.request["TableName"] == json!(table);
        let fails = is_settings && call.moment == Moment::Arrived;
        Box::pin(async move { fails.then_some(Fault::AccessDenied) })
    });
    clock.advance(Duration::from_secs(59));
    assert_status(&delivered(&world, "immediate").await, "sent");
    clock.advance(Duration::from_secs(2));
    world.post(&as_immediate()).await.expect(503);
    world.aws.watch(|_| Box::pin(async { None }));
    assert_status(&delivered(&world, "immediate").await, "sent");
}

/// From here on DynamoDB says nothing to eventually consistent reads, as a replica that lags behind says nothing new.
fn lag(world: &World) {
    let table = world.aws.resources().settings_table.clone();
    world.aws.watch(move |call| {
        let is_eventual = call.request["ConsistentRead"] != json!(true);
        let is_settings = call.request["TableName"] == json!(table);
        let fails = call.call.operation == "GetItem"
            && call.moment == Moment::Arrived
            && is_settings
            && is_eventual;
        Box::pin(async move { fails.then_some(Fault::AccessDenied) })
    });
}

#[tokio::test]
async fn nothing_fails_by_settings_that_a_lagging_replica_has() {
    let refusals = [
        (Stage::Mail, "550 5.7.1 sender rejected"),
        (Stage::Rcpt, "550 5.1.1 no such user"),
        (Stage::Rcpt, "550 5.7.1 policy"),
        (Stage::Body, "554 5.6.0 malformed"),
        (Stage::Auth, "535 5.7.8 wrong password"),
    ];
    for (stage, reply) in refusals {
        for strategy in STRATEGIES {
            let world = World::new().await;
            let old = world.server("other-user", "other-password-19c7");
            let old = old.on(stage, Action::reply(reply)).start().await;
            let mut document = email(&other_entry(&old), FROM);
            // Nothing has to fail over: the corrected entry is tried in its place.
            document["email"]["fallback"] = json!([other_entry(&old)]);
            world.put_settings(CLINIC, document).await.expect(201);
            for pipeline in [&world.send.pipeline, &world.worker.pipeline] {
                let tenant = comms_core::Tenant::parse(CLINIC).unwrap();
                pipeline.ceilings(&tenant).await.unwrap();
            }
            let corrected = email(&world.entry(), FROM);
            world.put_settings(CLINIC, corrected).await.expect(200);
            lag(&world);
            let delivery = delivered(&world, strategy).await;
            assert_status(&delivery, "sent");
            let arrived = (old.messages().len(), world.smtp.messages().len());
            assert_eq!(arrived, (0, 1), "{strategy} {reply}");
        }
    }
}

#[tokio::test]
async fn channel_missing_on_a_lagging_replica_is_found_before_failing() {
    for strategy in STRATEGIES {
        let world = World::new().await;
        for pipeline in [&world.send.pipeline, &world.worker.pipeline] {
            let tenant = comms_core::Tenant::parse(CLINIC).unwrap();
            pipeline.ceilings(&tenant).await.unwrap();
        }
        world.save_clinic().await;
        lag(&world);
        assert_status(&delivered(&world, strategy).await, "sent");
    }
}
