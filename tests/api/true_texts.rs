//! What answers say of attempts and waits is what happened.

use std::time::Duration;

use comms_core::Clock;
use comms_testkit::smtp::{Action, Stage};
use comms_tests::{
    CLINIC, FROM, USER, World, communication, email, entry, immediate,
    refused::{Refused, WRONG_PASSWORD},
};
use serde_json::{Value, json};

use crate::callers::health_of;

const HOUR: Duration = Duration::from_hours(1);

/// An address that needs SMTPUTF8 (RFC 6531).
fn to_a_foreign_address() -> Value {
    let mut communication = immediate();
    communication["recipients"] = json!([{"email": "ünal@example.com"}]);
    communication
}

#[tokio::test]
async fn an_address_beyond_ascii_goes_by_the_entry_that_takes_it() {
    let world = World::with(|server, _| server.without_extension("SMTPUTF8")).await;
    let able = world
        .server("other-user", "other-password-19c7")
        .start()
        .await;
    let fallback = entry(able.port(), "other-user", "other-password-19c7");
    let mut document = email(&world.entry(), FROM);
    document["email"]["fallback"] = json!([fallback]);
    world.put_settings(CLINIC, document).await.expect(201);
    let answer = world.post(&to_a_foreign_address()).await.expect(200);
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(delivery["status"], "sent", "{delivery}");
    assert_eq!((world.smtp.messages().len(), able.messages().len()), (0, 1));
    let first = &delivery["attempts"][0];
    assert_eq!(
        [&first["disposition"], &first["kind"]],
        ["provider_down", "invalid_recipient"]
    );
    assert_eq!(
        first["detail"],
        "This provider does not take the recipient's address; another may."
    );
    // The server is as well as before.
    assert_eq!(health_of(&world).await, "untried");
}

#[tokio::test]
async fn a_connection_that_ends_after_the_message_is_not_called_a_timeout() {
    let world = World::saved().await;
    world.smtp.on(Stage::Body, Action::AcceptThenClose);
    let answer = world.post(&immediate()).await;
    let attempt = &answer.body["deliveries"][0]["attempts"][0];
    assert_eq!(attempt["disposition"], "ambiguous", "{attempt}");
    assert_eq!(
        attempt["detail"],
        "The provider did not say whether it took the message; it may have."
    );
}

#[tokio::test]
async fn unknown_clinic_is_not_advised_to_save_settings() {
    let world = World::new().await;
    let mut unnamed = immediate();
    unnamed["metadata"] = json!({});
    let answer = world.post(&unnamed).await;
    let reason = &answer.body["deliveries"][0]["reason"];
    assert_eq!(reason["code"], "NO_PROVIDER", "{}", answer.body);
    assert_eq!(
        reason["detail"],
        "No provider is enabled for this channel; save one in the settings of the clinic, or in the platform's where no clinic is named."
    );
}

#[tokio::test]
async fn a_wait_ends_at_the_latest_when_the_message_expires() {
    let refused = Refused::new().await;
    let now = jiff::Timestamp::now();
    let ahead = now.duration_since(refused.clock.now());
    refused.clock.advance(Duration::try_from(ahead).unwrap());
    let mut expiring = communication();
    let expires_at = now + 2 * HOUR;
    expiring["expiresAt"] = json!(expires_at.to_string());
    let id = refused.post(&expiring).await;
    assert_eq!(refused.work().await, 1);
    let delivery = refused.delivery(&id).await;
    let until: jiff::Timestamp = delivery["waiting"]["until"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(until <= expires_at, "{delivery}");
    // It is looked at within minutes all the same.
    let lately = refused.clock.now();
    refused.clock.advance(Duration::from_secs(90));
    assert_eq!(refused.work().await, 1, "{lately}");
    assert_eq!(
        refused.delivery(&id).await["waiting"]["until"],
        delivery["waiting"]["until"]
    );
}

#[tokio::test]
async fn a_wait_says_whose_entry_refuses() {
    for (tenant, position) in [(CLINIC, "primary"), ("_global", "global")] {
        let refused = Refused::new().await;
        let world = &refused.world;
        if tenant == "_global" {
            world.delete_settings(CLINIC, &[]).await.expect(204);
            let wrong = entry(world.smtp.port(), USER, WRONG_PASSWORD);
            let document = email(&wrong, "platform@global.example");
            world.put_settings(tenant, document).await.expect(201);
        }
        let id = refused.post(&communication()).await;
        assert_eq!(refused.work().await, 1);
        let delivery = refused.delivery(&id).await;
        assert_eq!(delivery["waiting"]["entry"], "primary", "{delivery}");
        assert_eq!(delivery["waiting"]["position"], position, "{delivery}");
    }
}

#[tokio::test]
async fn unsent_message_names_no_account() {
    let world = World::new().await;
    for metadata in [json!({}), json!({"clinicId": CLINIC})] {
        for strategy in ["immediate", "queued"] {
            let mut posted = communication();
            posted["strategy"] = json!(strategy);
            posted["metadata"] = metadata.clone();
            let answer = world.post(&posted).await;
            world.run_worker().await;
            let read = world.status(&answer.request_id()).await.expect(200);
            let delivery = &read.body["deliveries"][0];
            assert_eq!(delivery["status"], "failed", "{delivery}");
            let said = [&delivery["via"], &delivery["because"]];
            assert_eq!(said, [&Value::Null; 2], "{metadata} {strategy}");
            if strategy == "immediate" {
                assert_eq!(answer.body["deliveries"][0]["via"], Value::Null);
            }
        }
    }
}
