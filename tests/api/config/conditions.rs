//! Saves under conditions, and concurrent saves.

use comms_tests::{ApiResponse, CLINIC, FROM, World, claims, email, items::item};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::PATH;

#[tokio::test]
async fn save_with_an_outdated_etag_is_refused() {
    let world = World::new().await;
    let document = email(&world.entry(), FROM);
    let put = |name: &'static str, value: &'static str| {
        let mut document = document.clone();
        document["email"]["defaultFromName"] =
            json!(format!("{name} {value}").replace(['"', '*', ','], ""));
        let world = &world;
        async move {
            world
                .put_settings_if(CLINIC, document, &[(name, value)])
                .await
        }
    };
    put("if-match", "*").await.expect(412);
    put("if-match", "\"1\"").await.expect(412);
    put("if-none-match", "*").await.expect(201);
    put("if-none-match", "*").await.expect(412);
    put("if-match", "\"2\"").await.expect(412);
    put("if-match", "\"7\", \"1\"").await.expect(200);
    put("if-match", "\"1\"").await.expect(412);
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"2\"");
}

#[tokio::test]
async fn malformed_condition_is_refused_and_a_weak_etag_never_matches() {
    let world = World::saved().await;
    let patch = json!({"email": {"defaultFromName": "X"}});
    for value in ["1", "\"1", "*, \"1\"", ""] {
        let headers = [("if-match", value)];
        for method in ["GET", "PUT", "DELETE"] {
            let admin = claims("CLINIC_ADMIN", Some(CLINIC));
            let refused = world
                .config(method, PATH, Some("{}"), admin, &headers)
                .await
                .expect(400);
            assert_eq!(refused.body["code"], "malformed_header", "{value}");
        }
        let patched = world.patch_settings_if(CLINIC, patch.clone(), &headers);
        patched.await.expect(400);
    }
    let weak = [("if-match", "W/\"1\"")];
    let refused = world.patch_settings_if(CLINIC, patch, &weak).await;
    assert_eq!(refused.expect(412).header("etag"), "\"1\"");
    world.delete_settings(CLINIC, &weak).await.expect(412);
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"1\"");
}

#[tokio::test]
async fn current_etag_is_answered_304_without_a_body() {
    let world = World::saved().await;
    let get = async |headers: &[(&str, &str)]| {
        let admin = claims("CLINIC_ADMIN", Some(CLINIC));
        world.config("GET", PATH, None, admin, headers).await
    };
    for value in ["\"1\"", "W/\"1\"", "\"7\", \"1\"", "*"] {
        let same = get(&[("if-none-match", value)]).await.expect(304);
        assert_eq!((same.header("etag"), &same.body), ("\"1\"", &Value::Null));
    }
    get(&[("if-none-match", "\"2\"")]).await.expect(200);
    get(&[("if-match", "\"2\"")]).await.expect(412);
    get(&[("if-match", "\"1\"")]).await.expect(200);
    let nothing = world
        .config(
            "GET",
            "/api/v1/clinics/clinic-456",
            None,
            claims("SUPER_ADMIN", None),
            &[("if-match", "\"1\"")],
        )
        .await;
    nothing.expect(404);
}

#[tokio::test]
async fn refused_change_names_the_current_version() {
    let world = World::saved().await;
    let renamed = |name: &str| json!({"email": {"defaultFromName": name}});
    world
        .patch_settings(CLINIC, renamed("Second"))
        .await
        .expect(200);
    let stale = [("if-match", "\"1\"")];
    let answers = [
        world
            .put_settings_if(CLINIC, email(&world.entry(), FROM), &stale)
            .await
            .expect(412),
        world
            .patch_settings_if(CLINIC, renamed("X"), &stale)
            .await
            .expect(412),
        world.delete_settings(CLINIC, &stale).await.expect(412),
        world.restore(CLINIC, "1", &stale).await.expect(412),
        world
            .put_settings(CLINIC, json!({"fax": 1}))
            .await
            .expect(422),
        world
            .patch_settings(CLINIC, json!({"fax": 1}))
            .await
            .expect(422),
        world.restore(CLINIC, "9", &[]).await.expect(404),
    ];
    for answer in answers {
        assert_eq!(answer.header("etag"), "\"2\"", "{}", answer.text);
    }
}

#[tokio::test]
async fn one_of_twenty_concurrent_changes_of_a_version_succeeds() {
    let world = World::saved().await;
    let changes = (0..20).map(|n| {
        let (world, name) = (&world, format!("Name {n}"));
        async move {
            let condition = [("if-match", "\"1\"")];
            if n % 2 == 0 {
                let mut document = email(&world.entry(), FROM);
                document["email"]["defaultFromName"] = json!(name);
                world.put_settings_if(CLINIC, document, &condition).await
            } else {
                let patch = json!({"email": {"defaultFromName": name}});
                world.patch_settings_if(CLINIC, patch, &condition).await
            }
        }
    });
    let answers = join_all(changes).await;
    let made: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .collect();
    assert_eq!(made.len(), 1);
    for answer in &answers {
        assert!([200, 409, 412].contains(&answer.status), "{}", answer.text);
        assert_eq!(answer.header("etag"), "\"2\"", "{}", answer.text);
    }
    assert!(
        answers.iter().any(|answer| answer.status == 409),
        "they were not concurrent"
    );
    let read = world.get_settings(CLINIC).await;
    assert_eq!(read.body, made[0].body);
    check_versions(&world, 2).await;
}

#[tokio::test]
async fn unconditional_concurrent_changes_are_made_or_refused_never_lost() {
    let world = World::saved().await;
    let changes = (0..20).map(|n| {
        let patch = json!({"email": {"defaultFromName": format!("Name {n}")}});
        world.patch_settings(CLINIC, patch)
    });
    let answers = join_all(changes).await;
    let made = |answer: &&ApiResponse| answer.status == 200;
    let mut versions: Vec<_> = answers
        .iter()
        .filter(made)
        .map(|answer| answer.body["version"].as_u64().unwrap())
        .collect();
    versions.sort_unstable();
    let last = u64::try_from(versions.len()).unwrap() + 1;
    assert_eq!(versions, (2..=last).collect::<Vec<_>>());
    assert!(
        answers
            .iter()
            .all(|answer| [200, 409].contains(&answer.status))
    );
    check_versions(&world, last).await;
}

/// The versions are 1 to `last`, each has its item, and the present settings are the last.
pub(super) async fn check_versions(world: &World, last: u64) {
    let listed = world.versions(CLINIC, "?limit=100").await.expect(200);
    let listed: Vec<_> = listed.body["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["version"].as_u64().unwrap())
        .collect();
    assert_eq!(listed, (1..=last).rev().collect::<Vec<_>>());
    let mut present = item(world, CLINIC, "settings").await.unwrap();
    let key = format!("version#{last:010}");
    let mut own = item(world, CLINIC, &key).await.unwrap();
    for item in [&mut present, &mut own] {
        item.remove("sk");
        item.remove("expiresAt");
    }
    assert_eq!(present, own);
}
