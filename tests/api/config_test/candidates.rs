//! Settings that are tested before they are saved.

use comms_tests::{CLINIC, FROM, PASSWORD, USER, World, email, entry};
use serde_json::{Value, json};

use super::reports::{last, only};

pub(super) fn candidate(entry: &Value) -> Value {
    json!({"testEmail": "admin@clinic.example", "settings": {"communicationSettings": email(entry, FROM)}})
}

#[tokio::test]
async fn candidate_with_a_wrong_password_fails_at_login_and_is_not_saved() {
    let world = World::saved().await;
    let before = world.get_settings(CLINIC).await;
    world.aws.clear_calls();
    let wrong = candidate(&entry(world.smtp.port(), USER, "planted-wrong-password"));
    let answer = world.test_email(CLINIC, &wrong).await.expect(200);
    assert_eq!(answer.body["ok"], false);
    assert_eq!(last(&answer), ("authenticate", "failed", Some("535 5.7.8")));
    assert_eq!(only(&answer)["stages"][4]["kind"], "unauthenticated");
    assert!(!answer.text.contains("planted"), "{}", answer.text);
    assert!(world.smtp.messages().is_empty());
    let calls: Vec<_> = world.aws.calls().iter().map(ToString::to_string).collect();
    // What is written are the limits.
    assert_eq!(
        calls,
        [
            // The settings with their counter, and the key of the counter's MAC.
            "dynamodb:GetItem",
            "dynamodb:GetItem",
            "dynamodb:GetItem",
            "kms:Decrypt",
            "kms:Decrypt",
            "dynamodb:TransactWriteItems"
        ]
    );
    assert_eq!(world.get_settings(CLINIC).await, before);
}

#[tokio::test]
async fn candidate_is_tested_for_a_clinic_without_settings() {
    let world = World::new().await;
    world
        .test_email(CLINIC, &json!({"testEmail": "admin@clinic.example"}))
        .await
        .expect(404);
    let answer = world
        .test_email(CLINIC, &candidate(&world.entry()))
        .await
        .expect(200);
    assert_eq!(answer.body["ok"], true);
    assert_eq!(world.smtp.messages().len(), 1);
    world.get_settings(CLINIC).await.expect(404);
}

#[tokio::test]
async fn candidate_without_a_password_uses_the_stored_one_for_its_server_only() {
    let world = World::saved().await;
    let mut same = world.entry();
    same["credentials"]
        .as_object_mut()
        .unwrap()
        .remove("password");
    let answer = world
        .test_email(CLINIC, &candidate(&same))
        .await
        .expect(200);
    assert_eq!(answer.body["ok"], true);

    let elsewhere = world.server(USER, PASSWORD).start().await;
    let mut moved = same;
    moved["credentials"]["port"] = json!(elsewhere.port());
    for password in [Value::Null, json!({"configured": true, "last4": "3a9c"})] {
        moved["credentials"]["password"] = password;
        let refused = world
            .test_email(CLINIC, &candidate(&moved))
            .await
            .expect(422);
        assert_eq!(
            refused.pointers(),
            ["/settings/communicationSettings/email/primary/credentials/password"]
        );
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn malformed_test_request_is_refused_without_a_connection() {
    let world = World::saved().await;
    for (body, pointers) in [
        (json!({}), vec!["/testEmail"]),
        (json!({"testEmail": "planted"}), vec!["/testEmail"]),
        (json!({"testEmail": "a@b.example", "x": 1}), vec!["/x"]),
        (
            json!({"testEmail": "a@b.example", "provider": "twilio"}),
            vec!["/provider"],
        ),
        (
            json!({"testEmail": "a@b.example", "entry": "Not an id"}),
            vec!["/entry"],
        ),
        (
            json!({"testEmail": "a@b.example", "settings": {}}),
            vec!["/settings/communicationSettings"],
        ),
    ] {
        let refused = world.test_email(CLINIC, &body).await.expect(422);
        assert_eq!(refused.pointers(), pointers, "{body}");
        assert!(!refused.text.contains("planted"));
    }
    assert_eq!(world.smtp.connections(), 0);
    // What was not understood does not count.
    assert_eq!(
        world.aws.count("dynamodb", "TransactWriteItems"),
        2,
        "the save, and the limit of saves"
    );
}
