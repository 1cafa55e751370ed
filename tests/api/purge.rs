//! How much of a clinic's settings is kept: purges, the limits of versions, how often they may be changed.

use std::{sync::Arc, time::Duration};

use comms_settings::{PurgeDelay, SaveLimits, SettingsStore};
use comms_testkit::{
    aws::{Fault, Moment},
    clock::ManualClock,
};
use comms_tests::{
    ApiResponse, CLINIC, World, claims,
    items::{item, items},
    super_admin,
};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_hours(24);

/// A world in which the clinic has two versions, and the config function's clock.
async fn world() -> (World, Arc<ManualClock>) {
    let mut world = World::new().await;
    let clock = Arc::new(ManualClock::new());
    world.config.clock = clock.clone();
    let store = world.config.store.clone();
    world.config.save_limits = SaveLimits::new(store, clock.clone()).with_burst(1_000);
    world.save_clinic().await;
    rename(&world, "Second").await;
    (world, clock)
}

async fn rename(world: &World, name: &str) -> ApiResponse {
    let patch = json!({"email": {"defaultFromName": name}});
    world.patch_settings(CLINIC, patch).await
}

async fn purge(world: &World, claims: Value) -> ApiResponse {
    let path = format!("/api/v1/clinics/{CLINIC}?purge=true");
    world.config("DELETE", &path, None, claims, &[]).await
}

async fn restore_as(world: &World, version: &str, claims: Value) -> ApiResponse {
    let path = format!("/api/v1/clinics/{CLINIC}/communication/versions/{version}/restore");
    world.config("POST", &path, None, claims, &[]).await
}

/// When DynamoDB may remove version 1, in seconds of the Unix epoch.
async fn first_expires_at(world: &World) -> i64 {
    let first = item(world, CLINIC, "version#0000000001").await.unwrap();
    first["expiresAt"].as_n().unwrap().parse().unwrap()
}

async fn remove_due(world: &World, clock: &ManualClock) -> comms_operator::purge::Report {
    let plan = comms_operator::plan::TablePlan {
        store: SettingsStore::new(
            &world.aws.sdk_config(),
            &world.aws.resources().settings_table,
            "",
        ),
        tenants: Vec::new(),
        rate: 1_000,
        is_dry_run: false,
    };
    let mut report = comms_operator::purge::Report::default();
    comms_operator::purge::run(&plan, comms_core::Clock::now(clock), &mut report)
        .await
        .unwrap();
    report
}

/// The numbers of versions that still have a data key.
async fn with_data_keys(world: &World) -> Vec<String> {
    let items = items(world).await.into_iter();
    items
        .filter(|item| item.contains_key("dataKey"))
        .map(|item| item["sk"].as_s().unwrap().clone())
        .filter(|sk| sk.starts_with("version#"))
        .collect()
}

#[tokio::test]
async fn only_the_platform_purges() {
    let (world, _) = world().await;
    for role in ["CLINIC_ADMIN", "CLINIC_MANAGER", "SERVICE"] {
        purge(&world, claims(role, Some(CLINIC))).await.expect(403);
    }
    world.get_settings(CLINIC).await.expect(200);
    for query in [
        "?purge=yes",
        "?purge",
        "?all=true",
        "?purge=false&purge=true",
        "?purge=true&purge=false",
        "?purge=%74rue&purge=true",
        "?purge=true%",
    ] {
        let path = format!("/api/v1/clinics/{CLINIC}{query}");
        let refused = world.config("DELETE", &path, None, super_admin(), &[]);
        assert_eq!(refused.await.expect(400).body["code"], "malformed_query");
    }
    world.get_settings(CLINIC).await.expect(200);
}

#[tokio::test]
async fn a_purge_can_be_undone_until_its_period_is_over() {
    let (world, clock) = world().await;
    let before = item(&world, CLINIC, "version#0000000001").await.unwrap();
    let purged = purge(&world, super_admin()).await.expect(200).body;
    assert_eq!(
        purged,
        json!({"clinicId": CLINIC, "version": 3, "purgeAt": "2026-01-08T00:00:00Z", "versions": 2})
    );
    world.get_settings(CLINIC).await.expect(404);
    let list = world.versions(CLINIC, "").await.expect(200);
    assert_eq!(list.body["versions"][0]["change"], "purged");
    assert_eq!(list.body["versions"][0]["purgeAt"], "2026-01-08T00:00:00Z");
    clock.advance(Duration::from_secs(7 * 86_400 - 1));
    world.restore(CLINIC, "1", &[]).await.expect(201);
    let after = item(&world, CLINIC, "version#0000000001").await.unwrap();
    assert_eq!(after["expiresAt"], before["expiresAt"]);
    clock.advance(DAY);
    world.restore(CLINIC, "2", &[]).await.expect(200);
}

#[tokio::test]
async fn a_clinics_own_admin_cannot_undo_a_purge() {
    let (world, _) = world().await;
    purge(&world, super_admin()).await.expect(200);
    let admin = || claims("CLINIC_ADMIN", Some(CLINIC));
    restore_as(&world, "1", admin()).await.expect(403);
    world.get_settings(CLINIC).await.expect(404);
    // What the clinic saves afterwards is not under the purge.
    world.save_clinic().await;
    rename(&world, "Third").await.expect(200);
    restore_as(&world, "4", admin()).await.expect(200);
    restore_as(&world, "2", admin()).await.expect(403);
    restore_as(&world, "2", super_admin()).await.expect(200);
    restore_as(&world, "1", admin()).await.expect(200);
}

#[tokio::test]
async fn a_restore_that_changes_no_field_undoes_a_purge_too() {
    let (world, clock) = world().await;
    let before = first_expires_at(&world).await;
    purge(&world, super_admin()).await.expect(200);
    world.save_clinic().await;
    let restored = world.restore(CLINIC, "1", &[]).await.expect(200);
    assert_eq!(restored.body["version"], 5);
    assert_eq!(first_expires_at(&world).await, before);
    clock.advance(8 * DAY);
    world.restore(CLINIC, "2", &[]).await.expect(200);
}

#[tokio::test]
async fn a_second_purge_brings_nothing_back_that_the_first_removed() {
    let (world, clock) = world().await;
    purge(&world, super_admin()).await.expect(200);
    world.save_clinic().await;
    clock.advance(8 * DAY);
    purge(&world, super_admin()).await.expect(200);
    assert_eq!(with_data_keys(&world).await, ["version#0000000004"]);
    world.restore(CLINIC, "4", &[]).await.expect(201);
    for version in ["1", "2"] {
        world.restore(CLINIC, version, &[]).await.expect(404);
    }
}

#[tokio::test]
async fn a_second_purge_extends_the_period_of_the_first() {
    let (world, clock) = world().await;
    let before = first_expires_at(&world).await;
    purge(&world, super_admin()).await.expect(200);
    clock.advance(5 * DAY);
    purge(&world, super_admin()).await.expect(200);
    clock.advance(5 * DAY);
    world.restore(CLINIC, "1", &[]).await.expect(201);
    assert_eq!(first_expires_at(&world).await, before);
}

#[tokio::test]
async fn a_restore_that_fails_leaves_the_purge_as_it_is() {
    let (world, clock) = world().await;
    purge(&world, super_admin()).await.expect(200);
    let purged = first_expires_at(&world).await;
    // The save itself fails; the rate limit before it is another transaction.
    world.aws.watch(|call| {
        let is_save = call.call.operation == "TransactWriteItems"
            && call.request.to_string().contains("counter");
        let fault = (is_save && call.moment == Moment::Arrived).then_some(Fault::AccessDenied);
        Box::pin(async move { fault })
    });
    world.restore(CLINIC, "1", &[]).await.expect(503);
    world.aws.watch(|_| Box::pin(async { None }));
    assert_eq!(first_expires_at(&world).await, purged);
    clock.advance(7 * DAY);
    world.restore(CLINIC, "1", &[]).await.expect(404);
}

#[tokio::test]
async fn the_operator_removes_what_an_interrupted_purge_left() {
    let (world, clock) = world().await;
    let before = first_expires_at(&world).await;
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 2, Fault::AccessDenied);
    purge(&world, super_admin()).await.expect(503);
    assert_eq!(first_expires_at(&world).await, before);
    clock.advance(6 * DAY);
    assert_eq!(remove_due(&world, &clock).await.due, 0);
    clock.advance(DAY);
    let report = remove_due(&world, &clock).await;
    assert_eq!((report.removed, report.is_complete()), (2, true));
    assert!(with_data_keys(&world).await.is_empty());
}

#[tokio::test]
async fn after_its_period_a_purge_leaves_nothing_to_restore() {
    let (world, clock) = world().await;
    purge(&world, super_admin()).await.expect(200);
    clock.advance(7 * DAY);
    for version in ["1", "2"] {
        world.restore(CLINIC, version, &[]).await.expect(404);
    }
    let list = world.versions(CLINIC, "").await.expect(200);
    assert_eq!(list.body["versions"].as_array().unwrap().len(), 1);
    // Nor when somebody takes the items' time to live away.
    for sk in ["version#0000000001", "version#0000000002"] {
        let mut version = item(&world, CLINIC, sk).await.unwrap();
        version.remove("expiresAt");
        comms_tests::items::put_item(&world, version).await;
        world.restore(CLINIC, "1", &[]).await.expect(404);
    }
    // A clinic that comes back counts on, and its own versions stay.
    world.save_clinic().await;
    assert_eq!(with_data_keys(&world).await, ["version#0000000004"]);
    world.restore(CLINIC, "4", &[]).await.expect(200);
}

#[tokio::test]
async fn settings_that_were_deleted_can_be_purged_and_none_cannot() {
    let (world, clock) = world().await;
    world.delete_settings(CLINIC, &[]).await.expect(204);
    let purged = purge(&world, super_admin()).await.expect(200);
    assert_eq!(
        (&purged.body["version"], &purged.body["versions"]),
        (&json!(4), &json!(2))
    );
    clock.advance(7 * DAY);
    world.restore(CLINIC, "2", &[]).await.expect(404);
    let path = "/api/v1/clinics/clinic-456?purge=true";
    world
        .config("DELETE", path, None, super_admin(), &[])
        .await
        .expect(404);
}

#[tokio::test]
async fn the_operator_removes_at_once_what_is_due() {
    let (world, clock) = world().await;
    purge(&world, super_admin()).await.expect(200);
    for (days, removed, left) in [(6, 0, 2), (1, 2, 0), (1, 0, 0)] {
        clock.advance(days * DAY);
        let report = remove_due(&world, &clock).await;
        assert_eq!((report.removed, report.is_complete()), (removed, true));
        assert_eq!(with_data_keys(&world).await.len(), left);
    }
}

#[tokio::test]
async fn the_hundred_newest_versions_keep_their_content() {
    let (world, _) = world().await;
    for number in 3..=102 {
        rename(&world, &format!("Name {number}")).await.expect(200);
    }
    let kept = with_data_keys(&world).await;
    assert_eq!(kept.len(), 100);
    assert_eq!(kept[0], "version#0000000003");
    let gone = world.restore(CLINIC, "2", &[]).await.expect(404);
    assert!(gone.text.contains("was removed"), "{}", gone.text);
    world.restore(CLINIC, "3", &[]).await.expect(200);
    // Who changed what stays.
    let oldest = world.versions(CLINIC, "?before=3").await.expect(200);
    assert_eq!(
        oldest.body["versions"][0]["changed"],
        json!(["/email/defaultFromName"])
    );
}

#[tokio::test]
async fn a_clinics_settings_are_changed_ten_times_at_once_and_then_slowly() {
    let mut world = World::new().await;
    let clock = Arc::new(ManualClock::new());
    world.config.save_limits = SaveLimits::new(world.config.store.clone(), clock.clone());
    world.config.purge_delay = PurgeDelay::default();
    world.save_clinic().await;
    for number in 2..=10 {
        rename(&world, &format!("Name {number}")).await.expect(200);
    }
    let refused = rename(&world, "Name 11").await.expect(429);
    assert_eq!(
        (refused.header("retry-after"), &refused.body["code"]),
        ("30", &json!("too_many_requests"))
    );
    world.delete_settings(CLINIC, &[]).await.expect(429);
    world.restore(CLINIC, "1", &[]).await.expect(429);
    purge(&world, super_admin()).await.expect(429);
    // What changes nothing is no change, and each clinic has a limit of its own.
    rename(&world, "Name 10").await.expect(200);
    let entry = world.entry();
    let other = comms_tests::email(&entry, comms_tests::FROM);
    world.put_settings("clinic-456", other).await.expect(201);
    clock.advance(Duration::from_secs(30));
    rename(&world, "Name 11").await.expect(200);
    rename(&world, "Name 12").await.expect(429);
    // The platform's people, who did all this, have a limit of their own: the clinic's has not been touched.
    let clinic = format!("/api/v1/clinics/{CLINIC}");
    let patch = json!({"settings": {"communicationSettings": {"email": {"defaultFromName": "Front desk"}}}}).to_string();
    let admin = comms_tests::claims("CLINIC_ADMIN", Some(CLINIC));
    let changed = world.config("PATCH", &clinic, Some(&patch), admin, &[]);
    changed.await.expect(200);
}
