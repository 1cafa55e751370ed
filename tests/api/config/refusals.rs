//! Settings that are refused, and what the earlier system wrote.

use comms_tests::{CLINIC, FROM, USER, World, claims, email, entry};
use serde_json::{Value, json};

use super::{PATH, shown};

#[tokio::test]
async fn port_that_contradicts_secure_is_refused_with_the_fitting_value() {
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
async fn settings_of_the_earlier_system_are_accepted_unchanged() {
    let fixture = include_str!("../../fixtures/settings/earlier-system.json");
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
async fn invalid_settings_are_refused_with_all_problems_and_no_values() {
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
async fn invalid_json_and_duplicate_fields_are_malformed() {
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
async fn invalid_trust_roots_are_refused_on_save() {
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
async fn unsupported_method_is_answered_with_the_allowed_ones() {
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
