//! Secrets of each provider.

use super::*;

#[test]
fn every_form_reads_back_as_it_is_shown_and_sealed_and_keeps_its_secrets() {
    for (provider, credentials) in forms() {
        let settings = read(provider, &credentials).unwrap();
        let shown = settings.view();
        assert!(!shown.to_string().contains("planted"), "{shown}");
        assert!(!format!("{settings:?}").contains("planted"));
        let channel = registry::find(provider).unwrap().channels[0];
        let shown = &shown[channel.as_str()]["primary"]["credentials"];
        let again = read_for("clinic-1", provider, shown, Some(&settings)).unwrap();
        assert!(again.changed_fields(Some(&settings)).is_empty());

        let sealed = entry(&again).plaintext().unwrap();
        let sealed: Value = serde_json::from_slice(&sealed).unwrap();
        let reread = read(provider, &sealed).unwrap();
        assert!(
            reread.changed_fields(Some(&settings)).is_empty(),
            "{provider}"
        );
    }
}

#[test]
fn a_stored_secret_does_not_follow_to_another_account_or_server() {
    let other_url = json!("https://evil.example");
    for (form, changes) in [
        (
            0,
            vec![
                ("host", json!("smtp.evil.example")),
                ("port", json!(2525)),
                ("user", json!("other")),
                ("caPem", json!("-----BEGIN CERTIFICATE-----")),
            ],
        ),
        (1, vec![("accessKeyId", json!("AKIAI44QH8DHBEXAMPLE"))]),
        (4, vec![("apiUrl", other_url.clone())]),
        (
            5,
            vec![
                ("apiUrl", json!("https://evil.example/v23.0")),
                ("phoneNumberId", json!("123456780")),
                ("businessAccountId", json!("987654320")),
            ],
        ),
        (
            6,
            vec![
                ("apiUrl", other_url.clone()),
                ("accountSid", json!(format!("ACf{}", &HEX[1..]))),
            ],
        ),
        (
            7,
            vec![
                ("apiUrl", other_url),
                ("accountSid", json!(format!("ACf{}", &HEX[1..]))),
                ("apiKeySid", json!(format!("SKf{}", &HEX[1..]))),
            ],
        ),
    ] {
        let (provider, credentials) = &forms()[form];
        let settings = read(provider, credentials).unwrap();
        let mut without = credentials.clone();
        let fields = without.as_object_mut().unwrap();
        let (secret, _) = fields
            .iter()
            .find(|(_, value)| {
                value
                    .as_str()
                    .is_some_and(|text| text.starts_with("planted"))
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .unwrap();
        fields.shift_remove(&secret);
        assert!(
            read_for("clinic-1", provider, &without, Some(&settings)).is_ok(),
            "{provider}: kept where nothing changed"
        );
        for (name, value) in changes {
            assert_eq!(
                problems(provider, &with(&without, name, value), Some(&settings)),
                [secret.as_str()],
                "{provider}/{name}"
            );
        }
    }
}

#[test]
fn metas_token_is_kept_for_another_version_of_the_graph_at_the_same_host() {
    let (provider, credentials) = &forms()[5];
    let settings = read(provider, credentials).unwrap();
    let mut newer = settings.view()["whatsapp"]["primary"]["credentials"].clone();
    newer["apiUrl"] = json!("https://graph.facebook.com/v24.0");
    assert!(read_for("clinic-1", provider, &newer, Some(&settings)).is_ok());
    for url in [
        "http://graph.facebook.com/v24.0",
        "https://graph.facebook.com:444/v24.0",
        "https://graph.facebook.com.evil.example/v24.0",
    ] {
        newer["apiUrl"] = json!(url);
        assert_eq!(
            problems(provider, &newer, Some(&settings)),
            ["apiKey"],
            "{url}"
        );
    }
}

#[test]
fn a_secret_of_one_provider_or_login_is_not_taken_for_another_s() {
    let all = forms();
    let (_, sendgrid) = &all[4];
    let settings = read("sendgrid", sendgrid).unwrap();
    let keys = json!({"region": "eu-central-1", "accessKeyId": "AKIAIOSFODNN7EXAMPLE"});
    assert_eq!(
        problems("aws_ses", &keys, Some(&settings)),
        ["secretAccessKey"]
    );
    let by_token = read("twilio", &all[6].1).unwrap();
    let mut by_key = all[7].1.clone();
    by_key.as_object_mut().unwrap().shift_remove("apiKeySecret");
    assert_eq!(
        problems("twilio", &by_key, Some(&by_token)),
        ["apiKeySecret"]
    );
}

#[test]
fn no_problem_repeats_what_was_sent() {
    for (provider, credentials) in forms() {
        let planted: serde_json::Map<_, _> = credentials
            .as_object()
            .unwrap()
            .keys()
            .map(|name| (name.clone(), json!({"planted": "planted"})))
            .collect();
        let problems = read(provider, &Value::Object(planted)).unwrap_err();
        assert!(
            !problems
                .to_string()
                .replace("/planted", "")
                .contains("planted"),
            "{problems}"
        );
    }
}
