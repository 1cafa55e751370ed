//! Who did what: audit lines, callers in log lines, and origins in the ledger.

use std::sync::Arc;

use comms_core::{HashKey, SubjectHash};
use comms_operator::audit::{self, About, Deed};
use comms_runtime::{
    AuditSubjects,
    telemetry::{self, LogLevel, TelemetryConfig},
};
use comms_settings::{HashKeys, SettingsStore};
use comms_testkit::{
    aws::{Fault, Moment},
    logs::{Captured, listen},
};
use comms_tests::{CLINIC, World, claims, communication, email, record, super_admin};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing_subscriber::layer::SubscriberExt as _;

/// The key of the hashes.
pub(crate) async fn hash_key(world: &World) -> HashKey {
    let resources = world.aws.resources();
    let sdk = world.aws.sdk_config();
    let store = SettingsStore::new(&sdk, &resources.settings_table, &resources.kms_key_id);
    HashKeys::new(store).get().await.unwrap().clone()
}

/// What is logged at the level `error`, at which production writes least.
fn capture() -> (Captured, tracing::subscriber::DefaultGuard) {
    let lines = Captured::default();
    let config = TelemetryConfig {
        level: "error".parse::<LogLevel>().unwrap(),
        ..TelemetryConfig::default()
    };
    let layer = telemetry::layer(config, lines.clone());
    let guard = listen(tracing_subscriber::registry().with(layer));
    (lines, guard)
}

fn audit_lines(lines: &Captured) -> Vec<Value> {
    let text = lines.text();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["target"] == "comms_audit")
        .collect()
}

/// Sends, reads, changes, tests, and is refused: each once.
async fn everything(world: &World) -> String {
    let id = world.post(&communication()).await.expect(202).request_id();
    world.status(&id).await.expect(200);
    world.get_settings(CLINIC).await.expect(200);
    world.versions(CLINIC, "").await.expect(200);
    let patch = json!({"email": {"defaultFromName": "Changed"}});
    world.patch_settings(CLINIC, patch).await.expect(200);
    let test = json!({"testEmail": "admin@clinic.example"});
    world.test_email(CLINIC, &test).await.expect(200);
    let settings = format!("/api/v1/clinics/{CLINIC}");
    let stranger = claims("CLINIC_MANAGER", Some("clinic-other"));
    let answer = world.config("GET", &settings, None, stranger, &[]).await;
    answer.expect(403);
    id
}

#[tokio::test]
async fn every_request_with_a_caller_has_an_audit_line_at_every_level() {
    let mut world = World::saved().await;
    let key = hash_key(&world).await;
    world.restart();
    let (lines, _guard) = capture();
    let id = everything(&world).await;
    let by = SubjectHash::of(&key, "user-1").unwrap();
    let lines_written = audit_lines(&lines);
    let said: Vec<_> = lines_written
        .iter()
        .map(|line| {
            assert_eq!(line["subject"], by.as_str(), "{line}");
            assert_eq!(line["clinicId"], CLINIC, "{line}");
            let request = line["requestId"] == id.as_str();
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            (text("action"), text("outcome"), request)
        })
        .collect();
    let expected = [
        ("send", "done", true),
        ("view_communication", "done", true),
        ("view_settings", "done", false),
        ("view_settings", "done", false),
        ("manage_settings", "done", false),
        ("test_settings", "done", false),
        ("view_settings", "refused", false),
    ];
    let expected =
        expected.map(|(action, outcome, request)| (action.to_owned(), outcome.to_owned(), request));
    assert_eq!(said, expected);
    assert!(!lines.text().contains("user-1"), "{}", lines.text());
}

#[tokio::test]
async fn logs_have_the_subject_itself_where_the_platform_says_so() {
    let mut world = World::saved().await;
    world.send.audit_subjects = AuditSubjects::Plain;
    world.config.audit_subjects = AuditSubjects::Plain;
    let (lines, _guard) = capture();
    let id = world.post(&communication()).await.expect(202).request_id();
    world.get_settings(CLINIC).await.expect(200);
    for line in audit_lines(&lines) {
        assert_eq!(line["subject"], "user-1", "{line}");
    }
    // The ledger has the hash all the same.
    let by = SubjectHash::of(&hash_key(&world).await, "user-1").unwrap();
    let tables = world.aws.dump_tables().await;
    assert!(
        tables.contains(by.as_str()) && tables.contains(&id),
        "{tables}"
    );
}

#[tokio::test]
async fn a_request_is_answered_where_its_caller_cannot_be_hashed() {
    let mut world = World::saved().await;
    hash_key(&world).await;
    world.restart();
    let (lines, _guard) = capture();
    world
        .aws
        .fail_next("kms", "Decrypt", 1_000, Fault::AccessDenied);
    world.versions(CLINIC, "").await.expect(200);
    let lines = audit_lines(&lines);
    assert_eq!(lines[0]["outcome"], "done");
    assert!(lines[0]["subject"].is_null(), "{lines:?}");
}

/// A process that has read nothing yet. The settings' answer waits until the hash key is asked for, and the key's
/// answer until the settings are: whichever were read first, the other would never be.
#[tokio::test]
async fn the_hash_key_is_read_beside_what_the_request_needs() {
    let mut world = World::saved().await;
    hash_key(&world).await;
    world.restart();
    let asked = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
    world.aws.watch(move |passing| {
        let key = passing.request["Key"]["pk"]["S"].as_str();
        let place = match (key, passing.moment) {
            (Some("_hash-key"), Moment::Arrived) => Some(0),
            (Some(CLINIC), Moment::Arrived) => Some(1),
            _ => None,
        };
        let asked = asked.clone();
        Box::pin(async move {
            if let Some(place) = place {
                asked[place].add_permits(1);
                drop(asked[1 - place].acquire().await.unwrap());
            }
            None
        })
    });
    world.get_settings(CLINIC).await.expect(200);
}

#[tokio::test]
async fn the_ledger_names_who_had_a_request_accepted() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    let mut own = record("message-1", &communication().to_string());
    own["attributes"]["SenderId"] = json!("AROAPRODUCER:instance-1");
    assert!(world.work_on(&[own]).await.is_empty());
    let key = hash_key(&world).await;
    let tables = world.aws.dump_tables().await;
    for (via, by) in [("api", "user-1"), ("queue", "AROAPRODUCER")] {
        let by = SubjectHash::of(&key, by).unwrap();
        for named in [by.as_str(), &format!("\"acceptedVia\":{{\"S\":\"{via}\"}}")] {
            assert!(tables.contains(named), "{named} {tables}");
        }
    }
    for plain in ["AROAPRODUCER", "instance-1"] {
        assert!(!tables.contains(plain), "{plain}");
    }
}

async fn deeds(world: &World, about: About, log: &str) -> Vec<Deed> {
    let (sdk, resources) = (world.aws.sdk_config(), world.aws.resources());
    let plan = audit::Plan {
        store: SettingsStore::new(&sdk, &resources.settings_table, ""),
        ledger: comms_delivery::Ledger::new(&sdk, &resources.deliveries_table),
        about,
        rate: 1_000,
    };
    let log = std::io::Cursor::new(log.to_owned());
    let report = audit::run(&plan, vec![Box::new(log)]).await.unwrap();
    let shown = report.to_string();
    assert!(shown.starts_with("time"), "{shown}");
    report.deeds
}

fn told(deeds: &[Deed]) -> Vec<String> {
    let told = deeds.iter();
    let mut told: Vec<_> = told
        .map(|deed| format!("{} {}", deed.source, deed.action))
        .collect();
    told.sort();
    told
}

#[tokio::test]
async fn audit_tells_who_sent_who_read_and_who_changed() {
    let mut world = World::saved().await;
    let key = hash_key(&world).await;
    world.restart();
    let (lines, guard) = capture();
    let id = everything(&world).await;
    // Another clinic, by somebody else.
    let document =
        json!({"settings": {"communicationSettings": email(&world.entry(), comms_tests::FROM)}});
    let mut stranger = super_admin();
    stranger["sub"] = json!("user-2");
    let path = "/api/v1/clinics/clinic-other";
    world
        .config("PUT", path, Some(&document.to_string()), stranger, &[])
        .await
        .expect(201);
    drop(guard);
    let log = format!("START RequestId: 1\n{}", lines.text());

    let all = [
        "ledger send",
        "log manage_settings",
        "log send",
        "log test_settings",
        "log view_communication",
        "log view_settings",
        "log view_settings",
        "log view_settings",
        "settings settings_saved",
        "settings settings_saved",
    ];
    let clinic = About::Clinic(comms_core::Tenant::parse(CLINIC).unwrap());
    assert_eq!(told(&deeds(&world, clinic, &log).await), all);
    let subject = |plain: &str| About::Subject {
        plain: plain.to_owned(),
        hashes: SubjectHash::of(&key, plain).into_iter().collect(),
    };
    assert_eq!(told(&deeds(&world, subject("user-1"), &log).await), all);
    assert_eq!(
        told(&deeds(&world, subject("user-2"), &log).await),
        ["log manage_settings", "settings settings_saved"]
    );
    let person = |address| {
        let person = comms_delivery::ledger::records::AddressedPerson::parse(address, key.clone());
        About::Recipient(Box::new(person.unwrap()))
    };
    let about_patient = deeds(&world, person("patient@example.com"), &log).await;
    assert_eq!(
        told(&about_patient),
        ["ledger send", "log send", "log view_communication"]
    );
    assert!(
        about_patient
            .iter()
            .all(|deed| deed.what.as_ref() == Some(&id))
    );
    assert!(
        deeds(&world, person("nobody@example.com"), &log)
            .await
            .is_empty()
    );
}
