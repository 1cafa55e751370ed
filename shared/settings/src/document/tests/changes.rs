//! Limits and ceilings in a document, and the names of changed fields.

use super::*;

#[test]
fn rate_limits_of_channels_and_entries_are_read_shown_stored_and_told_of_when_they_change() {
    let settings = read(&document(), None).unwrap();
    let mut value = document();
    value["email"]["rateLimit"] = json!({"maxPerMinute": "100", "maxPerDay": 5_000});
    value["email"]["primary"]["rateLimit"] = json!({"maxPerSecond": "20"});
    let limited = read(&value, Some(&settings)).unwrap();
    let email = limited.email.as_ref().unwrap();
    let limits: Vec<_> = email.rate_limit.unwrap().limits().collect();
    assert_eq!(limits, [(Period::Minute, 100), (Period::Day, 5_000)]);
    assert_eq!(email.primary.max_per_second, NonZeroU32::new(20));
    assert_eq!(email.fallback[0].max_per_second, None);
    for shown in [limited.view(), limited.outline()] {
        let email = &shown["email"];
        assert_eq!(
            email["rateLimit"],
            json!({"maxPerMinute": 100, "maxPerDay": 5_000})
        );
        assert_eq!(email["primary"]["rateLimit"], json!({"maxPerSecond": 20}));
        assert!(email["fallback"][0].get("rateLimit").is_none());
    }
    let changed = limited.changed_fields(Some(&settings));
    assert_eq!(
        changed,
        [
            "/email/primary/rateLimit/maxPerSecond",
            "/email/rateLimit/maxPerDay",
            "/email/rateLimit/maxPerMinute"
        ]
    );
    let mut unset = limited.view();
    unset["email"]["rateLimit"] = Value::Null;
    unset["email"]["primary"]["rateLimit"] = json!("");
    let unset = read(&unset, Some(&limited)).unwrap().email.unwrap();
    assert_eq!(
        (unset.rate_limit, unset.primary.max_per_second),
        (None, None)
    );
    value["email"]["rateLimit"] = json!({});
    value["email"]["primary"]["rateLimit"] = json!({"maxPerDay": 1});
    assert_eq!(
        pointers(&value, Some(&settings)),
        [
            "/s/email/primary/rateLimit/maxPerSecond",
            "/s/email/primary/rateLimit/maxPerDay",
            "/s/email/rateLimit"
        ]
    );
}

#[test]
fn ceilings_are_read_shown_stored_and_named_when_they_change() {
    let without = read(&document(), None).unwrap();
    let mut value = document();
    value[CEILINGS] = json!({"useGlobal": false, "email": {"maxPerDay": 5}});
    let settings = read(&value, None).unwrap();
    assert_eq!(settings.ceilings.use_global, Some(false));
    for shown in [settings.view(), settings.outline()] {
        assert_eq!(shown[CEILINGS], value[CEILINGS]);
    }
    assert_eq!(without.view().get(CEILINGS), None);
    assert_eq!(
        settings.changed_fields(Some(&without)),
        ["/ceilings/email/maxPerDay", "/ceilings/useGlobal"]
    );
    value[CEILINGS]["immediateInFlight"] = json!(0);
    assert_eq!(pointers(&value, None), ["/s/ceilings/immediateInFlight"]);
}

#[test]
fn changed_fields_are_named_secrets_among_them() {
    let settings = read(&document(), None).unwrap();
    let mut value = document();
    value["email"]["primary"]["credentials"]["password"] = json!("planted-new");
    value["email"]["defaultFromName"] = json!("New Name");
    value["email"]["fallback"] = json!([]);
    let changed = read(&value, Some(&settings))
        .unwrap()
        .changed_fields(Some(&settings));
    assert_eq!(
        changed,
        [
            "/email/defaultFromName",
            "/email/fallback",
            "/email/primary/credentials/password"
        ]
    );
}
