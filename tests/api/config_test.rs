//! Settings tried before and after they are saved, stage by stage, and how often that may be.

mod candidates;
mod limits;
mod reports;

use std::{sync::Arc, time::Duration};

use comms_core::Tenant;
use comms_settings::{LimitHolder, Limited, TestLimitError, TestLimits};
use comms_testkit::{
    clock::ManualClock,
    smtp::{Action, SmtpServer, Stage, TlsMode},
};
use comms_tests::{
    ApiResponse, CLINIC, FROM, Mail, PASSWORD, USER, World, claims, entry, http_event,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use self::{
    candidates::candidate,
    reports::{last, only, without_durations},
};

/// A world whose tests do not wait before they say that nobody is there.
async fn prompt() -> World {
    let mut world = World::new().await;
    world.config_test.hold_step = Duration::ZERO;
    world
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
async fn test_as(world: &World, subject: &str, clinic: &str, body: &Value) -> ApiResponse {
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
fn first_failure(answer: &ApiResponse) -> &Value {
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

#[tokio::test]
async fn working_saved_settings_pass_every_stage_and_send_one_test_message() {
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
async fn verify_only_logs_in_without_sending() {
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
async fn servers_without_valid_tls_fail_at_tls_and_see_no_password() {
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
async fn every_server_that_is_no_mail_server_is_reported_alike() {
    let mut world = prompt().await;
    world.resolve_only(&[("inside.example", "10.0.0.1")]);
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
async fn report_quotes_the_servers_code_and_names_a_bad_certificate() {
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
