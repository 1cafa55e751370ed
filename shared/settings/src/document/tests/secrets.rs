//! Secrets: never shown, and kept only for the same entry.

use super::*;

#[test]
fn nothing_that_is_shown_or_printed_has_a_secret_in_it() {
    let settings = read(&document(), None).unwrap();
    for text in [
        settings.view().to_string(),
        settings.outline().to_string(),
        format!("{settings:?}"),
        settings.changed_fields(None).join(" "),
    ] {
        assert!(!text.contains("planted"), "{text}");
    }
    assert_eq!(
        settings.view()["email"]["primary"]["credentials"]["password"],
        json!({"configured": true, "last4": "word"})
    );
    assert_eq!(
        settings.view()["email"]["fallback"][0]["credentials"]["password"],
        json!({"configured": true})
    );
    assert!(
        settings.outline()["email"]["primary"]
            .get("credentials")
            .is_none()
    );
}

#[test]
fn what_is_shown_can_be_sent_back_and_keeps_the_secrets() {
    let settings = read(&document(), None).unwrap();
    let again = read(&settings.view(), Some(&settings)).unwrap();
    assert_eq!(password(&again), "planted-app-password");
    assert!(again.changed_fields(Some(&settings)).is_empty());
    let mut omitted = document();
    omitted["email"]["primary"]["credentials"]
        .as_object_mut()
        .unwrap()
        .remove("password");
    assert_eq!(
        password(&read(&omitted, Some(&settings)).unwrap()),
        "planted-app-password"
    );
}

#[test]
fn a_stored_secret_does_not_follow_to_another_server_or_user() {
    let mut document = document();
    document["email"]["primary"]["credentials"]["host"] = json!("smtp.example.com");
    let settings = read(&document, None).unwrap();
    for (name, value) in [
        ("host", json!("evil.example")),
        ("port", json!(2525)),
        ("user", json!("other")),
        ("caPem", json!("-----BEGIN CERTIFICATE-----")),
    ] {
        let mut view = settings.view();
        view["email"]["primary"]["credentials"][name] = value;
        assert_eq!(
            pointers(&view, Some(&settings)),
            ["/s/email/primary/credentials/password"],
            "{name}"
        );
    }
}

#[test]
fn a_secret_stays_with_its_entry_when_the_order_changes() {
    let settings = read(&document(), None).unwrap();
    let mut view = settings.view();
    let primary = view["email"]["primary"].clone();
    view["email"]["primary"] = view["email"]["fallback"][0].clone();
    view["email"]["fallback"][0] = primary;
    assert_eq!(
        password(&read(&view, Some(&settings)).unwrap()),
        "planted-short"
    );
}
