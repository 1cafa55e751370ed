//! Fields of each provider, and its ways to log in.

use super::*;

#[test]
fn a_role_or_a_tenant_belongs_to_one_clinic() {
    let role = |id: &str| json!({"region": "eu-central-1", "roleArn": "arn:aws:iam::123456789012:role/mail", "externalId": id});
    for (id, fits) in [
        ("clinic-1", true),
        ("clinic-1:x", true),
        ("clinic-1x", false),
        ("clinic-12", false),
        ("clinic-2", false),
        ("x:clinic-1", false),
    ] {
        assert_eq!(read("aws_ses", &role(id)).is_ok(), fits, "{id}");
    }
    let tenant = |name: &str| json!({"region": "eu-central-1", "tenantName": name});
    assert_eq!(
        problems("aws_ses", &tenant("clinic-2"), None),
        ["tenantName"]
    );
    assert!(read_for("_global", "aws_ses", &tenant("platform"), None).is_ok());
    assert!(read_for("_global", "aws_ses", &role("_global:x"), None).is_ok());
}

#[test]
fn ses_needs_one_account_and_not_two() {
    let region = json!({"region": "eu-central-1"});
    assert_eq!(problems("aws_ses", &region, None), [""]);
    let mut both = forms()[1].1.clone();
    both["tenantName"] = json!("clinic-1");
    assert_eq!(problems("aws_ses", &both, None), [""]);
    assert_eq!(
        problems(
            "aws_ses",
            &with(&forms()[3].1, "region", json!("evil.example#")),
            None
        ),
        ["region"]
    );
}

#[test]
fn twilio_needs_a_sender_and_one_login() {
    let (provider, by_token) = &forms()[6];
    let mut no_sender = by_token.clone();
    no_sender
        .as_object_mut()
        .unwrap()
        .shift_remove("fromNumber");
    assert_eq!(problems(provider, &no_sender, None), ["fromNumber"]);
    let both = with(by_token, "apiKeySid", json!(format!("SK{HEX}")));
    assert_eq!(
        problems(provider, &both, None),
        ["apiKeySecret", "authToken"]
    );
    let settings = read(provider, by_token).unwrap();
    let twilio: &TwilioConfig = entry(&settings).config.get().unwrap();
    assert!(matches!(
        &twilio.sender,
        TwilioSender::Number(number) if number.as_str() == "+14155238886"
    ));
    for (name, value) in [
        ("accountSid", json!("AC../../x")),
        ("fromNumber", json!("4155238886")),
        ("statusCallback", json!("http://clinic.example/")),
        ("statusCallback", json!("https://clinic.example:8443/")),
        ("statusCallback", json!("https://localhost/status")),
        ("statusCallback", json!("https://169.254.169.254/latest")),
        ("templates", json!({"a": "b"})),
    ] {
        let field = if name == "templates" {
            "templates/a"
        } else {
            name
        };
        assert_eq!(
            problems(provider, &with(by_token, name, value), None),
            [field]
        );
    }
}

#[test]
fn an_api_of_one_host_has_no_path() {
    for form in [4, 6] {
        let (provider, credentials) = &forms()[form];
        for url in [
            "https://api.sendgrid.com/v3",
            "https://api.twilio.com/2010-04-01/",
        ] {
            let changed = with(credentials, "apiUrl", json!(url));
            assert_eq!(problems(provider, &changed, None), ["apiUrl"], "{url}");
        }
        let slash = with(credentials, "apiUrl", json!("https://api.example.com/"));
        assert!(read(provider, &slash).is_ok());
    }
}

#[test]
fn metas_token_has_two_names_and_its_graph_an_end() {
    let (provider, credentials) = &forms()[5];
    let mut alias = credentials.clone();
    let token = alias
        .as_object_mut()
        .unwrap()
        .shift_remove("apiKey")
        .unwrap();
    alias["accessToken"] = token;
    let settings = read(provider, &alias).unwrap();
    assert_eq!(
        settings.view()["whatsapp"]["primary"]["credentials"]["apiKey"]["configured"],
        true
    );
    let both = with(&alias, "apiKey", json!("planted-meta-token"));
    assert_eq!(problems(provider, &both, None), ["accessToken"]);
    for (url, fits) in [
        ("https://graph.facebook.com/v21.0", true),
        ("https://graph.facebook.com/v26.0/", true),
        ("https://graph.facebook.com/v20.0", false),
        ("https://graph.facebook.com/v9.0", false),
        ("https://graph.facebook.com", false),
        ("https://graph.facebook.com/v23.0/me", false),
        ("https://graph.facebook.com/v+23.0", false),
        ("https://graph.facebook.com/23.0", false),
    ] {
        let changed = with(credentials, "apiUrl", json!(url));
        assert_eq!(read(provider, &changed).is_ok(), fits, "{url}");
    }
}

#[test]
fn fields_of_a_way_that_is_not_used_may_be_there_unset() {
    for (form, unset) in [
        (1, vec!["roleArn", "externalId", "tenantName"]),
        (2, vec!["accessKeyId", "secretAccessKey", "tenantName"]),
        (
            3,
            vec!["accessKeyId", "secretAccessKey", "roleArn", "externalId"],
        ),
        (5, vec!["accessToken"]),
        (6, vec!["apiKeySid", "apiKeySecret", "messagingServiceSid"]),
        (7, vec!["authToken", "fromNumber"]),
    ] {
        let (provider, credentials) = &forms()[form];
        for nothing in [json!(""), Value::Null] {
            let mut credentials = credentials.clone();
            for name in &unset {
                credentials[*name] = nothing.clone();
            }
            assert!(
                read(provider, &credentials).is_ok(),
                "{provider}: {unset:?}"
            );
        }
    }
}

#[test]
fn unknown_fields_and_fields_of_other_providers_are_refused_by_name() {
    for (provider, credentials) in forms() {
        let strange = with(&credentials, "colour", json!("red"));
        assert_eq!(problems(provider, &strange, None), ["colour"], "{provider}");
    }
    let (provider, credentials) = &forms()[4];
    let foreign = with(credentials, "accountSid", json!(format!("AC{HEX}")));
    assert_eq!(problems(provider, &foreign, None), ["accountSid"]);
}

#[test]
fn null_in_the_fields_of_another_login_is_the_same_as_absent() {
    for (provider, credentials) in forms() {
        let logins: &[&str] = match provider {
            "aws_ses" => &[
                "accessKeyId",
                "secretAccessKey",
                "roleArn",
                "externalId",
                "tenantName",
            ],
            "meta_business" => &["apiKey", "accessToken"],
            "twilio" => &["authToken", "apiKeySid", "apiKeySecret"],
            _ => &[],
        };
        for name in logins {
            if credentials.get(name).is_none() {
                let with_null = with(&credentials, name, Value::Null);
                assert!(read(provider, &with_null).is_ok(), "{provider} {name}");
            }
        }
    }
}
