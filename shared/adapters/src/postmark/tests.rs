use comms_core::Disposition;
use serde_json::{Value, json};

use super::{request::*, *};
use crate::fixtures::{
    address, changed, check_complete, check_config, email, full_email, http, json_answer,
    read_config, replies, sender,
};

/// Every code that has a meaning here.
const CODES: &[i64] = &[
    10, 100, 300, 400, 401, 402, 403, 405, 406, 409, 411, 412, 413, 429, // messages
    1_221, 1_222, 1_226, 1_227, 1_235, 1_236, // streams
    11,    // none of those
];

fn fields() -> Value {
    json!({"serverToken": "planted-server-token-0123", "messageStream": "reminders",
        "fromEmail": "front@clinic.example", "fromName": "Front desk",
        "apiUrl": "https://api.postmarkapp.com"})
}

fn sent(message: &Message) -> Result<Value, ProviderError> {
    let wire = wire(message, &sender(), PostmarkConfig::DEFAULT_STREAM)?;
    Ok(serde_json::to_value(wire).unwrap())
}

#[test]
fn message_has_every_part_and_no_tracking() {
    assert_eq!(
        sent(&full_email()).unwrap(),
        json!({
            "From": "\"Praxis \\\"Dr. Müller\\\"\" <appointments@clinic.example>",
            "To": "\"Jane Roe\" <patient@example.com>",
            "Cc": "parent@example.com",
            "Bcc": "archive@clinic.example",
            "ReplyTo": "desk@clinic.example",
            "Subject": "Your appointment",
            "TextBody": "See you on Monday.",
            "HtmlBody": "<p>See you on <b>Monday</b>. <img src=\"cid:logo@clinic\"></p>",
            "Headers": [{"Name": "Auto-Submitted", "Value": "auto-generated"}],
            "Metadata": {"delivery_id": "0123456789abcdef0123456789abcdef"},
            "TrackOpens": false,
            "TrackLinks": "None",
            "MessageStream": "outbound",
            "Attachments": [
                {"Name": "letter.pdf", "Content": "ZmlsZQ==", "ContentType": "application/pdf"},
                {"Name": "logo.png", "Content": "ZmlsZQ==", "ContentType": "image/png",
                 "ContentID": "cid:logo@clinic"},
                {"Name": "mail.eml", "Content": "ZmlsZQ==", "ContentType": "application/octet-stream"},
            ],
        })
    );
}

#[test]
fn short_message_says_nothing_that_it_does_not_have() {
    let message = changed(&email(comms_core::request::Content::default()), |content| {
        content.body = Some("x".into());
    });
    let sent = sent(&message).unwrap();
    for absent in ["Cc", "Bcc", "ReplyTo", "HtmlBody", "Attachments"] {
        assert_eq!(sent.get(absent), None, "{absent}");
    }
}

#[test]
fn what_is_over_a_limit_is_refused_and_the_limit_is_not() {
    let with_copies = |copies: usize| {
        changed(&full_email(), |content| {
            content.bcc.clear();
            content.cc = vec![address("copy@example.com"); copies];
        })
    };
    assert!(sent(&with_copies(RECEIVERS - 1)).is_ok());
    let error = sent(&with_copies(RECEIVERS)).unwrap_err();
    assert_eq!(error.disposition, Disposition::Final);
    assert!(check_size(MESSAGE_BYTES).is_ok());
    assert_eq!(
        check_size(MESSAGE_BYTES + 1).unwrap_err().disposition,
        Disposition::Final
    );
}

#[test]
fn address_beyond_ascii_goes_to_the_next_provider() {
    let beyond = changed(&full_email(), |content| {
        content.cc = vec![address("ü@example.com")];
    });
    let error = sent(&beyond).unwrap_err();
    assert_eq!(error.disposition, Disposition::ProviderDown);
    assert!(!error.unhealthy);
}

#[test]
fn every_reply_means_what_its_fixture_says() {
    let replies = replies("postmark");
    for reply in &replies {
        reply.check(&read_receipt(&reply.answer, &full_email()));
    }
    check_complete(&replies, CODES, |body| body.get("ErrorCode")?.as_i64());
}

#[test]
fn copies_that_postmark_leaves_out_are_told() {
    let text = "Message OK, but will not deliver to these inactive addresses: PARENT@example.com, \
                archive@clinic.example. Inactive recipients are ones that have generated a hard bounce.";
    let answer = json_answer(
        200,
        &json!({"ErrorCode": 0, "Message": text, "MessageID": "id-1"}),
    );
    let receipt = read_receipt(&answer, &full_email()).unwrap();
    let refused: Vec<_> = receipt
        .refused_copies
        .iter()
        .map(|copy| (copy.field.as_str(), copy.index, copy.is_unknown))
        .collect();
    assert_eq!(refused, [("cc", 0, false), ("bcc", 0, false)]);
}

#[test]
fn message_by_the_token_for_tests_is_not_sent() {
    let body = json!({"ErrorCode": 0, "Message": "Test job accepted", "MessageID": "id-1"});
    let error = read_receipt(&json_answer(200, &body), &full_email()).unwrap_err();
    assert_eq!(error.disposition, Disposition::ProviderDown);
}

#[test]
fn message_that_is_too_large_says_nothing_of_the_server() {
    let body = json!({"ErrorCode": 413, "Message": "planted"});
    let error = read_receipt(&json_answer(413, &body), &full_email()).unwrap_err();
    assert_eq!(
        (error.disposition, error.unhealthy),
        (Disposition::Final, false)
    );
}

#[test]
fn check_passes_for_a_live_server_alone() {
    let server = |kind: &str| {
        json_answer(
            200,
            &json!({"ID": 1, "Name": "Clinic", "ApiTokens": ["planted"], "DeliveryType": kind}),
        )
    };
    assert!(read_server(&server("Live")).is_ok());
    let error = read_server(&server("Sandbox")).unwrap_err();
    assert_eq!(error.disposition, Disposition::ProviderDown);
    let refused = json_answer(401, &json!({"ErrorCode": 10, "Message": "planted"}));
    assert!(read_server(&refused).is_err());
    assert!(read_server(&json_answer(200, &json!({}))).is_err());
}

#[test]
fn settings_read_back_and_keep_their_secret_at_its_place() {
    let elsewhere = json!("https://other.example");
    check_config::<PostmarkConfig>(&fields(), "serverToken", &[("apiUrl", elsewhere)]);
}

#[test]
fn settings_that_are_wrong_are_refused_by_field() {
    for (name, value) in [
        ("messageStream", json!("Reminders")),
        ("messageStream", json!("-x")),
        ("messageStream", json!("a".repeat(31))),
        ("apiUrl", json!("https://api.postmarkapp.com/email")),
        ("fromEmail", json!("ü@clinic.example")),
        ("serverToken", json!("")),
        ("colour", json!(1)),
    ] {
        let mut wrong = fields();
        wrong[name] = value;
        let problems = read_config::<PostmarkConfig>(&wrong, None).unwrap_err();
        assert_eq!(problems, [name]);
    }
}

#[test]
fn debug_shows_nothing() {
    let config = read_config::<PostmarkConfig>(&fields(), None).unwrap();
    let provider = PostmarkProvider::new(config.clone(), sender(), http()).unwrap();
    assert_eq!(
        format!("{config:?} {provider:?}"),
        "PostmarkConfig(…) HttpApiProvider(postmark, …)"
    );
    assert!(BaseUrl::parse(PostmarkConfig::API_URL).unwrap().is_https());
}
