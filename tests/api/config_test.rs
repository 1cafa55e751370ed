//! Settings tried before and after they are saved, stage by stage, and how often that may be.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::{EgressGuard, ProviderFactory, egress::Resolver, tls::TlsConfigs};
use comms_core::{SystemClock, Tenant};
use comms_settings::{LimitHolder, Limited, TestLimitError, TestLimits};
use comms_testkit::{
    aws::Fault,
    clock::ManualClock,
    http::Reply,
    smtp::{Action, SmtpServer, Stage, TlsMode},
};
use comms_tests::{
    Answer, CLINIC, FROM, Mail, PASSWORD, USER, World, claims, email, entry, http_event,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener};

/// A world whose tests do not wait before they say that nobody is there.
async fn prompt() -> World {
    let mut world = World::new().await;
    world.config_test.hold_step = Duration::ZERO;
    world
}

/// Names as a test wants them.
struct Names;

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "inside.example" => Ok(vec!["10.0.0.1".parse().unwrap()]),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Lets the tests of this world find hosts by [`Names`].
fn resolve_by_names(world: &mut World) {
    let egress = EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(Names));
    let tls = TlsConfigs::new(Some(&world.ca.pem())).unwrap();
    let (sdk, clock) = (world.sdk_of("config-test"), Arc::new(SystemClock));
    world.config_test.factory = ProviderFactory::new(tls, egress, sdk, clock, 1);
}

/// Gives the limits a clock that the test moves.
fn stop_the_clock(world: &mut World) -> Arc<ManualClock> {
    let clock = Arc::new(ManualClock::new());
    world.config_test.limits = TestLimits::new(world.config_test.store.clone(), clock.clone());
    clock
}

/// A port at which nobody listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// An entry of a mail server at another host.
fn at(host: &str, port: u16) -> Value {
    let mut entry = entry(port, USER, PASSWORD);
    entry["credentials"]["host"] = json!(host);
    entry
}

/// POSTs to `test-email` with a token of this subject.
async fn test_as(world: &World, subject: &str, clinic: &str, body: &Value) -> Answer {
    let mut claims = claims("SUPER_ADMIN", None);
    claims["sub"] = json!(subject);
    let path = format!("/api/v1/clinics/{clinic}/communication/test-email");
    let event = http_event("POST", &path, Some(&body.to_string()), &claims, &[]);
    world.ask_config_test(&event).await
}

fn clinic(id: &str) -> Tenant {
    Tenant::parse(id).unwrap()
}

fn reached(
    holder: LimitHolder,
    limited: Limited,
    retry_after: Duration,
) -> Result<(), TestLimitError> {
    Err(TestLimitError::Reached {
        holder,
        limited,
        retry_after,
    })
}

/// The first stage of the one report that did not pass, as it is shown.
fn first_failure(answer: &Answer) -> &Value {
    let stages = only(answer)["stages"].as_array().unwrap();
    stages
        .iter()
        .find(|stage| stage["outcome"] != "passed")
        .unwrap()
}

/// Stage and outcome of one entry's report.
fn stages(result: &Value) -> Vec<(&str, &str)> {
    let stages = result["stages"].as_array().unwrap().iter();
    stages
        .map(|stage| {
            (
                stage["stage"].as_str().unwrap(),
                stage["outcome"].as_str().unwrap(),
            )
        })
        .collect()
}

/// The one report of an answer.
fn only(answer: &Answer) -> &Value {
    let results = answer.body["results"].as_array().unwrap();
    assert_eq!(results.len(), 1, "{}", answer.text);
    &results[0]
}

/// The last stage of the one report that was reached: its name, its outcome and the server's code.
fn last(answer: &Answer) -> (&str, &str, Option<&str>) {
    let mut stages = only(answer)["stages"].as_array().unwrap().iter().rev();
    let stage = stages.find(|stage| stage["outcome"] != "skipped").unwrap();
    (
        stage["stage"].as_str().unwrap(),
        stage["outcome"].as_str().unwrap(),
        stage["code"].as_str(),
    )
}

/// The same without how long it took.
fn without_durations(mut stages: Value) -> Value {
    for stage in stages.as_array_mut().unwrap() {
        let stage = stage.as_object_mut().unwrap();
        if let Some(duration) = stage.get_mut("durationMs") {
            assert!(duration.is_u64());
            *duration = json!("…");
        }
    }
    stages
}

fn candidate(entry: &Value) -> Value {
    json!({"testEmail": "admin@clinic.example", "settings": {"communicationSettings": email(entry, FROM)}})
}

#[tokio::test]
async fn saved_settings_that_work_pass_every_stage_and_send_one_marked_message() {
    let world = World::saved().await;
    let answer = world
        .test_email(CLINIC, &json!({"testEmail": "admin@clinic.example"}))
        .await
        .expect(200);
    assert_eq!(answer.body["ok"], true);
    assert_eq!(
        stages(only(&answer)),
        [
            "resolve",
            "egress",
            "connect",
            "tls",
            "authenticate",
            "send"
        ]
        .map(|stage| (stage, "passed"))
    );
    assert_eq!(
        (&only(&answer)["entry"], &only(&answer)["position"]),
        (&json!("primary"), &json!("primary"))
    );
    let messages = world.smtp.messages();
    assert_eq!(messages.len(), 1);
    let mail = Mail::of(&messages[0]);
    assert_eq!(
        (mail.from.as_str(), mail.to.as_str()),
        (FROM, "admin@clinic.example")
    );
    assert!(mail.subject.contains("TEST"), "{}", mail.subject);
    assert!(!answer.text.contains(PASSWORD) && !messages[0].text().contains(PASSWORD));
}

#[tokio::test]
async fn verify_only_logs_in_and_sends_nothing() {
    let world = World::saved().await;
    let answer = world
        .test_email(CLINIC, &json!({"verifyOnly": true}))
        .await
        .expect(200);
    assert_eq!(answer.body["ok"], true);
    assert_eq!(last(&answer), ("authenticate", "passed", None));
    assert_eq!(
        (world.smtp.connections(), world.smtp.messages().len()),
        (1, 0)
    );
    let both = json!({"verifyOnly": true, "testEmail": "admin@clinic.example"});
    world.test_email(CLINIC, &both).await.expect(200);
    assert!(world.smtp.messages().is_empty());
}

#[tokio::test]
async fn a_candidate_with_a_wrong_password_fails_at_the_login_and_is_not_saved() {
    let world = World::saved().await;
    let before = world.get_settings(CLINIC).await;
    world.aws.clear_calls();
    let wrong = candidate(&entry(world.smtp.port(), USER, "planted-wrong-password"));
    let answer = world.test_email(CLINIC, &wrong).await.expect(200);
    assert_eq!(answer.body["ok"], false);
    assert_eq!(last(&answer), ("authenticate", "failed", Some("535 5.7.8")));
    assert_eq!(only(&answer)["stages"][4]["kind"], "unauthenticated");
    assert!(!answer.text.contains("planted"), "{}", answer.text);
    assert!(world.smtp.messages().is_empty());
    let calls: Vec<_> = world.aws.calls().iter().map(ToString::to_string).collect();
    // What is written are the limits.
    assert_eq!(
        calls,
        [
            // The settings with their counter, and the key of the counter's MAC.
            "dynamodb:GetItem",
            "dynamodb:GetItem",
            "dynamodb:GetItem",
            "kms:Decrypt",
            "kms:Decrypt",
            "dynamodb:TransactWriteItems"
        ]
    );
    assert_eq!(world.get_settings(CLINIC).await, before);
}

#[tokio::test]
async fn a_candidate_of_a_clinic_without_settings_can_be_tested_before_it_is_saved() {
    let world = World::new().await;
    world
        .test_email(CLINIC, &json!({"testEmail": "admin@clinic.example"}))
        .await
        .expect(404);
    let answer = world
        .test_email(CLINIC, &candidate(&world.entry()))
        .await
        .expect(200);
    assert_eq!(answer.body["ok"], true);
    assert_eq!(world.smtp.messages().len(), 1);
    world.get_settings(CLINIC).await.expect(404);
}

#[tokio::test]
async fn certificates_that_do_not_verify_and_servers_without_tls_fail_at_tls_and_see_no_password() {
    let world = World::new().await;
    let expired = SmtpServer::builder().tls(
        TlsMode::StartTls,
        world.ca.expired_server_config(&["127.0.0.1"]),
    );
    let misnamed =
        SmtpServer::builder().tls(TlsMode::StartTls, world.ca.server_config(&["mail.example"]));
    let clear = SmtpServer::builder().auth_without_tls();
    for server in [expired, misnamed, clear] {
        let server = server.credentials(USER, PASSWORD).start().await;
        let answer = world
            .test_email(CLINIC, &candidate(&entry(server.port(), USER, PASSWORD)))
            .await
            .expect(200);
        assert_eq!(last(&answer), ("tls", "failed", None), "{}", answer.text);
        assert!(
            !only(&answer)["stages"][3]["detail"]
                .as_str()
                .unwrap()
                .is_empty()
        );
        let said = server.transcript().join("\n");
        assert!(
            !said.contains("C: AUTH") && !said.contains("C: MAIL"),
            "{said}"
        );
    }
}

/// What a scanner would want to know, and gets in the same words.
#[tokio::test]
async fn what_is_no_mail_server_looks_the_same_whatever_it_is() {
    let mut world = prompt().await;
    resolve_by_names(&mut world);
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let foreign = http.local_addr().unwrap().port();
    let hangs_up = SmtpServer::builder().always(Stage::Greeting, Action::Close);
    let hangs_up = hangs_up.start().await;
    let no_tls = world
        .server(USER, PASSWORD)
        .always(Stage::Tls, Action::Close)
        .start()
        .await;
    let asked = |entry: Value| {
        let world = &world;
        async move {
            let answer = world.test_email(CLINIC, &candidate(&entry)).await;
            only(&answer.expect(200))["stages"].clone()
        }
    };
    let closed = asked(at("127.0.0.1", closed_port().await)).await;
    assert_eq!(
        (&closed[2]["stage"], &closed[2]["kind"]),
        (&json!("connect"), &json!("unavailable"))
    );
    let (answered, ()) = tokio::join!(asked(at("127.0.0.1", foreign)), async {
        let (mut stream, _) = http.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let silent = SmtpServer::builder().always(Stage::Greeting, Action::Hang);
    let silent = silent.start().await;
    let (unanswered, ()) = tokio::join!(asked(at("127.0.0.1", silent.port())), async {
        silent.wait_for_stage(Stage::Greeting, 1).await;
        // Only now does the time run, and at once.
        tokio::time::pause();
    });
    tokio::time::resume();
    let mut implicit = at("127.0.0.1", hangs_up.port());
    implicit["credentials"]["secure"] = json!("true");
    for (case, stages) in [
        ("a foreign protocol", answered),
        ("a silent port", unanswered),
        (
            "a connection that is closed",
            asked(at("127.0.0.1", hangs_up.port())).await,
        ),
        (
            "the same where TLS is to begin at once",
            asked(implicit).await,
        ),
        (
            "no TLS handshake",
            asked(at("127.0.0.1", no_tls.port())).await,
        ),
    ] {
        assert_eq!(
            without_durations(stages),
            without_durations(closed.clone()),
            "{case}"
        );
    }
    assert_eq!(closed[2]["durationMs"], Value::Null);

    // An internal name is not told from one that does not exist, nor an address from either.
    let nowhere = asked(at("nowhere.example", 587)).await;
    assert_eq!(
        (&nowhere[0]["stage"], &nowhere[0]["outcome"]),
        (&json!("resolve"), &json!("failed"))
    );
    for host in [
        "inside.example",
        "169.254.169.254",
        "10.0.0.1",
        "::1",
        "::ffff:10.0.0.1",
        "0.0.0.0",
    ] {
        let answer = world.test_email(CLINIC, &candidate(&at(host, 587))).await;
        // A host that is refused already when it is read is as good.
        if answer.status != 422 {
            assert_eq!(only(&answer.expect(200))["stages"], nowhere, "{host}");
        }
    }
}

/// What the admin of a server that is there has to know is told.
#[tokio::test]
async fn a_mail_server_that_says_why_is_quoted_by_its_code_and_a_certificate_is_told_of() {
    let world = prompt().await;
    let mut said = Vec::new();
    let expired = world.ca.expired_server_config(&["127.0.0.1"]);
    let other = world.ca.server_config(&["mail.example"]);
    for server in [
        SmtpServer::builder().tls(TlsMode::StartTls, expired),
        SmtpServer::builder().tls(TlsMode::StartTls, other),
        SmtpServer::builder().auth_without_tls(),
        SmtpServer::builder().always(
            Stage::Greeting,
            Action::reply_then_close("554 5.7.1 planted"),
        ),
    ] {
        let server = server.credentials(USER, PASSWORD).start().await;
        let answer = world
            .test_email(CLINIC, &candidate(&entry(server.port(), USER, PASSWORD)))
            .await
            .expect(200);
        let failure = first_failure(&answer);
        said.push(json!([failure["stage"], failure["kind"], failure["code"]]));
        assert!(!answer.text.contains("planted"), "{}", answer.text);
    }
    assert_eq!(
        said,
        [
            json!(["tls", "unauthenticated", null]),
            json!(["tls", "unauthenticated", null]),
            json!(["tls", "unauthenticated", null]),
            json!(["tls", "unavailable", "554 5.7.1"]),
        ]
    );
}

#[tokio::test]
async fn a_candidate_without_its_password_uses_the_stored_one_at_the_same_place_only() {
    let world = World::saved().await;
    let mut same = world.entry();
    same["credentials"]
        .as_object_mut()
        .unwrap()
        .remove("password");
    let answer = world
        .test_email(CLINIC, &candidate(&same))
        .await
        .expect(200);
    assert_eq!(answer.body["ok"], true);

    let elsewhere = world.server(USER, PASSWORD).start().await;
    let mut moved = same;
    moved["credentials"]["port"] = json!(elsewhere.port());
    for password in [Value::Null, json!({"configured": true, "last4": "3a9c"})] {
        moved["credentials"]["password"] = password;
        let refused = world
            .test_email(CLINIC, &candidate(&moved))
            .await
            .expect(422);
        assert_eq!(
            refused.pointers(),
            ["/settings/communicationSettings/email/primary/credentials/password"]
        );
    }
    assert_eq!(elsewhere.connections(), 0);
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

#[tokio::test]
async fn a_request_that_can_not_be_understood_is_refused_and_connects_to_nobody() {
    let world = World::saved().await;
    for (body, pointers) in [
        (json!({}), vec!["/testEmail"]),
        (json!({"testEmail": "planted"}), vec!["/testEmail"]),
        (json!({"testEmail": "a@b.example", "x": 1}), vec!["/x"]),
        (
            json!({"testEmail": "a@b.example", "provider": "twilio"}),
            vec!["/provider"],
        ),
        (
            json!({"testEmail": "a@b.example", "entry": "Not an id"}),
            vec!["/entry"],
        ),
        (
            json!({"testEmail": "a@b.example", "settings": {}}),
            vec!["/settings/communicationSettings"],
        ),
    ] {
        let refused = world.test_email(CLINIC, &body).await.expect(422);
        assert_eq!(refused.pointers(), pointers, "{body}");
        assert!(!refused.text.contains("planted"));
    }
    assert_eq!(world.smtp.connections(), 0);
    // What was not understood does not count.
    assert_eq!(
        world.aws.count("dynamodb", "TransactWriteItems"),
        2,
        "the save, and the limit of saves"
    );
}

#[allow(clippy::too_many_lines, reason = "most of them are the report")]
#[tokio::test]
async fn a_wrong_password_an_expired_certificate_and_a_server_that_works_each_have_their_row() {
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
async fn a_disabled_entry_is_tested_and_marked_and_one_entry_can_be_named() {
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
async fn every_provider_has_the_same_stages_whether_it_can_be_reached_or_not() {
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
async fn a_message_whose_fate_is_unknown_may_have_arrived() {
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
async fn a_whatsapp_test_without_a_template_is_a_text_which_goes_into_a_conversation_only() {
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

#[tokio::test]
async fn saved_settings_that_can_not_be_read_lock_nobody_out() {
    let world = World::saved().await;
    let key = |name: &str, value: &str| (name.to_owned(), AttributeValue::S(value.to_owned()));
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .put_item()
        .table_name(&world.aws.resources().settings_table)
        .set_item(Some([key("pk", CLINIC), key("sk", "settings")].into()))
        .send()
        .await
        .unwrap();
    let saved = json!({"testEmail": "admin@clinic.example"});
    world.test_email(CLINIC, &saved).await.expect(500);
    let whole = candidate(&world.entry());
    let answer = world.test_email(CLINIC, &whole).await.expect(200);
    assert_eq!(answer.body["ok"], true);
    let mut without = world.entry();
    without["credentials"]["password"] = json!({"configured": true});
    let refused = world.test_email(CLINIC, &candidate(&without)).await;
    refused.expect(422);
    // What passes by itself is waited for: the secrets that are left out may be there.
    world
        .aws
        .fail_next("dynamodb", "GetItem", 100, Fault::ServerError);
    world.test_email(CLINIC, &whole).await.expect(503);
}

#[tokio::test]
async fn of_tests_at_the_same_time_exactly_as_many_pass_as_the_limit_allows() {
    let mut world = World::saved().await;
    let clock = stop_the_clock(&mut world);
    let verify = json!({"verifyOnly": true});
    let answers = join_all((0..36).map(|_| world.test_email(CLINIC, &verify))).await;
    let passed = answers.iter().filter(|answer| answer.status == 200);
    assert_eq!(passed.count(), 30);
    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert_eq!(refused.len(), 6);
    for answer in refused {
        assert_eq!(
            (answer.header("retry-after"), &answer.body["code"]),
            ("30", &json!("too_many_requests"))
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    // Those that were refused have reached nobody.
    assert_eq!(world.smtp.connections(), 30);

    // Another clinic has its own limit, whoever asks.
    world
        .put_settings("clinic-456", email(&world.entry(), FROM))
        .await
        .expect(201);
    world.test_email("clinic-456", &verify).await.expect(200);

    clock.advance(Duration::from_millis(29_001));
    let refused = world.test_email(CLINIC, &verify).await.expect(429);
    assert_eq!(refused.header("retry-after"), "1");
    clock.advance(Duration::from_millis(999));
    world.test_email(CLINIC, &verify).await.expect(200);
    world.test_email(CLINIC, &verify).await.expect(429);
    // What was not taken is there again, and not more.
    clock.advance(Duration::from_hours(24));
    let answers = join_all((0..31).map(|_| world.test_email(CLINIC, &verify))).await;
    let passed = answers.iter().filter(|answer| answer.status == 200);
    assert_eq!(passed.count(), 30);
}

#[tokio::test]
async fn entries_count_and_not_requests() {
    let mut world = World::new().await;
    stop_the_clock(&mut world);
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["fallback"] = json!([world.entry(), world.entry()]);
    let body = json!({"verifyOnly": true, "settings": {"communicationSettings": settings}});
    for _ in 0..9 {
        world.test_email(CLINIC, &body).await.expect(200);
    }
    let mut one = body.clone();
    one["entry"] = json!("primary");
    world.test_email(CLINIC, &one).await.expect(200);
    // Two are left.
    let refused = world.test_email(CLINIC, &body).await.expect(429);
    assert_eq!(refused.header("retry-after"), "30");
    world.test_email(CLINIC, &one).await.expect(200);
    world.test_email(CLINIC, &one).await.expect(200);
    world.test_email(CLINIC, &one).await.expect(429);
}

#[tokio::test]
async fn an_author_has_a_limit_over_all_clinics_and_what_it_refuses_costs_the_clinic_nothing() {
    let mut world = World::new().await;
    let clock = stop_the_clock(&mut world);
    let (limits, address) = (&world.config_test.limits, "admin@platform.example");
    for id in ["clinic-1", "clinic-2"] {
        for _ in 0..5 {
            assert_eq!(limits.take(&clinic(id), address, 6, 0).await, Ok(()));
        }
    }
    let third = clinic("clinic-3");
    let (author, entries) = (LimitHolder::Author, Limited::Entries);
    assert_eq!(
        limits.take(&third, address, 6, 0).await,
        reached(author, entries, Duration::from_secs(90))
    );
    // The limit that takes longest to pass is the one to wait for.
    assert_eq!(
        limits.take(&clinic("clinic-1"), address, 6, 0).await,
        reached(LimitHolder::Clinic, entries, Duration::from_mins(3))
    );
    let verify = json!({"verifyOnly": true, "settings": {"communicationSettings": email(&world.entry(), FROM)}});
    let refused = test_as(&world, address, "clinic-3", &verify).await;
    assert_eq!(refused.expect(429).header("retry-after"), "15");
    test_as(&world, "another", "clinic-3", &verify)
        .await
        .expect(200);
    for _ in 0..29 {
        assert_eq!(limits.take(&third, "another", 1, 0).await, Ok(()));
    }
    assert_eq!(
        limits.take(&third, "another", 1, 0).await,
        reached(LimitHolder::Clinic, entries, Duration::from_secs(30))
    );
    clock.advance(Duration::from_secs(15));
    assert_eq!(
        limits.take(&clinic("clinic-4"), address, 1, 0).await,
        Ok(())
    );
    assert_eq!(
        limits.take(&clinic("clinic-4"), address, 1, 0).await,
        reached(author, entries, Duration::from_secs(15))
    );
    let stored = world.aws.dump_tables().await;
    assert!(stored.contains("_test-limit#clinic#clinic-3") && stored.contains("expiresAt"));
    assert!(!stored.contains(address), "{stored}");
}

#[tokio::test]
async fn messages_have_a_limit_of_their_own_and_a_check_without_one_is_free_of_it() {
    let mut world = World::saved().await;
    let clock = stop_the_clock(&mut world);
    let limits = &world.config_test.limits;
    let clinic_id = clinic(CLINIC);
    let send = json!({"testEmail": "admin@clinic.example"});
    let messages = |holder, wait| reached(holder, Limited::Messages, Duration::from_secs(wait));
    for _ in 0..19 {
        assert_eq!(limits.take(&clinic_id, "user-1", 1, 1).await, Ok(()));
    }
    world.test_email(CLINIC, &send).await.expect(200);
    let refused = world.test_email(CLINIC, &send).await.expect(429);
    assert_eq!(refused.header("retry-after"), "3600");
    assert!(
        refused.body["detail"]
            .as_str()
            .unwrap()
            .contains("verifyOnly")
    );
    assert_eq!(world.smtp.messages().len(), 1);
    world
        .test_email(CLINIC, &json!({"verifyOnly": true}))
        .await
        .expect(200);
    for _ in 0..20 {
        let other = limits.take(&clinic("clinic-2"), "user-1", 1, 1).await;
        assert_eq!(other, Ok(()));
    }
    let third = clinic("clinic-3");
    assert_eq!(
        limits.take(&third, "user-1", 1, 1).await,
        messages(LimitHolder::Author, 1_800)
    );
    clock.advance(Duration::from_hours(1));
    assert_eq!(limits.take(&third, "user-1", 2, 2).await, Ok(()));
    assert_eq!(
        limits.take(&clinic_id, "user-2", 2, 2).await,
        messages(LimitHolder::Clinic, 3_600)
    );
    assert_eq!(limits.take(&clinic_id, "user-2", 1, 1).await, Ok(()));
}

#[tokio::test]
async fn without_the_limits_nothing_is_tried() {
    let world = World::saved().await;
    for fault in [Fault::ServerError, Fault::AccessDenied] {
        world
            .aws
            .fail_next("dynamodb", "TransactWriteItems", 100, fault);
        let answer = world
            .test_email(CLINIC, &json!({"verifyOnly": true}))
            .await
            .expect(503);
        assert_eq!(answer.header("retry-after"), "5");
        world.aws.clear_faults();
    }
    assert_eq!(world.smtp.connections(), 0);
}
