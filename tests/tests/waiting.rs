//! What a queued delivery waits for: people who mend its provider, a quota, a provider's pace.

use std::{sync::Arc, time::Duration};

use comms_core::Clock;
use comms_testkit::{
    clock::ManualClock,
    http::Reply,
    smtp::{Action, SmtpServer, Stage},
};
use serde_json::{Value, json};

use crate::world::{CLINIC, FROM, USER, World, communication, email, entry, immediate};

const TIME: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_hours(1);

/// The password in the settings, which the server does not have.
pub(crate) const WRONG_PASSWORD: &str = "planted-wrong-password";

/// A worker in a world whose settings have a password that the server refuses.
pub(crate) struct Refused {
    pub(crate) world: World,
    pub(crate) worker: comms_worker::Deps,
    pub(crate) clock: Arc<ManualClock>,
}

impl Refused {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with other settings beside the wrong password.
    pub(crate) async fn with(change: impl FnOnce(&mut Value)) -> Self {
        let world = World::new().await;
        let wrong = entry(world.smtp.port(), USER, WRONG_PASSWORD);
        let mut document = email(&wrong, FROM);
        change(&mut document);
        world.put_settings(CLINIC, document).await.expect(201);
        let clock = Arc::new(ManualClock::new());
        let worker = world.worker_with_clock(clock.clone());
        Self {
            world,
            worker,
            clock,
        }
    }

    pub(crate) async fn post(&self, communication: &Value) -> String {
        let answer = self.world.post(communication).await;
        answer.expect(202).request_id()
    }

    /// Lets the worker look at the message, and returns how many came back.
    pub(crate) async fn work(&self) -> usize {
        self.world
            .run_worker_with(&self.worker, TIME)
            .await
            .failed
            .len()
    }

    pub(crate) async fn delivery(&self, id: &str) -> Value {
        self.world.status(id).await.expect(200).body["deliveries"][0].clone()
    }
}

/// Refused logins.
pub(crate) fn logins(server: &SmtpServer) -> usize {
    let said = server.transcript();
    said.iter()
        .filter(|line| line.starts_with("S: 535"))
        .count()
}

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
async fn an_immediate_request_does_not_wait_for_people() {
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
