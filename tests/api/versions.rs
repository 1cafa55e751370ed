//! Versions: who changed which fields when, the way back, and for how long there is one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use comms_core::{Channel, EntryId, ProviderKind, Tenant};
use comms_delivery::{SharedHealth, Usage};
use comms_runtime::{AuditSubjects, Environment, auth::ClaimNames, http::HttpFunction as _};
use comms_settings::{
    HashKeys, OwnAccount, PurgeDelay, SaveLimits, SettingsStore,
    envelope::{EntryContext, Kms, Purpose},
};
use comms_testkit::clock::ManualClock;
use comms_tests::{
    CLINIC, FROM, PASSWORD, USER, World, claims, email, entry, immediate,
    items::{item, put_item},
};
use serde_json::{Value, json};

/// The numbers of the versions in an answer.
fn numbers(body: &Value) -> Vec<u64> {
    let versions = body["versions"].as_array().unwrap().iter();
    versions
        .map(|version| version["version"].as_u64().unwrap())
        .collect()
}

/// Gives the clinic's channel another sender's name, by which versions are told apart.
async fn rename(world: &World, name: &str) {
    let patch = json!({"email": {"defaultFromName": name}});
    world.patch_settings(CLINIC, patch).await.expect(200);
}

/// Stores version 1 of a clinic's settings as they were right once and are not any more: port 587 with `secure`.
async fn save_as_of_earlier_rules(world: &World) {
    let kms = Kms::new(
        aws_sdk_kms::Client::new(&world.aws.sdk_config()),
        &world.aws.resources().kms_key_id,
    );
    let tenant = Tenant::parse(CLINIC).unwrap();
    let (key, data_key) = kms.generate(CLINIC, Purpose::Settings).await.unwrap();
    let place = EntryContext {
        tenant: &tenant,
        channel: Channel::Email,
        entry: &EntryId::primary(),
        provider: ProviderKind::new("smtp"),
        version: 1,
        content: None,
    };
    let credentials = json!({"host": "smtp.example.com", "port": 587, "secure": true, "user": USER,
        "password": PASSWORD});
    let sealed = key
        .seal(&place, credentials.to_string().as_bytes())
        .unwrap();
    let outline = json!({"email": {"primary": {"id": "primary", "provider": "smtp", "enabled": true},
        "defaultFrom": FROM}});
    let text = |text: &str| AttributeValue::S(text.to_owned());
    for sk in ["settings", "version#0000000001"] {
        let item = [
            ("pk", text(CLINIC)),
            ("sk", text(sk)),
            ("version", AttributeValue::N("1".to_owned())),
            ("document", text(&outline.to_string())),
            (
                "sealed",
                AttributeValue::M(HashMap::from([(
                    "email/primary".to_owned(),
                    AttributeValue::B(Blob::new(sealed.clone())),
                )])),
            ),
            (
                "dataKey",
                AttributeValue::B(Blob::new(data_key.ciphertext.clone())),
            ),
            ("keyArn", text(&data_key.key_arn)),
            ("savedAt", text("2026-01-01T00:00:00Z")),
            ("savedBy", text("user-0")),
            ("changed", AttributeValue::L(Vec::new())),
        ];
        let item = item.map(|(name, value)| (name.to_owned(), value));
        put_item(world, item.into()).await;
    }
}

#[tokio::test]
async fn every_version_has_its_author_time_and_changed_fields() {
    let world = World::saved().await;
    let rotated = json!({"email": {"primary": {"credentials": {"password": "planted-rotated"}}}});
    world.patch_settings(CLINIC, rotated).await.expect(200);
    world.delete_settings(CLINIC, &[]).await.expect(204);
    world.restore(CLINIC, "1", &[]).await.expect(201);

    let manager = claims("CLINIC_MANAGER", Some(CLINIC));
    let path = "/api/v1/clinics/clinic-123/communication/versions";
    let answer = world
        .config("GET", path, None, manager, &[])
        .await
        .expect(200);
    assert_eq!(numbers(&answer.body), [4, 3, 2, 1]);
    let versions = &answer.body["versions"];
    for version in versions.as_array().unwrap() {
        assert_eq!(version["savedBy"], "user-1");
        assert_eq!(version["sourceAddress"], "203.0.113.10");
        assert!(version["savedAt"].is_string());
    }
    let changes = ["restored", "deleted", "saved", "saved"];
    for (version, change) in versions.as_array().unwrap().iter().zip(changes) {
        assert_eq!(version["change"], change);
        assert_eq!(version.get("restoredFrom").is_some(), change == "restored");
    }
    assert_eq!(versions[0]["restoredFrom"], 1);
    assert_eq!(versions[1]["changed"], json!([]));
    assert_eq!(
        versions[2]["changed"],
        json!(["/email/primary/credentials/password"])
    );
    let first = versions[3]["changed"].to_string();
    assert!(first.contains("/email/primary/credentials/host") && !first.contains(FROM));
    assert!(answer.body.get("next").is_none());
    assert!(!world.answers().contains("planted"));
    assert!(!world.aws.dump_tables().await.contains("planted"));
}

#[tokio::test]
async fn versions_come_page_by_page_the_newest_first() {
    let world = World::saved().await;
    for number in 2..=7 {
        rename(&world, &format!("Name {number}")).await;
    }
    let mut seen = Vec::new();
    let mut query = "?limit=3".to_owned();
    loop {
        let page = world.versions(CLINIC, &query).await.expect(200);
        seen.push(numbers(&page.body));
        let Some(next) = page.body["next"].as_u64() else {
            break;
        };
        query = format!("?limit=3&before={next}");
    }
    assert_eq!(seen, [vec![7, 6, 5], vec![4, 3, 2], vec![1]]);
    for (query, expected) in [
        ("?limit=7", vec![7, 6, 5, 4, 3, 2, 1]),
        ("?before=1", vec![]),
        ("?before=9999999999&limit=1", vec![7]),
    ] {
        let page = world.versions(CLINIC, query).await.expect(200);
        assert_eq!(numbers(&page.body), expected, "{query}");
    }
    for query in [
        "?limit=0",
        "?limit=101",
        "?limit=356",
        "?limit=x",
        "?limit=",
        "?limit=%2B1",
        "?before=0",
        "?before=-1",
        "?before=10000000000",
        "?after=1",
        "?limit=1&limit=2",
        "?before=5&limit=1&before=5",
        "?limit=%zz",
    ] {
        let refused = world.versions(CLINIC, query).await.expect(400);
        assert_eq!(refused.body["code"], "malformed_query", "{query}");
    }
    let none = world.versions("clinic-456", "").await.expect(200);
    assert_eq!(numbers(&none.body), [0; 0]);
}

#[tokio::test]
async fn an_earlier_version_comes_back_as_a_new_one_with_the_secrets_it_had() {
    let world = World::saved().await;
    let wrong = entry(world.smtp.port(), "another-user", "planted-other-password");
    world
        .put_settings(CLINIC, email(&wrong, FROM))
        .await
        .expect(200);
    world
        .restore(CLINIC, "1", &[("if-match", "\"1\"")])
        .await
        .expect(412);
    let restored = world
        .restore(CLINIC, "1", &[("if-match", "\"2\"")])
        .await
        .expect(200);
    assert_eq!(
        (restored.header("etag"), &restored.body["version"]),
        ("\"3\"", &json!(3))
    );
    assert_eq!(world.get_settings(CLINIC).await.body, restored.body);
    world.post(&immediate()).await.expect(200);
    assert_eq!(
        world.smtp.messages()[0].authenticated_as.as_deref(),
        Some(USER)
    );
    let again = world.restore(CLINIC, "1", &[]).await.expect(200);
    assert_eq!(again.header("etag"), "\"3\"", "it is what it is already");
    assert_eq!(numbers(&world.versions(CLINIC, "").await.body), [3, 2, 1]);
}

#[tokio::test]
async fn unknown_versions_and_deletions_are_not_restored() {
    let world = World::saved().await;
    world.delete_settings(CLINIC, &[]).await.expect(204);
    world
        .restore(CLINIC, "1", &[("if-match", "*")])
        .await
        .expect(412);
    let deletion = world.restore(CLINIC, "2", &[]).await.expect(422);
    assert_eq!(deletion.body["code"], "not_restorable");
    for version in ["3", "0", "-1", "x", "01x", "99999999999999999999"] {
        world.restore(CLINIC, version, &[]).await.expect(404);
    }
    world.restore("clinic-456", "1", &[]).await.expect(404);
    world.get_settings(CLINIC).await.expect(404);
    let back = world.restore(CLINIC, "1", &[]).await.expect(201);
    assert_eq!(back.header("etag"), "\"3\"");

    let mut broken = item(&world, CLINIC, "version#0000000001").await.unwrap();
    broken.insert("version".to_owned(), AttributeValue::N("3".to_owned()));
    put_item(&world, broken).await;
    rename(&world, "X").await;
    let moved = world.restore(CLINIC, "1", &[]).await.expect(422);
    assert_eq!(moved.body["code"], "not_restorable");
    assert_eq!(moved.header("etag"), "\"4\"");
}

#[tokio::test]
async fn settings_of_earlier_rules_work_until_the_next_change() {
    let mut world = World::new().await;
    save_as_of_earlier_rules(&world).await;
    let refused = world.get_settings(CLINIC).await.expect(500);
    assert_eq!(refused.body["code"], "unreadable_settings");
    world.config.store = world.config.store.clone().accepting_unsealed(true);
    let read = world.get_settings(CLINIC).await.expect(200);
    assert_eq!(read.header("etag"), "\"1\"");
    let pointer = "/settings/communicationSettings/email/primary/credentials/secure";
    let refused = world
        .patch_settings(CLINIC, json!({"email": {"defaultFromName": "X"}}))
        .await
        .expect(422);
    assert_eq!(refused.pointers(), [pointer]);
    let mended = json!({"email": {"primary": {"credentials": {"secure": false}}}});
    world.patch_settings(CLINIC, mended).await.expect(200);
    let refused = world.restore(CLINIC, "1", &[]).await.expect(422);
    assert_eq!(refused.pointers(), [pointer]);
    assert_eq!(numbers(&world.versions(CLINIC, "").await.body), [2, 1]);
}

#[tokio::test]
async fn version_has_one_spelling_in_a_path() {
    let world = World::saved().await;
    rename(&world, "Second").await;
    for spelling in ["01", "0000000001", "+1", "1.0", "%31 ", "0"] {
        world.restore(CLINIC, spelling, &[]).await.expect(404);
    }
    world.restore(CLINIC, "1", &[]).await.expect(200);
}

#[tokio::test]
async fn versions_expire_and_the_present_settings_do_not() {
    const DAY: Duration = Duration::from_hours(24);
    let mut world = World::new().await;
    let clock = Arc::new(ManualClock::new());
    let resources = world.aws.resources();
    let store = SettingsStore::new(
        &world.sdk_of("config"),
        &resources.settings_table,
        &resources.kms_key_id,
    )
    .keeping_versions_for("30".parse().unwrap());
    world.config = comms_config::Deps {
        save_limits: SaveLimits::new(store.clone(), clock.clone()),
        purge_delay: PurgeDelay::default(),
        store,
        health: SharedHealth::new(
            &world.sdk_of("config"),
            &resources.deliveries_table,
            clock.clone(),
        ),
        usage: Usage::new(&world.sdk_of("config"), &resources.deliveries_table),
        hash_keys: HashKeys::new(SettingsStore::new(
            &world.sdk_of("config"),
            &resources.settings_table,
            &resources.kms_key_id,
        )),
        audit_subjects: AuditSubjects::default(),
        claims: ClaimNames {
            clinic: "clinic_id".to_owned(),
            roles: "roles".to_owned(),
        },
        own_account: OwnAccount::default(),
        egress_allow: "127.0.0.0/8".parse().unwrap(),
        clock: clock.clone(),
    };
    world.save_clinic().await;
    clock.advance(20 * DAY);
    rename(&world, "Second").await;
    let own = item(&world, CLINIC, "version#0000000002").await.unwrap();
    // 2026-01-01 and 50 days.
    assert_eq!(own["expiresAt"], AttributeValue::N("1771545600".to_owned()));
    let present = item(&world, CLINIC, "settings").await.unwrap();
    assert!(!present.contains_key("expiresAt"));

    // Expired, and not yet deleted by DynamoDB.
    clock.advance(10 * DAY);
    assert_eq!(numbers(&world.versions(CLINIC, "").await.body), [2]);
    world.restore(CLINIC, "1", &[]).await.expect(404);
    clock.advance(20 * DAY);
    assert_eq!(numbers(&world.versions(CLINIC, "").await.body), [0; 0]);
    assert_eq!(
        world.get_settings(CLINIC).await.expect(200).header("etag"),
        "\"2\""
    );
    rename(&world, "Third").await;
    assert_eq!(numbers(&world.versions(CLINIC, "").await.body), [3]);
    world.delete_settings(CLINIC, &[]).await.expect(204);
    let tombstone = item(&world, CLINIC, "settings").await.unwrap();
    assert!(!tombstone.contains_key("expiresAt"), "it keeps the number");
    assert!(!tombstone.contains_key("sealed"));
    assert_eq!(tombstone["document"], AttributeValue::S("{}".to_owned()));
}

#[tokio::test]
async fn invalid_retention_stops_the_function_at_start() {
    let world = World::new().await;
    let with = |days: &'static str| {
        let variables = world.aws.env();
        let environment = Environment::from_lookup(move |name| {
            let own = (name == "SETTINGS_RETENTION_DAYS").then(|| days.to_owned());
            own.or_else(|| Some(variables.iter().find(|(known, _)| known == name)?.1.clone()))
        });
        comms_config::Deps::from_environment(&environment)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(with("30"), None);
    for days in ["0", "3651", "a year"] {
        let error = with(days).unwrap();
        assert!(error.contains("SETTINGS_RETENTION_DAYS"), "{error}");
    }
}
