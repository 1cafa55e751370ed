//! What a test of settings reports: stage by stage, entry by entry, of every provider.

use comms_testkit::{
    aws::Fault,
    http::Reply,
    smtp::{Action, Stage, TlsMode},
};
use comms_tests::{ApiResponse, CLINIC, FROM, USER, World, email, entry};
use serde_json::{Value, json};

use super::{candidates::candidate, closed_port, first_failure, prompt, stages};

/// The one report of an answer.
pub(super) fn only(answer: &ApiResponse) -> &Value {
    let results = answer.body["results"].as_array().unwrap();
    assert_eq!(results.len(), 1, "{}", answer.text);
    &results[0]
}

/// The last stage of the one report that was reached: its name, its outcome and the server's code.
pub(super) fn last(answer: &ApiResponse) -> (&str, &str, Option<&str>) {
    let mut stages = only(answer)["stages"].as_array().unwrap().iter().rev();
    let stage = stages.find(|stage| stage["outcome"] != "skipped").unwrap();
    (
        stage["stage"].as_str().unwrap(),
        stage["outcome"].as_str().unwrap(),
        stage["code"].as_str(),
    )
}

/// The same without how long it took.
pub(super) fn without_durations(mut stages: Value) -> Value {
    for stage in stages.as_array_mut().unwrap() {
        let stage = stage.as_object_mut().unwrap();
        if let Some(duration) = stage.get_mut("durationMs") {
            assert!(duration.is_u64());
            *duration = json!("…");
        }
    }
    stages
}

#[tokio::test]
async fn every_entry_is_reported_on_its_own() {
    let world = World::new().await;
    let second = world.server("second-user", "second-1").start().await;
    let mut settings = email(&entry(world.smtp.port(), USER, "wrong"), FROM);
    settings["email"]["fallback"] = json!([entry(second.port(), "second-user", "second-1")]);
    world.put_settings(CLINIC, settings).await.expect(201);
    let answer = world
        .test_email(CLINIC, &json!({"testEmail": "admin@clinic.example"}))
        .await
        .expect(200);
    assert_eq!(answer.body["ok"], false);
    let results = answer.body["results"].as_array().unwrap();
    let summary: Vec<_> = results
        .iter()
        .map(|result| (&result["position"], &result["ok"]))
        .collect();
    assert_eq!(
        summary,
        [
            (&json!("primary"), &json!(false)),
            (&json!("fallback[0]"), &json!(true))
        ]
    );
    assert_eq!(second.messages().len(), 1);
}

#[allow(clippy::too_many_lines, reason = "most of them are the report")]
#[tokio::test]
async fn each_entry_of_a_chain_has_its_row_in_the_report() {
    let world = World::new().await;
    let expired = world
        .server("second-user", "planted-second")
        .tls(
            TlsMode::StartTls,
            world.ca.expired_server_config(&["127.0.0.1"]),
        )
        .start()
        .await;
    let works = world.server("third-user", "planted-third").start().await;
    let mut settings = email(&entry(world.smtp.port(), USER, "planted-wrong"), FROM);
    settings["email"]["fallback"] = json!([
        entry(expired.port(), "second-user", "planted-second"),
        entry(works.port(), "third-user", "planted-third"),
    ]);
    world.put_settings(CLINIC, settings).await.expect(201);
    let answer = world
        .test_email(CLINIC, &json!({"testEmail": "admin@clinic.example"}))
        .await
        .expect(200);
    assert!(!answer.text.contains("planted"), "{}", answer.text);
    let mut report = answer.body;
    for result in report["results"].as_array_mut().unwrap() {
        result["stages"] = without_durations(result["stages"].take());
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
    {
      "ok": false,
      "results": [
        {
          "entry": "primary",
          "position": "primary",
          "provider": "smtp",
          "enabled": true,
          "ok": false,
          "stages": [
            {
              "stage": "resolve",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "egress",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "connect",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "tls",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "authenticate",
              "outcome": "failed",
              "durationMs": "…",
              "kind": "unauthenticated",
              "code": "535 5.7.8",
              "detail": "The server refused the user or the password; check both (some providers want an app password)."
            },
            {
              "stage": "send",
              "outcome": "skipped",
              "detail": "Not reached, because of the stage that failed."
            }
          ]
        },
        {
          "entry": "fallback-1",
          "position": "fallback[0]",
          "provider": "smtp",
          "enabled": true,
          "ok": false,
          "stages": [
            {
              "stage": "resolve",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "egress",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "connect",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "tls",
              "outcome": "failed",
              "durationMs": "…",
              "kind": "unauthenticated",
              "detail": "The server's certificate has expired; have it renewed."
            },
            {
              "stage": "authenticate",
              "outcome": "skipped",
              "detail": "Not reached, because of the stage that failed."
            },
            {
              "stage": "send",
              "outcome": "skipped",
              "detail": "Not reached, because of the stage that failed."
            }
          ]
        },
        {
          "entry": "fallback-2",
          "position": "fallback[1]",
          "provider": "smtp",
          "enabled": true,
          "ok": true,
          "stages": [
            {
              "stage": "resolve",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "egress",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "connect",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "tls",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "authenticate",
              "outcome": "passed",
              "durationMs": "…"
            },
            {
              "stage": "send",
              "outcome": "passed",
              "durationMs": "…"
            }
          ]
        }
      ]
    }
    "#);
    let received = [&world.smtp, &expired, &works].map(|server| server.messages().len());
    assert_eq!(received, [0, 0, 1]);
}

#[tokio::test]
async fn disabled_entry_is_tested_and_marked_and_one_entry_can_be_chosen() {
    let world = World::new().await;
    let second = world.server("second-user", "second-1").start().await;
    let mut off = entry(second.port(), "second-user", "second-1");
    off["enabled"] = json!(false);
    off["id"] = json!("spare");
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["fallback"] = json!([off]);
    world.put_settings(CLINIC, settings).await.expect(201);
    let tested = |body: Value| {
        let world = &world;
        async move {
            let answer = world.test_email(CLINIC, &body).await.expect(200);
            let results = answer.body["results"].as_array().unwrap().iter();
            results
                .map(|result| json!([result["entry"], result["enabled"], result["ok"]]))
                .collect::<Vec<_>>()
        }
    };
    let (primary, spare) = (
        json!(["primary", true, true]),
        json!(["spare", false, true]),
    );
    assert_eq!(
        tested(json!({"verifyOnly": true})).await,
        [primary.clone(), spare.clone()]
    );
    assert_eq!(
        tested(json!({"verifyOnly": true, "entry": "spare"})).await,
        [spare]
    );
    assert_eq!(
        tested(
            json!({"testEmail": "admin@clinic.example", "entry": "primary", "provider": "smtp"})
        )
        .await,
        [primary]
    );
    assert_eq!(
        (world.smtp.messages().len(), second.messages().len()),
        (1, 0)
    );
    for nobody in [
        json!({"verifyOnly": true, "entry": "fallback-1"}),
        json!({"verifyOnly": true, "entry": "spare", "provider": "sendgrid"}),
    ] {
        world.test_email(CLINIC, &nobody).await.expect(404);
    }
}

#[tokio::test]
async fn every_provider_reports_the_same_stages_reachable_or_not() {
    let world = prompt().await;
    let api = world.api().await;
    let closed = format!("https://localhost:{}", closed_port().await);
    let api_stages = ["resolve", "egress", "connect", "tls", "authenticate"];
    for url in [api.url(), closed] {
        for (channel, entry, more) in [
            (
                "email",
                json!({"provider": "sendgrid", "credentials": {"apiKey": "planted-key",
                    "fromEmail": FROM, "apiUrl": url}}),
                None,
            ),
            (
                "whatsapp",
                json!({"provider": "meta_business", "credentials": {"accessToken": "planted-token",
                    "phoneNumberId": "123456789", "apiUrl": format!("{url}/v23.0")}}),
                Some("sender"),
            ),
            (
                "whatsapp",
                json!({"provider": "twilio", "credentials": {"authToken": "planted-token",
                    "accountSid": "AC0123456789abcdef0123456789abcdef",
                    "fromNumber": "whatsapp:+14155238886", "apiUrl": url}}),
                None,
            ),
        ] {
            let body = json!({"verifyOnly": true,
                "settings": {"communicationSettings": {channel: {"primary": entry}}}});
            let test = format!("test-{channel}");
            let answer = world.test_settings(CLINIC, &test, &body).await.expect(200);
            let names: Vec<_> = stages(only(&answer))
                .iter()
                .map(|(name, _)| *name)
                .collect();
            let expected: Vec<_> = api_stages.into_iter().chain(more).collect();
            assert_eq!(names, expected, "{}", answer.text);
            assert!(!answer.text.contains("planted"), "{}", answer.text);
        }
    }
    let ses = json!({"provider": "aws_ses", "credentials": {"region": "us-east-1",
        "accessKeyId": "AKIAIOSFODNN7EXAMPLE", "secretAccessKey": "planted-secret-access-key"}});
    let mut body = candidate(&ses);
    body["verifyOnly"] = json!(true);
    for fails in [false, true] {
        if fails {
            world
                .aws
                .fail_next("ses", "GetAccount", 100, Fault::ServerError);
        }
        let answer = world.test_email(CLINIC, &body).await.expect(200);
        let names: Vec<_> = stages(only(&answer))
            .iter()
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(
            names,
            ["authenticate", "sender", "quota"],
            "{}",
            answer.text
        );
    }
}

#[tokio::test]
async fn test_message_with_an_unknown_outcome_may_have_arrived() {
    let world = World::with(|server, _| server.always(Stage::Body, Action::AcceptThenClose)).await;
    let answer = world
        .test_email(CLINIC, &candidate(&world.entry()))
        .await
        .expect(200);
    let failure = first_failure(&answer);
    assert_eq!(failure["stage"], "send");
    let detail = failure["detail"].as_str().unwrap();
    assert!(detail.contains("may have arrived"), "{detail}");
}

#[tokio::test]
async fn whatsapp_test_without_a_template_is_a_conversation_text() {
    let world = World::new().await;
    let graph = world.api().await;
    graph.always(
        "GET",
        "/v23.0/123456789",
        Reply::json(200, json!({"verified_name": "Clinic", "id": "123456789"})),
    );
    let outside = json!({"error": {"message": "planted +15550100", "type": "OAuthException", "code": 131_047}});
    graph.on(
        "POST",
        "/v23.0/123456789/messages",
        Reply::json(400, outside),
    );
    let meta = json!({"provider": "meta_business", "credentials": {"accessToken": "planted-token",
        "phoneNumberId": "123456789", "apiUrl": format!("{}/v23.0", graph.url())}});
    let body = json!({"testPhone": "+15550100",
        "settings": {"communicationSettings": {"whatsapp": {"primary": meta}}}});
    let answer = world
        .test_settings(CLINIC, "test-whatsapp", &body)
        .await
        .expect(200);
    let sent = graph.requests().pop().unwrap().json();
    assert_eq!(sent["type"], "text");
    let text = sent["text"]["body"].as_str().unwrap();
    assert!(text.starts_with("This is a test message."), "{text}");
    let failure = first_failure(&answer);
    assert_eq!(
        (&failure["stage"], &failure["code"]),
        (&json!("send"), &json!("131047"))
    );
    let detail = failure["detail"].as_str().unwrap();
    assert!(detail.contains("only a template may go"), "{detail}");
    assert!(!answer.text.contains("planted"), "{}", answer.text);
}
