//! Ceilings: the platform sets what a clinic may do, the clinic sees it, and nothing that the clinic does lifts it.

use std::sync::Arc;

use comms_testkit::clock::ManualClock;
use comms_tests::{ApiResponse, CLINIC, FROM, World, claims, email, immediate};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/clinics/clinic-123";

fn ceilings() -> Value {
    json!({"useGlobal": false, "critical": false, "immediateInFlight": 3, "email": {"maxPerDay": 2}})
}

async fn with_ceilings() -> World {
    let world = Box::pin(World::saved()).await;
    let patch = json!({"ceilings": ceilings()});
    Box::pin(world.patch_settings(CLINIC, patch))
        .await
        .expect(200);
    world
}

fn stored(answer: &ApiResponse) -> &Value {
    &answer.body["settings"]["communicationSettings"]["ceilings"]
}

#[tokio::test]
async fn a_clinic_admin_cannot_change_the_ceilings() {
    assert_eq!(PATH, format!("/api/v1/clinics/{CLINIC}"));
    let world = with_ceilings().await;
    for wanted in [
        json!({}),
        json!({"useGlobal": true}),
        json!({"email": {"maxPerDay": 3}}),
    ] {
        let mut document = email(&world.entry(), FROM);
        document["ceilings"] = wanted.clone();
        let refused = world
            .as_admin("PUT", PATH, Some(&document))
            .await
            .expect(403);
        assert_eq!(
            refused.pointers(),
            ["/settings/communicationSettings/ceilings"]
        );
    }
    for patch in [
        json!({"ceilings": null}),
        json!({"ceilings": {"useGlobal": null}}),
    ] {
        let refused = world
            .as_admin("PATCH", PATH, Some(&patch))
            .await
            .expect(403);
        assert_eq!(
            refused.pointers(),
            ["/settings/communicationSettings/ceilings"]
        );
    }
    assert_eq!(*stored(&world.get_settings(CLINIC).await), ceilings());
}

#[tokio::test]
async fn ceilings_outlive_every_change_that_a_clinic_admin_makes() {
    let world = with_ceilings().await;
    // A document that does not name them, and one as GET shows it.
    let document = email(&world.entry(), "other@clinic.example");
    let saved = world
        .as_admin("PUT", PATH, Some(&document))
        .await
        .expect(200);
    assert_eq!(*stored(&saved), ceilings());
    let mut shown =
        world.get_settings(CLINIC).await.body["settings"]["communicationSettings"].clone();
    shown["email"]["onAmbiguous"] = json!("hold");
    let saved = world.as_admin("PUT", PATH, Some(&shown)).await.expect(200);
    assert_eq!(*stored(&saved), ceilings());
    // A version from before there were any.
    let restore = format!("{PATH}/communication/versions/1/restore");
    let restored = world.as_admin("POST", &restore, None).await.expect(200);
    assert_eq!(*stored(&restored), ceilings());
    // A deletion, and new settings after it.
    world.as_admin("DELETE", PATH, None).await.expect(204);
    world.as_admin("GET", PATH, None).await.expect(404);
    let mut document = email(&world.entry(), FROM);
    document["ceilings"] = json!({});
    world
        .as_admin("PUT", PATH, Some(&document))
        .await
        .expect(403);
    let created = world
        .as_admin("PUT", PATH, Some(&email(&world.entry(), FROM)))
        .await;
    assert_eq!(*stored(&created.expect(201)), ceilings());
    let list = world.versions(CLINIC, "?limit=1").await.expect(200);
    let changed = list.body["versions"][0]["changed"].to_string();
    assert!(!changed.contains("ceilings"), "{changed}");
    // The platform's own people lift them.
    world
        .patch_settings(CLINIC, json!({"ceilings": null}))
        .await
        .expect(200);
    assert_eq!(*stored(&world.get_settings(CLINIC).await), Value::Null);
}

#[tokio::test]
async fn a_clinic_sees_the_ceilings_that_hold_for_it() {
    let world = with_ceilings().await;
    world.save_global().await;
    let defaults = json!({"ceilings": {
        "useGlobal": true, "urgentPerHour": 9, "email": {"maxPerMinute": 1, "maxPerDay": 100}}});
    world.patch_settings("_global", defaults).await.expect(200);
    let seen = world.as_admin("GET", PATH, None).await.expect(200);
    assert_eq!(
        seen.body["effectiveCeilings"],
        json!({
            "useGlobal": false, "critical": false, "immediateInFlight": 3, "urgentPerHour": 9,
            "email": {"maxPerMinute": 1, "maxPerDay": 2},
        })
    );
    // What GET shows can be sent back.
    let text = seen.body.to_string();
    let admin = claims("CLINIC_ADMIN", Some(CLINIC));
    world
        .config("PUT", PATH, Some(&text), admin, &[])
        .await
        .expect(200);
}

#[tokio::test]
async fn the_lower_of_rate_limit_and_ceiling_holds() {
    let mut world = with_ceilings().await;
    let raised = json!({"email": {"rateLimit": {"maxPerDay": 1_000}}});
    world
        .as_admin("PATCH", PATH, Some(&raised))
        .await
        .expect(200);
    world.send.pipeline = world.pipeline_with_clock("send", Arc::new(ManualClock::new()));
    for status in [200, 200, 429] {
        world.post(&immediate()).await.expect(status);
    }
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn clinic_without_permission_never_sends_by_the_global_account() {
    let world = with_ceilings().await;
    let global = world.save_global().await;
    let mut entry = world.entry();
    entry["enabled"] = json!(false);
    // The clinic's own wish does not matter; neither does that it has deleted its settings.
    let mut document = email(&entry, FROM);
    document["email"]["fallbackStrategy"]["useGlobal"] = json!(true);
    world
        .as_admin("PUT", PATH, Some(&document))
        .await
        .expect(200);
    for _ in 0..2 {
        let answer = world.post(&immediate()).await.expect(207);
        assert_eq!(
            answer.body["deliveries"][0]["reason"]["code"],
            "NO_PROVIDER"
        );
        world.as_admin("DELETE", PATH, None).await;
    }
    assert_eq!(global.connections(), 0);
}
