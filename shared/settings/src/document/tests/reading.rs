//! What is read, and what is refused.

use super::*;

#[test]
fn values_may_come_as_strings_and_each_fallback_has_its_own_credentials() {
    let settings = read(&document(), None).unwrap();
    let email = settings.email.as_ref().unwrap();
    let primary = smtp(&email.primary);
    let fallback = smtp(&email.fallback[0]);
    assert_eq!((primary.port, primary.security), (587, Security::StartTls));
    assert_eq!(
        (fallback.port, fallback.security),
        (465, Security::ImplicitTls)
    );
    assert_eq!(fallback.host, Host::Name("smtp.backup.example".into()));
    assert_ne!(
        *primary.password.expose().unwrap(),
        *fallback.password.expose().unwrap()
    );
}

#[test]
fn everything_wrong_is_named_at_once_without_its_value() {
    let value = json!({
        "email": {
            "primary": {"provider": "smtp", "credentials": {
                "host": "planted host", "port": 70_000, "secure": "maybe", "user": "", "password": {"planted": 1}, "colour": 1}},
            "fallback": [{"provider": "pigeon"}, {"provider": "twilio", "credentials": {}}, {"id": "primary", "provider": "smtp"}],
            "defaultFrom": "planted", "onAmbiguous": "guess",
            "fallbackStrategy": {"retryAttempts": 99, "x": 1}
        },
        "fax": {}
    });
    let problems = read(&value, None).unwrap_err();
    assert!(!problems.to_string().contains("planted "), "{problems}");
    let mut found: Vec<_> = problems
        .as_slice()
        .iter()
        .map(|p| p.pointer.trim_start_matches("/s/"))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "email/defaultFrom",
            "email/fallback/0/provider",
            "email/fallback/1/provider",
            "email/fallback/2/credentials",
            "email/fallback/2/id",
            "email/fallbackStrategy/retryAttempts",
            "email/fallbackStrategy/x",
            "email/onAmbiguous",
            "email/primary/credentials/colour",
            "email/primary/credentials/host",
            "email/primary/credentials/password",
            "email/primary/credentials/port",
            "email/primary/credentials/secure",
            "email/primary/credentials/user",
            "fax",
        ]
    );
}

#[test]
fn a_rule_that_came_later_does_not_make_stored_settings_unreadable() {
    let mut value = document();
    value["email"]["primary"]["credentials"]["secure"] = json!(true);
    value["whatsapp"] = json!({"primary": {"provider": "meta_business", "credentials": {
        "apiUrl": "https://graph.facebook.com/v9.0", "apiKey": "planted-token", "phoneNumberId": "123456789"}}});
    assert_eq!(
        pointers(&value, None),
        [
            "/s/email/primary/credentials/secure",
            "/s/whatsapp/primary/credentials/apiUrl"
        ]
    );
    let settings = CommunicationSettings::read_stored(value, &tenant()).unwrap();
    assert_eq!(
        pointers(&settings.view(), Some(&settings)).len(),
        2,
        "they are to be mended by the next save"
    );
}

#[test]
fn everything_is_told_at_once_a_port_at_odds_with_secure_too() {
    let mut value = document();
    let credentials = &mut value["email"]["primary"]["credentials"];
    credentials["secure"] = json!("true");
    credentials["user"] = json!(1);
    credentials["host"] = json!("planted host");
    assert_eq!(
        pointers(&value, None),
        ["host", "user", "secure"].map(|name| format!("/s/email/primary/credentials/{name}"))
    );
}

#[test]
fn an_empty_text_is_a_value_that_is_not_set() {
    let mut value = document();
    value["email"]["defaultFromName"] = json!("");
    value["email"]["onAmbiguous"] = json!("");
    value["email"]["fallbackStrategy"]["retryAttempts"] = json!("");
    for name in ["caPem", "maxConnections", "ehloName"] {
        value["email"]["primary"]["credentials"][name] = json!("");
    }
    value["whatsapp"] = json!("");
    let settings = read(&value, None).unwrap();
    let email = settings.email.as_ref().unwrap();
    assert_eq!(email.default_from_name, None);
    assert_eq!(
        (email.retry_attempts, email.on_ambiguous),
        (2, AmbiguityPolicy::Failover)
    );
    assert_eq!(smtp(&email.primary).max_connections, 5);
    assert!(smtp(&email.primary).ca_pem.is_none() && settings.whatsapp.is_none());

    value["email"]["primary"]["credentials"]["password"] = json!("");
    let kept = read(&value, Some(&settings)).unwrap();
    assert_eq!(password(&kept), "planted-app-password");
    assert_eq!(
        pointers(&value, None),
        ["/s/email/primary/credentials/password"]
    );
    value["email"]["colour"] = json!("");
    assert_eq!(pointers(&value, Some(&settings)), ["/s/email/colour"]);
}
