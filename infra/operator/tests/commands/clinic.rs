//! `clinic` and `provider` as an operator starts them.

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::Deadline;
use comms_core::{Clock as _, SystemClock};
use comms_delivery::{Counted, Quotas, Usage, ledger::Via};
use comms_settings::{Period, RateLimit};
use serde_json::{Value, json};

use crate::{
    program::text,
    stories::{Stories, failed},
    table::{Table, item, tenant},
};

/// Records that an entry of a clinic is down, as the functions do.
async fn down(stories: &Stories, clinic: &str, version: u64, entry: &str, kind: &str) {
    let since = 1_796_115_600_000_000_i64;
    let number = since.to_be_bytes();
    let mac = stories.hash.digest(
        "health",
        &[
            clinic.as_bytes(),
            &version.to_be_bytes(),
            entry.as_bytes(),
            b"down",
            &number,
            kind.as_bytes(),
        ],
    );
    let mut record = item([
        ("state", "down"),
        ("lastError", kind),
        ("mac", &mac.hex128()),
    ]);
    record.insert("since".to_owned(), AttributeValue::N(since.to_string()));
    let client = aws_sdk_dynamodb::Client::new(&stories.table.aws.sdk_config());
    client
        .update_item()
        .table_name(&stories.table.aws.resources().deliveries_table)
        .key("pk", AttributeValue::S(format!("health#{clinic}")))
        .key("sk", AttributeValue::S(version.to_string()))
        .update_expression("SET #entry = :record")
        .expression_attribute_names("#entry", entry)
        .expression_attribute_values(":record", AttributeValue::M(record))
        .send()
        .await
        .unwrap();
}

async fn json_of(stories: &Stories, arguments: &[&str]) -> Value {
    let output = stories.run(arguments).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clinic_shows_settings_health_quota_and_outcomes() {
    let stories = Stories::new().await;
    down(&stories, "clinic-a", 2, "email/primary", "unauthenticated").await;
    let sdk = stories.table.aws.sdk_config();
    let resources = stories.table.aws.resources();
    let limit = NonZeroU32::new(100).unwrap();
    let limit = RateLimit::new([(Period::Hour, limit)]).unwrap();
    let quotas = Quotas::new(&sdk, &resources.deliveries_table, Arc::new(SystemClock));
    let clinic = tenant("clinic-a");
    let taken = quotas.take(&clinic, Counted::Urgent, &limit, 7);
    taken.await.unwrap();
    let story = stories.accepted("key-1", Via::Api).await;
    stories.ended(&story, &failed(&story)).await;
    let read = stories.ledger.read(story.id(), story.accepted).await;
    let delivery = read.unwrap().unwrap().deliveries.remove(0);
    let usage = Usage::new(&sdk, &resources.deliveries_table);
    let now = SystemClock.now();
    usage.count_ended(&clinic, &delivery, false, None, now);
    usage.write(Deadline::after(Duration::from_secs(20))).await;

    let report = json_of(&stories, &["clinic", "clinic-a", "--json"]).await;
    assert_eq!(report["settings"]["state"], "present");
    assert_eq!(report["settings"]["version"], 2);
    assert_eq!(report["settings"]["savedBy"], "admin-1");
    assert_eq!(
        report["entries"][0],
        json!({"channel": "email", "entry": "primary", "provider": "smtp", "position": "primary", "enabled": true,
            "health": "down", "since": "2026-12-01T09:00:00Z", "lastError": "unauthenticated"})
    );
    assert_eq!(report["entries"][1]["health"], "untried");
    assert_eq!(report["quotas"][0]["of"], "urgent");
    assert!(report["quotas"][0]["used"].as_u64().unwrap() >= 7);
    assert_eq!(
        report["outcomes"][0]["failed"],
        json!({"ALL_PROVIDERS_FAILED": 1})
    );

    let printed = text(&stories.run(&["clinic", "clinic-a"]).await.stdout);
    for says in [
        "version 2, saved",
        "by admin-1",
        "the platform's account sends when all entries fail",
        "email    primary     smtp      primary      down     2026-12-01 09:00:00Z  unauthenticated",
        "1 ALL_PROVIDERS_FAILED",
        "Its admin has to mend that",
    ] {
        assert!(printed.contains(says), "{says}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_settings_are_reported_as_such() {
    let stories = Stories::new().await;
    let mut stored = stories.table.items().await.into_iter();
    let is_counter = |item: &std::collections::HashMap<_, AttributeValue>| {
        item.get("sk") == Some(&AttributeValue::S("counter".to_owned()))
    };
    let mut counter = stored.find(is_counter).unwrap();
    counter.insert("version".to_owned(), AttributeValue::N("9".to_owned()));
    stories.table.put(counter).await;
    let output = stories.run(&["clinic", "clinic-a"]).await;
    let printed = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(1),
        "a part cannot be read: {printed}"
    );
    assert!(printed.contains("their counter was changed"), "{printed}");
    assert!(
        printed.contains("Settings that cannot be read"),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_clinic_ends_with_3() {
    let stories = Stories::new().await;
    let output = stories.run(&["clinic", "clinic-z"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("nothing is known of clinic-z"));
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_shows_every_clinic_that_it_is_down_for() {
    let stories = Stories::new().await;
    for clinic in ["clinic-b", "clinic-c"] {
        stories.table.save(&stories.table.old, clinic, "one").await;
    }
    down(&stories, "clinic-a", 2, "email/primary", "unauthenticated").await;
    down(&stories, "clinic-c", 1, "email/primary", "timeout").await;
    // Of an earlier version: settings were saved since.
    down(&stories, "clinic-a", 1, "email/fallback-1", "timeout").await;

    let report = json_of(&stories, &["provider", "smtp", "--json"]).await;
    assert_eq!(report["clinics"], 3);
    assert_eq!(report["counts"], json!({"down": 2, "untried": 1}));
    assert_eq!(
        report["downByError"],
        json!({"timeout": 1, "unauthenticated": 1})
    );
    let output = stories.run(&["provider", "smtp"]).await;
    let printed = text(&output.stdout);
    for says in [
        "3 of 3 clinics: 2 down, 1 untried",
        "clinic-a  email    primary  primary  down    2026-12-01 09:00:00Z",
        "clinic-c",
        "platform   has no entry of it",
        "status page",
    ] {
        assert!(printed.contains(says), "{says}: {printed}");
    }
    assert!(!printed.contains("clinic-b"), "{printed}");
    assert!(text(&output.stderr).contains("reading the settings table"));

    let other = json_of(&stories, &["provider", "ses", "--json"]).await;
    assert_eq!(other["provider"], "aws_ses", "an alias of the settings");
    assert_eq!(other["counts"], json!({"untried": 3}));
    let nobody = stories.run(&["provider", "twilio"]).await;
    assert_eq!(nobody.status.code(), Some(3));
    let unknown = stories.run(&["provider", "pigeon"]).await;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("aws_ses"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_table_is_an_error_and_not_an_absent_clinic() {
    let table = Table::with(&["clinic-a"]).await;
    for command in [
        ["clinic", "clinic-a"],
        ["why", "key-1"],
        ["provider", "smtp"],
    ] {
        let mut program = crate::program::program();
        program
            .envs(table.aws.env())
            .args(command)
            .env("SETTINGS_TABLE", "nowhere")
            .env("DELIVERIES_TABLE", "nowhere");
        let output = tokio::task::spawn_blocking(move || program.output().unwrap());
        let output = output.await.unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("ResourceNotFoundException"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_need_the_documented_rights_to_read_and_no_other() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Queue).await;
    let (id, delivery) = (story.id().to_string(), story.delivery_id());
    let (get, query) = ("dynamodb GetItem", "dynamodb Query");
    let (scan, decrypt) = ("dynamodb Scan", "kms Decrypt");
    for (arguments, rights) in [
        (&["why", &id][..], &[query][..]),
        (
            &["why", "key-1", "--clinic", "clinic-a"],
            &[get, query, decrypt],
        ),
        (&["why", &delivery], &[get, query, scan, decrypt]),
        (&["clinic", "clinic-a"], &[get, query, decrypt]),
        (&["provider", "smtp"], &[get, scan, decrypt]),
    ] {
        stories.table.aws.clear_calls();
        let output = stories.run(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let calls = stories.table.aws.calls().into_iter();
        let made: BTreeSet<_> = calls
            .map(|call| format!("{} {}", call.service, call.operation))
            .collect();
        let expected: BTreeSet<_> = rights.iter().map(ToString::to_string).collect();
        assert_eq!(made, expected, "{arguments:?}");
    }
}
