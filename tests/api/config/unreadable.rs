//! Settings that are deleted, or that do not open any more.

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use comms_tests::{
    CLINIC, FROM, World, email, immediate,
    items::{item, put_item},
};
use serde_json::json;

use super::conditions::check_versions;

#[tokio::test]
async fn deleted_settings_are_gone_and_their_version_is_not_reused() {
    let world = World::saved().await;
    let gone = world
        .delete_settings(CLINIC, &[("if-match", "\"1\"")])
        .await;
    assert_eq!(gone.expect(204).header("etag"), "");
    let document = email(&world.entry(), FROM);
    world.get_settings(CLINIC).await.expect(404);
    world.patch_settings(CLINIC, json!({})).await.expect(404);
    world.delete_settings(CLINIC, &[]).await.expect(404);
    world
        .delete_settings(CLINIC, &[("if-match", "*")])
        .await
        .expect(404);
    let test = json!({"verifyOnly": true});
    world.test_email(CLINIC, &test).await.expect(404);
    let body = world.post(&immediate()).await.expect(207).body;
    assert_eq!(world.smtp.messages().len(), 0, "{body}");

    // What was deleted is nothing to take a secret from.
    let mut without = document.clone();
    without["email"]["primary"]["credentials"]
        .as_object_mut()
        .unwrap()
        .remove("password");
    let refused = world.put_settings(CLINIC, without).await.expect(422);
    assert_eq!(refused.header("etag"), "");
    let any = [("if-match", "*")];
    let refused = world.put_settings_if(CLINIC, document.clone(), &any).await;
    refused.expect(412);
    let none = [("if-none-match", "*")];
    let saved = world.put_settings_if(CLINIC, document, &none).await;
    assert_eq!(saved.expect(201).header("etag"), "\"3\"");
    world.post(&immediate()).await.expect(200);
    check_versions(&world, 3).await;
}

#[tokio::test]
async fn unreadable_settings_are_replaced_with_every_secret() {
    let world = World::saved().await;
    let mut stored = item(&world, CLINIC, "settings").await.unwrap();
    let AttributeValue::M(sealed) = stored.get_mut("sealed").unwrap() else {
        panic!("a map")
    };
    sealed.insert(
        "email/primary".to_owned(),
        AttributeValue::B(Blob::new("x")),
    );
    put_item(&world, stored).await;

    let read = world.get_settings(CLINIC).await.expect(500);
    assert_eq!(read.body["code"], "unreadable_settings");
    let patched = world.patch_settings(CLINIC, json!({})).await.expect(409);
    assert_eq!(patched.body["code"], "unreadable_settings");
    let mut document = email(&world.entry(), FROM);
    document["ceilings"] = json!({});
    let mut without = document.clone();
    without["email"]["primary"]["credentials"]["password"] = json!({"configured": true});
    let refused = world.put_settings(CLINIC, without).await.expect(422);
    let pointer = "/settings/communicationSettings/email/primary/credentials/password";
    assert_eq!(refused.pointers(), [pointer]);
    for answer in [read, patched, refused] {
        assert_eq!(answer.header("etag"), "\"1\"", "{}", answer.text);
    }
    let stale = [("if-match", "\"2\"")];
    let refused = world
        .put_settings_if(CLINIC, document.clone(), &stale)
        .await;
    refused.expect(412);
    let present = [("if-match", "\"1\"")];
    let saved = world.put_settings_if(CLINIC, document, &present).await;
    assert_eq!(saved.expect(200).header("etag"), "\"2\"");
    world.post(&immediate()).await.expect(200);
    let versions = world.versions(CLINIC, "").await.body["versions"].clone();
    let changed = versions[0]["changed"].to_string();
    assert!(changed.contains("/email/primary/credentials/password"));
    check_versions(&world, 2).await;
}

#[tokio::test]
async fn unreadable_settings_can_be_restored_or_deleted() {
    let world = World::saved().await;
    for mended in ["restored", "deleted"] {
        let mut stored = item(&world, CLINIC, "settings").await.unwrap();
        stored.remove("dataKey");
        put_item(&world, stored).await;
        world.get_settings(CLINIC).await.expect(500);
        if mended == "restored" {
            world.restore(CLINIC, "1", &[]).await.expect(200);
            world.post(&immediate()).await.expect(200);
        } else {
            world.delete_settings(CLINIC, &[]).await.expect(204);
            world.get_settings(CLINIC).await.expect(404);
        }
    }
    check_versions(&world, 3).await;
}

#[tokio::test]
async fn settings_without_a_counter_continue_from_their_versions() {
    let mut world = World::saved().await;
    let mut stored = item(&world, CLINIC, "settings").await.unwrap();
    stored.remove("version");
    put_item(&world, stored).await;
    // Neither by themselves nor by their counter.
    let mut counter = item(&world, CLINIC, "counter").await.unwrap();
    counter.remove("mac");
    put_item(&world, counter).await;
    world.restart();
    let mut document = email(&world.entry(), FROM);
    document["ceilings"] = json!({});
    let replaced = world.put_settings(CLINIC, document).await.expect(200);
    assert_eq!(replaced.header("etag"), "\"2\"");
    world.delete_settings(CLINIC, &[]).await.expect(204);
}
