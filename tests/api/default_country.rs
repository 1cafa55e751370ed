//! Phone numbers without a country code are read as of the clinic's `defaultCountry`, whichever way they come.

use std::{sync::Arc, time::Duration};

use comms_testkit::{
    clock::ManualClock,
    http::{HttpServer, Reply},
};
use comms_tests::{CLINIC, World, handle_records, record};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_mins(1);

/// The clinic's settings, with `country` as their `defaultCountry`.
fn settings(graph: &HttpServer, country: &str) -> Value {
    json!({"defaultCountry": country, "whatsapp": {"primary": {"provider": "meta_business", "credentials": {
        "accessToken": "planted-meta-token", "phoneNumberId": "123456789", "apiUrl": format!("{}/v23.0", graph.url())}},
        "fallbackStrategy": {"useGlobal": false, "retryAttempts": 0}}})
}

async fn clinic_in(country: &str) -> (World, HttpServer) {
    let world = World::new().await;
    let graph = world.api().await;
    let saved = world.put_settings(CLINIC, settings(&graph, country)).await;
    saved.expect(201);
    (world, graph)
}

fn reminder(number: &str) -> Value {
    json!({"strategy": "immediate", "channels": ["whatsapp"], "recipients": [{"phoneNumber": number}],
        "body": "Tomorrow at 10:00.", "metadata": {"clinicId": CLINIC}})
}

fn accepted() -> Reply {
    Reply::json(
        200,
        json!({"messaging_product": "whatsapp", "messages": [{"id": "wamid.X"}]}),
    )
}

fn numbers(graph: &HttpServer) -> Vec<Value> {
    let requests = graph.requests();
    requests
        .iter()
        .map(|request| request.json()["to"].clone())
        .collect()
}

#[tokio::test]
async fn a_national_number_is_sent_to_in_the_clinics_country() {
    let (world, graph) = clinic_in("DE").await;
    for number in ["0171 1234567", "0049 171 1234567", "+1 415 555 2671"] {
        graph.on("POST", "/v23.0/123456789/messages", accepted());
        world.post(&reminder(number)).await.expect(200);
    }
    assert_eq!(
        numbers(&graph),
        ["+491711234567", "+491711234567", "+14155552671"]
    );
}

#[tokio::test]
async fn a_change_of_the_country_counts_for_the_next_request() {
    let (world, graph) = clinic_in("DE").await;
    graph.on("POST", "/v23.0/123456789/messages", accepted());
    world.post(&reminder("0171 1234567")).await.expect(200);
    let patch = json!({"defaultCountry": "AT"});
    world.patch_settings(CLINIC, patch).await.expect(200);
    graph.on("POST", "/v23.0/123456789/messages", accepted());
    world.post(&reminder("0664 123456")).await.expect(200);
    assert_eq!(numbers(&graph), ["+491711234567", "+43664123456"]);
}

#[tokio::test]
async fn a_producer_may_put_national_numbers_on_the_queue() {
    let (world, graph) = clinic_in("IN").await;
    graph.on("POST", "/v23.0/123456789/messages", accepted());
    let mut queued = reminder("081234 56789");
    queued["strategy"] = json!("queued");
    world.enqueue(&queued.to_string()).await;
    assert_eq!(world.run_worker().await.failed, Vec::<String>::new());
    assert_eq!(numbers(&graph), ["+918123456789"]);
}

#[tokio::test]
async fn without_a_country_a_national_number_is_refused_with_what_would_help() {
    let world = World::saved().await;
    let answer = world.post(&reminder("0171 1234567")).await.expect(422);
    assert_eq!(answer.pointers(), ["/recipients/0/phoneNumber"]);
    assert!(answer.text.contains("defaultCountry"), "{}", answer.text);

    let (world, _) = clinic_in("DE").await;
    // A number that the country cannot have.
    let answer = world.post(&reminder("0171")).await.expect(422);
    assert_eq!(answer.pointers(), ["/recipients/0/phoneNumber"]);
    // Of the platform itself, and of nobody.
    let mut unnamed = reminder("0171 1234567");
    unnamed["metadata"] = json!({});
    world.post(&unnamed).await.expect(422);
}

#[tokio::test]
async fn the_country_is_shown_and_a_code_that_is_none_is_refused() {
    let (world, graph) = clinic_in("DE").await;
    let shown = world.get_settings(CLINIC).await.expect(200);
    let document = &shown.body["settings"]["communicationSettings"];
    assert_eq!(document["defaultCountry"], "DE");
    for wrong in ["de", "ZZ", "DEU", "49", "", "AQ"] {
        let answer = world
            .put_settings("clinic-456", settings(&graph, wrong))
            .await;
        assert_eq!(
            answer.expect(422).pointers(),
            ["/settings/communicationSettings/defaultCountry"]
        );
    }
}

#[tokio::test]
async fn a_repeated_request_is_read_by_the_country_of_the_first() {
    let (world, graph) = clinic_in("DE").await;
    graph.on("POST", "/v23.0/123456789/messages", accepted());
    let first = world
        .post_with_key(&reminder("0171 1234567"), "key-1")
        .await;
    let id = first.expect(200).request_id();
    let mut keyed = reminder("0171 1234567");
    keyed["idempotencyKey"] = json!("key-1");
    for country in [json!("AT"), json!("FR"), Value::Null] {
        let patch = json!({"defaultCountry": country});
        world.patch_settings(CLINIC, patch).await.expect(200);
        let again = world
            .post_with_key(&reminder("0171 1234567"), "key-1")
            .await;
        let again = again.expect(200);
        assert_eq!(again.header("idempotency-replayed"), "true", "{country}");
        assert_eq!(again.request_id(), id);
        // The key may stand in the body.
        assert_eq!(world.post(&keyed).await.expect(200).request_id(), id);
    }
    assert_eq!(numbers(&graph), ["+491711234567"]);
    // What is another communication stays one.
    let other = world
        .post_with_key(&reminder("0171 7654321"), "key-1")
        .await;
    other.expect(409);
    let unread = world.post_with_key(&reminder("0171"), "key-1").await;
    unread.expect(422);
}

/// A producer's message whose first delivery was deferred, in a clinic of Germany, and the worker that deferred it.
async fn deferred() -> (
    World,
    HttpServer,
    Arc<ManualClock>,
    comms_worker::Deps,
    Value,
) {
    let (world, graph) = clinic_in("DE").await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    graph.on(
        "POST",
        "/v23.0/123456789/messages",
        Reply::json(
            429,
            json!({"error": {"code": 130_429, "message": "Rate limit hit"}}),
        ),
    );
    let mut queued = reminder("0171 1234567");
    queued["strategy"] = json!("queued");
    queued["idempotencyKey"] = json!("key-1");
    let message = record("message-1", &queued.to_string());
    let failed = handle_records(&worker, std::slice::from_ref(&message), MINUTE).await;
    assert_eq!(failed, ["message-1"]);
    (world, graph, clock, worker, message)
}

#[tokio::test]
async fn a_waiting_message_is_sent_by_the_country_it_was_first_read_in() {
    for country in [json!("AT"), Value::Null] {
        let (world, graph, clock, worker, mut message) = deferred().await;
        let patch = json!({"defaultCountry": country});
        world.patch_settings(CLINIC, patch).await.expect(200);
        graph.on("POST", "/v23.0/123456789/messages", accepted());
        clock.advance(Duration::from_hours(1));
        message["attributes"]["ApproximateReceiveCount"] = json!("2");
        // Once more after it was sent, and as a producer puts it on the queue again.
        for id in ["message-1", "message-1", "message-2"] {
            message["messageId"] = json!(id);
            let failed = handle_records(&worker, std::slice::from_ref(&message), MINUTE).await;
            assert_eq!(failed, Vec::<String>::new(), "{country} {id}");
        }
        assert_eq!(world.dead_letters().await, Vec::<Value>::new(), "{country}");
        assert_eq!(numbers(&graph), ["+491711234567", "+491711234567"]);
    }
}
