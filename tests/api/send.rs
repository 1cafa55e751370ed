//! From a posted communication to the mail server and back: what the caller is told, and what was sent by whom.

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_testkit::{
    aws::Fault,
    smtp::{Action, SmtpServer, Stage},
};
use comms_tests::{
    Answer, CLINIC, FROM, Mail, PASSWORD, USER, World, communication, email, entry, http_event,
    immediate, service,
};
use mail_parser::{MessageParser, MimeHeaders};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The only delivery of an answer.
fn only(answer: &Answer) -> &Value {
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
async fn a_queued_communication_is_accepted_then_sent_by_the_worker_and_can_be_followed() {
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
async fn of_two_recipients_the_refused_one_fails_with_its_reason_and_the_other_is_sent() {
    let refuse = Action::reply("550 5.1.1 no such user");
    let world = World::with(|server, _| server.on_rcpt("gone@example.com", refuse)).await;
    world.save_clinic().await;
    let mut communication = immediate();
    communication["recipients"] =
        json!([{"email": "gone@example.com"}, {"email": "patient@example.com"}]);
    let answer = world.post(&communication).await.expect(207);
    let deliveries = &answer.body["deliveries"];
    assert_eq!(deliveries[0]["status"], "failed");
    assert_eq!(deliveries[0]["reason"]["code"], "REJECTED");
    assert_eq!(deliveries[0]["attempts"][0]["code"], "550 5.1.1");
    assert_eq!(deliveries[0]["attempts"][0]["disposition"], "final");
    assert_eq!(deliveries[1]["status"], "sent");
    assert_eq!(mail(&world.smtp).to, "patient@example.com");

    communication["recipients"] = json!([{"email": "gone@example.com"}]);
    let answer = world.post(&communication).await.expect(207);
    assert_eq!(only(&answer)["reason"]["code"], "REJECTED");
}

#[tokio::test]
async fn a_refused_recipient_is_not_tried_again_through_the_global_account() {
    let refuse = Action::reply("550 5.1.1 no such user");
    let world = World::with(|server, _| server.on_rcpt("patient@example.com", refuse)).await;
    let global = world.save_global().await;
    world.save_clinic().await;
    let answer = world.post(&immediate()).await.expect(207);
    assert_eq!(attempts(only(&answer)), [("primary", "failed")]);
    assert_eq!(global.connections(), 0);
}

#[tokio::test]
async fn a_recipient_without_an_address_on_the_channel_is_a_failed_delivery_with_a_reason() {
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
async fn without_settings_and_without_a_global_account_there_is_no_provider() {
    let world = World::new().await;
    let answer = world.post(&immediate()).await.expect(207);
    assert_eq!(only(&answer)["reason"]["code"], "NO_PROVIDER");
    assert_eq!(attempts(only(&answer)), []);
}

#[tokio::test]
async fn a_clinic_without_settings_sends_through_the_global_account() {
    let world = World::new().await;
    let global = world.save_global().await;
    let answer = world.post(&immediate()).await.expect(200);
    assert_eq!(attempts(only(&answer)), [("global", "accepted")]);
    let sent = mail(&global);
    assert_eq!(
        (sent.from.as_str(), sent.reply_to),
        ("platform@global.example", None)
    );

    // The same for what names no clinic at all.
    let mut communication = immediate();
    communication["metadata"] = json!({});
    let answer = world.post(&communication).await.expect(200);
    assert_eq!(attempts(only(&answer)), [("global", "accepted")]);
}

#[tokio::test]
async fn when_the_clinics_provider_fails_the_global_account_sends_for_it_under_its_own_name() {
    // A server that refuses the login, and a port at which nobody is.
    for closed in [false, true] {
        let world = World::with(|server, _| {
            server.always(
                Stage::Auth,
                Action::reply("535 5.7.8 authentication failed"),
            )
        })
        .await;
        let global = world.save_global().await;
        let mut entry = world.entry();
        if closed {
            entry["credentials"]["port"] = json!(closed_port().await);
        }
        let saved = world.put_settings(CLINIC, email(&entry, FROM)).await;
        saved.expect(201);
        world.verify_reply_to(CLINIC, FROM).await;
        let answer = world.post(&immediate()).await.expect(200);
        assert_eq!(
            attempts(only(&answer)),
            [("primary", "failed"), ("global", "accepted")]
        );
        assert!(only(&answer).get("possibleDuplicate").is_none());
        let sent = mail(&global);
        assert_eq!(
            (sent.from.as_str(), sent.reply_to.as_deref()),
            ("platform@global.example", Some(FROM))
        );
    }
}

#[tokio::test]
async fn a_clinic_that_opted_out_of_the_global_account_is_told_that_all_providers_failed() {
    let world = World::with(|server, _| {
        server.always(
            Stage::Auth,
            Action::reply("535 5.7.8 authentication failed"),
        )
    })
    .await;
    let global = world.save_global().await;
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["fallbackStrategy"]["useGlobal"] = json!("false");
    world.put_settings(CLINIC, settings).await.expect(201);
    let answer = world.post(&immediate()).await.expect(207);
    let delivery = only(&answer);
    assert_eq!(delivery["reason"]["code"], "ALL_PROVIDERS_FAILED");
    assert_eq!(attempts(delivery), [("primary", "failed")]);
    assert_eq!(delivery["attempts"][0]["code"], "535 5.7.8");
    assert_eq!(global.connections(), 0);
}

#[tokio::test]
async fn a_fallback_logs_in_with_its_own_credentials_and_a_disabled_one_is_skipped() {
    let world = World::with(|server, _| {
        server.always(Stage::Mail, Action::reply("550 5.7.1 not from here"))
    })
    .await;
    let disabled = world.server("disabled-user", "disabled-1").start().await;
    let second = world.server("second-user", "second-1").start().await;
    let mut skipped = entry(disabled.port(), "disabled-user", "disabled-1");
    skipped["enabled"] = json!("false");
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["fallback"] =
        json!([skipped, entry(second.port(), "second-user", "second-1")]);
    world.put_settings(CLINIC, settings).await.expect(201);
    let answer = world.post(&immediate()).await.expect(200);
    assert_eq!(
        attempts(only(&answer)),
        [("primary", "failed"), ("fallback[1]", "accepted")]
    );
    assert_eq!(mail(&second).from, FROM);
    assert_eq!(
        second.messages()[0].authenticated_as.as_deref(),
        Some("second-user")
    );
    assert_eq!(disabled.connections(), 0);
    // The primary's server takes one user and one password only: it was its own that came.
    assert!(
        world
            .smtp
            .transcript()
            .iter()
            .any(|line| line.contains("235")),
        "{:#?}",
        world.smtp.transcript()
    );
}

#[tokio::test]
async fn an_unknown_outcome_is_held_or_sent_again_as_the_clinic_wants() {
    for (policy, status, outcome, copies) in
        [("hold", 207, "unknown", 0), ("failover", 200, "sent", 1)]
    {
        let world =
            World::with(|server, _| server.always(Stage::Body, Action::AcceptThenClose)).await;
        let second = world.server("second-user", "second-1").start().await;
        let mut settings = email(&world.entry(), FROM);
        settings["email"]["fallback"] = json!([entry(second.port(), "second-user", "second-1")]);
        settings["email"]["onAmbiguous"] = json!(policy);
        world.put_settings(CLINIC, settings).await.expect(201);
        let answer = world.post(&immediate()).await.expect(status);
        assert_eq!(answer.body["status"], outcome, "{policy}");
        let delivery = only(&answer);
        assert_eq!(delivery["status"], outcome, "{policy}");
        assert_eq!(delivery["attempts"][0]["disposition"], "ambiguous");
        assert_eq!(world.smtp.messages().len(), 1);
        assert_eq!(second.messages().len(), copies, "{policy}");
        if copies == 1 {
            assert_eq!(delivery["possibleDuplicate"], true);
            // Two copies that can be told to be one.
            assert_eq!(mail(&second).message_id, mail(&world.smtp).message_id);
        } else {
            assert_eq!(delivery["reason"]["code"], "OUTCOME_UNKNOWN");
        }
    }
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_at_the_same_provider_as_often_as_the_clinic_wants() {
    let world = World::with(|server, _| {
        server
            .on(Stage::Mail, Action::reply("451 4.3.0 later"))
            .on(Stage::Mail, Action::reply("451 4.3.0 later"))
    })
    .await;
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["fallbackStrategy"]["retryAttempts"] = json!("2");
    world.put_settings(CLINIC, settings).await.expect(201);
    let answer = world.post(&immediate()).await.expect(200);
    let delivery = only(&answer);
    assert_eq!(
        attempts(delivery),
        [
            ("primary", "failed"),
            ("primary", "failed"),
            ("primary", "accepted")
        ]
    );
    mail(&world.smtp);
}

#[tokio::test]
async fn a_communication_that_can_not_be_understood_is_refused_with_every_reason_and_recorded_nowhere()
 {
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
async fn a_queue_that_is_down_is_told_to_the_caller_who_may_try_again_with_the_same_key() {
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
async fn what_is_too_large_for_the_queue_can_be_sent_at_once_under_the_same_key_as_the_answer_advises()
 {
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
async fn a_request_id_that_nobody_was_given_is_not_found() {
    let world = World::new().await;
    for id in ["0".repeat(32).as_str(), "x", "..", "%2e%2e"] {
        world.status(id).await.expect(404);
    }
}

#[tokio::test]
async fn the_clinics_password_is_used_at_its_own_server_only() {
    let world = World::saved().await;
    world.post(&immediate()).await.expect(200);
    let message = &world.smtp.messages()[0];
    assert_eq!(message.authenticated_as.as_deref(), Some(USER));
    assert!(!message.text().contains(PASSWORD));
}

async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[tokio::test]
async fn what_may_have_been_accepted_ends_as_unknown_when_nobody_else_can_take_it() {
    let world = World::with(|server, _| server.always(Stage::Body, Action::AcceptThenClose)).await;
    let second = world
        .server("second-user", "second-1")
        .always(Stage::Mail, Action::reply("451 4.3.0 later"))
        .start()
        .await;
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["fallback"] = json!([entry(second.port(), "second-user", "second-1")]);
    world.put_settings(CLINIC, settings).await.expect(201);
    let id = world.post(&communication()).await.expect(202).request_id();
    // Not given back either: a redelivery would be another copy.
    assert!(world.run_worker().await.failed.is_empty());
    let status = world.status(&id).await.expect(200);
    let delivery = only(&status);
    assert_eq!(
        (&delivery["status"], &delivery["reason"]["code"]),
        (&json!("unknown"), &json!("OUTCOME_UNKNOWN"))
    );
    assert_eq!(world.smtp.messages().len(), 1);
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
async fn a_body_that_api_gateway_has_put_into_base64_is_read_like_any_other() {
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
