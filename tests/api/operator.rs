//! The operator's commands against the functions themselves: an import through the config function, sends after
//! everything was re-sealed and the old key disabled, dead letters that the worker gets again.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use comms_core::{DeadLetterReason, Secret, SystemClock, Tenant};
use comms_operator::{
    Api,
    dead_letters::{self, DeadLetterQueue, Filter, Outcome, SourceQueues, Work},
    import::{self, Plan},
    plan::TablePlan,
    reseal,
    stop::Stop,
};
use comms_settings::SettingsStore;
use comms_tests::{
    CLINIC, FROM, PASSWORD, World, communication, email, handle_records, immediate, super_admin,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const TOKEN: &str = "planted-token-of-a-super-admin";

/// Puts the world's config function behind HTTP, for whoever has the token, and says where.
async fn serve(world: &Arc<World>) -> String {
    async fn answer(State(world): State<Arc<World>>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let header = |name: &str| {
            parts
                .headers
                .get(name)
                .map_or("", |value| value.to_str().unwrap())
        };
        let claims = if header("authorization") == format!("Bearer {TOKEN}") {
            super_admin()
        } else {
            Value::Null
        };
        let body = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().into()).unwrap();
        let conditions: Vec<_> = ["if-match", "if-none-match"]
            .into_iter()
            .filter_map(|name| Some((name, parts.headers.get(name)?.to_str().unwrap())))
            .collect();
        let body = (!body.is_empty()).then_some(body.as_str());
        let answer = world
            .config(
                parts.method.as_str(),
                parts.uri.path(),
                body,
                claims,
                &conditions,
            )
            .await;
        Response::builder()
            .status(answer.status)
            .header("etag", answer.header("etag"))
            .body(Body::from(answer.body.to_string()))
            .unwrap()
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).with_state(world.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

/// Imports `clinics` from a file.
async fn import(url: &str, clinics: &Value, replace: bool) -> import::Report {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clinics.json");
    std::fs::write(&file, clinics.to_string()).unwrap();
    let plan = Plan {
        file,
        api: Some(Api::new(url, &Secret::new(TOKEN.to_owned()), None).unwrap()),
        replace,
        rate: 1_000,
    };
    let mut report = import::Report::default();
    import::run(&plan, &mut report, &mut |_| {}).await.unwrap();
    assert!(!report.to_string().contains(PASSWORD));
    report
}

#[tokio::test]
async fn imported_clinics_send_through_their_own_providers() {
    let world = Arc::new(World::new().await);
    let url = serve(&world).await;
    let ses = json!({"email": {"primary": {"provider": "ses", "credentials": {
        "region": "eu-central-1", "accessKeyId": "AKIA0123456789ABCDEF", "secretAccessKey": PASSWORD,
        "fromEmail": "desk@clinic.example"}}}});
    let mut untrusted = email(&world.entry(), FROM);
    untrusted["email"]["primary"]["credentials"]["caPem"] =
        json!("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n");
    let clinics = json!([
        {"clinicId": CLINIC, "settings": {"communicationSettings": email(&world.entry(), FROM)}},
        {"_id": "clinic-ses", "name": "Another", "communicationSettings": ses},
        {"clinicId": "clinic-untrusted", "communicationSettings": untrusted},
    ]);
    let report = import(&url, &clinics, false).await;
    assert_eq!(report.imported, [CLINIC, "clinic-ses"], "{report}");
    let [refused] = &report.refused[..] else {
        panic!("{report}");
    };
    assert_eq!(refused.clinic_id.as_deref(), Some("clinic-untrusted"));
    assert_eq!(
        refused.problems[0].pointer,
        "/settings/communicationSettings/email/primary/credentials/caPem"
    );

    world.post(&immediate()).await.expect(200);
    assert_eq!(world.smtp.messages().len(), 1);
    let shown = world.get_settings("clinic-ses").await.expect(200);
    let primary = &shown.body["settings"]["communicationSettings"]["email"]["primary"];
    assert_eq!(primary["provider"], "aws_ses");
    assert_eq!(shown.body["savedBy"], "user-1", "as everybody's save");
    assert!(!world.answers().contains(PASSWORD));
}

#[tokio::test]
async fn importing_again_changes_nothing_and_replacing_changes_what_is_new() {
    let world = Arc::new(World::new().await);
    let url = serve(&world).await;
    let clinics = |name: &str| {
        let mut document = email(&world.entry(), FROM);
        document["email"]["defaultFromName"] = json!(name);
        json!({CLINIC: {"communicationSettings": document}})
    };
    let (first, second) = (clinics("First"), clinics("Second"));
    assert_eq!(import(&url, &first, true).await.imported, [CLINIC]);
    assert_eq!(import(&url, &second, false).await.already_there, [CLINIC]);
    assert_eq!(import(&url, &first, true).await.unchanged, [CLINIC]);
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"1\"");
    assert_eq!(import(&url, &second, true).await.replaced, [CLINIC]);
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"2\"");
}

#[tokio::test]
async fn every_function_works_after_resealing_under_a_new_key() {
    let world = World::saved().await;
    let queued = world.post(&communication()).await.expect(202).request_id();
    let (sdk, kms) = {
        let sdk = world.aws.sdk_config();
        (sdk.clone(), aws_sdk_kms::Client::new(&sdk))
    };
    let created = kms.create_key().send().await.unwrap();
    let key_arn = created.key_metadata.unwrap().arn.unwrap();
    let resources = world.aws.resources();
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
    assert!(report.is_complete(&key_arn), "{report}");
    assert_eq!(report.resealed, 3, "present settings, version, hash key");
    kms.disable_key()
        .key_id(&resources.kms_key_id)
        .send()
        .await
        .unwrap();

    // A new process, which knows neither the settings nor the key of the hashes.
    let worker = world.worker_with_clock(Arc::new(SystemClock));
    let batch = world
        .run_worker_with(&worker, Duration::from_secs(30))
        .await;
    assert!(batch.failed.is_empty());
    let status = world.status(&queued).await.expect(200);
    assert_eq!(
        status.body["deliveries"][0]["status"], "sent",
        "{}",
        status.text
    );
    let shown = world.get_settings(CLINIC).await.expect(200);
    assert_eq!(shown.header("etag"), "\"1\"", "no new version");
}

/// Does this with every dead letter.
async fn with_dead_letters(world: &World, redrive: bool) -> dead_letters::Report {
    let resources = world.aws.resources();
    let sources = SourceQueues {
        normal: resources.queue_url.clone(),
        urgent: resources.urgent_queue_url.clone(),
    };
    let plan = dead_letters::Plan {
        queue: DeadLetterQueue::new(&world.aws.sdk_config(), &resources.dlq_url, Duration::ZERO),
        filter: Filter::default(),
        work: if redrive {
            Work::Redrive(sources)
        } else {
            Work::List
        },
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

/// Makes a message visible, which was received as often as its queue allows: SQS moves it to the dead-letter queue.
async fn return_to_queue(
    world: &World,
    sqs: &aws_sdk_sqs::Client,
    url: &str,
    message: &aws_sdk_sqs::types::Message,
) {
    sqs.change_message_visibility()
        .queue_url(url)
        .set_receipt_handle(message.receipt_handle.clone())
        .visibility_timeout(0)
        .send()
        .await
        .unwrap();
    assert!(world.take_batch().await.2.is_empty());
}

#[tokio::test]
async fn redriven_message_of_a_dead_worker_is_not_sent_twice() {
    let world = World::saved().await;
    let sqs = aws_sdk_sqs::Client::new(&world.aws.sdk_config());
    let policy = json!({
        "deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:clinic-comms-dlq", "maxReceiveCount": 1});
    sqs.set_queue_attributes()
        .queue_url(&world.aws.resources().queue_url)
        .attributes(QueueAttributeName::RedrivePolicy, policy.to_string())
        .send()
        .await
        .unwrap();
    world.enqueue(&communication().to_string()).await;
    // It is sent, and nobody hears of it: the message becomes visible, is received too often, and SQS moves it.
    let (url, messages, records) = world.take_batch().await;
    let sent = handle_records(&world.worker, &records, Duration::from_secs(30)).await;
    assert!(sent.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
    return_to_queue(&world, &sqs, url, &messages[0]).await;

    let listed = with_dead_letters(&world, false).await;
    let [letter] = &listed.letters[..] else {
        panic!("{listed}");
    };
    assert_eq!(letter.reason, DeadLetterReason::ReceivesExhausted);
    assert_eq!(letter.tenant, Some(Tenant::parse(CLINIC).unwrap()));
    let put_back = with_dead_letters(&world, true).await;
    assert!(put_back.is_complete(), "{put_back}");

    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_ne!(
        batch.records[0]["messageId"].as_str(),
        messages[0].message_id(),
        "it has another id, and is known by the one that it had"
    );
    assert_eq!(world.smtp.messages().len(), 1);
    assert_eq!(with_dead_letters(&world, false).await.seen, 0);
}

/// So many attributes of a sender, `own-00` first.
fn of_the_sender(count: usize) -> Vec<(String, MessageAttributeValue)> {
    (0..count)
        .map(|number| {
            let value = MessageAttributeValue::builder()
                .data_type("Number")
                .string_value(number.to_string());
            (format!("own-{number:02}"), value.build().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn attributes_keep_their_types_when_put_back_and_too_many_are_named() {
    let world = World::saved().await;
    let resources = world.aws.resources();
    let sqs = aws_sdk_sqs::Client::new(&world.aws.sdk_config());
    let mut poison = communication();
    poison["channels"] = json!(["fax"]);
    for count in [2, 10] {
        sqs.send_message()
            .queue_url(&resources.urgent_queue_url)
            .message_body(poison.to_string())
            .set_message_attributes(Some(of_the_sender(count).into_iter().collect()))
            .send()
            .await
            .unwrap();
        assert!(world.run_worker().await.failed.is_empty());
        let put_back = with_dead_letters(&world, true).await;
        let outcome = &put_back.letters[0].outcome;
        if count == 2 {
            assert_eq!(*outcome, Outcome::PutBack);
            let (_, messages, _) = world.take_batch().await;
            let number = &messages[0].message_attributes().unwrap()["own-01"];
            assert_eq!(
                (number.data_type(), number.string_value()),
                ("Number", Some("1"))
            );
        } else {
            let Outcome::Failed(why) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(why.contains("own-09") && !why.contains("own-00"), "{why}");
        }
    }
}

#[tokio::test]
async fn a_message_moved_by_sqs_with_ten_attributes_is_refused_by_their_names() {
    let world = World::saved().await;
    let resources = world.aws.resources();
    let sqs = aws_sdk_sqs::Client::new(&world.aws.sdk_config());
    let policy = json!({
        "deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:clinic-comms-dlq", "maxReceiveCount": 1});
    sqs.set_queue_attributes()
        .queue_url(&resources.queue_url)
        .attributes(QueueAttributeName::RedrivePolicy, policy.to_string())
        .send()
        .await
        .unwrap();
    sqs.send_message()
        .queue_url(&resources.queue_url)
        .message_body(communication().to_string())
        .set_message_attributes(Some(of_the_sender(10).into_iter().collect()))
        .send()
        .await
        .unwrap();
    let (url, messages, _) = world.take_batch().await;
    return_to_queue(&world, &sqs, url, &messages[0]).await;
    let put_back = with_dead_letters(&world, true).await;
    let Outcome::Failed(why) = &put_back.letters[0].outcome else {
        panic!("{put_back}");
    };
    assert!(
        why.contains("11 attributes") && why.contains("own-00, own-01"),
        "{why}"
    );
    assert_eq!(with_dead_letters(&world, false).await.seen, 1);
}

#[tokio::test]
async fn dead_letters_are_listed_by_clinic_and_keep_their_identity() {
    let world = World::saved().await;
    let mut poison = communication();
    poison["channels"] = json!(["fax"]);
    world.enqueue(&poison.to_string()).await;
    let mut first_id = None;
    for _ in 0..2 {
        assert!(world.run_worker().await.failed.is_empty());
        let listed = with_dead_letters(&world, false).await;
        let [letter] = &listed.letters[..] else {
            panic!("{listed}");
        };
        assert_eq!(letter.reason, DeadLetterReason::NotACommunication);
        assert_eq!(letter.tenant, Some(Tenant::parse(CLINIC).unwrap()));
        assert_eq!(letter.fields, ["/channels/0"]);
        assert_eq!(letter.source_queue.as_deref(), Some("clinic-comms"));
        let id = first_id.get_or_insert_with(|| letter.source_message_id.clone());
        assert_eq!(*id, letter.source_message_id);
        let put_back = with_dead_letters(&world, true).await;
        assert_eq!(put_back.letters[0].outcome, Outcome::PutBack);
    }
}
