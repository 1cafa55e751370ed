//! Settings changed in part: JSON Merge Patch (RFC 7396) over what GET shows.

use comms_tests::{CLINIC, FROM, USER, World, email, immediate, super_admin};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/clinics/clinic-123";
const ROOT: &str = "/settings/communicationSettings";
const HEX: &str = "0123456789abcdef0123456789abcdef";

/// The settings in an answer.
fn shown(body: &Value) -> &Value {
    &body["settings"]["communicationSettings"]
}

/// A patch of the credentials of a channel's primary.
fn of_primary(channel: &str, credentials: &Value) -> Value {
    json!({channel: {"primary": {"credentials": credentials}}})
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let world = World::saved().await;
    let before = world.get_settings(CLINIC).await;
    let patch = json!({"email": {
        "defaultFromName": "Front Desk",
        "fallbackStrategy": {"retryAttempts": "1"},
        "primary": {"credentials": {"maxConnections": 2}},
    }});
    let patched = world.patch_settings(CLINIC, patch).await.expect(200);
    assert_eq!(patched.header("etag"), "\"2\"");
    let mut expected = shown(&before.body).clone();
    expected["email"]["defaultFromName"] = json!("Front Desk");
    expected["email"]["fallbackStrategy"]["retryAttempts"] = json!(1);
    expected["email"]["primary"]["credentials"]["maxConnections"] = json!(2);
    assert_eq!(shown(&patched.body), &expected);
    assert_eq!(world.get_settings(CLINIC).await.body, patched.body);
    let changed = &world.versions(CLINIC, "?limit=1").await.body["versions"][0]["changed"];
    assert_eq!(
        changed,
        &json!([
            "/email/defaultFromName",
            "/email/fallbackStrategy/retryAttempts",
            "/email/primary/credentials/maxConnections"
        ])
    );
    // The password is still the one that was saved.
    world.post(&immediate()).await.expect(200);
    assert_eq!(
        world.smtp.messages()[0].authenticated_as.as_deref(),
        Some(USER)
    );
}

#[tokio::test]
async fn null_under_a_misspelt_name_is_refused() {
    let world = World::saved().await;
    for (patch, pointer) in [
        (json!({"email": {"rate_limit": null}}), "/email/rate_limit"),
        (json!({"e-mail": null}), "/e-mail"),
        (
            json!({"email": {"fallbackStrategy": {"use_global": null}}}),
            "/email/fallbackStrategy/use_global",
        ),
        (
            json!({"email": {"primary": {"credentials": {"pasword": null}}}}),
            "/email/primary/credentials/pasword",
        ),
    ] {
        let refused = world.patch_settings(CLINIC, patch).await.expect(422);
        assert_eq!(refused.pointers(), [format!("{ROOT}{pointer}")]);
    }
    // What is known and not set is as it is to be.
    let unset = json!({"email": {"rateLimit": null}, "whatsapp": null});
    let patched = world.patch_settings(CLINIC, unset).await.expect(200);
    assert_eq!(patched.header("etag"), "\"1\"");
}

#[tokio::test]
async fn null_removes_and_an_array_is_replaced_as_a_whole() {
    let world = World::new().await;
    let sendgrid = |id: &str| {
        json!({"id": id, "provider": "sendgrid", "credentials": {
        "apiKey": format!("planted-key-of-{id}"), "fromEmail": "hello@clinic.example"}})
    };
    let mut document = email(&world.entry(), FROM);
    document["email"]["fallback"] = json!([sendgrid("one"), sendgrid("two")]);
    world.put_settings(CLINIC, document).await.expect(201);

    let two = json!({"id": "two", "provider": "sendgrid",
        "credentials": {"fromEmail": "other@clinic.example"}});
    let patch = json!({"email": {"defaultFromName": null, "fallback": [two]}});
    let patched = world.patch_settings(CLINIC, patch).await.expect(200);
    let email = &shown(&patched.body)["email"];
    assert!(email.get("defaultFromName").is_none());
    assert_eq!(email["fallback"].as_array().unwrap().len(), 1);
    assert_eq!(
        email["fallback"][0]["credentials"]["apiKey"],
        json!({"configured": true, "last4": "-two"}),
        "an entry that is sent without its secret keeps its own"
    );

    for (patch, pointers) in [
        (json!({"email": {"primary": null}}), vec!["email/primary"]),
        (
            json!({"email": {"primary": {"credentials": null}}}),
            vec!["email/primary/credentials"],
        ),
        (
            json!({"email": {"defaultFrom": null}}),
            vec!["email/defaultFrom"],
        ),
        (
            json!({"email": {"primary": {"credentials": {"host": null, "user": null}}}}),
            vec![
                "email/primary/credentials/host",
                "email/primary/credentials/password",
                "email/primary/credentials/user",
            ],
        ),
        (
            json!({"email": {"colour": "planted"}, "fax": {}}),
            vec!["email/colour", "fax"],
        ),
    ] {
        let refused = world.patch_settings(CLINIC, patch).await.expect(422);
        let pointers: Vec<_> = pointers
            .iter()
            .map(|pointer| format!("{ROOT}/{pointer}"))
            .collect();
        assert_eq!(refused.pointers(), pointers);
        assert_eq!(refused.header("etag"), "\"2\"");
    }
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"2\"");
    let gone = world
        .patch_settings(CLINIC, json!({"email": null}))
        .await
        .expect(200);
    assert_eq!(shown(&gone.body), &json!({}));
}

#[tokio::test]
async fn a_patch_that_changes_nothing_writes_nothing() {
    let world = World::saved().await;
    let whole = shown(&world.get_settings(CLINIC).await.body).clone();
    world.aws.clear_calls();
    for patch in [
        json!({}),
        json!({"whatsapp": null}),
        json!({"email": {"defaultFrom": FROM}}),
        of_primary("email", &json!({"password": {"configured": true}})),
        whole,
    ] {
        let same = world.patch_settings(CLINIC, patch).await.expect(200);
        assert_eq!(
            (same.header("etag"), &same.body["version"]),
            ("\"1\"", &json!(1))
        );
    }
    assert_eq!(world.aws.count("dynamodb", "TransactWriteItems"), 0);
    assert_eq!(world.aws.count("kms", "GenerateDataKey"), 0);
}

#[tokio::test]
async fn a_patch_says_what_it_is_and_has_something_to_change() {
    let world = World::saved().await;
    let patch = json!({"email": {"defaultFromName": "X"}});
    for media_type in [
        "application/json-patch+json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
    ] {
        let headers = [("content-type", media_type)];
        let refused = world
            .patch_settings_if(CLINIC, patch.clone(), &headers)
            .await
            .expect(415);
        assert_eq!(
            refused.header("accept-patch"),
            "application/merge-patch+json, application/json"
        );
    }
    let headers = [("content-type", "application/merge-patch+json")];
    world
        .patch_settings_if(CLINIC, patch.clone(), &headers)
        .await
        .expect(200);

    let nothing = world.patch_settings("clinic-456", patch).await.expect(404);
    assert!(nothing.text.contains("PUT"), "{}", nothing.text);
    assert_eq!(nothing.header("etag"), "");
    for (body, pointer) in [
        ("{}", "/settings"),
        ("{\"settings\":{}}", ROOT),
        ("{\"settings\":{\"communicationSettings\":null}}", ROOT),
        (
            "{\"settings\":{\"communicationSettings\":{}},\"x\":1}",
            "/x",
        ),
    ] {
        let refused = world
            .config("PATCH", PATH, Some(body), super_admin(), &[])
            .await
            .expect(422);
        assert_eq!(refused.pointers(), [pointer], "{body}");
    }
    for malformed in ["{", "[]"] {
        let refused = world
            .config("PATCH", PATH, Some(malformed), super_admin(), &[])
            .await;
        refused.expect(400);
    }
    for not_an_object in [json!(1), json!("x"), json!([])] {
        let refused = world.patch_settings(CLINIC, not_an_object).await;
        assert_eq!(refused.expect(422).pointers(), [ROOT]);
    }
    assert_eq!(world.get_settings(CLINIC).await.header("etag"), "\"2\"");
}

/// One provider: its entry, its secret, and the fields that say where the secret goes, with another value for each.
struct StoredSecret {
    channel: &'static str,
    entry: Value,
    secret: &'static str,
    fields: Vec<(&'static str, Value)>,
}

fn stored_secrets() -> Vec<StoredSecret> {
    let ca = "-----BEGIN CERTIFICATE-----\n";
    let other = json!("https://api.evil.example");
    let stored_secret = |channel, provider: &str, credentials: Value, secret, fields| {
        let entry = json!({"provider": provider, "credentials": credentials});
        StoredSecret {
            channel,
            entry,
            secret,
            fields,
        }
    };
    vec![
        stored_secret(
            "email",
            "smtp",
            json!({"host": "smtp.example.com", "port": 587, "secure": false, "user": "u",
                "password": "planted-of-smtp"}),
            "password",
            vec![
                ("host", json!("smtp.evil.example")),
                ("port", json!(2525)),
                ("user", json!("other")),
                ("caPem", json!(ca)),
            ],
        ),
        stored_secret(
            "email",
            "aws_ses",
            json!({"region": "eu-central-1", "accessKeyId": "AKIAIOSFODNN7EXAMPLE",
                "secretAccessKey": "planted-of-ses"}),
            "secretAccessKey",
            vec![("accessKeyId", json!("AKIAI44QH8DHBEXAMPLE"))],
        ),
        stored_secret(
            "email",
            "sendgrid",
            json!({"apiKey": "planted-of-sendgrid"}),
            "apiKey",
            vec![("apiUrl", other.clone())],
        ),
        stored_secret(
            "whatsapp",
            "meta_business",
            json!({"apiKey": "planted-of-meta", "phoneNumberId": "123456789"}),
            "apiKey",
            vec![
                ("apiUrl", json!("https://graph.evil.example/v23.0")),
                ("phoneNumberId", json!("123456780")),
                ("businessAccountId", json!("987654320")),
            ],
        ),
        stored_secret(
            "whatsapp",
            "twilio",
            json!({"accountSid": format!("AC{HEX}"), "authToken": "planted-of-twilio",
                "fromNumber": "+14155238886"}),
            "authToken",
            vec![
                ("accountSid", json!(format!("ACf{}", &HEX[1..]))),
                ("apiUrl", other.clone()),
            ],
        ),
        stored_secret(
            "whatsapp",
            "twilio",
            json!({"accountSid": format!("AC{HEX}"), "apiKeySid": format!("SK{HEX}"),
                "apiKeySecret": "planted-of-twilio-key", "fromNumber": "+14155238886"}),
            "apiKeySecret",
            vec![
                ("accountSid", json!(format!("ACf{}", &HEX[1..]))),
                ("apiKeySid", json!(format!("SKf{}", &HEX[1..]))),
                ("apiUrl", other),
            ],
        ),
    ]
}

#[tokio::test]
async fn stored_secret_is_neither_moved_to_another_server_nor_removed() {
    let world = World::new().await;
    for (number, stored_secret) in stored_secrets().into_iter().enumerate() {
        let clinic = format!("clinic-{number}");
        let (channel, secret) = (stored_secret.channel, stored_secret.secret);
        let mut document = json!({channel: {"primary": stored_secret.entry}});
        if channel == "email" {
            document[channel]["defaultFrom"] = json!(FROM);
        }
        world.put_settings(&clinic, document).await.expect(201);
        let pointer = format!("{ROOT}/{channel}/primary/credentials/{secret}");

        let removed = of_primary(channel, &json!({secret: null}));
        let refused = world.patch_settings(&clinic, removed).await.expect(422);
        assert_eq!(refused.pointers(), [pointer.as_str()], "{clinic}: removed");
        for (field, value) in &stored_secret.fields {
            for marker in [None, Some(json!({"configured": true}))] {
                let mut credentials = json!({*field: value});
                if let Some(marker) = marker {
                    credentials[secret] = marker;
                }
                let patch = of_primary(channel, &credentials);
                let refused = world.patch_settings(&clinic, patch).await.expect(422);
                // Trust roots that are none are a problem of their own.
                let mut pointers = refused.pointers();
                pointers.retain(|found| !found.ends_with("/caPem"));
                assert_eq!(pointers, [pointer.as_str()], "{clinic}: {field}");
            }
        }
        assert_eq!(world.get_settings(&clinic).await.header("etag"), "\"1\"");
        let (field, value) = &stored_secret.fields[0];
        let together = json!({*field: value, secret: "planted-sent-again"});
        let patched = of_primary(channel, &together);
        world.patch_settings(&clinic, patched).await.expect(200);
    }
    assert!(!world.answers().contains("planted"));
}

#[tokio::test]
async fn a_login_is_changed_for_one_of_another_kind_in_one_patch() {
    let world = World::new().await;
    let token = stored_secrets().remove(4);
    let document = json!({"whatsapp": {"primary": token.entry}});
    world.put_settings(CLINIC, document).await.expect(201);
    let patch =
        json!({"authToken": null, "apiKeySid": format!("SK{HEX}"), "apiKeySecret": "planted-new"});
    let patched = world
        .patch_settings(CLINIC, of_primary("whatsapp", &patch))
        .await
        .expect(200);
    let credentials = &shown(&patched.body)["whatsapp"]["primary"]["credentials"];
    assert_eq!(credentials["apiKeySecret"], json!({"configured": true}));
    assert!(credentials.get("authToken").is_none());
}
