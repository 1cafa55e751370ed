//! From a posted communication to the mail server and back: what the caller is told, and what was sent by whom.

mod chains;

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_testkit::{aws::Fault, smtp::SmtpServer};
use comms_tests::{
    ApiResponse, CLINIC, FROM, Mail, World, communication, http_event, immediate, service,
};
use mail_parser::MessageParser;
use mail_parser::MimeHeaders;
use serde_json::{Value, json};

/// The only delivery of an answer.
fn only(answer: &ApiResponse) -> &Value {
    let deliveries = answer.body["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 1, "{}", answer.text);
    &deliveries[0]
}

/// Positions and outcomes of a delivery's attempts.
fn attempts(delivery: &Value) -> Vec<(&str, &str)> {
    let attempts = delivery["attempts"].as_array().unwrap().iter();
    attempts
        .map(|attempt| {
            (
                attempt["position"].as_str().unwrap(),
                attempt["outcome"].as_str().unwrap(),
            )
        })
        .collect()
}

fn mail(server: &SmtpServer) -> Mail {
    let messages = server.messages();
    assert_eq!(messages.len(), 1, "{:#?}", server.transcript());
    assert!(messages[0].over_tls);
    Mail::of(&messages[0])
}

#[tokio::test]
async fn queued_communication_is_sent_by_the_worker_and_its_status_shown() {
    let world = World::saved().await;
    let accepted = world.post(&communication()).await.expect(202);
    let id = accepted.request_id();
    assert_eq!(
        accepted.header("location"),
        format!("/api/v1/communications/{id}")
    );
    assert_eq!(only(&accepted)["status"], "queued");
    let queued = world.status(&id).await.expect(200);
    assert_eq!(only(&queued)["status"], "queued");
    assert_eq!(queued.body["clinicId"], CLINIC);
    assert_eq!(world.smtp.connections(), 0, "the queue sends nothing");

    let batch = world.run_worker().await;
    assert_eq!(batch.records.len(), 1, "one communication, one message");
    assert_eq!(batch.records[0]["attributes"]["MessageGroupId"], CLINIC);
    assert!(batch.failed.is_empty());

    let sent = world.status(&id).await.expect(200);
    let delivery = only(&sent);
    assert_eq!(delivery["deliveryId"], only(&queued)["deliveryId"]);
    assert_eq!(
        (&delivery["status"], &delivery["provider"]),
        (&json!("sent"), &json!("smtp"))
    );
    assert_eq!(attempts(delivery), [("primary", "accepted")]);
    assert!(delivery.get("possibleDuplicate").is_none());
    let mail = mail(&world.smtp);
    let delivery_id = delivery["deliveryId"].as_str().unwrap();
    assert_eq!(mail.message_id, format!("{delivery_id}@clinic.example"));
    assert_eq!(
        delivery["messageId"],
        format!("<{delivery_id}@clinic.example>")
    );
    assert_eq!(
        (
            mail.from.as_str(),
            mail.to.as_str(),
            mail.subject.as_str(),
            mail.reply_to
        ),
        (FROM, "patient@example.com", "Appointment confirmed", None)
    );
    assert!(
        world.run_worker().await.records.is_empty(),
        "what is done is off the queue"
    );
}

#[tokio::test]
async fn an_immediate_communication_is_sent_while_the_caller_waits() {
    let world = World::saved().await;
    let mut communication = immediate();
    communication["replyTo"] = json!("desk@clinic.example");
    let sent = world.post(&communication).await.expect(200);
    assert_eq!(only(&sent)["status"], "sent");
    assert_eq!(only(&sent)["recipient"], "p***@e***.com");
    assert_eq!(
        mail(&world.smtp).reply_to.as_deref(),
        Some("desk@clinic.example")
    );
    assert!(
        world.run_worker().await.records.is_empty(),
        "nothing was queued"
    );
    let status = world.status(&sent.request_id()).await.expect(200);
    assert_eq!(status.body["deliveries"], sent.body["deliveries"]);
}

#[tokio::test]
async fn recipient_without_an_address_is_a_failed_delivery_with_a_reason() {
    let world = World::saved().await;
    let mut communication = immediate();
    communication["recipients"] =
        json!([{"phoneNumber": "+15550100"}, {"email": "patient@example.com"}]);
    let answer = world.post(&communication).await.expect(207);
    let missing = &answer.body["deliveries"][0];
    assert_eq!(missing["status"], "failed");
    assert_eq!(missing["reason"]["code"], "NO_ADDRESS");
    assert_eq!(missing["attempts"], json!([]));
    assert_eq!(answer.body["deliveries"][1]["status"], "sent");
}

#[tokio::test]
async fn malformed_communication_is_refused_with_every_reason_unrecorded() {
    let world = World::saved().await;
    world.aws.clear_calls();
    let wrong = json!({
        "priority": "soon", "strategy": "queued", "body": "b", "colour": "red",
        "recipients": [{"email": "not an address"}], "channels": ["email", "fax"],
        "metadata": {"clinicId": "no spaces please"}});
    let refused = world.post(&wrong).await.expect(422);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    for pointer in [
        "/priority",
        "/colour",
        "/recipients/0/email",
        "/channels/1",
        "/metadata/clinicId",
    ] {
        assert!(
            refused.pointers().iter().any(|found| found == pointer),
            "{pointer}: {}",
            refused.text
        );
    }
    assert!(!refused.text.contains("not an address"));
    for malformed in ["", "{", "[]", "{\"title\":\"a\",\"title\":\"b\"}"] {
        world.post_text(malformed, service(), &[]).await.expect(400);
    }
    let mut expired = communication();
    expired["expiresAt"] = json!("2020-01-01T00:00:00Z");
    assert_eq!(
        world.post(&expired).await.expect(422).pointers(),
        ["/expiresAt"]
    );
    // The key of the hashes is read, once, for the name that the log has of the caller; nothing else.
    let calls = world.aws.calls();
    let operations: Vec<_> = calls.iter().map(|call| call.operation.as_str()).collect();
    assert!(
        operations.is_empty() || operations == ["GetItem", "Decrypt"],
        "{calls:?}"
    );
}

#[tokio::test]
async fn unavailable_queue_is_answered_and_the_key_can_be_retried() {
    let world = World::saved().await;
    world
        .aws
        .fail_next("sqs", "SendMessageBatch", 1, Fault::AccessDenied);
    let failed = world.post_with_key(&communication(), "key-1").await;
    assert!(!failed.expect(503).header("retry-after").is_empty());
    let again = world.post_with_key(&communication(), "key-1").await;
    again.expect(202);
    assert_eq!(world.run_worker().await.records.len(), 1);
    mail(&world.smtp);
}

#[tokio::test]
async fn request_too_large_for_the_queue_can_be_sent_at_once_by_its_key() {
    let world = World::saved().await;
    let mut large = communication();
    large["attachments"] = json!([{"filename": "scan.pdf", "contentType": "application/pdf",
                                   "content": "QUJD".repeat(300_000)}]);
    let refused = world.post_with_key(&large, "key-1").await.expect(413);
    assert!(
        refused.body["detail"]
            .as_str()
            .unwrap()
            .contains("immediate")
    );
    large["strategy"] = json!("immediate");
    world.post_with_key(&large, "key-1").await.expect(200);
    mail(&world.smtp);
}

#[tokio::test]
async fn immediate_request_whose_rest_cannot_be_queued_is_refused_unrecorded() {
    let world = World::saved().await;
    let mut large = immediate();
    large["recipients"] = json!([{"email": "a@example.com"}, {"email": "b@example.com"}]);
    large["attachments"] = json!([{"filename": "scan.pdf", "contentType": "application/pdf",
                                   "content": "QUJD".repeat(300_000)}]);
    let refused = world.post(&large).await.expect(413);
    assert_eq!(refused.body["code"], "too_large");
    assert!(world.smtp.messages().is_empty());
    assert_eq!(world.aws.count("dynamodb", "UpdateItem"), 0);
    large["recipients"] = json!([{"email": "a@example.com"}]);
    world.post(&large).await.expect(200);
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn unknown_request_id_is_not_found() {
    let world = World::new().await;
    for id in ["0".repeat(32).as_str(), "x", "..", "%2e%2e"] {
        world.status(id).await.expect(404);
    }
}

#[tokio::test]
async fn every_script_every_part_and_every_file_arrives_as_it_was_posted() {
    let world = World::saved().await;
    let file = b"BEGIN:VCALENDAR\r\n\0\xff\r\n.\r\nEND:VCALENDAR\r\n";
    let mut communication = immediate();
    communication["title"] = json!("Termin bestätigt ✓ – до понедельника, 予約確認");
    communication["body"] = json!("Grüße\n.\n..\nзавтра в 10:00\n");
    communication["html"] = json!("<p>Grüße &amp; 予約</p>");
    communication["recipients"] =
        json!([{"email": "patient@example.com", "name": "Zoë \"Zo\" Müller, 太郎"}]);
    communication["attachments"] = json!([{"filename": "Termin é.ics", "contentType": "application/octet-stream",
                                           "content": BASE64_STANDARD.encode(file)}]);
    world.post(&communication).await.expect(200);
    let message = &world.smtp.messages()[0];
    let parsed = MessageParser::default().parse(&message.data).unwrap();
    assert_eq!(parsed.subject(), communication["title"].as_str());
    let to = parsed.to().unwrap().first().unwrap();
    assert_eq!(to.name(), communication["recipients"][0]["name"].as_str());
    let body = parsed.body_text(0).unwrap().replace("\r\n", "\n");
    assert_eq!(
        body.trim_end(),
        communication["body"].as_str().unwrap().trim_end()
    );
    let html = parsed.body_html(0).unwrap();
    assert_eq!(html.trim_end(), communication["html"].as_str().unwrap());
    let attachment = parsed.attachment(0).unwrap();
    assert_eq!(attachment.attachment_name(), Some("Termin é.ics"));
    assert_eq!(attachment.contents(), file);
}

#[tokio::test]
async fn base64_encoded_body_is_read_like_any_other() {
    let world = World::saved().await;
    let body = BASE64_STANDARD.encode(immediate().to_string());
    let event = http_event(
        "POST",
        "/api/v1/communications",
        Some(&body),
        &service(),
        &[],
    );
    let mut event: Value = serde_json::from_str(&event).unwrap();
    event["isBase64Encoded"] = json!(true);
    world.ask_send(&event.to_string()).await.expect(200);
    mail(&world.smtp);
}
