//! A login that a provider refuses is looked at by one message at a time, over all processes: providers lock mailboxes
//! for less than what many would try.

use std::time::Duration;

use comms_testkit::smtp::{Action, Stage};
use comms_tests::{
    CLINIC, FROM, USER, communication, email, entry,
    refused::{Refused, WRONG_PASSWORD, logins},
};
use serde_json::{Value, json};

const TIME: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// With a priority that needs no urgent quota.
fn normal() -> Value {
    let mut communication = communication();
    communication["priority"] = json!("normal");
    communication
}

#[tokio::test]
async fn refused_login_is_tried_once_an_interval_by_all_processes() {
    let refused = Refused::new().await;
    refused.post(&normal()).await;
    assert_eq!(refused.work().await, 1);
    let others = [0; 3].map(|_| refused.world.worker_with_clock(refused.clock.clone()));
    for interval in 0..4 {
        let before = logins(&refused.world.smtp);
        assert_eq!(before, 1 + interval);
        refused.clock.advance(6 * MINUTE);
        // Each is a process of its own, which has found the login refused before or heard of it.
        for worker in others.iter().chain([&refused.worker]) {
            refused.post(&normal()).await;
            let batch = refused.world.run_worker_with(worker, TIME).await;
            assert!(!batch.failed.is_empty());
            refused.clock.advance(Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn new_message_does_not_try_a_login_that_is_known_to_be_refused() {
    let refused = Refused::new().await;
    refused.post(&normal()).await;
    assert_eq!(refused.work().await, 1);
    let id = refused.post(&normal()).await;
    assert_eq!(refused.work().await, 2);
    let delivery = refused.delivery(&id).await;
    assert_eq!(delivery["status"], "queued", "{delivery}");
    assert_eq!(delivery["waiting"]["kind"], "unauthenticated", "{delivery}");
    assert_eq!(delivery["attempts"], json!([]), "{delivery}");
    assert_eq!(delivery["skipped"][0]["entry"], "primary", "{delivery}");
    assert_eq!(logins(&refused.world.smtp), 1);

    refused.correct_password().await;
    refused.clock.advance(HOUR);
    assert_eq!(refused.work().await, 0);
    assert_eq!(refused.world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn recovered_login_is_found_by_the_next_try() {
    let refused = Refused::new().await;
    refused.post(&normal()).await;
    assert_eq!(refused.work().await, 1);
    refused.clock.advance(6 * MINUTE);
    assert_eq!(refused.work().await, 1);
    refused.world.smtp.set_password(USER, WRONG_PASSWORD);
    refused.clock.advance(HOUR);
    assert_eq!(refused.work().await, 0);
    assert_eq!(refused.world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn tries_of_a_refused_login_spend_no_quota() {
    let refused = Refused::with(|document| {
        document["email"]["rateLimit"] = json!({"maxPerDay": 2});
    })
    .await;
    let ids = [refused.post(&normal()).await, refused.post(&normal()).await];
    for _ in 0..4 {
        assert_eq!(refused.work().await, 2);
        for id in &ids {
            let delivery = refused.delivery(id).await;
            assert_eq!(delivery["waiting"]["for"], "provider", "{delivery}");
        }
        refused.clock.advance(10 * MINUTE);
    }
    let mut correct = email(&refused.world.entry(), FROM);
    correct["email"]["rateLimit"] = json!({"maxPerDay": 2});
    let saved = refused.world.put_settings(CLINIC, correct).await;
    saved.expect(200);
    refused.clock.advance(HOUR);
    assert_eq!(refused.work().await, 0);
    assert_eq!(refused.world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn exhausted_platform_quota_does_not_add_login_tries() {
    let refused = Refused::new().await;
    let global = refused.world.save_global().await;
    let limit = json!({"email": {"rateLimit": {"maxPerDay": 1}}});
    let patched = refused.world.patch_settings("_global", limit).await;
    patched.expect(200);
    // The platform's account sends the first, which leaves it no quota.
    refused.post(&normal()).await;
    assert_eq!(refused.work().await, 0);
    let id = refused.post(&normal()).await;
    for _ in 0..4 {
        assert_eq!(refused.work().await, 1);
        refused.clock.advance(Duration::from_secs(70));
    }
    let delivery = refused.delivery(&id).await;
    assert_eq!(delivery["waiting"]["for"], "provider", "{delivery}");
    assert_eq!(logins(&refused.world.smtp), 1);
    assert_eq!(global.messages().len(), 1);
}

#[tokio::test]
async fn deliveries_of_one_message_wait_together_and_leave_once_each() {
    let refused = Refused::new().await;
    let mut many = normal();
    many["recipients"] = (0..5)
        .map(|n| json!({"email": format!("patient-{n}@example.com")}))
        .collect();
    let id = refused.post(&many).await;
    let mut before = 0;
    for _ in 0..3 {
        assert_eq!(refused.work().await, 1);
        let body = refused.world.status(&id).await.expect(200).body;
        for delivery in body["deliveries"].as_array().unwrap() {
            assert_eq!(delivery["waiting"]["for"], "provider", "{delivery}");
        }
        let now = logins(&refused.world.smtp);
        // The first look finds out, with as many connections as it has at once.
        assert!(before == 0 || now <= before + 1, "{before} {now}");
        before = now;
        refused.clock.advance(6 * MINUTE);
    }
    refused.correct_password().await;
    refused.clock.advance(HOUR);
    assert_eq!(refused.work().await, 0);
    assert_eq!(refused.world.smtp.messages().len(), 5);
}

#[tokio::test]
async fn message_waits_for_its_login_while_its_fallback_is_down() {
    let refused = Refused::new().await;
    let fallback = refused.world.server("second-user", "second-password");
    let fallback = fallback.start().await;
    fallback.always(Stage::Greeting, Action::reply("421 4.3.2 maintenance"));
    let mut document = email(
        &entry(refused.world.smtp.port(), USER, WRONG_PASSWORD),
        FROM,
    );
    let second = entry(fallback.port(), "second-user", "second-password");
    document["email"]["fallback"] = json!([second]);
    let saved = refused.world.put_settings(CLINIC, document).await;
    saved.expect(200);

    let id = refused.post(&normal()).await;
    // More looks than there are deferrals, in less time than the login rests.
    for _ in 0..4 {
        assert_eq!(refused.work().await, 1);
        let delivery = refused.delivery(&id).await;
        let waiting = &delivery["waiting"];
        assert_eq!(
            (&waiting["for"], &waiting["entry"]),
            (&json!("provider"), &json!("primary")),
            "{delivery}"
        );
        refused.clock.advance(Duration::from_secs(70));
    }
    assert_eq!(logins(&refused.world.smtp), 1);
    // Either of them that works again sends it.
    fallback.clear_script();
    refused.clock.advance(HOUR);
    assert_eq!(refused.work().await, 0);
    assert_eq!(fallback.messages().len(), 1);
}

#[tokio::test]
async fn critical_message_without_expiry_waits_for_an_hour() {
    let refused = Refused::new().await;
    let mut critical = communication();
    critical["priority"] = json!("critical");
    let id = refused.post(&critical).await;
    assert_eq!(refused.work().await, 1);
    let delivery = refused.delivery(&id).await;
    let time = |name: &str| -> jiff::Timestamp {
        delivery["waiting"][name].as_str().unwrap().parse().unwrap()
    };
    let waits = time("until").duration_since(time("since"));
    assert_eq!(waits, jiff::SignedDuration::from_hours(1));
    refused.clock.advance(59 * MINUTE);
    assert_eq!(refused.work().await, 1);
    refused.clock.advance(2 * MINUTE);
    assert_eq!(refused.work().await, 0);
    let delivery = refused.delivery(&id).await;
    assert_eq!(delivery["reason"]["code"], "ALL_PROVIDERS_FAILED");
}
