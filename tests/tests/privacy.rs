//! Who a patient is, what is said to them, and what a clinic logs in with stay out of logs, tables and answers,
//! whatever goes wrong.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::SystemClock;
use comms_runtime::telemetry::{self, TelemetryConfig};
use comms_testkit::{
    aws::Fault,
    logs::{Captured, listen},
    smtp::{Action, Stage},
};
use serde_json::{Value, json};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
};

use crate::world::{
    CLINIC, FROM, World, claims, communication, email, entry, immediate, record, service,
    super_admin,
};

const PASSWORD: &str = "Planted-Passw0rd-of-the-clinic";
const WRONG_PASSWORD: &str = "Planted-Wr0ng-passw0rd";
const ADDRESS: &str = "planted.address@patients.example";
const ATTACHMENT: &str = "planted attachment text";
const KEY: &str = "planted-key-of-patient";

/// What a patient would not want to be read, and what a clinic would not.
fn private() -> Vec<String> {
    let mut private: Vec<_> = [
        PASSWORD,
        WRONG_PASSWORD,
        "planted.address",
        "Planted Name",
        "15755512345",
        "planted title",
        "planted body",
        "planted html",
        "planted parameter",
        ATTACHMENT,
        KEY,
        "planted reply text",
        "planted poison",
    ]
    .map(str::to_owned)
    .to_vec();
    for text in [PASSWORD, WRONG_PASSWORD, ATTACHMENT, ADDRESS] {
        private.extend(base64_forms(text));
    }
    private
}

/// What base64 makes of a text, wherever in the encoded bytes it stands.
fn base64_forms(text: &str) -> impl Iterator<Item = String> {
    (0..3_usize).map(move |before| {
        let bytes = [vec![0; before], text.as_bytes().to_vec()].concat();
        let encoded = BASE64_STANDARD.encode(&bytes);
        // The characters at both ends depend on what stands beside the text.
        let (start, end) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        encoded[start..end].to_owned()
    })
}

#[track_caller]
fn assert_private(what: &str, text: &str) {
    for secret in private() {
        if let Some(at) = text.find(&secret) {
            let from = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let line = text[from..].lines().next().unwrap_or_default();
            panic!("{secret:?} is in the {what}: {line}");
        }
    }
}

/// Everything that is logged on this thread from here on: the lines that production would write at its loudest, metrics
/// among them, with as much in them as they can have; and what all crates would log but the ones that stand in for AWS.
fn capture() -> (Captured, Captured, tracing::subscriber::DefaultGuard) {
    let (production, everything) = (Captured::default(), Captured::default());
    let loudest = TelemetryConfig {
        level: "trace".parse().unwrap(),
        by_clinic: true,
        ..TelemetryConfig::default()
    };
    let not_the_stand_ins = Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_target("dynoxide", LevelFilter::OFF)
        .with_target("winterbaume", LevelFilter::OFF)
        .with_target("comms_testkit", LevelFilter::OFF);
    // As plain text: libraries log a great deal, and JSON of it all takes its time.
    let plain = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(everything.clone());
    let subscriber = tracing_subscriber::registry()
        .with(telemetry::layer(loudest, production.clone()))
        .with(plain.with_filter(not_the_stand_ins));
    let guard = listen(subscriber);
    (production, everything, guard)
}

fn full(strategy: &str) -> Value {
    let mut full = communication();
    full["strategy"] = json!(strategy);
    full["title"] = json!("The planted title");
    full["body"] = json!("The planted body.");
    full["html"] = json!("<p>The planted html.</p>");
    full["recipients"] =
        json!([{"email": ADDRESS, "name": "Planted Name", "phoneNumber": "+4915755512345"}]);
    full["channels"] = json!(["email", "whatsapp"]);
    full["templateId"] = json!("appointment_confirmed");
    full["templateParams"] = json!(["planted parameter"]);
    full["attachments"] = json!([{"filename": "a.txt", "contentType": "text/plain",
                                  "content": BASE64_STANDARD.encode(ATTACHMENT)}]);
    full["idempotencyKey"] = json!(format!("{KEY}-{strategy}"));
    full
}

async fn saved() -> World {
    let world = World::with(|server, _| server.credentials("clinic-user", PASSWORD)).await;
    let entry = entry(world.smtp.port(), "clinic-user", PASSWORD);
    let saved = world.put_settings(CLINIC, email(&entry, FROM)).await;
    saved.expect(201);
    world
}

async fn assert_nothing_leaked(world: &World, production: &Captured, everything: &Captured) {
    let (logs, tables) = (production.text(), world.aws.dump_tables().await);
    assert_private("logs", &logs);
    // The lines of metrics are among them.
    assert!(logs.contains("CloudWatchMetrics"));
    assert_private("tables", &tables);
    assert_private("answers", &world.answers());
    // A password is nobody's to log, whatever the filter lets through.
    let everything = everything.text();
    for password in [PASSWORD, WRONG_PASSWORD] {
        assert!(!everything.contains(password));
        for form in base64_forms(password) {
            assert!(!everything.contains(&form));
        }
    }
}

#[tokio::test]
async fn what_goes_well_leaves_no_trace_of_who_and_what_and_no_secret() {
    let (production, everything, _guard) = capture();
    let world = saved().await;
    world.get_settings(CLINIC).await.expect(200);
    let sent = world.post(&full("immediate")).await.expect(207);
    let queued = world.post(&full("queued")).await.expect(202);
    assert!(world.run_worker().await.failed.is_empty());
    world.status(&sent.request_id()).await.expect(200);
    world.status(&queued.request_id()).await.expect(200);
    world.post(&full("immediate")).await.expect(207);
    let test = json!({"testEmail": ADDRESS});
    world.test_email(CLINIC, &test).await.expect(200);
    assert_nothing_leaked(&world, &production, &everything).await;

    // It was all there to leak.
    let message = world.smtp.messages()[0].text();
    for text in ["planted title", "planted body", "planted html", ADDRESS] {
        assert!(message.contains(text), "{text}");
    }
    let (logs, tables) = (production.text(), world.aws.dump_tables().await);
    for line in [
        "delivery recorded",
        "batch handled",
        "answered",
        "\"Sent\":1",
        "\"Failed\":1",
        "\"ConfigCacheHits\":",
    ] {
        assert!(logs.contains(line), "{line}");
    }
    for shown in ["p***@patients.example", CLINIC] {
        assert!(
            tables.contains(shown) && world.answers().contains(shown),
            "{shown}"
        );
    }
    // This is what the filter is for: a library does log what it is given to send.
    assert!(everything.text().contains("planted body"));
}

/// The same with a key of its own.
fn another(strategy: &str, number: usize) -> Value {
    let mut another = full(strategy);
    another["idempotencyKey"] = json!(format!("{KEY}-{strategy}-{number}"));
    another
}

#[tokio::test]
async fn what_goes_wrong_at_the_mail_server_leaves_none_either() {
    let (production, everything, _guard) = capture();
    let world = saved().await;
    let reply = format!("for {ADDRESS}: planted reply text");
    let failures = [
        (Stage::Greeting, Action::reply(format!("421 4.3.2 {reply}"))),
        (Stage::Auth, Action::reply(format!("535 5.7.8 {reply}"))),
        (Stage::Mail, Action::reply(format!("550 5.7.1 {reply}"))),
        (Stage::Rcpt, Action::reply(format!("550 5.1.1 {reply}"))),
        (Stage::Rcpt, Action::reply(format!("451 4.7.1 {reply}"))),
        (Stage::Body, Action::reply(format!("554 5.6.0 {reply}"))),
        (Stage::Body, Action::AcceptThenClose),
        (Stage::Data, Action::reply(format!("{reply} and no SMTP"))),
    ];
    let number_of_failures = failures.len();
    for (number, (stage, action)) in failures.into_iter().enumerate() {
        world.smtp.clear_script();
        world.smtp.close_idle_connections().await;
        world.smtp.always(stage, action);
        world.post(&another("immediate", number)).await.expect(502);
        world.post(&another("queued", number)).await.expect(202);
        world.run_worker().await;
        let test = json!({"testEmail": ADDRESS});
        let tested = world.test_email(CLINIC, &test).await.expect(200);
        assert_eq!(tested.body["ok"], false, "{stage:?}");
    }
    assert_nothing_leaked(&world, &production, &everything).await;
    let logs = production.text();
    let failed = logs.matches("attempt failed").count();
    // More, where the worker gave a message back and got it again.
    assert!(
        failed >= 2 * number_of_failures,
        "each was met by both functions"
    );
}

#[tokio::test]
async fn what_goes_wrong_at_aws_leaves_none_either() {
    let (production, everything, _guard) = capture();
    let world = saved().await;
    let failures = [
        ("dynamodb", "GetItem"),
        ("dynamodb", "PutItem"),
        ("dynamodb", "UpdateItem"),
        ("dynamodb", "TransactWriteItems"),
        ("kms", "GenerateDataKey"),
        ("kms", "Decrypt"),
        ("sqs", "SendMessageBatch"),
    ];
    for (number, (service, operation)) in failures.into_iter().enumerate() {
        let before = production.text().len();
        world
            .enqueue(&another("queued", 100 + number).to_string())
            .await;
        let fault = Fault::AccessDenied;
        world.aws.fail_next(service, operation, 1_000, fault);
        world.post(&another("queued", number)).await;
        world.post(&another("immediate", number)).await;
        // A process that has read nothing yet.
        let worker = world.worker_with_clock(Arc::new(SystemClock));
        world
            .run_worker_with(&worker, Duration::from_secs(30))
            .await;
        let user = format!("user-{number}");
        let changed = email(&entry(world.smtp.port(), &user, PASSWORD), FROM);
        world.put_settings(CLINIC, changed).await;
        world.get_settings(CLINIC).await;
        world.aws.clear_faults();
        let logs = production.text().split_off(before);
        let complaint = logs.contains("\"WARN\"") || logs.contains("\"ERROR\"");
        assert!(complaint, "{operation}: {logs}");
    }
    assert_nothing_leaked(&world, &production, &everything).await;
}

#[tokio::test]
async fn what_can_not_be_understood_is_not_repeated() {
    let (production, everything, _guard) = capture();
    let world = saved().await;
    let wrong = json!({
        "title": "The planted title\r\nBcc: x", "body": 1, "html": ["planted html"],
        "recipients": [{"email": format!("{ADDRESS} planted poison"), "name": "Planted Name\n", "phoneNumber": "15755512345x"}],
        "channels": ["planted poison"], "expiresAt": "planted poison", "priority": "planted poison",
        "attachments": [{"filename": "planted poison/../x", "contentType": "planted poison", "content": "planted poison"}],
        "idempotencyKey": "planted poison", "metadata": {"clinicId": "planted poison"}});
    world.post(&wrong).await.expect(422);
    let headers = [("idempotency-key", "planted poison")];
    let refused = world.post_as(&immediate(), service(), &headers).await;
    refused.expect(422);
    for body in [
        "{\"planted poison\": planted poison",
        "\"planted poison\"",
        "planted poison",
    ] {
        world.post_text(body, service(), &[]).await.expect(400);
        let path = "/api/v1/clinics/clinic-123";
        let refused = world
            .config("PUT", path, Some(body), super_admin(), &[])
            .await;
        assert!([400, 422].contains(&refused.status));
    }
    let mut document = email(&entry(0, "planted poison\n", ""), "planted poison");
    document["email"]["primary"]["credentials"]["host"] = json!("planted poison");
    document["email"]["primary"]["credentials"]["password"] = json!([PASSWORD]);
    document["email"]["onAmbiguous"] = json!("planted poison");
    world
        .put_settings(CLINIC, document.clone())
        .await
        .expect(422);
    let test =
        json!({"testEmail": "planted poison", "settings": {"communicationSettings": document}});
    world.test_email(CLINIC, &test).await.expect(422);
    let wrong_password = email(
        &entry(world.smtp.port(), "clinic-user", WRONG_PASSWORD),
        FROM,
    );
    let test = json!({"verifyOnly": true, "settings": {"communicationSettings": wrong_password}});
    world.test_email(CLINIC, &test).await.expect(200);
    let poison = [
        record("message-1", "planted poison"),
        record("message-2", "{\"planted poison\": 1, \"planted body\": 2}"),
        record("message-3", &wrong.to_string()),
    ];
    assert!(world.work_on(&poison).await.is_empty());
    // A dead letter is as it was; what is said of it says nothing of that.
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 3);
    for letter in letters {
        assert_private("dead letters", &letter["attributes"].to_string());
    }
    let stranger = claims("CLINIC_ADMIN", Some("clinic-456"));
    world
        .post_as(&full("queued"), stranger, &[])
        .await
        .expect(403);
    assert_nothing_leaked(&world, &production, &everything).await;
    assert!(production.text().contains("not_a_communication"));
}
