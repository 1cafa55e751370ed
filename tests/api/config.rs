//! Settings as a clinic's admin saves and sees them.

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use comms_testkit::{
    aws::Fault,
    smtp::{Action, Stage},
};
use comms_tests::{
    Answer, CLINIC, FROM, PASSWORD, USER, World, claims, communication, email, entry, immediate,
    items::{item, items, put_item},
};
use futures_util::future::join_all;
use serde_json::{Value, json};

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
async fn a_condition_that_can_not_be_read_is_refused_and_a_weak_tag_is_no_match() {
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
async fn who_has_the_present_version_is_told_so_without_a_body() {
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
async fn every_refusal_of_a_change_says_at_which_version_the_settings_are() {
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
async fn of_twenty_concurrent_changes_of_one_version_one_is_made_and_is_whole() {
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
async fn of_concurrent_changes_without_a_condition_each_is_made_or_refused_and_none_is_lost() {
    let world = World::saved().await;
    let changes = (0..20).map(|n| {
        let patch = json!({"email": {"defaultFromName": format!("Name {n}")}});
        world.patch_settings(CLINIC, patch)
    });
    let answers = join_all(changes).await;
    let made = |answer: &&Answer| answer.status == 200;
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
async fn check_versions(world: &World, last: u64) {
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

#[tokio::test]
async fn where_the_store_fails_nothing_is_half_written() {
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
async fn deleted_settings_are_gone_for_everybody_and_their_number_is_not_given_again() {
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
async fn settings_that_do_not_open_any_more_are_replaced_by_who_has_every_secret() {
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
async fn settings_that_do_not_open_any_more_can_be_restored_or_deleted() {
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
async fn settings_whose_number_cannot_be_told_count_on_from_their_versions() {
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

#[tokio::test]
async fn a_port_at_odds_with_secure_is_told_at_secure_with_what_would_fit() {
    let world = World::new().await;
    for (host, port, secure, field, advice) in [
        ("smtp.gmail.com", 465, false, "secure", "must be true"),
        ("smtp.gmail.com", 587, true, "secure", "must be false"),
        ("smtp.office365.com", 465, true, "port", "must be 587"),
        ("smtp.example.com", 70_000, true, "port", "from 1 to 65535"),
    ] {
        let mut document = email(&world.entry(), FROM);
        let credentials = &mut document["email"]["primary"]["credentials"];
        credentials["host"] = json!(host);
        credentials["port"] = json!(port);
        credentials["secure"] = json!(secure);
        let refused = world.put_settings(CLINIC, document).await.expect(422);
        let pointer = format!("/settings/communicationSettings/email/primary/credentials/{field}");
        assert_eq!(refused.pointers(), [pointer]);
        let detail = refused.body["errors"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(advice), "{detail}");
    }
}

#[tokio::test]
async fn what_the_earlier_system_wrote_is_accepted_as_it_is() {
    let fixture = include_str!("../fixtures/settings/earlier-system.json");
    let clinics: Value = serde_json::from_str(fixture).unwrap();
    let world = World::new().await;
    for clinic in clinics.as_array().unwrap() {
        let id = clinic["clinicId"].as_str().unwrap();
        let document = clinic["communicationSettings"].clone();
        let saved = world.put_settings(id, document.clone()).await.expect(201);
        // What is sent once more, with everything as it was, is nothing new.
        let again = world.put_settings(id, document).await.expect(200);
        assert_eq!(again.header("etag"), "\"1\"");
        assert_eq!(saved.body, again.body);
    }
    let marker = |last4: &str| json!({"configured": true, "last4": last4});
    let of = async |id: &str| shown(&world.get_settings(id).await.expect(200).body);
    assert_eq!(
        of("clinic-gmail").await,
        json!({"email": {
            "primary": {"id": "primary", "provider": "smtp", "enabled": true, "credentials": {
                "host": "smtp.gmail.com", "port": 587, "secure": false,
                "user": "appointments@clinic.example", "password": marker("word"), "maxConnections": 5}},
            "fallback": [{"id": "fallback-1", "provider": "sendgrid", "enabled": false, "credentials": {
                "apiKey": marker("-key"), "sandbox": false, "fromEmail": "hello@clinic.example"}}],
            "fallbackStrategy": {"useGlobal": false, "retryAttempts": 2},
            "onAmbiguous": "failover", "defaultFrom": "appointments@clinic.example"}})
    );
    assert_eq!(
        of("clinic-ses").await,
        json!({"email": {
            "primary": {"id": "primary", "provider": "aws_ses", "enabled": true, "credentials": {
                "region": "eu-central-1", "fromEmail": "ses@clinic.example", "fromName": "Clinic",
                "accessKeyId": "AKIAIOSFODNN7EXAMPLE", "secretAccessKey": marker("-key")}},
            "fallback": [], "fallbackStrategy": {"useGlobal": true, "retryAttempts": 2},
            "onAmbiguous": "failover"}})
    );
    assert_eq!(
        of("clinic-meta").await,
        json!({"whatsapp": {
            "primary": {"id": "primary", "provider": "meta_business", "enabled": true, "credentials": {
                "apiKey": marker("oken"), "phoneNumberId": "123456789",
                "apiUrl": "https://graph.facebook.com/v23.0"}},
            "fallback": [{"id": "fallback-1", "provider": "twilio", "enabled": true, "credentials": {
                "accountSid": "AC0123456789abcdef0123456789abcdef", "fromNumber": "+14155238886",
                "authToken": marker("oken")}}],
            "fallbackStrategy": {"useGlobal": true, "retryAttempts": 0}, "onAmbiguous": "failover"}})
    );
    assert!(!world.answers().contains("planted"));
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
    let attempts = delivery["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "the old one was not tried: {delivery}");
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
async fn a_method_that_a_route_does_not_have_is_answered_with_those_that_it_has() {
    let world = World::saved().await;
    let versions = format!("{PATH}/communication/versions");
    let restore = format!("{versions}/1/restore");
    for (method, path, allowed) in [
        ("POST", PATH, "GET, PUT, PATCH, DELETE"),
        ("DELETE", versions.as_str(), "GET"),
        ("GET", restore.as_str(), "POST"),
    ] {
        let answer = world
            .config(method, path, Some("{}"), claims("SUPER_ADMIN", None), &[])
            .await
            .expect(405);
        assert_eq!(answer.body["code"], "method_not_allowed");
        assert_eq!(answer.header("allow"), allowed);
    }
}
