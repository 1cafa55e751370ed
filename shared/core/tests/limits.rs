//! Every limit of a communication: at it all is well, one above it is refused at its place, in words that name it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "common/at_limits.rs"]
mod at_limits;

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{
    Problems, PublicUrl,
    address::{MAX_DISPLAY_NAME, MAX_LOCAL_PART},
    attachment::{MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_CONTENT_ID, MAX_FILENAME},
    host::MAX_LABEL,
    id::{MAX_CLINIC_ID, MAX_IDEMPOTENCY_KEY},
    media_type::{MAX_MEDIA_TYPE_NAME, MAX_MEDIA_TYPE_PARAMETER},
    request::{
        MAX_BODY, MAX_BYTES, MAX_CATEGORY, MAX_COPIES, MAX_HTML, MAX_LANGUAGE, MAX_METADATA,
        MAX_METADATA_NAME, MAX_METADATA_VALUE, MAX_RECIPIENTS, MAX_TEMPLATE_COMPONENT_BYTES,
        MAX_TEMPLATE_COMPONENTS, MAX_TEMPLATE_ID, MAX_TEMPLATE_PARAM, MAX_TEMPLATE_PARAMS,
        MAX_TITLE, Submission,
    },
};
use serde_json::{Map, Value, json};

use self::at_limits::Limit;

fn example() -> Value {
    json!({
        "title": "t", "body": "b", "channels": ["email", "whatsapp"],
        "recipients": [{"email": "a@example.com", "phoneNumber": "+15550100"}],
        "templateId": "reminder", "metadata": {"clinicId": "clinic-1"}
    })
}

/// The example with `value` at the field `name`.
fn with(name: &str, value: Value) -> Value {
    let mut document = example();
    document[name] = value;
    document
}

fn recipient(name: &str, text: &str) -> Value {
    let mut document = example();
    document["recipients"][0][name] = json!(text);
    document
}

fn file(filename: &str, content_type: &str, bytes: usize) -> Value {
    let content = BASE64_STANDARD.encode(vec![0; bytes]);
    json!({"filename": filename, "contentType": content_type, "content": content})
}

fn components(components: &Value) -> Value {
    with("templateComponents", components.clone())
}

const LIMITS: [Limit; 27] = [
    ("/category", MAX_CATEGORY, |n| {
        with("category", json!("c".repeat(n)))
    }),
    // Characters, whatever they take as bytes.
    ("/title", MAX_TITLE, |n| with("title", json!("ä".repeat(n)))),
    ("/body", MAX_BODY, |n| with("body", json!("ä".repeat(n)))),
    ("/html", MAX_HTML, |n| with("html", json!("ä".repeat(n)))),
    ("/recipients", MAX_RECIPIENTS, |n| {
        let all = (0..n).map(|n| json!({"email": format!("a{n}@example.com")}));
        with("recipients", all.collect())
    }),
    ("/recipients/0/name", MAX_DISPLAY_NAME, |n| {
        recipient("name", &"ä".repeat(n))
    }),
    ("/recipients/0/email", MAX_LOCAL_PART, |n| {
        recipient("email", &format!("{}@example.com", "a".repeat(n)))
    }),
    ("/recipients/0/email", MAX_LABEL, |n| {
        recipient("email", &format!("a@{}.example", "b".repeat(n)))
    }),
    ("/attachments", MAX_ATTACHMENTS, |n| {
        with("attachments", vec![file("a", "text/plain", 1); n].into())
    }),
    ("/attachments", MAX_ATTACHMENT_BYTES, |n| {
        with(
            "attachments",
            json!([
                file("a", "text/plain", 1_000),
                file("b", "text/plain", n - 1_000)
            ]),
        )
    }),
    ("/attachments/0/filename", MAX_FILENAME, |n| {
        with(
            "attachments",
            json!([file(&"a".repeat(n), "text/plain", 1)]),
        )
    }),
    ("/attachments/0/contentType", MAX_MEDIA_TYPE_NAME, |n| {
        with(
            "attachments",
            json!([file("a", &format!("text/{}", "x".repeat(n)), 1)]),
        )
    }),
    ("/attachments/0/contentType", MAX_MEDIA_TYPE_NAME, |n| {
        with(
            "attachments",
            json!([file("a", &format!("{}/x", "t".repeat(n)), 1)]),
        )
    }),
    (
        "/attachments/0/contentType",
        MAX_MEDIA_TYPE_PARAMETER,
        |n| {
            let named = format!("text/calendar; name=\"{}\"", "ä".repeat(n));
            with("attachments", json!([file("a", &named, 1)]))
        },
    ),
    ("/attachments/0/contentId", MAX_CONTENT_ID, |n| {
        let mut document = with("html", json!("<p>b</p>"));
        document["attachments"] = json!([file("a", "image/png", 1)]);
        document["attachments"][0]["contentId"] = json!("i".repeat(n));
        document
    }),
    ("/templateId", MAX_TEMPLATE_ID, |n| {
        with("templateId", json!("ä".repeat(n)))
    }),
    ("/language", MAX_LANGUAGE, |n| {
        with("language", json!("e".repeat(n)))
    }),
    ("/templateParams", MAX_TEMPLATE_PARAMS, |n| {
        with("templateParams", vec![json!("x"); n].into())
    }),
    ("/templateParams", MAX_TEMPLATE_PARAM, |n| {
        with("templateParams", json!(["ä".repeat(n)]))
    }),
    ("/templateComponents", MAX_TEMPLATE_COMPONENTS, |n| {
        components(&vec![json!({"type": "body"}); n].into())
    }),
    ("/templateComponents", MAX_TEMPLATE_COMPONENT_BYTES, |n| {
        let around = json!([{"type": ""}]).to_string().len();
        components(&json!([{"type": "x".repeat(n - around)}]))
    }),
    ("/cc", MAX_COPIES, |n| {
        let copies = |range: std::ops::Range<usize>| -> Value {
            range
                .map(|n| json!(format!("copy{n}@example.com")))
                .collect()
        };
        let mut document = with("cc", copies(0..n - 9));
        document["bcc"] = copies(n - 9..n);
        document
    }),
    ("/media/url", PublicUrl::MAX, |n| {
        with(
            "media",
            json!({"type": "image", "url": format!("https://a.example/{}", "x".repeat(n - 18))}),
        )
    }),
    ("/metadata", MAX_METADATA, |n| {
        let mut fields: Map<_, _> = (0..n).map(|n| (format!("field{n}"), json!("x"))).collect();
        fields.insert("clinicId".to_owned(), json!("clinic-1"));
        with("metadata", fields.into())
    }),
    ("/metadata/reference", MAX_METADATA_VALUE, |n| {
        with("metadata", json!({"reference": "ä".repeat(n)}))
    }),
    ("/metadata/clinicId", MAX_CLINIC_ID, |n| {
        with("metadata", json!({"clinicId": "c".repeat(n)}))
    }),
    ("/idempotencyKey", MAX_IDEMPOTENCY_KEY, |n| {
        with("idempotencyKey", json!("k".repeat(n)))
    }),
];

fn read(document: &Value) -> Result<Submission, Problems> {
    Submission::parse(document.to_string().as_bytes())
}

#[test]
fn at_a_limit_all_is_well_and_above_it_the_field_is_refused_with_the_limit() {
    at_limits::check(&LIMITS, read);
}

#[test]
fn the_name_of_a_reference_is_bounded_in_bytes() {
    let named = |n: usize| with("metadata", json!({"ä".repeat(n): "x"}));
    assert!(read(&named(MAX_METADATA_NAME / 2)).is_ok());
    let problems = read(&named(MAX_METADATA_NAME / 2 + 1))
        .unwrap_err()
        .to_string();
    assert!(
        problems.contains("a name of at most 64 bytes"),
        "{problems}"
    );
}

#[test]
fn a_communication_has_so_many_bytes_blanks_among_them() {
    let padded = |bytes: usize| {
        let text = example().to_string();
        format!("{text}{}", " ".repeat(bytes - text.len()))
    };
    assert!(Submission::parse(padded(MAX_BYTES).as_bytes()).is_ok());
    let problems = Submission::parse(padded(MAX_BYTES + 1).as_bytes()).unwrap_err();
    assert_eq!(problems.to_string(), " must have at most 6000000 bytes");
}

/// Or some communication within all limits would be refused for the number of its values.
#[test]
fn the_largest_communication_has_fewer_values_than_a_document_may_have() {
    let recipients = MAX_RECIPIENTS * 4;
    let components = MAX_TEMPLATE_COMPONENT_BYTES / 2;
    let others = MAX_ATTACHMENTS * 4 + MAX_TEMPLATE_PARAMS + MAX_COPIES + MAX_METADATA + 100;
    assert!(recipients + components + others < comms_core::json::MAX_VALUES);
}
