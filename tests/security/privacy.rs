//! Who a patient is, what is said to them, and what a clinic logs in with stay out of logs, tables and answers,
//! whatever goes wrong.

mod apis;
mod requests;
mod settings;

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::SystemClock;
use comms_runtime::telemetry::{self, TelemetryConfig};
use comms_testkit::{
    aws::Fault,
    logs::{Captured, listen},
    smtp::{Action, Stage},
};
use comms_tests::{Batch, CLINIC, FROM, World, communication, email, entry, service};
use serde_json::{Value, json};
use tracing_subscriber::Layer;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
};

const PASSWORD: &str = "Planted-Passw0rd-of-the-clinic";
const WRONG_PASSWORD: &str = "Planted-Wr0ng-passw0rd";
const ADDRESS: &str = "planted.address@patients.example";
const ATTACHMENT: &str = "planted attachment text";
const KEY: &str = "planted-key-of-patient";
/// What somebody logs in with.
const CODE: &str = "842917356";
const SENDGRID_KEY: &str = "SG.Planted-sendgrid-key";
const META_TOKEN: &str = "Planted-meta-token";
const TWILIO_TOKEN: &str = "Planted-twilio-token";
/// Every secret of a clinic.
const SECRETS: [&str; 5] = [
    PASSWORD,
    WRONG_PASSWORD,
    SENDGRID_KEY,
    META_TOKEN,
    TWILIO_TOKEN,
];
const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
const TEMPLATE: &str = "HX0123456789abcdef0123456789abcdef";
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// What a patient would not want to be read, and what a clinic would not.
fn private() -> Vec<String> {
    let mut private: Vec<_> = [
        "planted.address",
        "Planted Name",
        "15755512345",
        "planted title",
        "planted body",
        "planted html",
        "planted parameter",
        ATTACHMENT,
        KEY,
        CODE,
        "planted reply text",
        "planted poison",
    ]
    .map(str::to_owned)
    .to_vec();
    private.extend(SECRETS.map(str::to_owned));
    for text in SECRETS.into_iter().chain([ATTACHMENT, ADDRESS]) {
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

/// Everything that is logged on this thread.
struct Logs {
    /// The lines that production would write at each of [`LEVELS`], metrics among them, with as much in them as they can
    /// have.
    production: [Captured; LEVELS.len()],
    /// What all crates would log but the ones that stand in for AWS.
    everything: Captured,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Logs {
    /// What production would write at its loudest.
    fn loudest(&self) -> String {
        self.production[LEVELS.len() - 1].text()
    }
}

/// Takes down everything that is logged on this thread from here on.
fn capture() -> Logs {
    let production: [Captured; LEVELS.len()] = Default::default();
    let everything = Captured::default();
    let layers: Vec<_> = LEVELS
        .iter()
        .zip(&production)
        .map(|(level, lines)| {
            let config = TelemetryConfig {
                level: level.parse().unwrap(),
                by_clinic: true,
                ..TelemetryConfig::default()
            };
            telemetry::layer(config, lines.clone())
        })
        .collect();
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
        .with(layers)
        .with(plain.with_filter(not_the_stand_ins));
    Logs {
        _guard: listen(subscriber),
        production,
        everything,
    }
}

fn full(strategy: &str) -> Value {
    let mut full = communication();
    full["strategy"] = json!(strategy);
    full["title"] = json!(format!("The planted title {CODE}"));
    full["body"] = json!(format!("The planted body. Your code is {CODE}."));
    full["html"] = json!("<p>The planted html.</p>");
    full["recipients"] =
        json!([{"email": ADDRESS, "name": "Planted Name", "phoneNumber": "+4915755512345"}]);
    full["channels"] = json!(["email", "whatsapp"]);
    full["templateId"] = json!("appointment_confirmed");
    full["language"] = json!("en_US");
    full["templateParams"] = json!(["planted parameter", CODE]);
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

/// Looks everywhere where something may have been left: logs and metrics, tables (ledger, settings with their versions,
/// health), answers, queues.
async fn assert_nothing_leaked(world: &World, logs: &Logs) {
    for (level, lines) in LEVELS.iter().zip(&logs.production) {
        let lines = lines.text();
        assert_private(&format!("logs at level {level}"), &lines);
        // The lines of metrics are among them.
        assert!(lines.contains("CloudWatchMetrics"), "{level}");
    }
    assert_private("tables", &world.aws.dump_tables().await);
    assert_private("answers", &world.answers());
    // A secret is nobody's to log, whatever the filter lets through.
    let everything = logs.everything.text();
    for secret in SECRETS {
        assert!(!everything.contains(secret));
        for form in base64_forms(secret) {
            assert!(!everything.contains(&form));
        }
    }
}

/// What a message has beside its body: ids of ours, and its trace.
#[track_caller]
fn assert_envelopes_private(batch: &Batch) {
    for record in &batch.records {
        let mut envelope = record.clone();
        envelope["body"] = Value::Null;
        assert_private("attributes of a message", &envelope.to_string());
    }
}

#[tokio::test]
async fn successful_sends_log_no_recipient_content_or_secret() {
    let logs = capture();
    let world = saved().await;
    world.get_settings(CLINIC).await.expect(200);
    let sent = world.post(&full("immediate")).await.expect(207);
    let trace = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
    let headers = [("traceparent", trace)];
    let queued = world.post_as(&full("queued"), service(), &headers).await;
    let queued = queued.expect(202);
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_envelopes_private(&batch);
    world.status(&sent.request_id()).await.expect(200);
    world.status(&queued.request_id()).await.expect(200);
    world.post(&full("immediate")).await.expect(207);
    let test = json!({"testEmail": ADDRESS});
    world.test_email(CLINIC, &test).await.expect(200);
    assert_nothing_leaked(&world, &logs).await;

    // It was all there to leak.
    let message = world.smtp.messages()[0].text();
    for text in [
        "planted title",
        "planted body",
        "planted html",
        ADDRESS,
        CODE,
    ] {
        assert!(message.contains(text), "{text}");
    }
    let (lines, tables) = (logs.loudest(), world.aws.dump_tables().await);
    for line in [
        "delivery recorded",
        "batch handled",
        "answered",
        "\"Sent\":1",
        "\"Failed\":1",
        "\"ConfigCacheHits\":",
    ] {
        assert!(lines.contains(line), "{line}");
    }
    for shown in ["p***@p***.example", CLINIC] {
        assert!(
            tables.contains(shown) && world.answers().contains(shown),
            "{shown}"
        );
    }
    // This is what the filter is for: a library does log what it is given to send.
    assert!(logs.everything.text().contains("planted body"));
}

/// The same with a key of its own.
fn another(strategy: &str, number: usize) -> Value {
    let mut another = full(strategy);
    another["idempotencyKey"] = json!(format!("{KEY}-{strategy}-{number}"));
    another
}

#[tokio::test]
async fn failures_at_the_mail_server_log_no_personal_data() {
    let logs = capture();
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
        // New settings, whose login is not known to be refused.
        let entry = entry(world.smtp.port(), "clinic-user", PASSWORD);
        let mut settings = email(&entry, FROM);
        settings["email"]["defaultFromName"] = json!(format!("Clinic {number}"));
        world.put_settings(CLINIC, settings).await.expect(200);
        world.post(&another("queued", number)).await.expect(202);
        world.run_worker().await;
        world.post(&another("immediate", number)).await.expect(207);
        let test = json!({"testEmail": ADDRESS});
        let tested = world.test_email(CLINIC, &test).await.expect(200);
        assert_eq!(tested.body["ok"], false, "{stage:?}");
    }
    assert_nothing_leaked(&world, &logs).await;
    let lines = logs.loudest();
    let failed = lines.matches("attempt failed").count();
    // More, where the worker gave a message back and got it again.
    assert!(
        failed >= 2 * number_of_failures,
        "each was met by both functions"
    );
}

#[tokio::test]
async fn failures_at_aws_log_no_personal_data() {
    let logs = capture();
    let world = saved().await;
    let failures = [
        ("dynamodb", "GetItem"),
        ("dynamodb", "PutItem"),
        ("dynamodb", "UpdateItem"),
        ("dynamodb", "TransactWriteItems"),
        ("kms", "GenerateDataKey"),
        ("kms", "Decrypt"),
        ("dynamodb", "Query"),
        ("sqs", "SendMessageBatch"),
        ("sqs", "SendMessage"),
        ("sqs", "ChangeMessageVisibilityBatch"),
    ];
    for (number, (service, operation)) in failures.into_iter().enumerate() {
        let before = logs.loudest().len();
        world
            .enqueue(&another("queued", 100 + number).to_string())
            .await;
        // Something for the dead-letter queue.
        world.enqueue("{\"planted poison\": 1}").await;
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
        world.versions(CLINIC, "").await;
        world
            .test_email(CLINIC, &json!({"testEmail": ADDRESS}))
            .await;
        world.aws.clear_faults();
        let lines = logs.loudest().split_off(before);
        let complaint = lines.contains("\"WARN\"") || lines.contains("\"ERROR\"");
        assert!(complaint, "{operation}: {lines}");
    }
    // What AWS says of a failure may quote the request: only its code is kept.
    let kept = logs.loudest() + &world.answers() + &world.aws.dump_tables().await;
    assert!(kept.contains("AccessDenied") && !kept.contains("not authorized to perform"));
    assert_nothing_leaked(&world, &logs).await;
}

/// A communication with everything wrong.
fn wrong() -> Value {
    json!({
        "title": "The planted title\r\nBcc: x", "body": 1, "html": ["planted html"],
        "recipients": [{"email": format!("{ADDRESS} planted poison"), "name": "Planted Name\n", "phoneNumber": "15755512345x"}],
        "channels": ["planted poison"], "expiresAt": "planted poison", "priority": "planted poison",
        "attachments": [{"filename": "planted poison/../x", "contentType": "planted poison", "content": "planted poison"}],
        "idempotencyKey": "planted poison", "metadata": {"clinicId": "planted poison"}})
}
