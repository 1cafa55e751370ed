//! Health of providers, from one process to another.

use std::{sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use comms_core::Clock as _;
use comms_testkit::{
    aws::Fault,
    clock::ManualClock,
    smtp::{Action, Stage},
};
use comms_tests::{CLINIC, FROM, World, claims, communication, email, entry, http_event};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_mins(1);
const PASSWORD: &str = "planted-fallback-password";

/// A world in which the clinic's mail server refuses its login and a second one takes everything.
struct Failing {
    world: World,
    clock: Arc<ManualClock>,
    fallback: comms_testkit::smtp::SmtpServer,
    sent: u32,
}

impl Failing {
    async fn new() -> Self {
        let world = World::new().await;
        let fallback = world.server("fallback-user", PASSWORD).start().await;
        let mut document = email(&world.entry(), FROM);
        document["email"]["fallback"] = json!([entry(fallback.port(), "fallback-user", PASSWORD)]);
        world.put_settings(CLINIC, document).await.expect(201);
        world
            .smtp
            .always(Stage::Auth, Action::reply("535 5.7.8 planted"));
        Self {
            world,
            clock: Arc::new(ManualClock::new()),
            fallback,
            sent: 0,
        }
    }

    fn process(&self) -> comms_worker::Deps {
        self.world.worker_with_clock(self.clock.clone())
    }

    /// Sends one message and gives the positions that were tried.
    async fn send(&mut self, worker: &comms_worker::Deps) -> Vec<String> {
        self.sent += 1;
        let key = format!("message-{}", self.sent);
        let accepted = self.world.post_with_key(&communication(), &key).await;
        let id = accepted.expect(202).request_id();
        let time = Duration::from_secs(30);
        let batch = self.world.run_worker_with(worker, time).await;
        assert!(batch.failed.is_empty());
        let answer = self.world.status(&id).await.expect(200);
        let attempts = answer.body["deliveries"][0]["attempts"].clone();
        let attempts = attempts.as_array().unwrap().iter();
        attempts
            .map(|attempt: &Value| attempt["position"].as_str().unwrap().to_owned())
            .collect()
    }

    fn calls(&self, operation: &str) -> usize {
        self.world.aws.count("dynamodb", operation)
    }
}

const FAILED_OVER: [&str; 2] = ["primary", "fallback[0]"];

#[tokio::test]
async fn health_is_shared_with_other_processes_by_one_write() {
    // One for the primary that is down, and one for the fallback that has sent for the first time.
    const WRITES: usize = 2;
    let mut failing = Failing::new().await;
    let (first, second) = (failing.process(), failing.process());

    let before = failing.calls("UpdateItem");
    assert_eq!(failing.send(&first).await, FAILED_OVER);
    let with_change = failing.calls("UpdateItem") - before;
    let before = failing.calls("UpdateItem");
    assert_eq!(
        failing.send(&first).await,
        ["fallback[0]"],
        "down goes last"
    );
    let without = failing.calls("UpdateItem") - before;
    assert_eq!(with_change, without + WRITES);

    // Another process hears of it before it has asked the provider at all.
    let logins = failing.world.smtp.connections();
    assert_eq!(failing.send(&second).await, ["fallback[0]"]);
    assert_eq!(failing.world.smtp.connections(), logins);
    assert_eq!(failing.fallback.messages().len(), 3);
}

#[tokio::test]
async fn shared_health_is_read_once_a_minute_recovery_too() {
    let mut failing = Failing::new().await;
    let (first, second) = (failing.process(), failing.process());
    assert_eq!(failing.send(&second).await, FAILED_OVER);
    assert_eq!(failing.send(&first).await, ["fallback[0]"]);

    // The password is right again, and after the cool-down the first process finds out.
    failing.world.smtp.clear_script();
    failing.clock.advance(5 * MINUTE);
    assert_eq!(failing.send(&first).await, ["primary"]);

    let reads = failing.calls("GetItem");
    failing.send(&first).await;
    failing.send(&first).await;
    // The version of the clinic's settings for each.
    assert_eq!(failing.calls("GetItem"), reads + 2);
    failing.clock.advance(MINUTE);
    failing.send(&first).await;
    failing.send(&first).await;
    // And once the version of the platform's settings, the clinic's health, whether its deliveries are slow, and how many
    // connections its mail server allows.
    assert_eq!(failing.calls("GetItem"), reads + 2 + 2 + 4);

    // The second one still has the cool-down before it, but has heard.
    assert_eq!(failing.send(&second).await, ["primary"]);
}

#[tokio::test]
async fn new_settings_reset_health() {
    let mut failing = Failing::new().await;
    let worker = failing.process();
    assert_eq!(failing.send(&worker).await, FAILED_OVER);
    assert_eq!(failing.send(&worker).await, ["fallback[0]"]);
    failing.world.smtp.clear_script();
    let mut document = email(&failing.world.entry(), FROM);
    document["email"]["defaultFromName"] = json!("Another Name");
    document["email"]["fallback"] =
        json!([entry(failing.fallback.port(), "fallback-user", PASSWORD)]);
    failing
        .world
        .put_settings(CLINIC, document)
        .await
        .expect(200);
    failing.clock.advance(MINUTE);
    assert_eq!(failing.send(&worker).await, ["primary"]);
}

#[tokio::test]
async fn admin_sees_the_health_of_each_provider_with_time_and_reason() {
    let mut failing = Failing::new().await;
    let path = format!("/api/v1/clinics/{CLINIC}/communication/health");
    let manager = claims("CLINIC_MANAGER", Some(CLINIC));
    let event = http_event("GET", &path, None, &manager, &[]);
    let provider = |entry: &str, position: &str| {
        json!({"channel": "email", "entry": entry, "position": position, "provider": "smtp",
            "enabled": true, "health": "untried"})
    };
    let primary = provider("primary", "primary");
    let mut fallback = provider("fallback-1", "fallback[0]");
    let health = |providers| json!({"clinicId": CLINIC, "version": 1, "providers": providers});

    let answer = failing.world.ask_config(&event).await.expect(200);
    assert_eq!(answer.body, health(json!([primary, fallback])));

    let worker = failing.process();
    failing.send(&worker).await;
    let answer = failing.world.ask_config(&event).await.expect(200);
    let mut down = primary;
    down["health"] = json!("down");
    down["since"] = json!("2026-01-01T00:00:00Z");
    down["lastError"] = json!({"kind": "unauthenticated",
        "detail": comms_core::ErrorKind::Unauthenticated.detail()});
    fallback["health"] = json!("healthy");
    fallback["since"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(answer.body, health(json!([down, fallback])));
    assert!(!answer.text.contains("planted"));

    failing.world.delete_settings(CLINIC, &[]).await.expect(204);
    failing.world.ask_config(&event).await.expect(404);
}

#[tokio::test]
async fn forged_health_record_sends_nothing_by_the_global_account() {
    let world = World::new().await;
    world.save_clinic().await;
    let global = world.save_global().await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let since = clock.now().as_microsecond().to_string();
    let record = [
        ("state".to_owned(), text("down")),
        ("since".to_owned(), AttributeValue::N(since)),
        ("lastError".to_owned(), text("unauthenticated")),
    ];
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .put_item()
        .table_name(&world.aws.resources().deliveries_table)
        .item("pk", text(&format!("health#{CLINIC}")))
        .item("sk", text("1"))
        .item("email/primary", AttributeValue::M(record.into()))
        .send()
        .await
        .unwrap();

    world.post(&communication()).await.expect(202);
    let time = Duration::from_secs(30);
    assert!(world.run_worker_with(&worker, time).await.failed.is_empty());
    let sent = [world.smtp.messages().len(), global.messages().len()];
    assert_eq!(sent, [1, 0], "by the clinic's server, by the platform's");

    let path = format!("/api/v1/clinics/{CLINIC}/communication/health");
    let manager = claims("CLINIC_MANAGER", Some(CLINIC));
    let event = http_event("GET", &path, None, &manager, &[]);
    let answer = world.ask_config(&event).await.expect(200);
    let provider = &answer.body["providers"][0];
    assert_eq!(provider["health"], "untried");
    assert!(provider.get("since").is_none());
}

/// The item of the clinic's health at its first version.
async fn health_item(world: &World) -> Value {
    let table = &world.aws.resources().deliveries_table;
    let items = world.aws.items(table).await.unwrap();
    let pk = format!("health#{CLINIC}");
    let item = items.into_iter().find(|item| item["pk"]["S"] == pk);
    item.expect("the entry has a record")
}

#[tokio::test]
async fn entry_that_sends_is_not_forgotten() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    for _ in 0..5 {
        world.post(&communication()).await.expect(202);
        world
            .run_worker_with(&worker, Duration::from_secs(30))
            .await;
        let item = health_item(&world).await;
        let expires_at: i64 = item["expiresAt"]["N"].as_str().unwrap().parse().unwrap();
        let next = clock.now() + Duration::from_hours(110 * 24);
        assert!(expires_at > next.as_second(), "{item}");
        clock.advance(Duration::from_hours(100 * 24));
    }
}

#[tokio::test]
async fn first_success_of_an_uninformed_process_keeps_the_down_record() {
    let mut failing = Failing::new().await;
    let (first, second) = (failing.process(), failing.process());
    assert_eq!(failing.send(&first).await, FAILED_OVER);
    let down = health_item(&failing.world).await["email/primary"].clone();
    assert_eq!(down["M"]["state"]["S"], "down");
    failing.world.smtp.clear_script();
    failing.clock.advance(Duration::from_secs(10));
    failing.world.aws.watch(|call| {
        let key = call.request["Key"]["pk"]["S"].as_str();
        let is_health = key.is_some_and(|key| key.starts_with("health#"));
        let fails = is_health && call.call.operation == "GetItem";
        Box::pin(async move { fails.then_some(Fault::AccessDenied) })
    });
    assert_eq!(failing.send(&second).await, ["primary"]);
    let after = health_item(&failing.world).await["email/primary"].clone();
    assert_eq!(after, down);
}
