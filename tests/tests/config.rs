//! Settings as a clinic's admin saves and sees them.

use comms_testkit::smtp::{Action, Stage};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::world::{
    CLINIC, FROM, PASSWORD, USER, World, claims, communication, email, entry, immediate,
};

const PATH: &str = "/api/v1/clinics/clinic-123";

/// The settings in an answer, as they would be sent back.
fn shown(body: &Value) -> Value {
    body["settings"]["communicationSettings"].clone()
}

#[tokio::test]
async fn what_is_saved_is_shown_with_a_marker_in_place_of_the_password() {
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
async fn what_was_shown_can_be_sent_back_and_the_password_still_works() {
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
async fn a_password_that_is_left_out_is_kept_and_does_not_follow_to_another_place() {
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
async fn a_save_on_what_one_has_not_seen_is_refused() {
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
async fn of_concurrent_saves_none_is_lost_and_none_overwrites_another_unseen() {
    let world = World::saved().await;
    let documents: Vec<_> = (0..8)
        .map(|n| {
            let mut document = email(&world.entry(), FROM);
            document["email"]["defaultFromName"] = json!(format!("Name {n}"));
            document
        })
        .collect();
    let puts = documents
        .iter()
        .map(|document| world.put_settings_if(CLINIC, document.clone(), &[("if-match", "\"1\"")]));
    let answers = join_all(puts).await;
    let saved: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .collect();
    assert_eq!(saved.len(), 1);
    for answer in &answers {
        assert!([200, 409, 412].contains(&answer.status), "{}", answer.text);
    }
    assert!(
        answers.iter().any(|answer| answer.status == 409),
        "they were not concurrent"
    );
    let read = world.get_settings(CLINIC).await;
    assert_eq!(read.body, saved[0].body);
    assert_eq!(read.header("etag"), "\"2\"");
}

#[tokio::test]
async fn an_invalid_document_is_refused_with_all_its_problems_and_none_of_its_values() {
    let world = World::saved().await;
    let mut document = email(&entry(world.smtp.port(), USER, ""), "planted-from");
    document["email"]["primary"]["credentials"]["host"] = json!("planted host");
    document["email"]["primary"]["credentials"]["colour"] = json!("planted-colour");
    document["email"]["onAmbiguous"] = json!("planted-guess");
    document["email"]["fallback"] =
        json!([{"provider": "pigeon", "credentials": {"password": "planted-pw"}}]);
    document["fax"] = json!({});
    let refused = world.put_settings(CLINIC, document).await.expect(422);
    let root = "/settings/communicationSettings";
    assert_eq!(
        refused.pointers(),
        [
            "email/defaultFrom",
            "email/fallback/0/provider",
            "email/onAmbiguous",
            "email/primary/credentials/colour",
            "email/primary/credentials/host",
            "email/primary/credentials/password",
            "fax",
        ]
        .map(|pointer| format!("{root}/{pointer}"))
    );
    assert!(!refused.text.contains("planted"), "{}", refused.text);
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"1\"");

    let admin = claims("CLINIC_ADMIN", Some(CLINIC));
    for (body, pointers) in [
        ("{}", vec!["/settings"]),
        ("{\"settings\":{}}", vec![root]),
        ("{\"settings\":{\"communicationSettings\":1}}", vec![root]),
        (
            "{\"settings\":{\"communicationSettings\":{}},\"x\":1}",
            vec!["/x"],
        ),
    ] {
        let refused = world
            .config("PUT", PATH, Some(body), admin.clone(), &[])
            .await;
        assert_eq!(refused.expect(422).pointers(), pointers, "{body}");
    }
}

#[tokio::test]
async fn what_is_no_json_or_has_a_field_twice_is_malformed() {
    let world = World::saved().await;
    let deep = "[".repeat(100_000);
    let twice = r#"{"settings":{"communicationSettings":{"email":{"defaultFrom":"a@b.example","defaultFrom":"planted@b.example"}}}}"#;
    for body in ["", "{", "{}x", &deep, twice] {
        let admin = claims("CLINIC_ADMIN", Some(CLINIC));
        let refused = world
            .config("PUT", PATH, Some(body), admin, &[])
            .await
            .expect(400);
        assert!(!refused.text.contains("planted"));
    }
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"1\"");
}

#[tokio::test]
async fn trust_roots_that_are_none_are_refused_when_they_are_saved() {
    let world = World::new().await;
    let mut document = email(&world.entry(), FROM);
    document["email"]["primary"]["credentials"]["caPem"] =
        json!("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n");
    let refused = world
        .put_settings(CLINIC, document.clone())
        .await
        .expect(422);
    assert_eq!(
        refused.pointers(),
        ["/settings/communicationSettings/email/primary/credentials/caPem"]
    );
    document["email"]["primary"]["credentials"]["caPem"] = json!(world.ca.pem());
    world.put_settings(CLINIC, document).await.expect(201);
}

#[tokio::test]
async fn a_rotated_password_is_used_by_the_very_next_send_of_a_worker_that_knows_the_old_one() {
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
    assert_eq!(
        delivery["attempts"][0]["code"], "535 5.7.8",
        "it began with the old one"
    );
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn settings_of_one_clinic_are_not_those_of_another() {
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

#[tokio::test]
async fn what_this_version_can_not_do_it_says_so() {
    let world = World::saved().await;
    for method in ["PATCH", "DELETE", "POST"] {
        let answer = world
            .config(method, PATH, Some("{}"), claims("SUPER_ADMIN", None), &[])
            .await;
        assert_eq!(
            answer.expect(405).body["code"],
            "method_not_allowed",
            "{method}"
        );
    }
    world.get_settings(CLINIC).await.expect(200);
}
