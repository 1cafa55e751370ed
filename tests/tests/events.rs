//! The events for `sam local invoke`: each is one that its function understands.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use comms_testkit::http::{HttpServer, Reply};
use serde_json::{Value, json};

use crate::world::{CLINIC, World, handle_records};

/// The events whose names begin with `prefix`, by the rest of their names.
fn events(prefix: &str) -> BTreeMap<String, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    files
        .filter_map(|file| {
            let name = file.file_name().into_string().unwrap();
            let rest = name.strip_prefix(prefix)?.strip_suffix(".json")?.to_owned();
            Some((rest, fs::read_to_string(file.path()).unwrap()))
        })
        .collect()
}

#[test]
fn every_event_belongs_to_a_function() {
    let all = events("").into_keys();
    let lost: Vec<_> = all
        .filter(|name| {
            !["config-", "send-", "worker-"]
                .iter()
                .any(|function| name.starts_with(function))
        })
        .collect();
    // The environment that they are given.
    assert_eq!(lost, ["env"]);
}

#[tokio::test]
async fn the_events_of_config_and_config_test_are_answered() {
    for (name, event) in events("config-") {
        let world = World::saved().await;
        match name.as_str() {
            // What is restored is the present version: nothing changes.
            "get" | "restore" => assert_eq!(
                world.ask_config(&event).await.expect(200).body["version"],
                1
            ),
            "put" => assert_eq!(
                world.ask_config(&event).await.expect(201).body["version"],
                1
            ),
            "patch" => {
                let answer = world.ask_config(&event).await.expect(200);
                assert_eq!(answer.body["version"], 2);
            }
            "delete" => assert_eq!(
                world.ask_config(&event).await.expect(204).text,
                "{\"cache-control\": \"no-store\"} "
            ),
            "versions" => {
                let answer = world.ask_config(&event).await.expect(200);
                assert_eq!(answer.body["versions"][0]["version"], 1);
            }
            "test-email" => {
                let answer = world.ask_config_test(&event).await.expect(200);
                assert_eq!(answer.body["ok"], true, "{}", answer.text);
                assert_eq!(world.smtp.messages().len(), 1);
            }
            "test-whatsapp" => {
                let graph = world.api().await;
                save_whatsapp(&world, &graph).await;
                let answer = world.ask_config_test(&event).await.expect(200);
                assert_eq!(answer.body["ok"], true, "{}", answer.text);
                let sent = graph.requests().pop().unwrap().json();
                assert_eq!(sent["template"]["name"], "hello_world");
            }
            other => panic!("no test knows what to expect of {other}"),
        }
    }
}

/// Saves `graph` as the clinic's provider for WhatsApp, and lets it know the number and take one message.
async fn save_whatsapp(world: &World, graph: &HttpServer) {
    let saved = world.get_settings(CLINIC).await;
    let mut document = saved.body["settings"]["communicationSettings"].clone();
    document["whatsapp"] = json!({"primary": {"provider": "meta_business", "credentials": {
        "accessToken": "planted-meta-token", "phoneNumberId": "123456789",
        "apiUrl": format!("{}/v23.0", graph.url())}}});
    let unchanged = [("if-match", saved.header("etag"))];
    world
        .put_settings_if(CLINIC, document, &unchanged)
        .await
        .expect(200);
    let number = json!({"verified_name": "Clinic", "id": "123456789"});
    graph.always("GET", "/v23.0/123456789", Reply::json(200, number));
    let accepted = json!({"messaging_product": "whatsapp", "messages": [{"id": "wamid.X"}]});
    let messages = "/v23.0/123456789/messages";
    graph.on("POST", messages, Reply::json(200, accepted));
}

#[tokio::test]
async fn the_events_of_send_are_answered() {
    for (name, event) in events("send-") {
        let world = World::saved().await;
        match name.as_str() {
            // What is restored is the present version: nothing changes.
            "get" | "restore" => assert_eq!(
                world.ask_send(&event).await.expect(404).body["code"],
                "not_found"
            ),
            "post-immediate" => {
                world.ask_send(&event).await.expect(200);
                assert_eq!(world.smtp.messages().len(), 1);
            }
            "post-queued" => {
                world.ask_send(&event).await.expect(202);
                assert!(world.run_worker().await.failed.is_empty());
                assert_eq!(world.smtp.messages().len(), 1);
            }
            other => panic!("no test knows what to expect of {other}"),
        }
    }
}

#[tokio::test]
async fn the_events_of_worker_are_delivered_and_the_poison_is_set_aside() {
    for (name, event) in events("worker-") {
        let world = World::saved().await;
        let event: Value = serde_json::from_str(&event).unwrap();
        let records = event["Records"].as_array().unwrap();
        let failed = handle_records(&world.worker, records, Duration::from_secs(30)).await;
        let poison: &[&str] = match name.as_str() {
            "one" => &[],
            "poison" => &["059f36b4-87a3-44ab-83d2-661975970002"],
            other => panic!("no test knows what to expect of {other}"),
        };
        assert_eq!(failed, [""; 0], "{name}");
        assert_eq!(world.smtp.messages().len(), records.len() - poison.len());
        let letters = world.dead_letters().await;
        let dead: Vec<_> = letters
            .iter()
            .map(|letter| letter["attributes"]["sourceMessageId"].as_str().unwrap())
            .collect();
        assert_eq!(dead, poison, "{name}");
    }
}
