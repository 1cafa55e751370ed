//! Messages that the worker moves to the dead-letter queue.

use comms_testkit::aws::Fault;
use comms_tests::{CLINIC, Mail, World, communication, record};
use serde_json::{Value, json};

#[tokio::test]
async fn malformed_message_is_a_dead_letter_with_its_reason_and_alone() {
    let world = World::saved().await;
    let mut unknown_field = communication();
    unknown_field["colour"] = json!("red");
    let mut nobody = communication();
    nobody["recipients"] = json!([]);
    let mut records = vec![
        record("no-json", "{\"category\":"),
        record("unknown-field", &unknown_field.to_string()),
        record("nobody", &nobody.to_string()),
        record("empty", ""),
    ];
    for n in 0..6 {
        let mut good = communication();
        good["recipients"] = json!([{"email": format!("patient-{n}@example.com")}]);
        records.insert(
            n * 2 % records.len(),
            record(&format!("good-{n}"), &good.to_string()),
        );
    }
    assert!(world.work_on(&records).await.is_empty());
    let mut dead: Vec<_> = world
        .dead_letters()
        .await
        .into_iter()
        .map(|letter| {
            let of = |name: &str| letter["attributes"][name].as_str().unwrap_or_default();
            assert_eq!(of("sourceQueue"), "clinic-comms");
            assert_eq!(letter["group"], CLINIC);
            let said = (of("sourceMessageId"), of("reason"), of("fields"));
            format!("{} {} {}", said.0, said.1, said.2)
        })
        .collect();
    dead.sort();
    assert_eq!(
        dead,
        [
            "empty not_a_communication ",
            "no-json not_a_communication ",
            "nobody not_a_communication /recipients",
            "unknown-field not_a_communication ",
        ]
    );
    let mut sent: Vec<_> = world
        .smtp
        .messages()
        .iter()
        .map(|m| Mail::of(m).to)
        .collect();
    sent.sort();
    let expected: Vec<_> = (0..6).map(|n| format!("patient-{n}@example.com")).collect();
    assert_eq!(sent, expected);
}

/// Attributes of a sender, as an event of Lambda has them.
fn of_the_sender(count: usize) -> Value {
    let mut attributes = json!({
        "attempt": {"stringValue": "3", "dataType": "Number", "stringListValues": [], "binaryListValues": []},
        "weight": {"stringValue": "1.5", "dataType": "Number.float"},
        "blob": {"binaryValue": "AAEC", "dataType": "Binary"},
    });
    for number in 3..count {
        attributes[format!("own-{number:02}")] = json!({"stringValue": "x", "dataType": "String"});
    }
    attributes
}

#[tokio::test]
async fn a_dead_letter_keeps_its_senders_attributes_and_their_types() {
    let world = World::saved().await;
    let mut poison = record("poison", "{");
    poison["messageAttributes"] = of_the_sender(3);
    assert!(world.work_on(&[poison]).await.is_empty());
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["attributes"]["attempt"], "3");
    assert_eq!(letters[0]["types"]["attempt"], "Number");
    assert_eq!(letters[0]["types"]["weight"], "Number.float");
    assert_eq!(letters[0]["types"]["blob"], "Binary");
    assert!(letters[0]["attributes"]["droppedAttributes"].is_null());
}

#[tokio::test]
async fn dead_letter_names_the_attributes_it_has_no_room_for() {
    let world = World::saved().await;
    let mut poison = record("poison", "{");
    poison["messageAttributes"] = of_the_sender(10);
    assert!(world.work_on(&[poison]).await.is_empty());
    let letters = world.dead_letters().await;
    let attributes = letters[0]["attributes"].as_object().unwrap();
    assert_eq!(attributes.len(), 10);
    let dropped: Vec<_> = attributes["droppedAttributes"]
        .as_str()
        .unwrap()
        .split(' ')
        .collect();
    let mut all: Vec<_> = attributes.keys().map(String::as_str).collect();
    all.extend(&dropped);
    for name in of_the_sender(10).as_object().unwrap().keys() {
        assert!(
            all.contains(&name.as_str()),
            "{name} is neither kept nor named"
        );
    }
}

#[tokio::test]
async fn redriven_dead_letter_keeps_its_id() {
    let world = World::saved().await;
    let mut first = record("first-id", &communication().to_string());
    assert!(world.work_on(std::slice::from_ref(&first)).await.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
    first["messageId"] = json!("second-id");
    first["messageAttributes"] =
        json!({"sourceMessageId": {"stringValue": "first-id", "dataType": "String"}});
    assert!(world.work_on(&[first]).await.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn malformed_message_without_a_dead_letter_queue_is_redelivered() {
    let world = World::saved().await;
    world
        .aws
        .fail_next("sqs", "SendMessage", 100, Fault::AccessDenied);
    let poison = [record("poison", "no communication")];
    assert_eq!(world.work_on(&poison).await, ["poison"]);
    world.aws.clear_faults();
    assert!(world.work_on(&poison).await.is_empty());
    assert_eq!(world.dead_letters().await.len(), 1);
}

#[tokio::test]
async fn malformed_message_without_room_for_a_reason_is_a_dead_letter() {
    let world = World::saved().await;
    let poison = "p".repeat(1_048_576);
    assert!(world.work_on(&[record("large", &poison)]).await.is_empty());
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["body"].as_str().unwrap().len(), poison.len());
    assert_eq!(letters[0]["attributes"], json!({}));
}
