//! What a queued delivery waits for: people who mend its provider, a quota, a provider's pace.

use std::time::Duration;

use comms_core::Clock;
use comms_testkit::{
    http::Reply,
    smtp::{Action, Stage},
};
use comms_tests::{
    CLINIC, FROM, World, communication, email, immediate,
    refused::{Refused, logins},
};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_corrected_password_sends_what_waited_for_it() {
    let refused = Refused::new().await;
    let id = refused.post(&communication()).await;
    assert_eq!(refused.work().await, 1);
    let delivery = refused.delivery(&id).await;
    assert_eq!(delivery["status"], "queued", "{delivery}");
    let waiting = &delivery["waiting"];
    assert_eq!(
        [&waiting["for"], &waiting["kind"], &waiting["entry"]],
        ["provider", "unauthenticated", "primary"]
    );
    let since = waiting["since"].clone();

    // An hour later it waits for the same, and the provider was not asked again by it.
    refused.clock.advance(Duration::from_secs(90));
    assert_eq!(refused.work().await, 1);
    assert_eq!(
        logins(&refused.world.smtp),
        1,
        "the account is not hammered"
    );
    refused.clock.advance(HOUR);
    assert_eq!(refused.work().await, 1);
    let delivery = refused.delivery(&id).await;
    assert_eq!(delivery["waiting"]["since"], since);
    assert_eq!(logins(&refused.world.smtp), 2, "a probe");

    refused
        .world
        .put_settings(CLINIC, email(&refused.world.entry(), FROM))
        .await
        .expect(200);
    refused.clock.advance(HOUR);
    assert_eq!(refused.work().await, 0);
    let delivery = refused.delivery(&id).await;
    assert_eq!(delivery["status"], "sent", "{delivery}");
    assert_eq!(delivery["waiting"], Value::Null);
    assert_eq!(refused.world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn a_delivery_waits_for_a_day_whatever_its_deferrals() {
    let refused = Refused::new().await;
    let id = refused.post(&communication()).await;
    let mut looks = 0;
    while refused.work().await == 1 {
        looks += 1;
        refused.clock.advance(Duration::from_mins(40));
    }
    assert_eq!(looks, 24 * 60 / 40, "twelve deferrals are fewer");
    let delivery = refused.delivery(&id).await;
    assert_eq!(
        delivery["reason"]["code"], "ALL_PROVIDERS_FAILED",
        "{delivery}"
    );
    assert_eq!(delivery["waiting"], Value::Null);
}

#[tokio::test]
async fn a_wait_ends_with_the_message() {
    let refused = Refused::new().await;
    let mut expiring = communication();
    // The function that accepts it has the machine's clock.
    let now = jiff::Timestamp::now();
    let ahead = now.duration_since(refused.clock.now());
    refused.clock.advance(Duration::try_from(ahead).unwrap());
    expiring["expiresAt"] = json!((now + 2 * HOUR).to_string());
    let id = refused.post(&expiring).await;
    assert_eq!(refused.work().await, 1);
    refused.clock.advance(3 * HOUR);
    assert_eq!(refused.work().await, 0);
    assert_eq!(refused.delivery(&id).await["status"], "expired");
}

#[tokio::test]
async fn immediate_request_does_not_wait_for_a_login_to_be_mended() {
    let refused = Refused::new().await;
    let answer = refused.world.post(&immediate()).await;
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(
        delivery["reason"]["code"], "ALL_PROVIDERS_FAILED",
        "{delivery}"
    );
}

#[tokio::test]
async fn a_recipient_that_is_refused_does_not_wait() {
    let world =
        World::with(|server, _| server.on(Stage::Rcpt, Action::reply("550 5.1.1 no such user")))
            .await;
    world.save_clinic().await;
    let id = world.post(&communication()).await.expect(202).request_id();
    assert!(world.run_worker().await.failed.is_empty());
    let delivery = world.status(&id).await.body["deliveries"][0].clone();
    assert_eq!(delivery["reason"]["code"], "REJECTED", "{delivery}");
}

#[tokio::test]
async fn a_wait_for_a_quota_is_in_the_answer_and_costs_one_write() {
    let world = World::saved().await;
    let patch = json!({"email": {"rateLimit": {"maxPerDay": 1}}});
    world.patch_settings(CLINIC, patch).await.expect(200);
    let mut normal = communication();
    normal["priority"] = json!("normal");
    let unlimited = world.post(&normal).await.expect(202).request_id();
    assert!(world.run_worker().await.failed.is_empty());
    let id = world.post(&normal).await.expect(202).request_id();
    for _ in 0..3 {
        assert_eq!(world.run_worker().await.failed.len(), 1);
        let delivery = world.status(&id).await.body["deliveries"][0].clone();
        assert_eq!(delivery["waiting"]["for"], "quota", "{delivery}");
    }
    let patch = json!({"email": {"rateLimit": {"maxPerDay": 100}}});
    world.patch_settings(CLINIC, patch).await.expect(200);
    assert!(world.run_worker().await.failed.is_empty());
    let delivery = world.status(&id).await.body["deliveries"][0].clone();
    assert_eq!(
        (&delivery["status"], &delivery["waiting"]),
        (&json!("sent"), &Value::Null)
    );
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let waited = &delivery["waited"];
    assert_eq!(waited["for"], "quota", "{delivery}");
    assert!(time(&waited["since"]) < time(&waited["until"]), "{waited}");
    assert!(time(&waited["until"]) <= time(&delivery["endedAt"]));
    let first = world.status(&unlimited).await.body["deliveries"][0].clone();
    assert_eq!(first["waited"], Value::Null, "{first}");
}

#[tokio::test]
async fn a_wait_for_a_providers_pace_is_in_the_answer() {
    let world = World::new().await;
    // A provider without connections to wait for.
    let api = world.api().await;
    let accepted = Reply::new(202).header("x-message-id", "1");
    api.always("POST", "/v3/mail/send", accepted);
    let paced = json!({"provider": "sendgrid", "rateLimit": {"maxPerSecond": 1}, "credentials": {
        "apiKey": "planted-key", "fromEmail": FROM, "apiUrl": api.url()}});
    world
        .put_settings(CLINIC, email(&paced, FROM))
        .await
        .expect(201);
    let mut many = communication();
    many["recipients"] = (0..8)
        .map(|n| json!({"email": format!("patient-{n}@example.com")}))
        .collect();
    let id = world.post(&many).await.expect(202).request_id();
    assert_eq!(world.run_worker().await.failed.len(), 1);
    let body = world.status(&id).await.body;
    let deliveries = body["deliveries"].as_array().unwrap();
    let waiting = deliveries
        .iter()
        .filter(|delivery| delivery["status"] == "queued");
    let reasons: Vec<_> = waiting
        .map(|delivery| delivery["waiting"]["for"].clone())
        .collect();
    assert!(
        !reasons.is_empty() && reasons.iter().all(|reason| reason == "pacing"),
        "{body}"
    );
}
