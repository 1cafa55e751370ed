use comms_core::Disposition;
use serde_json::{Value, json};

use super::{request::*, *};
use crate::fixtures::{
    address, changed, check_config, full_email, http, json_answer, read_config, replies, sender,
};

fn fields() -> Value {
    json!({"sendMailToken": "planted-send-mail-token", "region": "in",
        "fromEmail": "front@clinic.example", "fromName": "Front desk"})
}

fn sent(message: &Message) -> Result<Value, ProviderError> {
    let sender = sender();
    let wire = wire(message, &sender)?;
    Ok(serde_json::to_value(wire).unwrap())
}

#[test]
fn message_has_every_part_and_no_tracking() {
    assert_eq!(
        sent(&full_email()).unwrap(),
        json!({
            "from": {"address": "appointments@clinic.example", "name": "Praxis \"Dr. Müller\""},
            "to": [{"email_address": {"address": "patient@example.com", "name": "Jane Roe"}}],
            "cc": [{"email_address": {"address": "parent@example.com"}}],
            "bcc": [{"email_address": {"address": "archive@clinic.example"}}],
            "reply_to": [{"address": "desk@clinic.example"}],
            "subject": "Your appointment",
            "textbody": "See you on Monday.",
            "htmlbody": "<p>See you on <b>Monday</b>. <img src=\"cid:logo@clinic\"></p>",
            "track_clicks": false,
            "track_opens": false,
            "client_reference": "0123456789abcdef0123456789abcdef",
            "mime_headers": {"Auto-Submitted": "auto-generated",
                "Feedback-ID": "uncategorized:email:cliniccomms"},
            "attachments": [
                {"content": "ZmlsZQ==", "mime_type": "application/pdf", "name": "letter.pdf"},
                {"content": "ZmlsZQ==", "mime_type": "application/octet-stream", "name": "mail.eml"},
            ],
            "inline_images": [
                {"content": "ZmlsZQ==", "mime_type": "image/png", "name": "logo.png", "cid": "logo@clinic"},
            ],
        })
    );
}

#[test]
fn what_is_over_a_limit_is_refused_and_the_limit_is_not() {
    for (at, over) in [
        (
            changed(&full_email(), |content| {
                content.title = Some("t".repeat(500));
            }),
            changed(&full_email(), |content| {
                content.title = Some("t".repeat(501));
            }),
        ),
        (
            changed(&full_email(), |content| {
                content.cc = vec![address("c@example.com"); 100];
            }),
            changed(&full_email(), |content| {
                content.cc = vec![address("c@example.com"); 101];
            }),
        ),
        (
            changed(&full_email(), |content| {
                content.attachments = vec![content.attachments[0].clone(); 60];
            }),
            changed(&full_email(), |content| {
                content.attachments = vec![content.attachments[0].clone(); 61];
            }),
        ),
    ] {
        assert!(sent(&at).is_ok());
        assert_eq!(sent(&over).unwrap_err().disposition, Disposition::Final);
    }
    assert!(check_size(MESSAGE_BYTES).is_ok());
    assert!(check_size(MESSAGE_BYTES + 1).is_err());
}

#[test]
fn long_names_of_files_keep_their_ending() {
    let message = changed(&full_email(), |content| {
        content.attachments.truncate(1);
        content.attachments[0].filename = format!("{}.pdf", "ä".repeat(120));
    });
    let name = |message: &Message| {
        let sent = sent(message).unwrap();
        sent["attachments"][0]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(name(&message).chars().count(), 124);
    let longer = changed(&message, |content| {
        content.attachments[0].filename = format!("{}.pdf", "a".repeat(240));
    });
    assert_eq!(name(&longer), format!("{}.pdf", "a".repeat(145)));
}

#[test]
fn message_without_a_subject_goes_to_the_next_provider() {
    let error = sent(&changed(&full_email(), |content| content.title = None)).unwrap_err();
    assert_eq!(error.disposition, Disposition::ProviderDown);
    assert!(!error.unhealthy);
}

#[test]
fn every_reply_means_what_its_fixture_says() {
    for reply in replies("zeptomail") {
        reply.check(&read_receipt(&reply.answer));
    }
}

#[test]
fn fault_that_may_be_the_senders_goes_to_the_next_provider() {
    let refused = |details: Value| {
        let body = json!({"error": {"code": "TM_4001", "details": details}});
        read_receipt(&json_answer(400, &body)).unwrap_err()
    };
    let of = |target: Value| refused(json!([{"code": "SM_113", "target": target}])).disposition;
    for target in [json!("from.address"), json!("sender"), Value::Null] {
        assert_eq!(of(target.clone()), Disposition::ProviderDown, "{target}");
    }
    for target in ["to[0].email_address", "cc", "reply_to/0/address"] {
        assert_eq!(of(json!(target)), Disposition::Final, "{target}");
    }
    let both = json!([{"code": "SM_113", "target": "cc"}, {"code": "SM_111", "target": "from"}]);
    assert_eq!(refused(both).disposition, Disposition::ProviderDown);
}

#[test]
fn check_passes_where_only_the_message_is_missing() {
    let answer = |status: u16, code: &str| {
        let details = json!([{"code": code, "message": "planted", "target": "from"}]);
        json_answer(
            status,
            &json!({"error": {"code": "TM", "details": details}}),
        )
    };
    assert!(read_check(&answer(400, "GE_102")).is_ok());
    for (status, code) in [(401, "SERR_157"), (400, "AE_101"), (500, "GE_102")] {
        assert!(
            read_check(&answer(status, code)).is_err(),
            "{status} {code}"
        );
    }
    assert!(read_check(&json_answer(201, &json!({"request_id": "x"}))).is_err());
}

#[test]
fn settings_read_back_and_keep_their_secret_at_its_place() {
    check_config::<ZeptomailConfig>(
        &fields(),
        "sendMailToken",
        &[
            ("region", json!("eu")),
            ("apiUrl", json!("https://other.example")),
        ],
    );
}

#[test]
fn every_region_has_an_api_of_its_own() {
    for region in ["com", "eu", "in", "com.au", "jp", "sa", "ca"] {
        let mut fields = fields();
        fields["region"] = json!(region);
        let config = read_config::<ZeptomailConfig>(&fields, None).unwrap();
        let provider = ZeptomailProvider::new(config, sender(), http()).unwrap();
        let url = provider.api_url.join(SEND);
        assert_eq!(
            url.as_str(),
            format!("https://api.zeptomail.{region}/v1.1/email")
        );
    }
    let mut fields = fields();
    fields["region"] = json!("mars");
    let problems = read_config::<ZeptomailConfig>(&fields, None).unwrap_err();
    assert_eq!(problems, ["region"]);
}

#[test]
fn debug_shows_nothing() {
    let config = read_config::<ZeptomailConfig>(&fields(), None).unwrap();
    let provider = ZeptomailProvider::new(config.clone(), sender(), http()).unwrap();
    assert_eq!(
        format!("{config:?} {provider:?}"),
        "ZeptomailConfig(…) HttpApiProvider(zeptomail, …)"
    );
}
