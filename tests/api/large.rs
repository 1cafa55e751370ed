//! Requests with many recipients, and urgent ones: which messages they are on which queue.

use std::collections::BTreeSet;

use comms_testkit::aws::Fault;
use comms_tests::{Mail, World, communication};
use serde_json::{Value, json};

fn to(count: usize) -> Value {
    let mut many = communication();
    many["priority"] = json!("normal");
    many["recipients"] = (0..count)
        .map(|n| json!({"email": format!("patient-{n}@example.com")}))
        .collect();
    many
}

/// Lets the worker handle everything, and gives the number of recipients of each message.
async fn work_off(world: &World) -> Vec<usize> {
    let mut recipients = Vec::new();
    loop {
        let batch = world.run_worker().await;
        if batch.records.is_empty() {
            recipients.sort_unstable();
            return recipients;
        }
        assert!(batch.failed.is_empty());
        recipients.extend(batch.records.iter().map(|record| {
            let body: Value = serde_json::from_str(record["body"].as_str().unwrap()).unwrap();
            body["recipients"].as_array().unwrap().len()
        }));
    }
}

#[tokio::test]
async fn a_request_with_many_recipients_is_several_messages_and_one_communication() {
    let world = World::saved().await;
    let answer = world.post_with_key(&to(115), "campaign").await.expect(202);
    assert_eq!(answer.body["deliveries"].as_array().unwrap().len(), 115);
    assert_eq!(
        world.aws.count("sqs", "SendMessageBatch"),
        2,
        "ten messages, and two more"
    );
    // One write says that it was accepted, whatever it is on the queue.
    assert_eq!(world.aws.count("dynamodb", "PutItem"), 1 + 1);
    let mut parts = vec![5];
    parts.extend([10; 11]);
    assert_eq!(work_off(&world).await, parts);
    assert_eq!(world.aws.count("dynamodb", "PutItem"), 1 + 1);

    let status = world.status(&answer.request_id()).await.expect(200);
    let deliveries = status.body["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 115);
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery["status"] == "sent")
    );
    let sent: BTreeSet<_> = world
        .smtp
        .messages()
        .iter()
        .map(|message| Mail::of(message).to)
        .collect();
    assert_eq!((world.smtp.messages().len(), sent.len()), (115, 115));

    // The same again changes nothing; other recipients under the same key are another communication.
    world.post_with_key(&to(115), "campaign").await.expect(202);
    work_off(&world).await;
    assert_eq!(world.smtp.messages().len(), 115);
    world.post_with_key(&to(114), "campaign").await.expect(409);
}

#[tokio::test]
async fn messages_that_the_queue_refuses_are_retried_and_then_reported() {
    let world = World::saved().await;
    let fail = |times| {
        world
            .aws
            .fail_next("sqs", "SendMessageBatch", times, Fault::SomeEntries);
    };
    // Five of the first ten messages fail once.
    fail(1);
    world.post_with_key(&to(115), "once").await.expect(202);
    assert_eq!(world.aws.count("sqs", "SendMessageBatch"), 3);
    assert_eq!(work_off(&world).await.iter().sum::<usize>(), 115);
    assert_eq!(world.smtp.messages().len(), 115);

    // Of ten five, of these three, two, and in the end one are left over; the last two go in a call of their own.
    fail(4);
    let refused = world.post(&to(115)).await.expect(503);
    assert_eq!(refused.body["code"], "unavailable");
    assert_eq!(refused.pointers(), ["/recipients/0"]);
    let said = &refused.body["errors"][0]["detail"];
    assert_eq!(said, "10 recipients from here on are not queued");
    let (request, key) = (&refused.body["requestId"], &refused.body["idempotencyKey"]);
    assert_eq!(work_off(&world).await.iter().sum::<usize>(), 105);
    let status = world.status(request.as_str().unwrap()).await.expect(200);
    let deliveries = status.body["deliveries"].as_array().unwrap();
    let waiting = deliveries
        .iter()
        .take_while(|delivery| delivery["status"] == "queued");
    assert_eq!(waiting.count(), 10);

    // What the answer says to do puts the rest on the queue, and sends nothing twice.
    let again = world
        .post_with_key(&to(115), key.as_str().unwrap())
        .await
        .expect(202);
    assert_eq!(again.body["requestId"], *request);
    work_off(&world).await;
    assert_eq!(world.smtp.messages().len(), 2 * 115);
}

#[tokio::test]
async fn recipients_without_an_address_fail_in_any_part_of_the_request() {
    let world = World::saved().await;
    let mut many = to(30);
    many["recipients"][25] = json!({"phoneNumber": "+15550100"});
    let answer = world.post(&many).await.expect(202);
    assert_eq!(work_off(&world).await, [10, 10, 10]);
    let status = world.status(&answer.request_id()).await.expect(200);
    let deliveries = status.body["deliveries"].as_array().unwrap();
    for (place, delivery) in deliveries.iter().enumerate() {
        let expected = if place == 25 { "failed" } else { "sent" };
        assert_eq!(delivery["status"], expected, "{place}");
    }
    assert_eq!(deliveries.len(), 30);
    assert_eq!(deliveries[25]["reason"]["code"], "NO_ADDRESS");
}

#[tokio::test]
async fn a_large_content_is_on_the_queue_for_more_recipients_at_once() {
    let world = World::saved().await;
    let mut large = to(60);
    large["body"] = json!("planted body ".repeat(7_000));
    world.post(&large).await.expect(202);
    assert_eq!(work_off(&world).await, [10, 50]);
    assert_eq!(world.smtp.messages().len(), 60);
}

#[tokio::test]
async fn urgent_messages_travel_on_their_own_queue() {
    let world = World::saved().await;
    for (priority, queue) in [
        ("low", "clinic-comms"),
        ("normal", "clinic-comms"),
        ("high", "clinic-comms-urgent"),
        ("critical", "clinic-comms-urgent"),
    ] {
        let mut message = communication();
        message["priority"] = json!(priority);
        world.post(&message).await.expect(202);
        let batch = world.run_worker().await;
        let source = batch.records[0]["eventSourceARN"].as_str().unwrap();
        assert_eq!(source.rsplit(':').next(), Some(queue), "{priority}");
    }
}

#[tokio::test]
async fn immediate_send_queues_only_unfinished_recipients() {
    let world = World::saved().await;
    let mut some = to(3);
    some["strategy"] = json!("immediate");
    // The claim of one of the three is refused; the other two are sent.
    world.fail_deliveries(1);
    let answer = world.post(&some).await.expect(207);
    assert_eq!(world.smtp.messages().len(), 2);
    assert_eq!(work_off(&world).await, [1]);
    let status = world.status(&answer.request_id()).await.expect(200);
    let deliveries = status.body["deliveries"].as_array().unwrap();
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery["status"] == "sent")
    );
    assert_eq!(world.smtp.messages().len(), 3);
}
