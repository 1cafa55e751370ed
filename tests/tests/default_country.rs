//! Phone numbers without a country code are read as of the clinic's `defaultCountry`, whichever way they come.

use comms_testkit::http::{HttpServer, Reply};
use serde_json::{Value, json};

use crate::world::{CLINIC, World};

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
    for wrong in ["de", "ZZ", "DEU", "49"] {
        let answer = world
            .put_settings("clinic-456", settings(&graph, wrong))
            .await;
        assert_eq!(
            answer.expect(422).pointers(),
            ["/settings/communicationSettings/defaultCountry"]
        );
    }
}
