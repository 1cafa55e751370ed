//! Sealing what an earlier version of the service wrote, against DynamoDB and KMS over the wire.

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use comms_core::{Channel, EntryId, ProviderKind, SystemClock};
use comms_operator::{
    plan::TablePlan,
    reseal::count,
    seal::{Report, run},
};
use comms_settings::{
    Past, Refusal, SettingsStore, StoreError,
    envelope::{EntryContext, Kms, Purpose},
};
use comms_testkit::aws::Fault;
use serde_json::json;

use crate::table::{PLANTED, Table, password, tenant};

/// Stores a version as the earlier service did: its credentials are sealed, and nothing else.
async fn save_unsealed(
    table: &Table,
    clinic: &str,
    number: u64,
    password: &str,
    sort_keys: &[&str],
) {
    let kms = Kms::new(
        aws_sdk_kms::Client::new(&table.aws.sdk_config()),
        &table.old,
    );
    let tenant = tenant(clinic);
    let (key, data_key) = kms.generate(clinic, Purpose::Settings).await.unwrap();
    let place = EntryContext {
        tenant: &tenant,
        channel: Channel::Email,
        entry: &EntryId::primary(),
        provider: ProviderKind::new("smtp"),
        version: number,
        content: None,
    };
    let credentials = json!({"host": "smtp.clinic.example", "port": 587, "secure": false, "user": "user",
        "password": format!("{PLANTED}{password}")});
    let sealed = key
        .seal(&place, credentials.to_string().as_bytes())
        .unwrap();
    let outline = json!({"email": {"primary": {"id": "primary", "provider": "smtp", "enabled": true},
        "defaultFrom": "desk@clinic.example"}});
    for sort_key in sort_keys {
        let mut item = record(clinic, sort_key, number);
        let entry = AttributeValue::B(Blob::new(sealed.clone()));
        item.extend([
            (
                "document".to_owned(),
                AttributeValue::S(outline.to_string()),
            ),
            (
                "sealed".to_owned(),
                AttributeValue::M(HashMap::from([("email/primary".to_owned(), entry)])),
            ),
            (
                "dataKey".to_owned(),
                AttributeValue::B(Blob::new(data_key.ciphertext.clone())),
            ),
            (
                "keyArn".to_owned(),
                AttributeValue::S(data_key.key_arn.clone()),
            ),
        ]);
        table.put(item).await;
    }
}

fn record(clinic: &str, sort_key: &str, number: u64) -> HashMap<String, AttributeValue> {
    let mut item = crate::table::item([
        ("pk", clinic),
        ("sk", sort_key),
        ("savedAt", "2026-01-01T00:00:00Z"),
        ("savedBy", "admin-0"),
        ("change", "saved"),
    ]);
    item.insert("version".to_owned(), AttributeValue::N(number.to_string()));
    item.insert("changed".to_owned(), AttributeValue::L(Vec::new()));
    item
}

/// Two clinics of the earlier service: one with two versions, one that deleted its settings.
async fn earlier() -> Table {
    let table = Table::new().await;
    save_unsealed(&table, "clinic-a", 1, "one", &["version#0000000001"]).await;
    save_unsealed(
        &table,
        "clinic-a",
        2,
        "two",
        &["version#0000000002", "settings"],
    )
    .await;
    save_unsealed(&table, "clinic-b", 1, "gone", &["version#0000000001"]).await;
    for sort_key in ["version#0000000002", "settings"] {
        let mut deletion = record("clinic-b", sort_key, 2);
        deletion.insert("change".to_owned(), AttributeValue::S("deleted".to_owned()));
        table.put(deletion).await;
    }
    table
}

fn plan(table: &Table) -> TablePlan {
    TablePlan {
        store: table.store(&table.old),
        tenants: Vec::new(),
        rate: 1_000,
        is_dry_run: false,
    }
}

async fn seal(plan: &TablePlan) -> Report {
    let mut report = Report::default();
    run(plan, &mut report, &mut |_, _| {}).await.unwrap();
    report
}

async fn refusal(store: &SettingsStore, clinic: &str) -> Option<StoreError> {
    store.load(&tenant(clinic)).await.err()
}

#[tokio::test]
async fn what_is_refused_without_a_seal_is_read_with_one() {
    let table = earlier().await;
    let unsealed = Some(StoreError::Refused(Refusal::Unsealed));
    for clinic in ["clinic-a", "clinic-b"] {
        assert_eq!(refusal(&table.store(&table.old), clinic).await, unsealed);
        let upgrading = table.store(&table.old).accepting_unsealed(true);
        assert_eq!(refusal(&upgrading, clinic).await, None);
    }
    assert_eq!(count(&table.store(""), &[]).await.unwrap().unsealed, 6);

    let report = seal(&plan(&table)).await;
    assert_eq!(
        (report.unsealed, report.sealed, report.left),
        (6, 6, Some(0))
    );
    assert!(report.is_complete(), "{report}");
    let stored = table.load(&table.old, "clinic-a").await;
    assert_eq!(password(&stored), format!("{PLANTED}two"));
    let store = table.store(&table.old);
    assert!(store.load(&tenant("clinic-b")).await.unwrap().is_none());
    let first = store
        .load_version(&tenant("clinic-a"), 1, &SystemClock)
        .await;
    assert!(matches!(first, Ok(Past::Settings { .. })), "{first:?}");
    // The next save counts on.
    table.save(&table.old, "clinic-a", "three").await;
    assert_eq!(table.load(&table.old, "clinic-a").await.version.number, 3);
    let again = seal(&plan(&table)).await;
    assert_eq!((again.sealed, again.is_complete()), (0, true));
    assert!(!report.to_string().contains(PLANTED));
}

#[tokio::test]
async fn a_save_during_the_upgrade_keeps_the_versions_before_it() {
    let table = earlier().await;
    let upgrading = table.store(&table.old).accepting_unsealed(true);
    let present = upgrading.load_present(&tenant("clinic-a")).await.unwrap();
    let author = comms_settings::Author {
        subject: "admin-1".to_owned(),
        source_address: None,
    };
    let settings = present.settings().unwrap();
    let (tenant, basis) = (tenant("clinic-a"), present.basis());
    let saved = upgrading
        .save(&tenant, settings, basis, &author, &SystemClock)
        .await;
    assert_eq!(saved.unwrap().number, 3);
    assert_eq!(refusal(&table.store(&table.old), "clinic-a").await, None);
    let report = seal(&plan(&table)).await;
    assert!(report.is_complete(), "{report}");
    for number in 1..=3 {
        let store = table.store(&table.old);
        let past = store.load_version(&tenant, number, &SystemClock).await;
        assert!(
            matches!(past, Ok(Past::Settings { .. })),
            "{number}: {past:?}"
        );
    }
}

#[tokio::test]
async fn a_version_that_does_not_open_does_not_hold_its_clinic_up() {
    let table = earlier().await;
    for mut item in table.items().await {
        if item["pk"].as_s().unwrap() == "clinic-a"
            && item["sk"].as_s().unwrap() == "version#0000000001"
        {
            let nothing = AttributeValue::M(HashMap::new());
            item.insert("sealed".to_owned(), nothing);
            table.put(item).await;
        }
    }
    let report = seal(&plan(&table)).await;
    assert_eq!(
        (report.sealed, report.failed.len(), report.left),
        (5, 0, Some(1))
    );
    assert_eq!(report.unsealable[0].item, "version#0000000001");
    assert!(!report.is_complete(), "{report}");
    let store = table.store(&table.old);
    for clinic in ["clinic-a", "clinic-b"] {
        assert_eq!(refusal(&store, clinic).await, None, "{clinic}");
    }
    let past = store
        .load_version(&tenant("clinic-a"), 1, &SystemClock)
        .await;
    assert!(past.is_err(), "{past:?}");
    let again = seal(&plan(&table)).await;
    assert_eq!((again.sealed, again.unsealable.len()), (0, 1));
}

#[tokio::test]
async fn a_run_that_fails_is_completed_by_the_next_one() {
    let table = earlier().await;
    // The second item of the first clinic.
    table
        .aws
        .fail_next("kms", "Decrypt", 1, Fault::AccessDenied);
    let report = seal(&plan(&table)).await;
    assert_eq!((report.failed.len(), report.is_complete()), (1, false));
    let upgrading = table.store(&table.old).accepting_unsealed(true);
    for clinic in ["clinic-a", "clinic-b"] {
        assert_eq!(refusal(&upgrading, clinic).await, None, "{clinic}");
    }
    assert!(seal(&plan(&table)).await.is_complete());
    assert_eq!(refusal(&table.store(&table.old), "clinic-a").await, None);
}

#[tokio::test]
async fn what_does_not_fit_together_is_reported_and_left_as_it_is() {
    let table = earlier().await;
    seal(&plan(&table)).await;
    // Somebody takes the seal of a version, and the counter, away.
    for mut item in table.items().await {
        let sort_key = item["sk"].as_s().unwrap().clone();
        if item["pk"].as_s().unwrap() == "clinic-a" && sort_key == "settings" {
            item.remove("seal");
            table.put(item).await;
        }
    }
    let report = seal(&plan(&table)).await;
    assert!(!report.is_complete(), "{report}");
    let unsealed = Some(StoreError::Refused(Refusal::Unsealed));
    assert_eq!(
        refusal(&table.store(&table.old), "clinic-a").await,
        unsealed
    );
}
