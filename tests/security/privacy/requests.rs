//! What is refused or found dead is not repeated.

use std::{sync::Arc, time::Duration};

use comms_core::{DeadLetterReason, SystemClock};
use comms_operator::{
    dead_letters::{self, DeadLetterQueue, Filter, Work},
    stop::Stop,
};
use comms_tests::{
    CLINIC, FROM, World, claims, email, entry, http_event, immediate, record, service, super_admin,
};
use serde_json::{Value, json};

use super::{
    PASSWORD, WRONG_PASSWORD, assert_nothing_leaked, assert_private, capture, full, saved, wrong,
};

#[tokio::test]
async fn malformed_requests_are_not_repeated_in_logs_or_answers() {
    let logs = capture();
    let world = saved().await;
    world.post(&wrong()).await.expect(422);
    let headers = [("idempotency-key", "planted poison")];
    let refused = world.post_as(&immediate(), service(), &headers).await;
    refused.expect(422);
    for body in [
        "{\"planted poison\": planted poison",
        "\"planted poison\"",
        "planted poison",
    ] {
        world.post_text(body, service(), &[]).await.expect(400);
        let path = "/api/v1/clinics/clinic-123";
        let refused = world
            .config("PUT", path, Some(body), super_admin(), &[])
            .await;
        assert!([400, 422].contains(&refused.status));
    }
    let mut document = email(&entry(0, "planted poison\n", ""), "planted poison");
    document["email"]["primary"]["credentials"]["host"] = json!("planted poison");
    document["email"]["primary"]["credentials"]["password"] = json!([PASSWORD]);
    document["email"]["onAmbiguous"] = json!("planted poison");
    world
        .put_settings(CLINIC, document.clone())
        .await
        .expect(422);
    let test =
        json!({"testEmail": "planted poison", "settings": {"communicationSettings": document}});
    world.test_email(CLINIC, &test).await.expect(422);
    let wrong_password = email(
        &entry(world.smtp.port(), "clinic-user", WRONG_PASSWORD),
        FROM,
    );
    let test = json!({"verifyOnly": true, "settings": {"communicationSettings": wrong_password}});
    world.test_email(CLINIC, &test).await.expect(200);
    let stranger = claims("CLINIC_ADMIN", Some("clinic-456"));
    world
        .post_as(&full("queued"), stranger, &[])
        .await
        .expect(403);
    assert_nothing_leaked(&world, &logs).await;
}

#[tokio::test]
async fn paths_queries_and_headers_are_not_repeated() {
    let logs = capture();
    let world = saved().await;
    for path in [
        "communications/planted.address@patients.example",
        "communications?planted.address=planted.address",
        "clinics/planted.address@patients.example",
        "clinics/planted.address/communication/test-email",
        "clinics/clinic-123/communication/versions?limit=planted.address",
        "clinics/clinic-123/communication/versions/planted.address/restore",
        "planted.address",
    ] {
        for method in ["GET", "POST", "PUT", "PLANTED.ADDRESS"] {
            let headers = [
                ("traceparent", "planted poison"),
                ("x-amzn-trace-id", "Root=planted poison"),
                ("if-match", "planted poison"),
                ("idempotency-key", "planted poison"),
            ];
            let (path, body) = (format!("/api/v1/{path}"), Some("planted poison"));
            let event = http_event(method, &path, body, &super_admin(), &headers);
            for answer in [
                world.ask_send(&event).await,
                world.ask_status(&event).await,
                world.ask_config(&event).await,
                world.ask_config_test(&event).await,
            ] {
                assert!((400..500).contains(&answer.status), "{}", answer.text);
            }
        }
    }
    // Something that is counted.
    world.post(&full("immediate")).await.expect(207);
    assert_nothing_leaked(&world, &logs).await;
    assert!(logs.loudest().contains("answered"));
}

/// What a sender may say of a message beside its body.
const OF_SENDER: [&str; 4] = ["traceparent", "acceptedAs", "payloadHash", "acceptanceMac"];

#[tokio::test]
async fn dead_letters_and_their_listing_repeat_no_content() {
    let logs = capture();
    let world = saved().await;
    let mut poison = [
        record("message-1", "planted poison"),
        record("message-2", "{\"planted poison\": 1, \"planted body\": 2}"),
        record("message-3", &wrong().to_string()),
    ];
    for record in &mut poison {
        record["attributes"]["AWSTraceHeader"] = json!("Root=planted poison;Parent=planted poison");
        for name in OF_SENDER {
            record["messageAttributes"][name] =
                json!({"stringValue": "planted poison", "dataType": "String"});
        }
    }
    assert!(world.work_on(&poison).await.is_empty());
    let listed = list_dead_letters(&world).await;
    for letter in &listed.letters {
        assert_eq!(letter.reason, DeadLetterReason::NotACommunication);
    }
    assert_private("operator's list", &listed.to_string());
    let json = serde_json::to_string(&listed).unwrap();
    assert_private("operator's list as JSON", &json);
    assert!(json.contains("message-3"), "{json}");
    // A dead letter is as it was; what is said of it says nothing of that.
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 3);
    for mut letter in letters {
        letter["body"] = Value::Null;
        for name in OF_SENDER {
            letter["attributes"][name] = Value::Null;
        }
        assert_private("dead letters", &letter.to_string());
    }
    assert_nothing_leaked(&world, &logs).await;
    assert!(logs.loudest().contains("not_a_communication"));
}

/// What the operator's command says of the dead letters.
async fn list_dead_letters(world: &World) -> dead_letters::Report {
    let queue = &world.aws.resources().dlq_url;
    let plan = dead_letters::Plan {
        queue: DeadLetterQueue::new(&world.aws.sdk_config(), queue, Duration::ZERO),
        filter: Filter::default(),
        work: Work::List,
        limit: 100,
        rate: 1_000,
        clock: Arc::new(SystemClock),
    };
    let mut report = dead_letters::Report::default();
    dead_letters::run(&plan, &mut report, &Stop::default(), &mut |_, _| {})
        .await
        .unwrap();
    report
}
