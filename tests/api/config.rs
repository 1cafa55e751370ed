//! Settings as a clinic's admin saves and sees them.

mod conditions;
mod refusals;
mod unreadable;

use comms_testkit::{
    aws::Fault,
    smtp::{Action, Stage},
};
use comms_tests::{
    CLINIC, FROM, PASSWORD, USER, World, communication, email, entry, immediate, items::items,
};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/clinics/clinic-123";

/// The settings in an answer, as they would be sent back.
fn shown(body: &Value) -> Value {
    body["settings"]["communicationSettings"].clone()
}

#[tokio::test]
async fn saved_settings_are_shown_with_a_marker_for_the_password() {
    let world = World::new().await;
    world.get_settings(CLINIC).await.expect(404);
    let saved = world
        .put_settings(CLINIC, email(&world.entry(), FROM))
        .await
        .expect(201);
    let read = world.get_settings(CLINIC).await.expect(200);
    assert_eq!(read.body, saved.body);
    assert_eq!(
        (read.header("etag"), saved.header("etag")),
        ("\"1\"", "\"1\"")
    );
    assert_eq!(read.header("cache-control"), "no-store");
    assert_eq!(
        (&read.body["version"], &read.body["savedBy"]),
        (&json!(1), &json!("user-1"))
    );
    let credentials = &shown(&read.body)["email"]["primary"]["credentials"];
    assert_eq!(
        credentials["password"],
        json!({"configured": true, "last4": "3a9c"})
    );
    assert_eq!(
        (&credentials["port"], &credentials["user"]),
        (&json!(world.smtp.port()), &json!(USER))
    );
    assert!(!world.answers().contains(PASSWORD));
}

#[tokio::test]
async fn shown_settings_can_be_saved_and_keep_the_password() {
    let world = World::saved().await;
    let read = world.get_settings(CLINIC).await;
    let same = world
        .put_settings(CLINIC, shown(&read.body))
        .await
        .expect(200);
    assert_eq!(same.header("etag"), "\"1\"", "nothing has changed");
    let mut renamed = shown(&read.body);
    renamed["email"]["defaultFromName"] = json!("New Name");
    let saved = world.put_settings(CLINIC, renamed).await.expect(200);
    assert_eq!(saved.header("etag"), "\"2\"");
    world.post(&immediate()).await.expect(200);
    assert_eq!(
        world.smtp.messages()[0].authenticated_as.as_deref(),
        Some(USER)
    );
}

#[tokio::test]
async fn omitted_password_is_kept_only_for_the_same_server() {
    let world = World::saved().await;
    let without = |field: &str, value: Value| {
        let mut document = email(&world.entry(), FROM);
        let credentials = document["email"]["primary"]["credentials"]
            .as_object_mut()
            .unwrap();
        credentials.remove("password");
        credentials.insert(field.to_owned(), value);
        document
    };
    let kept = world
        .put_settings(CLINIC, without("maxConnections", json!(2)))
        .await;
    kept.expect(200);
    let elsewhere = world.server("another-user", "x").start().await;
    for (field, value) in [
        ("host", json!("127.0.0.2")),
        ("port", json!(elsewhere.port())),
        ("user", json!("another-user")),
    ] {
        let mut document = without(field, value);
        let refused = world
            .put_settings(CLINIC, document.clone())
            .await
            .expect(422);
        let pointer = "/settings/communicationSettings/email/primary/credentials/password";
        assert_eq!(refused.pointers(), [pointer], "{field}");
        document["email"]["primary"]["credentials"]["password"] =
            json!({"configured": true, "last4": "3a9c"});
        let refused = world.put_settings(CLINIC, document).await.expect(422);
        assert_eq!(refused.pointers(), [pointer], "{field} with the marker");
    }
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"2\"");
    world.post(&immediate()).await.expect(200);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn failing_store_leaves_no_partial_write() {
    let world = World::saved().await;
    let patch = json!({"email": {"defaultFromName": "Second"}});
    world.patch_settings(CLINIC, patch).await.expect(200);
    let before = items(&world).await;
    for (service, operation, fault) in [
        ("dynamodb", "TransactWriteItems", Fault::AccessDenied),
        ("dynamodb", "TransactWriteItems", Fault::Drop),
        ("dynamodb", "GetItem", Fault::AccessDenied),
        ("kms", "GenerateDataKey", Fault::AccessDenied),
    ] {
        // More often than the SDK tries.
        world.aws.fail_next(service, operation, 100, fault);
        let patch = json!({"email": {"defaultFromName": "Third"}});
        let mut answers = vec![
            world
                .put_settings(CLINIC, email(&world.entry(), FROM))
                .await,
            world.patch_settings(CLINIC, patch).await,
            world.restore(CLINIC, "1", &[]).await,
        ];
        if service == "dynamodb" {
            answers.push(world.delete_settings(CLINIC, &[]).await);
        }
        world.aws.clear_faults();
        for answer in answers {
            answer.expect(503);
        }
        assert_eq!(items(&world).await, before, "{operation} {fault:?}");
    }
    world
        .aws
        .fail_next("dynamodb", "Query", 1, Fault::AccessDenied);
    world.versions(CLINIC, "").await.expect(503);
    world.restore(CLINIC, "1", &[]).await.expect(200);
}

#[tokio::test]
async fn rotated_password_is_used_by_the_next_send_of_a_warm_worker() {
    let world = World::with(|server, _| {
        server.on(
            Stage::Auth,
            Action::reply("235 2.7.0 the old one still works"),
        )
    })
    .await;
    let old = entry(world.smtp.port(), USER, "old-password-0000");
    world
        .put_settings(CLINIC, email(&old, FROM))
        .await
        .expect(201);
    world.post(&communication()).await.expect(202);
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(
        world.smtp.messages().len(),
        1,
        "the worker knows the old password"
    );

    // From here on the server takes the new one only, and has closed the old sessions.
    world.smtp.close_idle_connections().await;
    world
        .put_settings(CLINIC, email(&world.entry(), FROM))
        .await
        .expect(200);
    let id = world.post(&communication()).await.expect(202).request_id();
    assert!(world.run_worker().await.failed.is_empty());
    let delivery = &world.status(&id).await.expect(200).body["deliveries"][0];
    assert_eq!(delivery["status"], "sent", "{delivery}");
    let attempts = delivery["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "the old one was not tried: {delivery}");
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn clinics_have_separate_settings() {
    let world = World::saved().await;
    world.get_settings("clinic-12").await.expect(404);
    world.get_settings("clinic-1234").await.expect(404);
    world.get_settings("CLINIC-123").await.expect(404);
    for id in ["_globals", "clinic%2F123", "-a", "a b"] {
        world
            .get_settings(&id.replace(' ', "%20"))
            .await
            .expect(404);
    }
}
