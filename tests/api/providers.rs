//! Chains of several providers: each entry with its own credentials, its own sender and its own
//! templates, and what a caller sees of it.

use comms_testkit::{
    http::{HttpServer, Reply},
    smtp::{Action, Stage},
};
use comms_tests::{CLINIC, FROM, Mail, World, email, immediate};
use serde_json::{Value, json};

const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
const CONTENT: &str = "HX0123456789abcdef0123456789abcdef";
const MESSAGE: &str = "SM0123456789abcdef0123456789abcdef";

fn sendgrid(api: &HttpServer) -> Value {
    json!({"provider": "sendgrid", "credentials": {"apiKey": "planted-sendgrid-key",
        "fromEmail": "hello@clinic.example", "fromName": "Hello", "apiUrl": api.url()}})
}

fn meta(api: &HttpServer) -> Value {
    json!({"provider": "meta_business", "credentials": {"accessToken": "planted-meta-token",
        "phoneNumberId": "123456789", "apiUrl": format!("{}/v23.0", api.url())}})
}

fn twilio(api: &HttpServer) -> Value {
    json!({"provider": "twilio", "credentials": {"accountSid": ACCOUNT, "authToken": "planted-auth-token",
        "fromNumber": "whatsapp:+14155238886", "apiUrl": api.url(),
        "templates": {"appointment_confirmed": CONTENT}}})
}

fn ses() -> Value {
    json!({"provider": "aws_ses", "credentials": {"region": "us-east-1", "accessKeyId": "AKIAIOSFODNN7EXAMPLE",
        "secretAccessKey": "planted-secret-access-key", "fromEmail": "ses@clinic.example"}})
}

fn whatsapp(entries: &[Value]) -> Value {
    json!({"whatsapp": {"primary": entries[0], "fallback": entries[1..],
        "fallbackStrategy": {"useGlobal": true, "retryAttempts": 0}}})
}

/// A world in which the clinic's primary for `WhatsApp` is Meta and its fallback Twilio.
async fn meta_then_twilio() -> (World, HttpServer, HttpServer) {
    let world = World::new().await;
    let (graph, api) = (world.api().await, world.api().await);
    world
        .put_settings(CLINIC, whatsapp(&[meta(&graph), twilio(&api)]))
        .await
        .expect(201);
    (world, graph, api)
}

fn template_message() -> Value {
    json!({"strategy": "immediate", "channels": ["whatsapp"], "recipients": [{"phoneNumber": "+15550100"}],
        "templateId": "appointment_confirmed", "language": "en_US", "templateParams": ["Monday", "10:00"],
        "metadata": {"clinicId": CLINIC}})
}

fn meta_error(code: u32) -> Reply {
    Reply::json(
        400,
        json!({"error": {"message": "planted +15550100", "type": "OAuthException", "code": code}}),
    )
}

/// Provider and outcome or disposition of each attempt.
fn attempts(delivery: &Value) -> Vec<(&str, &str, &str)> {
    let attempts = delivery["attempts"].as_array().unwrap().iter();
    attempts
        .map(|attempt| {
            let text = |name: &str| attempt[name].as_str().unwrap_or_default();
            (text("provider"), text("position"), text("kind"))
        })
        .collect()
}

#[tokio::test]
async fn an_email_fails_over_from_sendgrid_to_the_clinics_mail_server() {
    let world = World::new().await;
    let api = world.api().await;
    let mut document = email(&sendgrid(&api), FROM);
    let mut own = world.entry();
    own["credentials"]["fromEmail"] = json!("front@clinic.example");
    document["email"]["fallback"] = json!([own]);
    world.put_settings(CLINIC, document).await.expect(201);
    let refused = json!({"errors": [{"message": "The from address does not match a verified Sender Identity. planted",
        "field": "from", "help": null}]});
    api.on("POST", "/v3/mail/send", Reply::json(403, refused));

    let answer = world.post(&immediate()).await.expect(200);

    let delivery = &answer.body["deliveries"][0];
    assert_eq!(
        attempts(delivery),
        [
            ("sendgrid", "primary", "sender_not_allowed"),
            ("smtp", "fallback[0]", "")
        ]
    );
    assert_eq!(
        (&delivery["status"], &delivery["provider"]),
        (&json!("sent"), &json!("smtp"))
    );
    let request = &api.requests()[0];
    assert_eq!(
        request.header("authorization"),
        Some("Bearer planted-sendgrid-key")
    );
    assert_eq!(request.json()["from"]["email"], "hello@clinic.example");
    // The next provider is another account: it sends under its own name, with its own password.
    let message = &world.smtp.messages()[0];
    assert_eq!(message.mail_from, "front@clinic.example");
    assert_eq!(Mail::of(message).from, "front@clinic.example");
    let conversation = world.smtp.transcript().join("\n");
    assert!(
        !conversation.contains("hello@clinic.example"),
        "{conversation}"
    );
    assert!(!answer.text.contains("planted"), "{}", answer.text);
    assert!(api.unexpected().is_empty());
}

#[tokio::test]
async fn a_template_fails_over_from_meta_to_twilio_under_the_name_it_has_there() {
    let (world, graph, api) = meta_then_twilio().await;
    graph.on("POST", "/v23.0/123456789/messages", meta_error(131_042));
    let messages = format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json");
    api.on(
        "POST",
        &messages,
        Reply::json(201, json!({"sid": MESSAGE, "status": "queued"})),
    );

    let answer = world.post(&template_message()).await.expect(200);

    let delivery = &answer.body["deliveries"][0];
    assert_eq!(
        attempts(delivery),
        [
            ("meta_business", "primary", "account_suspended"),
            ("twilio", "fallback[0]", "")
        ]
    );
    assert_eq!(delivery["messageId"], MESSAGE);
    assert_eq!(
        graph.requests()[0].header("authorization"),
        Some("Bearer planted-meta-token")
    );
    let form = api.requests()[0].form();
    let field = |name: &str| {
        let (_, value) = form.iter().find(|(known, _)| known == name)?;
        Some(value.as_str())
    };
    assert_eq!(field("ContentSid"), Some(CONTENT));
    assert_eq!(
        field("ContentVariables").map(|text| serde_json::from_str::<Value>(text).unwrap()),
        Some(json!({"1": "Monday", "2": "10:00"}))
    );
    assert_eq!(field("From"), Some("whatsapp:+14155238886"));
    assert_eq!(field("To"), Some("whatsapp:+15550100"));
    assert_eq!(field("Body"), None);
    assert!(!answer.text.contains("planted"), "{}", answer.text);
}

#[tokio::test]
async fn a_number_that_is_not_on_whatsapp_is_tried_by_nobody_else() {
    let (world, graph, api) = meta_then_twilio().await;
    graph.on("POST", "/v23.0/123456789/messages", meta_error(131_026));
    let answer = world.post(&template_message()).await.expect(207);
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(delivery["reason"]["code"], "REJECTED");
    assert_eq!(delivery["attempts"][0]["code"], "131026");
    assert!(api.requests().is_empty());
}

#[tokio::test]
async fn an_email_goes_out_by_the_clinics_own_ses() {
    let world = World::new().await;
    world
        .put_settings(CLINIC, email(&ses(), FROM))
        .await
        .expect(201);
    let answer = world.post(&immediate()).await.expect(200);
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(attempts(delivery), [("aws_ses", "primary", "")]);
    assert!(!delivery["messageId"].as_str().unwrap().is_empty());
    assert_eq!(world.aws.count("ses", "SendEmail"), 1);
}

#[tokio::test]
async fn a_refused_copy_is_told_while_the_patient_gets_the_message() {
    let world = World::with(|server, _| {
        server.on_rcpt(
            "gone@example.com",
            Action::reply("550 5.1.1 planted gone@example.com"),
        )
    })
    .await;
    world.save_clinic().await;
    let mut copied = immediate();
    copied["cc"] = json!(["family@example.com", "gone@example.com"]);
    copied["bcc"] = json!(["archive@clinic.example"]);

    let answer = world.post(&copied).await.expect(200);

    let expected = json!([{"copy": "cc/1", "code": "550 5.1.1"}]);
    assert_eq!(
        answer.body["deliveries"][0]["attempts"][0]["refusedCopies"],
        expected
    );
    let read = world.status(&answer.request_id()).await.expect(200);
    assert_eq!(
        read.body["deliveries"][0]["attempts"][0]["refusedCopies"],
        expected
    );
    let message = &world.smtp.messages()[0];
    assert_eq!(
        message.rcpt_to,
        [
            "patient@example.com",
            "family@example.com",
            "archive@clinic.example"
        ]
    );
    assert!(!message.text().contains("archive@"));
    assert!(!answer.text.contains("gone@") && !read.text.contains("gone@"));
}

#[tokio::test]
async fn a_whatsapp_test_says_how_each_provider_did_and_sends_the_template() {
    let (world, graph, api) = meta_then_twilio().await;
    graph.always(
        "GET",
        "/v23.0/123456789",
        Reply::json(
            200,
            json!({"verified_name": "Clinic", "code_verification_status": "VERIFIED", "quality_rating": "GREEN",
                "name_status": "APPROVED", "id": "123456789"}),
        ),
    );
    let accepted = json!({"messaging_product": "whatsapp", "messages": [{"id": "wamid.X"}]});
    graph.on(
        "POST",
        "/v23.0/123456789/messages",
        Reply::json(200, accepted),
    );
    let refused = json!({"code": 20003, "message": "Authenticate planted", "status": 401});
    api.always(
        "GET",
        &format!("/2010-04-01/Accounts/{ACCOUNT}.json"),
        Reply::json(401, refused),
    );
    let test = json!({"testPhone": "+15550100", "templateId": "hello_world", "language": "en_US"});

    let answer = world
        .test_settings(CLINIC, "test-whatsapp", &test)
        .await
        .expect(200);

    assert_eq!(answer.body["ok"], false);
    let last = |index: usize| {
        let stages = answer.body["results"][index]["stages"].as_array().unwrap();
        let mut reached = stages.iter().filter(|stage| stage["outcome"] != "skipped");
        reached.next_back().unwrap().clone()
    };
    assert_eq!(
        (&last(0)["stage"], &last(0)["outcome"]),
        (&json!("send"), &json!("passed"))
    );
    let sent = graph.requests().pop().unwrap().json();
    assert_eq!(sent["template"]["name"], "hello_world");
    assert_eq!(
        (&last(1)["stage"], &last(1)["kind"], &last(1)["code"]),
        (
            &json!("authenticate"),
            &json!("unauthenticated"),
            &json!("20003")
        )
    );
    assert!(!answer.text.contains("planted"), "{}", answer.text);

    let mut off = twilio(&api);
    off["enabled"] = json!(false);
    let saved = world.get_settings(CLINIC).await;
    world
        .put_settings_if(
            CLINIC,
            whatsapp(&[meta(&graph), off]),
            &[("if-match", saved.header("etag"))],
        )
        .await
        .expect(200);
    let disabled = json!({"provider": "twilio", "verifyOnly": true});
    let answer = world
        .test_settings(CLINIC, "test-whatsapp", &disabled)
        .await
        .expect(200);
    assert_eq!(answer.body["results"][0]["enabled"], false);

    for (body, pointer) in [
        (json!({}), "/testPhone"),
        (json!({"testPhone": "0100"}), "/testPhone"),
        (
            json!({"testPhone": "+15550100", "provider": "smtp"}),
            "/provider",
        ),
        (
            json!({"testPhone": "+15550100", "language": "en"}),
            "/language",
        ),
        (
            json!({"testEmail": "a@example.com", "verifyOnly": true}),
            "/testEmail",
        ),
    ] {
        let answer = world.test_settings(CLINIC, "test-whatsapp", &body).await;
        assert_eq!(answer.expect(422).pointers(), [pointer]);
    }
}

#[tokio::test]
async fn no_providers_secret_is_shown_or_stored_in_clear() {
    let world = World::new().await;
    let api = world.api().await;
    let mut document = whatsapp(&[meta(&api), twilio(&api)]);
    document["email"] = email(&sendgrid(&api), FROM)["email"].clone();
    document["email"]["fallback"] = json!([ses(), world.entry()]);
    world.put_settings(CLINIC, document).await.expect(201);
    let answer = world.get_settings(CLINIC).await.expect(200);
    assert!(!answer.text.contains("planted"), "{}", answer.text);
    let shown = &answer.body["settings"]["communicationSettings"];
    assert_eq!(
        shown["whatsapp"]["fallback"][0]["credentials"]["authToken"]["configured"],
        true
    );
    let stored = world.aws.dump_tables().await;
    assert!(!format!("{stored:?}").contains("planted"));
    // What is shown can be saved again as it is.
    world
        .put_settings_if(
            CLINIC,
            shown.clone(),
            &[("if-match", answer.header("etag"))],
        )
        .await
        .expect(200);
}

#[tokio::test]
async fn clinic_cannot_name_another_clinics_tenant_or_role() {
    let world = World::new().await;
    for (account, field) in [
        (json!({"tenantName": "clinic-456"}), "tenantName"),
        (
            json!({"roleArn": "arn:aws:iam::123456789012:role/mail", "externalId": "clinic-456:x"}),
            "externalId",
        ),
        // A role of the account in which the functions run.
        (
            json!({"roleArn": format!("arn:aws:iam::{}:role/clinic-ses/mail", comms_testkit::aws::ACCOUNT), "externalId": CLINIC}),
            "roleArn",
        ),
    ] {
        let mut credentials = account;
        credentials["region"] = json!("us-east-1");
        let entry = json!({"provider": "aws_ses", "credentials": credentials});
        let answer = world
            .put_settings(CLINIC, email(&entry, FROM))
            .await
            .expect(422);
        assert_eq!(
            answer.pointers(),
            [format!(
                "/settings/communicationSettings/email/primary/credentials/{field}"
            )]
        );
    }
}

/// The mail server refuses one stage; that is what the script is for in other tests of this file.
#[tokio::test]
async fn a_chain_of_every_email_provider_ends_with_every_reason() {
    let world =
        World::with(|server, _| server.always(Stage::Auth, Action::reply("535 5.7.8 planted")))
            .await;
    let api = world.api().await;
    let mut document = email(&sendgrid(&api), FROM);
    document["email"]["fallback"] = json!([ses(), world.entry()]);
    world.put_settings(CLINIC, document).await.expect(201);
    api.on(
        "POST",
        "/v3/mail/send",
        Reply::json(
            401,
            json!({"errors": [{"message": "Maximum credits exceeded", "field": null}]}),
        ),
    );
    world.aws.fail_next(
        "ses",
        "SendEmail",
        1,
        comms_testkit::aws::Fault::ServerError,
    );
    let answer = world.post(&immediate()).await;
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(
        attempts(delivery),
        [
            ("sendgrid", "primary", "quota_exceeded"),
            ("aws_ses", "fallback[0]", "unavailable"),
            ("smtp", "fallback[1]", "unauthenticated")
        ]
    );
    // SES failed with the message in its hands: nobody can say that it was not sent.
    assert_eq!(delivery["status"], "unknown");
}
