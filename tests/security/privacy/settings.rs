//! What becomes of settings says which fields, and never what is in them.

use comms_operator::{plan::TablePlan, reseal};
use comms_settings::SettingsStore;
use comms_tests::{CLINIC, FROM, claims, email, entry, super_admin};
use serde_json::json;

use super::{
    ADDRESS, PASSWORD, SENDGRID_KEY, WRONG_PASSWORD, another, apis::all_providers,
    assert_nothing_leaked, assert_private, capture, saved,
};

#[tokio::test]
async fn logs_of_settings_name_fields_and_never_their_values() {
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
