//! Providers' APIs: what goes well and wrong there leaves no trace of a patient.

use comms_testkit::http::{HttpServer, Reply};
use comms_tests::{CLINIC, FROM, World, email, entry};
use serde_json::{Value, json};

use super::{
    ACCOUNT, ADDRESS, CODE, META_TOKEN, PASSWORD, SENDGRID_KEY, TEMPLATE, TWILIO_TOKEN, another,
    assert_envelopes_private, assert_nothing_leaked, capture, full,
};

/// Settings with a provider of every kind that has an API to script, and the mail server behind them.
pub(super) fn all_providers(world: &World, api: &HttpServer) -> Value {
    let sendgrid = json!({"provider": "sendgrid", "credentials": {"apiKey": SENDGRID_KEY,
        "fromEmail": "hello@clinic.example", "apiUrl": api.url()}});
    let mut document = email(&sendgrid, FROM);
    document["email"]["fallback"] = json!([entry(world.smtp.port(), "clinic-user", PASSWORD)]);
    document["whatsapp"] = json!({
        "primary": {"provider": "meta_business", "credentials": {"accessToken": META_TOKEN,
            "phoneNumberId": "123456789", "apiUrl": format!("{}/v23.0", api.url())}},
        "fallback": [{"provider": "twilio", "credentials": {"accountSid": ACCOUNT, "authToken": TWILIO_TOKEN,
            "fromNumber": "whatsapp:+14155238886", "apiUrl": api.url(),
            "templates": {"appointment_confirmed": TEMPLATE}}}],
        "fallbackStrategy": {"useGlobal": true, "retryAttempts": 0}});
    document
}

const SENDGRID_SEND: &str = "/v3/mail/send";

const META_SEND: &str = "/v23.0/123456789/messages";

fn twilio_send() -> String {
    format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json")
}

#[tokio::test]
async fn successful_api_sends_log_no_personal_data() {
    let logs = capture();
    let world = World::with(|server, _| server.credentials("clinic-user", PASSWORD)).await;
    let api = world.api().await;
    let saved = world
        .put_settings(CLINIC, all_providers(&world, &api))
        .await;
    saved.expect(201);
    let taken = Reply::new(202).header("x-message-id", "sendgrid-id");
    api.always("POST", SENDGRID_SEND, taken);
    let taken = json!({"messaging_product": "whatsapp", "contacts": [{"input": "+4915755512345", "wa_id": "4915755512345"}],
        "messages": [{"id": "wamid.X"}]});
    api.always("POST", META_SEND, Reply::json(200, taken));
    let sent = world.post(&full("immediate")).await.expect(200);
    let queued = world.post(&full("queued")).await.expect(202);
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_envelopes_private(&batch);
    for id in [sent.request_id(), queued.request_id()] {
        let status = world.status(&id).await.expect(200);
        for delivery in status.body["deliveries"].as_array().unwrap() {
            assert_eq!(delivery["status"], "sent", "{}", status.text);
        }
    }
    // The other one for WhatsApp.
    api.clear_script();
    let refused = json!({"error": {"message": "planted reply text", "code": 131_042}});
    api.always("POST", META_SEND, Reply::json(400, refused));
    let taken = json!({"sid": "SM0123456789abcdef0123456789abcdef", "status": "queued",
        "to": "whatsapp:+4915755512345", "body": "planted parameter"});
    api.always("POST", &twilio_send(), Reply::json(201, taken));
    let mut one = another("immediate", 1);
    one["channels"] = json!(["whatsapp"]);
    world.post(&one).await.expect(200);
    assert_nothing_leaked(&world, &logs).await;

    // It was all there to leak.
    let requests = api.requests();
    let of = |path: &str| {
        let request = requests.iter().find(|request| request.path == path);
        let request = request.unwrap();
        let body = String::from_utf8_lossy(&request.body).into_owned();
        (request.header("authorization").unwrap().to_owned(), body)
    };
    let (key, body) = of(SENDGRID_SEND);
    assert!(key.contains(SENDGRID_KEY) && body.contains(CODE) && body.contains(ADDRESS));
    let (key, body) = of(META_SEND);
    assert!(key.contains(META_TOKEN) && body.contains(CODE) && body.contains("15755512345"));
    let (_, body) = of(&twilio_send());
    assert!(body.contains(CODE) && body.contains("15755512345"));
    let lines = logs.loudest();
    for provider in ["sendgrid", "meta_business", "twilio"] {
        let sent = lines.lines().any(|line| {
            line.contains("attempt accepted") && line.contains(&format!("\"{provider}\""))
        });
        assert!(sent, "{provider}");
    }
}

#[tokio::test]
async fn failures_at_providers_apis_log_no_personal_data() {
    let logs = capture();
    let world = World::with(|server, _| server.credentials("clinic-user", PASSWORD)).await;
    let api = world.api().await;
    let mut settings = all_providers(&world, &api);
    // Each for itself: the mail server would take what SendGrid does not.
    settings["email"]["fallback"] = json!([]);
    world.put_settings(CLINIC, settings).await.expect(201);
    let reply = format!(
        "planted reply text for {ADDRESS} +4915755512345: {CODE} {SENDGRID_KEY} {META_TOKEN} {TWILIO_TOKEN}"
    );
    // In the form of each of the three, and in none.
    let document = |code: u32| {
        json!({"errors": [{"message": reply, "field": reply, "help": reply, "error_id": reply}],
            "error": {"message": reply, "type": reply, "code": code, "error_data": {"details": reply},
                      "fbtrace_id": reply},
            "code": code, "message": reply, "more_info": reply, "status": 400})
    };
    let mut replies: Vec<_> = [
        // Meta's and Twilio's own codes, which the other does not know.
        (400, 131_026),
        (400, 131_042),
        (400, 131_009),
        (401, 190),
        (400, 130_429),
        (400, 21_211),
        (401, 20_003),
        (400, 63_016),
        (429, 20_429),
        (403, 1),
        (404, 2),
        (413, 3),
        (500, 4),
        (503, 5),
        // Accepted, and without what is accepted.
        (200, 6),
        (202, 7),
    ]
    .map(|(status, code)| Reply::json(status, document(code)))
    .into();
    replies.push(Reply::json(
        400,
        json!({"error": reply, "code": reply, "errors": [reply], "message": [reply]}),
    ));
    replies.push(Reply::new(400).body(reply.clone()));
    replies.push(
        Reply::new(500)
            .header("x-planted", &reply)
            .body(reply.clone()),
    );
    replies.push(Reply::new(302).header("location", "https://planted.address.example/planted"));
    replies.push(Reply::raw(format!("{reply} and no HTTP\r\n\r\n")));
    replies.push(Reply::json(200, document(8)).cut(20));
    replies.push(Reply::close());
    let number_of_replies = replies.len();
    for (number, reply) in replies.into_iter().enumerate() {
        api.clear_script();
        for path in [SENDGRID_SEND, META_SEND, &twilio_send()] {
            api.always("POST", path, reply.clone());
        }
        for path in [
            "/v3/scopes".to_owned(),
            "/v23.0/123456789".to_owned(),
            format!("/2010-04-01/Accounts/{ACCOUNT}.json"),
        ] {
            api.always("GET", &path, reply.clone());
        }
        let answer = world.post(&another("immediate", number)).await;
        // 202 where it has to wait, 200 where that it was accepted is all that an API says.
        assert!([200, 202, 207].contains(&answer.status), "{}", answer.text);
        world.post(&another("queued", number)).await.expect(202);
        assert_envelopes_private(&world.run_worker().await);
        world.status(&answer.request_id()).await.expect(200);
        let test = json!({"testEmail": ADDRESS});
        world.test_email(CLINIC, &test).await;
        let test = json!({"testPhone": "+4915755512345", "templateId": "hello_world", "language": "en_US",
            "templateParams": [CODE]});
        world.test_settings(CLINIC, "test-whatsapp", &test).await;
    }
    assert_nothing_leaked(&world, &logs).await;
    let lines = logs.loudest();
    for provider in ["sendgrid", "meta_business", "twilio"] {
        let failed = lines.lines().filter(|line| {
            line.contains("attempt failed") && line.contains(&format!("\"{provider}\""))
        });
        assert!(failed.count() > number_of_replies, "{provider}");
    }
}
