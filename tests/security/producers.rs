//! What a producer that may put messages on the queue can claim about them: nothing that `send` did not authenticate.

use aws_sdk_dynamodb::types::AttributeValue;
use comms_tests::{Mail, World, communication};
use serde_json::{Value, json};

/// A record that claims to be part of an accepted request: the attributes of `accepted`, and another body.
fn forged(accepted: &Value, body: &Value) -> Value {
    let mut record = accepted.clone();
    record["messageId"] = json!("forged");
    record["body"] = json!(body.to_string());
    record
}

/// Accepts the communication over HTTP under the key `key-1`, and gives the id with the record of its message.
async fn accepted(world: &World) -> (String, Value) {
    let answer = world.post_with_key(&communication(), "key-1").await;
    let id = answer.expect(202).request_id();
    let (_, _, records) = world.take_batch().await;
    (id, records[0].clone())
}

fn other_content() -> Value {
    let mut other = communication();
    other["idempotencyKey"] = json!("key-1");
    other["title"] = json!("Nobody accepted this");
    other
}

fn sent_titles(world: &World) -> Vec<String> {
    let messages = world.smtp.messages();
    messages
        .iter()
        .map(|message| Mail::of(message).subject)
        .collect()
}

#[tokio::test]
async fn other_content_is_not_sent_under_an_accepted_request() {
    let world = World::saved().await;
    let (id, message) = accepted(&world).await;
    let forged = forged(&message, &other_content());
    assert!(world.work_on(&[forged]).await.is_empty());
    assert_eq!(sent_titles(&world), Vec::<String>::new());
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["attributes"]["reason"], "key_conflict");

    // The accepted message is untouched by it.
    assert!(world.work_on(&[message]).await.is_empty());
    assert_eq!(sent_titles(&world).len(), 1);
    let answer = world.status(&id).await.expect(200);
    assert_eq!(answer.body["deliveries"][0]["status"], "sent");
}

#[tokio::test]
async fn a_claim_without_its_mac_is_compared_with_the_ledger() {
    let world = World::saved().await;
    let (_, message) = accepted(&world).await;
    let mut forged = forged(&message, &other_content());
    let attributes = forged["messageAttributes"].as_object_mut().unwrap();
    assert!(attributes.remove("acceptanceMac").is_some());
    assert!(world.work_on(&[forged]).await.is_empty());
    assert_eq!(sent_titles(&world), Vec::<String>::new());
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["attributes"]["reason"], "key_conflict");
}

#[tokio::test]
async fn a_mac_of_one_request_proves_nothing_of_another() {
    let world = World::saved().await;
    let (_, message) = accepted(&world).await;
    let mut own = other_content();
    own["idempotencyKey"] = json!("key-2");
    let forged = forged(&message, &own);
    assert!(world.work_on(&[forged]).await.is_empty());
    // It is a communication of the producer's own, and recorded as such.
    assert_eq!(sent_titles(&world), ["Nobody accepted this"]);
    let tables = world.aws.dump_tables().await;
    assert!(
        tables.contains("\"acceptedVia\":{\"S\":\"queue\"}"),
        "{tables}"
    );
}

/// A request of two parts, whose messages have no MAC, and the id.
async fn parts_without_mac(world: &World) -> (String, Vec<Value>) {
    let mut campaign = communication();
    let recipient = |n: u32| json!({"email": format!("patient-{n}@example.com")});
    campaign["recipients"] = (0..12).map(recipient).collect();
    let id = world.post(&campaign).await.expect(202).request_id();
    let (_, _, mut records) = world.take_batch().await;
    assert_eq!(records.len(), 2);
    for record in &mut records {
        let attributes = record["messageAttributes"].as_object_mut().unwrap();
        assert!(attributes.remove("acceptanceMac").is_some());
    }
    (id, records)
}

#[tokio::test]
async fn parts_that_an_earlier_release_queued_are_sent() {
    let world = World::saved().await;
    let (id, records) = parts_without_mac(&world).await;
    // Its item does not say by which way the request came.
    let key = |name: &str, value: &str| (name.to_owned(), AttributeValue::S(value.to_owned()));
    aws_sdk_dynamodb::Client::new(&world.aws.sdk_config())
        .update_item()
        .table_name(&world.aws.resources().deliveries_table)
        .set_key(Some([key("pk", &id), key("sk", "request")].into()))
        .update_expression("REMOVE acceptedVia, acceptedBy")
        .send()
        .await
        .unwrap();
    // Nor may a part have recipients that the request does not have.
    let mut more = records[0].clone();
    let mut body: Value = serde_json::from_str(more["body"].as_str().unwrap()).unwrap();
    body["recipients"][0]["email"] = json!("somebody-else@example.com");
    more["body"] = json!(body.to_string());
    assert!(world.work_on(&[more]).await.is_empty());
    assert_eq!(world.dead_letters().await.len(), 1);

    assert!(world.work_on(&records).await.is_empty());
    assert_eq!(sent_titles(&world).len(), 12);
    assert_eq!(world.dead_letters().await, Vec::<Value>::new());
}

#[tokio::test]
async fn parts_of_this_release_are_not_sent_without_their_mac() {
    let world = World::saved().await;
    let (_, records) = parts_without_mac(&world).await;
    assert!(world.work_on(&records).await.is_empty());
    assert_eq!(sent_titles(&world), Vec::<String>::new());
    assert_eq!(world.dead_letters().await.len(), 2);
}
