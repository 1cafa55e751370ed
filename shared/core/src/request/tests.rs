use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::public_url::PublicUrl;

fn example() -> Value {
    json!({
        "category": "appointment", "priority": "high", "strategy": "queued",
        "title": "Appointment confirmed", "body": "See you on Monday at 10:00.", "html": "<p>See you</p>",
        "recipients": [{"email": "patient@example.com", "name": "A. Patient", "phoneNumber": "+15550100"}],
        "channels": ["email", "whatsapp"],
        "templateId": "appointment_confirmed", "language": "en_US", "templateParams": ["Monday", "10:00"],
        "replyTo": "desk@clinic.example",
        "attachments": [{"filename": "a.ics", "contentType": "text/calendar", "content": "QkVHSU4="}],
        "expiresAt": "2026-12-01T10:00:00Z",
        "metadata": {"clinicId": "clinic-123", "appointmentId": "appt-456"}
    })
}

fn parse(value: &Value) -> Result<Submission, Problems> {
    Submission::parse(value.to_string().as_bytes())
}

fn pointers(value: &Value) -> Vec<String> {
    parse(value)
        .unwrap_err()
        .as_slice()
        .iter()
        .map(|p| p.pointer.clone())
        .collect()
}

#[test]
fn the_documented_example_is_read_whole_and_written_back_the_same() {
    let submission = parse(&example()).unwrap();
    let request = &submission.request;
    assert_eq!(request.requested.clinic().unwrap().as_str(), "clinic-123");
    assert_eq!(request.content.attachments[0].content.as_ref(), b"BEGIN");
    let written: Value = serde_json::from_str(&submission.to_json().unwrap()).unwrap();
    assert_eq!(written, example());
}

#[test]
fn every_wrong_field_is_named_at_once() {
    let mut value = example();
    value["priority"] = json!("urgent");
    value["colour"] = json!("red");
    value["recipients"][0]["email"] = json!("nobody");
    value["recipients"][0]["fax"] = json!("1");
    value["channels"] = json!(["email", "sms"]);
    value["expiresAt"] = json!("tomorrow");
    value["attachments"][0]["content"] = json!("!!");
    value["metadata"]["clinicId"] = json!("a b");
    let mut found = pointers(&value);
    found.sort();
    assert_eq!(
        found,
        [
            "/attachments/0/content",
            "/channels/1",
            "/colour",
            "/expiresAt",
            "/metadata/clinicId",
            "/priority",
            "/recipients/0/email",
            "/recipients/0/fax"
        ]
    );
}

#[test]
fn problems_do_not_repeat_what_was_sent() {
    let mut value = example();
    value["recipients"][0]["email"] = json!("planted patient");
    value["title"] = json!("planted\ntitle");
    value["expiresAt"] = json!("planted");
    assert!(!parse(&value).unwrap_err().to_string().contains("planted"));
}

#[test]
fn a_channel_needs_its_content() {
    let mut value = example();
    value["channels"] = json!(["email"]);
    value
        .as_object_mut()
        .unwrap()
        .retain(|name, _| !matches!(name.as_str(), "title" | "body" | "html"));
    assert_eq!(pointers(&value), ["/title", "/body"]);
    value["channels"] = json!(["whatsapp"]);
    assert!(parse(&value).is_ok(), "a template is enough for whatsapp");
}

#[test]
fn header_injection_is_refused_at_the_border() {
    for title in ["a\r\nBcc: x@example.com", "a\nb", "a\0b", ""] {
        let mut value = example();
        value["title"] = json!(title);
        assert_eq!(pointers(&value), ["/title"], "{title:?}");
    }
    for (name, text) in [
        ("filename", "../a"),
        ("filename", "a\r\nb"),
        ("contentType", "text/html; charset=x"),
        ("contentType", "text"),
    ] {
        let mut value = example();
        value["attachments"][0][name] = json!(text);
        assert_eq!(pointers(&value), [format!("/attachments/0/{name}")]);
    }
}

#[test]
fn an_address_named_twice_is_refused_rather_than_dropped() {
    let mut value = example();
    value["recipients"] = json!([{"email": "a@example.com"}, {"email": "a@EXAMPLE.com"}]);
    assert_eq!(pointers(&value), ["/recipients/1/email"]);
    value["recipients"] = json!([{"email": "Ann@example.com"}, {"email": "ann@example.com"}]);
    assert_eq!(
        pointers(&value),
        ["/recipients/1/email"],
        "no server tells them apart"
    );
}

#[test]
fn limits_are_named() {
    let mut value = example();
    value["recipients"] = (0..=MAX_RECIPIENTS)
        .map(|n| json!({"email": format!("a{n}@example.com")}))
        .collect();
    let problems = parse(&value).unwrap_err();
    let limit = MAX_RECIPIENTS.to_string();
    assert!(problems.to_string().contains(&limit), "{problems}");
    let mut value = example();
    value["recipients"] = json!([]);
    assert_eq!(pointers(&value), ["/recipients"]);
}

#[test]
fn copies_go_with_one_message_only() {
    let copied = || {
        let mut value = example();
        value["cc"] = json!(["family@example.com"]);
        value["bcc"] = json!(["archive@clinic.example"]);
        value
    };
    let request = parse(&copied()).unwrap().request;
    assert_eq!(request.content.cc[0].as_str(), "family@example.com");
    assert_eq!(request.content.bcc.len(), 1);
    let written: Value =
        serde_json::from_str(&parse(&copied()).unwrap().to_json().unwrap()).unwrap();
    assert_eq!(written["bcc"], json!(["archive@clinic.example"]));

    let mut two = copied();
    two["recipients"] = json!([{"email": "a@example.com"}, {"email": "b@example.com"}]);
    assert_eq!(pointers(&two), ["/cc", "/bcc"]);
    let mut no_mail = copied();
    no_mail["channels"] = json!(["whatsapp"]);
    assert_eq!(pointers(&no_mail), ["/cc", "/bcc"]);
    let mut twice = copied();
    twice["bcc"] = json!(["Patient@EXAMPLE.com"]);
    assert_eq!(pointers(&twice), ["/bcc/0"]);
    let many = |count: usize| -> Value {
        (0..count)
            .map(|n| json!(format!("c{n}@example.com")))
            .collect()
    };
    let mut most = copied();
    most["cc"] = many(MAX_COPIES - 1);
    assert!(parse(&most).is_ok());
    most["cc"] = many(MAX_COPIES);
    assert_eq!(pointers(&most), ["/cc"]);
    most["cc"] = json!(["nobody"]);
    assert_eq!(pointers(&most), ["/cc/0"]);
}

#[test]
fn a_template_takes_texts_by_part_or_components_whole() {
    let mut value = example();
    value["templateParams"] = json!({"header": ["A"], "body": ["B", "C"], "buttons": ["D"]});
    let submission = parse(&value).unwrap();
    let Some(TemplateValues::Params(params)) = submission
        .request
        .content
        .template
        .as_ref()
        .map(|template| &template.values)
    else {
        panic!("no parameters");
    };
    assert_eq!(params.iter().collect::<Vec<_>>(), ["A", "B", "C", "D"]);
    let written: Value = serde_json::from_str(&submission.to_json().unwrap()).unwrap();
    assert_eq!(written["templateParams"], value["templateParams"]);

    let components = json!([{"type": "body", "parameters": [{"type": "text", "text": "x"}]}]);
    value["templateComponents"] = components.clone();
    assert_eq!(pointers(&value), ["/templateParams"]);
    value
        .as_object_mut()
        .unwrap()
        .shift_remove("templateParams");
    let written = parse(&value).unwrap().to_json().unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["templateComponents"], components);
    for wrong in [
        json!([]),
        json!([{}]),
        json!({"type": "body"}),
        json!(["body"]),
    ] {
        value["templateComponents"] = wrong;
        assert_eq!(pointers(&value), ["/templateComponents"]);
    }
    value["templateComponents"] =
        json!([{"type": "body", "text": "x".repeat(MAX_TEMPLATE_COMPONENT_BYTES)}]);
    assert_eq!(pointers(&value), ["/templateComponents"]);
    for wrong in [
        json!("x"),
        json!({"body": "x"}),
        json!({"footer": []}),
        json!([1]),
    ] {
        let mut value = example();
        value["templateParams"] = wrong;
        assert_eq!(pointers(&value), ["/templateParams"]);
    }
}

#[test]
fn media_are_fetched_over_https_and_for_whatsapp_only() {
    let mut value = example();
    let media = json!({"type": "document", "url": "https://files.clinic.example/a.pdf?t=1", "filename": "a.pdf"});
    value["media"] = media.clone();
    let written: Value = serde_json::from_str(&parse(&value).unwrap().to_json().unwrap()).unwrap();
    assert_eq!(written["media"], media);
    value["channels"] = json!(["email"]);
    assert_eq!(pointers(&value), ["/media"]);
    value["channels"] = json!(["whatsapp"]);
    for (name, wrong) in [
        ("url", json!("http://files.clinic.example/a.pdf")),
        ("url", json!("https://user:pw@files.clinic.example/")),
        ("url", json!("files")),
        ("type", json!("audio")),
        ("filename", json!("../a")),
    ] {
        value["media"] = media.clone();
        value["media"][name] = wrong;
        assert_eq!(pointers(&value), [format!("/media/{name}")]);
    }
    value["media"] = json!({"type": "image", "url": "https://a.example/b", "filename": "b"});
    assert_eq!(pointers(&value), ["/media/filename"]);
    let mut both = example();
    both["media"] = media;
    both["templateParams"] = json!({"header": ["A"]});
    assert_eq!(pointers(&both), ["/media"]);
}

#[test]
fn a_recipient_without_an_address_on_a_channel_is_a_delivery_all_the_same() {
    let mut value = example();
    value["recipients"] = json!([{"email": "a@example.com"}, {"phoneNumber": "+15550100"}]);
    let hash = HashKey::from_bytes(&[0; 32]);
    let request = parse(&value).unwrap().request;
    let id = RequestId::derive(
        &hash,
        &request.tenant(),
        &IdempotencyKey::parse("k").unwrap(),
    );
    let planned = request.deliveries(&hash, &id, AddressMask::Short);
    assert_eq!(planned.len(), 4);
    assert_eq!(
        planned
            .iter()
            .filter(|delivery| delivery.target.is_none())
            .count(),
        2
    );
    let ids: std::collections::HashSet<_> = planned.iter().map(|delivery| &delivery.id).collect();
    assert_eq!(ids.len(), 4);
}

#[test]
fn the_payload_hash_changes_with_the_content_and_not_with_the_key() {
    let hash = HashKey::from_bytes(&[0; 32]);
    let one = parse(&example()).unwrap();
    let mut keyed = example();
    keyed["idempotencyKey"] = json!("k");
    let mut other = example();
    other["body"] = json!("Another text.");
    let digest = |value: &Submission| value.request.payload_hash(&hash).unwrap();
    assert_eq!(digest(&one), digest(&parse(&keyed).unwrap()));
    assert_ne!(digest(&one), digest(&parse(&other).unwrap()));
}

#[test]
fn a_mediums_url_may_be_as_long_in_the_spelling_that_goes_on_the_queue() {
    let with_letters = |letters: usize| {
        let mut value = example();
        value["media"] =
            json!({"type": "image", "url": format!("https://a.example/{}", "ä".repeat(letters))});
        value
    };
    // Six characters each.
    let most = (PublicUrl::MAX - 18) / 6;
    let submission = parse(&with_letters(most)).unwrap();
    let again = Submission::parse(submission.to_json().unwrap().as_bytes());
    assert_eq!(again, Ok(submission));
    assert_eq!(pointers(&with_letters(most + 1)), ["/media/url"]);
}

#[test]
fn fractions_and_every_character_survive_the_queue() {
    let mut value = example();
    value["channels"] = json!(["whatsapp"]);
    value["body"] = json!("a\u{fffe}b\u{ffff}c\u{10ffff}d\u{1}e");
    value
        .as_object_mut()
        .unwrap()
        .shift_remove("templateParams");
    // Read without care, each of them is another number (serde_json, `float_roundtrip`).
    value["templateComponents"] = json!([{"type": "location", "parameters": [
        31.245_270_191_439_438, 121.487_919_511_619_45, 0.000_000_000_000_000_022_204_460_492_503_136, 1e300]}]);
    let submission = parse(&value).unwrap();
    let text = submission.to_json().unwrap();
    assert!(!text.contains(['\u{fffe}', '\u{ffff}']), "SQS refuses it");
    let again = Submission::parse(text.as_bytes()).unwrap();
    assert_eq!(again, submission);
    let hash = HashKey::from_bytes(&[0; 32]);
    assert_eq!(
        again.request.payload_hash(&hash).unwrap(),
        submission.request.payload_hash(&hash).unwrap()
    );
    let written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written["templateComponents"], value["templateComponents"]);
}

#[test]
fn debug_shows_nothing_of_the_content() {
    let text = format!("{:?}", parse(&example()).unwrap());
    for planted in ["patient", "Monday", "confirmed", "555"] {
        assert!(!text.contains(planted), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_accepted_survives_the_queue(
        title in "[^\\p{C}]{1,40}", body in ".{1,80}", name in "[^\\p{C}]{0,20}",
        reference in ".{0,20}", count in 1_usize..4,
    ) {
        let recipients: Vec<_> = (0..count).map(|n| json!({"email": format!("r{n}@example.com"), "name": name})).collect();
        let value = json!({"title": title, "body": body, "channels": ["email"], "recipients": recipients, "metadata": {"ref": reference}});
        if let Ok(submission) = parse(&value) {
            let again = Submission::parse(submission.to_json().unwrap().as_bytes()).unwrap();
            prop_assert_eq!(again, submission);
        }
    }

    #[test]
    fn parsing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Submission::parse(&bytes);
    }
}
