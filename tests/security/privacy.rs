//! Who a patient is, what is said to them, and what a clinic logs in with stay out of logs, tables and answers,
//! whatever goes wrong.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{DeadLetterReason, SystemClock};
use comms_operator::{
    dead_letters::{self, DeadLetterQueue, Filter, Work},
    plan::TablePlan,
    reseal,
    stop::Stop,
};
use comms_runtime::telemetry::{self, TelemetryConfig};
use comms_settings::SettingsStore;
use comms_testkit::{
    aws::Fault,
    http::{HttpServer, Reply},
    logs::{Captured, listen},
    smtp::{Action, Stage},
};
use comms_tests::{
    Batch, CLINIC, FROM, World, claims, communication, email, entry, http_event, immediate, record,
    service, super_admin,
};
use serde_json::{Value, json};
use tracing_subscriber::{
    Layer,
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
async fn what_goes_well_leaves_no_trace_of_who_and_what_and_no_secret() {
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
async fn what_goes_wrong_at_the_mail_server_leaves_none_either() {
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
async fn what_goes_wrong_at_aws_leaves_none_either() {
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

#[tokio::test]
async fn what_can_not_be_understood_is_not_repeated() {
    let logs = capture();
    let world = saved().await;
    world.post(&wrong()).await.expect(422);
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
    let stranger = claims("CLINIC_ADMIN", Some("clinic-456"));
    world
        .post_as(&full("queued"), stranger, &[])
        .await
        .expect(403);
    assert_nothing_leaked(&world, &logs).await;
}

#[tokio::test]
async fn what_stands_in_paths_queries_and_headers_is_not_repeated() {
    let logs = capture();
    let world = saved().await;
    for path in [
        "communications/planted.address@patients.example",
        "communications?planted.address=planted.address",
        "clinics/planted.address@patients.example",
        "clinics/planted.address/communication/test-email",
        "clinics/clinic-123/communication/versions?limit=planted.address",
        "clinics/clinic-123/communication/versions/planted.address/restore",
        "planted.address",
    ] {
        for method in ["GET", "POST", "PUT", "PLANTED.ADDRESS"] {
            let headers = [
                ("traceparent", "planted poison"),
                ("x-amzn-trace-id", "Root=planted poison"),
                ("if-match", "planted poison"),
                ("idempotency-key", "planted poison"),
            ];
            let (path, body) = (format!("/api/v1/{path}"), Some("planted poison"));
            let event = http_event(method, &path, body, &super_admin(), &headers);
            for answer in [
                world.ask_send(&event).await,
                world.ask_status(&event).await,
                world.ask_config(&event).await,
                world.ask_config_test(&event).await,
            ] {
                assert!((400..500).contains(&answer.status), "{}", answer.text);
            }
        }
    }
    // Something that is counted.
    world.post(&full("immediate")).await.expect(207);
    assert_nothing_leaked(&world, &logs).await;
    assert!(logs.loudest().contains("answered"));
}

/// What a sender may say of a message beside its body.
const OF_SENDER: [&str; 4] = ["traceparent", "acceptedAs", "payloadHash", "acceptanceMac"];

#[tokio::test]
async fn dead_letters_and_what_is_said_of_them_repeat_nothing() {
    let logs = capture();
    let world = saved().await;
    let mut poison = [
        record("message-1", "planted poison"),
        record("message-2", "{\"planted poison\": 1, \"planted body\": 2}"),
        record("message-3", &wrong().to_string()),
    ];
    for record in &mut poison {
        record["attributes"]["AWSTraceHeader"] = json!("Root=planted poison;Parent=planted poison");
        for name in OF_SENDER {
            record["messageAttributes"][name] =
                json!({"stringValue": "planted poison", "dataType": "String"});
        }
    }
    assert!(world.work_on(&poison).await.is_empty());
    let listed = list_dead_letters(&world).await;
    for letter in &listed.letters {
        assert_eq!(letter.reason, DeadLetterReason::NotACommunication);
    }
    assert_private("operator's list", &listed.to_string());
    let json = serde_json::to_string(&listed).unwrap();
    assert_private("operator's list as JSON", &json);
    assert!(json.contains("message-3"), "{json}");
    // A dead letter is as it was; what is said of it says nothing of that.
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 3);
    for mut letter in letters {
        letter["body"] = Value::Null;
        for name in OF_SENDER {
            letter["attributes"][name] = Value::Null;
        }
        assert_private("dead letters", &letter.to_string());
    }
    assert_nothing_leaked(&world, &logs).await;
    assert!(logs.loudest().contains("not_a_communication"));
}

/// What the operator's command says of the dead letters.
async fn list_dead_letters(world: &World) -> dead_letters::Report {
    let queue = &world.aws.resources().dlq_url;
    let plan = dead_letters::Plan {
        queue: DeadLetterQueue::new(&world.aws.sdk_config(), queue, Duration::ZERO),
        filter: Filter::default(),
        work: Work::List,
        limit: 100,
        rate: 1_000,
        clock: Arc::new(SystemClock),
    };
    let mut report = dead_letters::Report::default();
    dead_letters::run(&plan, &mut report, &Stop::default(), &mut |_, _| {})
        .await
        .unwrap();
    report
}

/// Settings with a provider of every kind that has an API to script, and the mail server behind them.
fn all_providers(world: &World, api: &HttpServer) -> Value {
    let sendgrid = json!({"provider": "sendgrid", "credentials": {"apiKey": SENDGRID_KEY,
        "fromEmail": "hello@clinic.example", "apiUrl": api.url()}});
    let mut document = email(&sendgrid, FROM);
    document["email"]["fallback"] = json!([entry(world.smtp.port(), "clinic-user", PASSWORD)]);
    document["whatsapp"] = json!({
        "primary": {"provider": "meta_business", "credentials": {"accessToken": META_TOKEN,
            "phoneNumberId": "123456789", "apiUrl": format!("{}/v23.0", api.url())}},
        "fallback": [{"provider": "twilio", "credentials": {"accountSid": ACCOUNT, "authToken": TWILIO_TOKEN,
            "fromNumber": "whatsapp:+14155238886", "apiUrl": api.url(),
            "templates": {"appointment_confirmed": TEMPLATE}}}],
        "fallbackStrategy": {"useGlobal": true, "retryAttempts": 0}});
    document
}

const SENDGRID_SEND: &str = "/v3/mail/send";
const META_SEND: &str = "/v23.0/123456789/messages";

fn twilio_send() -> String {
    format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json")
}

#[tokio::test]
async fn what_goes_well_by_providers_apis_leaves_none_either() {
    let logs = capture();
    let world = World::with(|server, _| server.credentials("clinic-user", PASSWORD)).await;
    let api = world.api().await;
    let saved = world
        .put_settings(CLINIC, all_providers(&world, &api))
        .await;
    saved.expect(201);
    let taken = Reply::new(202).header("x-message-id", "sendgrid-id");
    api.always("POST", SENDGRID_SEND, taken);
    let taken = json!({"messaging_product": "whatsapp", "contacts": [{"input": "+4915755512345", "wa_id": "4915755512345"}],
        "messages": [{"id": "wamid.X"}]});
    api.always("POST", META_SEND, Reply::json(200, taken));
    let sent = world.post(&full("immediate")).await.expect(200);
    let queued = world.post(&full("queued")).await.expect(202);
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_envelopes_private(&batch);
    for id in [sent.request_id(), queued.request_id()] {
        let status = world.status(&id).await.expect(200);
        for delivery in status.body["deliveries"].as_array().unwrap() {
            assert_eq!(delivery["status"], "sent", "{}", status.text);
        }
    }
    // The other one for WhatsApp.
    api.clear_script();
    let refused = json!({"error": {"message": "planted reply text", "code": 131_042}});
    api.always("POST", META_SEND, Reply::json(400, refused));
    let taken = json!({"sid": "SM0123456789abcdef0123456789abcdef", "status": "queued",
        "to": "whatsapp:+4915755512345", "body": "planted parameter"});
    api.always("POST", &twilio_send(), Reply::json(201, taken));
    let mut one = another("immediate", 1);
    one["channels"] = json!(["whatsapp"]);
    world.post(&one).await.expect(200);
    assert_nothing_leaked(&world, &logs).await;

    // It was all there to leak.
    let requests = api.requests();
    let of = |path: &str| {
        let request = requests.iter().find(|request| request.path == path);
        let request = request.unwrap();
        let body = String::from_utf8_lossy(&request.body).into_owned();
        (request.header("authorization").unwrap().to_owned(), body)
    };
    let (key, body) = of(SENDGRID_SEND);
    assert!(key.contains(SENDGRID_KEY) && body.contains(CODE) && body.contains(ADDRESS));
    let (key, body) = of(META_SEND);
    assert!(key.contains(META_TOKEN) && body.contains(CODE) && body.contains("15755512345"));
    let (_, body) = of(&twilio_send());
    assert!(body.contains(CODE) && body.contains("15755512345"));
    let lines = logs.loudest();
    for provider in ["sendgrid", "meta_business", "twilio"] {
        let sent = lines.lines().any(|line| {
            line.contains("attempt accepted") && line.contains(&format!("\"{provider}\""))
        });
        assert!(sent, "{provider}");
    }
}

#[tokio::test]
async fn what_goes_wrong_at_providers_apis_leaves_none_either() {
    let logs = capture();
    let world = World::with(|server, _| server.credentials("clinic-user", PASSWORD)).await;
    let api = world.api().await;
    let mut settings = all_providers(&world, &api);
    // Each for itself: the mail server would take what SendGrid does not.
    settings["email"]["fallback"] = json!([]);
    world.put_settings(CLINIC, settings).await.expect(201);
    let reply = format!(
        "planted reply text for {ADDRESS} +4915755512345: {CODE} {SENDGRID_KEY} {META_TOKEN} {TWILIO_TOKEN}"
    );
    // In the form of each of the three, and in none.
    let document = |code: u32| {
        json!({"errors": [{"message": reply, "field": reply, "help": reply, "error_id": reply}],
            "error": {"message": reply, "type": reply, "code": code, "error_data": {"details": reply},
                      "fbtrace_id": reply},
            "code": code, "message": reply, "more_info": reply, "status": 400})
    };
    let mut replies: Vec<_> = [
        // Meta's and Twilio's own codes, which the other does not know.
        (400, 131_026),
        (400, 131_042),
        (400, 131_009),
        (401, 190),
        (400, 130_429),
        (400, 21_211),
        (401, 20_003),
        (400, 63_016),
        (429, 20_429),
        (403, 1),
        (404, 2),
        (413, 3),
        (500, 4),
        (503, 5),
        // Accepted, and without what is accepted.
        (200, 6),
        (202, 7),
    ]
    .map(|(status, code)| Reply::json(status, document(code)))
    .into();
    replies.push(Reply::json(
        400,
        json!({"error": reply, "code": reply, "errors": [reply], "message": [reply]}),
    ));
    replies.push(Reply::new(400).body(reply.clone()));
    replies.push(
        Reply::new(500)
            .header("x-planted", &reply)
            .body(reply.clone()),
    );
    replies.push(Reply::new(302).header("location", "https://planted.address.example/planted"));
    replies.push(Reply::raw(format!("{reply} and no HTTP\r\n\r\n")));
    replies.push(Reply::json(200, document(8)).cut(20));
    replies.push(Reply::close());
    let number_of_replies = replies.len();
    for (number, reply) in replies.into_iter().enumerate() {
        api.clear_script();
        for path in [SENDGRID_SEND, META_SEND, &twilio_send()] {
            api.always("POST", path, reply.clone());
        }
        for path in [
            "/v3/scopes".to_owned(),
            "/v23.0/123456789".to_owned(),
            format!("/2010-04-01/Accounts/{ACCOUNT}.json"),
        ] {
            api.always("GET", &path, reply.clone());
        }
        let answer = world.post(&another("immediate", number)).await;
        // 202 where it has to wait, 200 where that it was accepted is all that an API says.
        assert!([200, 202, 207].contains(&answer.status), "{}", answer.text);
        world.post(&another("queued", number)).await.expect(202);
        assert_envelopes_private(&world.run_worker().await);
        world.status(&answer.request_id()).await.expect(200);
        let test = json!({"testEmail": ADDRESS});
        world.test_email(CLINIC, &test).await;
        let test = json!({"testPhone": "+4915755512345", "templateId": "hello_world", "language": "en_US",
            "templateParams": [CODE]});
        world.test_settings(CLINIC, "test-whatsapp", &test).await;
    }
    assert_nothing_leaked(&world, &logs).await;
    let lines = logs.loudest();
    for provider in ["sendgrid", "meta_business", "twilio"] {
        let failed = lines.lines().filter(|line| {
            line.contains("attempt failed") && line.contains(&format!("\"{provider}\""))
        });
        assert!(failed.count() > number_of_replies, "{provider}");
    }
}

#[tokio::test]
async fn what_becomes_of_settings_says_which_fields_and_never_what_is_in_them() {
    let logs = capture();
    let world = saved().await;
    let api = world.api().await;
    let stale = [("if-match", "\"7\"")];
    let there = [("if-none-match", "*")];
    let document = || all_providers(&world, &api);
    let replaced = world.get_settings(CLINIC).await;
    let current = [("if-match", replaced.header("etag"))];
    world
        .put_settings_if(CLINIC, document(), &stale)
        .await
        .expect(412);
    world
        .put_settings_if(CLINIC, document(), &there)
        .await
        .expect(412);
    world
        .put_settings_if(CLINIC, document(), &current)
        .await
        .expect(200);
    let password =
        json!({"email": {"fallback": [entry(world.smtp.port(), "clinic-user", WRONG_PASSWORD)]}});
    world
        .patch_settings(CLINIC, password.clone())
        .await
        .expect(200);
    world
        .patch_settings_if(CLINIC, password, &stale)
        .await
        .expect(412);
    // Unknown fields are answered by their names, and values are not.
    let poison = json!({"email": {"onAmbiguous": "planted poison", "primary": {"credentials": {
        "apiKey": {"key": SENDGRID_KEY}, "apiUrl": "planted poison", "password": PASSWORD}}}});
    world.patch_settings(CLINIC, poison).await.expect(422);
    let stranger = claims("CLINIC_MANAGER", Some(CLINIC));
    let body = json!({"settings": {"communicationSettings": document()}}).to_string();
    let path = format!("/api/v1/clinics/{CLINIC}");
    world
        .config("PUT", &path, Some(&body), stranger, &[])
        .await
        .expect(403);
    world.get_settings(CLINIC).await.expect(200);
    world.versions(CLINIC, "").await.expect(200);
    let health = format!("{path}/communication/health");
    let health = world.config("GET", &health, None, super_admin(), &[]).await;
    health.expect(200);
    // A candidate of which nothing is saved.
    let candidate = json!({"testEmail": ADDRESS, "settings": {"communicationSettings":
        email(&entry(world.smtp.port(), "clinic-user", WRONG_PASSWORD), FROM)}});
    let tested = world.test_email(CLINIC, &candidate).await.expect(200);
    assert_eq!(tested.body["ok"], false);
    world.restore(CLINIC, "1", &[]).await.expect(200);
    world.post(&another("immediate", 1)).await.expect(207);
    world.delete_settings(CLINIC, &stale).await.expect(412);
    world.delete_settings(CLINIC, &[]).await;
    world.get_settings(CLINIC).await.expect(404);
    world.put_settings("_global", document()).await.expect(201);

    let (sdk, resources) = (world.aws.sdk_config(), world.aws.resources());
    let key = aws_sdk_kms::Client::new(&sdk).create_key().send().await;
    let key_arn = key.unwrap().key_metadata.unwrap().arn.unwrap();
    let plan = TablePlan {
        store: SettingsStore::new(&sdk, &resources.settings_table, &key_arn),
        tenants: Vec::new(),
        rate: 1_000,
        is_dry_run: false,
    };
    let mut report = reseal::Report::default();
    reseal::run(&plan, &key_arn, &mut report, &mut |_, _| {})
        .await
        .unwrap();
    assert!(report.resealed > 3, "{report}");
    assert_private("operator's report", &report.to_string());
    assert_nothing_leaked(&world, &logs).await;

    // The audit is there, and names fields.
    let tables = world.aws.dump_tables().await;
    assert!(
        tables.contains("/email/fallback") && tables.contains("user-1"),
        "{tables}"
    );
    for line in [
        "settings saved",
        "settings deleted",
        "settings tested",
        "refused",
    ] {
        assert!(logs.loudest().contains(&format!("\"{line}\"")), "{line}");
    }
}
