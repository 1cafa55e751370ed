//! Settings tried before and after they are saved, stage by stage.

use comms_testkit::smtp::{SmtpServer, TlsMode};
use serde_json::{Value, json};

use crate::world::{Answer, CLINIC, FROM, Mail, PASSWORD, USER, World, email, entry};

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

/// The last stage of the one report: its name, its outcome and the server's code.
fn last(answer: &Answer) -> (&str, &str, Option<&str>) {
    let stage = only(answer)["stages"].as_array().unwrap().last().unwrap();
    (
        stage["stage"].as_str().unwrap(),
        stage["outcome"].as_str().unwrap(),
        stage["code"].as_str(),
    )
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
    let reads = ["dynamodb:GetItem", "kms:Decrypt"];
    for call in world.aws.calls() {
        assert!(reads.contains(&call.to_string().as_str()), "{call}");
    }
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

#[tokio::test]
async fn a_port_at_which_nobody_is_fails_at_connect() {
    let world = World::new().await;
    let port = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let answer = world
        .test_email(CLINIC, &candidate(&entry(port, USER, PASSWORD)))
        .await
        .expect(200);
    assert_eq!(last(&answer), ("connect", "failed", None));
}

#[tokio::test]
async fn a_host_inside_the_network_is_refused_before_anything_is_connected_to() {
    let world = World::new().await;
    for host in [
        "169.254.169.254",
        "10.0.0.1",
        "::1",
        "::ffff:10.0.0.1",
        "0.0.0.0",
    ] {
        let mut inside = entry(587, USER, PASSWORD);
        inside["credentials"]["host"] = json!(host);
        let answer = world.test_email(CLINIC, &candidate(&inside)).await;
        // A host that is refused already when it is read is as good.
        if answer.status != 422 {
            let answer = answer.expect(200);
            assert_eq!(
                last(&answer),
                ("egress", "failed", None),
                "{host}: {}",
                answer.text
            );
        }
    }
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
async fn every_enabled_entry_is_reported_on_its_own() {
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
            json!({"testEmail": "a@b.example", "settings": {}}),
            vec!["/settings/communicationSettings"],
        ),
    ] {
        let refused = world.test_email(CLINIC, &body).await.expect(422);
        assert_eq!(refused.pointers(), pointers, "{body}");
        assert!(!refused.text.contains("planted"));
    }
    assert_eq!(world.smtp.connections(), 0);
}
