//! What the entries of each provider may say, read through the whole document.

use comms_adapters::twilio::{TwilioConfig, TwilioSender};

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef";

/// Credentials in every form that there is, with secrets that begin with `planted`.
fn forms() -> Vec<(&'static str, Value)> {
    let account = format!("AC{HEX}");
    vec![
        (
            "smtp",
            json!({"host": "smtp.example.com", "port": "587", "secure": "false", "user": "u",
                "password": "planted-password-smtp", "ehloName": "mail.clinic.example",
                "fromEmail": "front@clinic.example", "fromName": "Front desk"}),
        ),
        (
            "aws_ses",
            json!({"region": "eu-central-1", "accessKeyId": "AKIAIOSFODNN7EXAMPLE",
                "secretAccessKey": "planted-secret-access-key", "fromEmail": "ses@clinic.example",
                "fromName": "Clinic", "configurationSet": "clinic"}),
        ),
        (
            "aws_ses",
            json!({"region": "eu-central-1", "roleArn": "arn:aws:iam::123456789012:role/mail",
                "externalId": "clinic-1:7f9c"}),
        ),
        (
            "aws_ses",
            json!({"region": "eu-central-1", "tenantName": "clinic-1"}),
        ),
        (
            "sendgrid",
            json!({"apiKey": "planted-sendgrid-key", "apiUrl": "https://api.eu.sendgrid.com",
                "fromEmail": "hello@clinic.example", "sandbox": "true"}),
        ),
        (
            "meta_business",
            json!({"apiKey": "planted-meta-token", "phoneNumberId": "123456789",
                "businessAccountId": "987654321", "apiUrl": "https://graph.facebook.com/v23.0"}),
        ),
        (
            "twilio",
            json!({"accountSid": account, "authToken": "planted-auth-token",
                "fromNumber": "whatsapp:+14155238886", "apiUrl": "https://api.dublin.ie1.twilio.com",
                "statusCallback": "https://clinic.example/status",
                "templates": {"appointment_confirmed": format!("HX{HEX}")}}),
        ),
        (
            "twilio",
            json!({"accountSid": account, "apiKeySid": format!("SK{HEX}"),
                "apiKeySecret": "planted-api-key-secret", "messagingServiceSid": format!("MG{HEX}")}),
        ),
    ]
}

fn document(provider: &str, credentials: &Value) -> Value {
    let channel = registry::find(provider).unwrap().channels[0];
    let mut document = json!({});
    document[channel.as_str()] = json!({
        "primary": {"provider": provider, "credentials": credentials},
    });
    if channel == comms_core::Channel::Email {
        document["email"]["defaultFrom"] = json!("desk@clinic.example");
        document["email"]["defaultFromName"] = json!("Desk");
    }
    document
}

fn read_for(
    tenant: &str,
    provider: &str,
    credentials: &Value,
    stored: Option<&CommunicationSettings>,
) -> Result<CommunicationSettings, Problems> {
    let mut problems = Problems::default();
    let settings = CommunicationSettings::read(
        document(provider, credentials),
        "",
        &Tenant::parse(tenant).unwrap(),
        stored,
        &mut problems,
    );
    problems.or(settings)
}

fn read(provider: &str, credentials: &Value) -> Result<CommunicationSettings, Problems> {
    read_for("clinic-1", provider, credentials, None)
}

fn entry(settings: &CommunicationSettings) -> &ProviderEntry {
    settings.entries().next().unwrap().1
}

/// What is wrong, by field of the credentials.
fn problems(
    provider: &str,
    credentials: &Value,
    stored: Option<&CommunicationSettings>,
) -> Vec<String> {
    let problems = read_for("clinic-1", provider, credentials, stored).unwrap_err();
    let mut fields: Vec<_> = problems
        .as_slice()
        .iter()
        .map(|problem| {
            let (_, field) = problem
                .pointer
                .split_once("/primary/credentials")
                .unwrap_or(("", &problem.pointer));
            field.trim_start_matches('/').to_owned()
        })
        .collect();
    fields.sort();
    fields
}

fn with(credentials: &Value, name: &str, value: Value) -> Value {
    let mut changed = credentials.clone();
    changed[name] = value;
    changed
}

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
fn the_sender_is_the_entrys_own_else_the_channels() {
    let all = forms();
    for (form, address, name) in [
        (0, "front@clinic.example", "Front desk"),
        (1, "ses@clinic.example", "Clinic"),
        (3, "desk@clinic.example", "Desk"),
        (4, "hello@clinic.example", "Desk"),
    ] {
        let (provider, credentials) = &all[form];
        let settings = read(provider, credentials).unwrap();
        let email = settings.email.as_ref().unwrap();
        let sender = email.sender(&email.primary).unwrap();
        assert_eq!(sender.address.as_str(), address);
        assert_eq!(sender.name.as_deref(), Some(name));
    }
    let mut only_own = document("smtp", &all[0].1);
    only_own["email"]
        .as_object_mut()
        .unwrap()
        .shift_remove("defaultFrom");
    let mut problems = Problems::default();
    let tenant = Tenant::parse("clinic-1").unwrap();
    let smtp = CommunicationSettings::read(only_own, "", &tenant, None, &mut problems);
    assert!(smtp.is_some() && problems.is_empty(), "{problems}");
    let mut no_default = document("sendgrid", &all[4].1);
    no_default["email"]
        .as_object_mut()
        .unwrap()
        .shift_remove("defaultFrom");
    let mut problems = Problems::default();
    let settings =
        CommunicationSettings::read(no_default.clone(), "", &tenant, None, &mut problems).unwrap();
    assert!(problems.is_empty(), "{problems}");
    let reply_to = settings.email.unwrap().reply_to().unwrap();
    assert_eq!(reply_to.as_str(), "hello@clinic.example");
    no_default["email"]["primary"]["credentials"]
        .as_object_mut()
        .unwrap()
        .shift_remove("fromEmail");
    let mut problems = Problems::default();
    CommunicationSettings::read(no_default, "", &tenant, None, &mut problems);
    assert_eq!(problems.as_slice()[0].pointer, "/email/defaultFrom");
}

#[test]
fn a_senders_address_that_will_not_do_is_refused_at_save_and_read_where_stored() {
    let all = forms();
    let tenant = Tenant::parse("clinic-1").unwrap();
    for (form, address, is_readable) in [
        (0, "=?utf-8?q?hi?=@clinic.example", true),
        (1, "jörg@clinic.example", false),
        (4, "jörg@clinic.example", true),
        (4, "=?utf-8?q?hi?=@clinic.example", true),
    ] {
        let (provider, mut credentials) = all[form].clone();
        credentials["fromEmail"] = json!(address);
        let document = document(provider, &credentials);
        let mut problems = Problems::default();
        CommunicationSettings::read(document.clone(), "", &tenant, None, &mut problems);
        let pointers: Vec<_> = problems
            .as_slice()
            .iter()
            .map(|problem| problem.pointer.as_str())
            .collect();
        assert_eq!(
            pointers,
            ["/email/primary/credentials/fromEmail"],
            "{provider} {address}"
        );
        let stored = CommunicationSettings::read_stored(document, &tenant);
        assert_eq!(stored.is_ok(), is_readable, "{provider} {address}");
    }
    let mut channel = document("smtp", &all[0].1);
    channel["email"]["defaultFrom"] = json!("=?utf-8?q?hi?=@clinic.example");
    let mut problems = Problems::default();
    CommunicationSettings::read(channel.clone(), "", &tenant, None, &mut problems);
    assert_eq!(problems.as_slice()[0].pointer, "/email/defaultFrom");
    assert!(CommunicationSettings::read_stored(channel, &tenant).is_ok());
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

/// Clients whose objects have all fields send `null` for those that they do not mean.
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
