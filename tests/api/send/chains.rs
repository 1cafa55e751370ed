//! Which provider sends: the clinic's own, its fallbacks, the global account.

use comms_testkit::smtp::{Action, Stage};
use comms_tests::{CLINIC, FROM, PASSWORD, USER, World, communication, email, entry, immediate};
use serde_json::json;
use tokio::net::TcpListener;

use super::{attempts, mail, only};

#[tokio::test]
async fn refused_recipient_fails_and_the_other_is_sent() {
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
async fn global_account_sends_under_its_own_name_when_the_clinics_fails() {
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
async fn clinic_without_the_global_account_is_told_all_providers_failed() {
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
async fn fallback_uses_its_own_credentials_and_a_disabled_one_is_skipped() {
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
async fn unknown_outcome_is_held_or_sent_again_by_the_clinics_policy() {
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
async fn transient_failure_is_retried_as_often_as_the_clinic_configured() {
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
async fn possibly_accepted_message_without_a_fallback_ends_as_unknown() {
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
