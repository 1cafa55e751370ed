//! One clinic's API sends informational responses without end. The other clinic's messages, in the same batch of the same
//! worker, go out as if nothing were.

use std::time::{Duration, Instant};

use comms_testkit::hostile::{HostileServer, Step};
use comms_tests::{CLINIC, FROM, World, communication, email, handle_records, record};
use serde_json::json;

const ATTACKED: &str = "clinic-attacked";
const MESSAGES: u64 = 5;
/// What Lambda gives an invocation.
const INVOCATION: Duration = Duration::from_secs(30);

/// Queued messages of a clinic, as its queue brings them.
fn messages(clinic: &str, round: u64) -> Vec<serde_json::Value> {
    let queued = |n| {
        let mut body = communication();
        body["metadata"]["clinicId"] = json!(clinic);
        body["idempotencyKey"] = json!(format!("{clinic}-{round}-{n}"));
        record(&format!("{clinic}-{n}"), &body.to_string())
    };
    (0..MESSAGES).map(queued).collect()
}

/// How long the neighbor's messages take from here on, `received` of them having come before.
async fn neighbor_time(world: &World, received: u64) -> Duration {
    let begin = Instant::now();
    world.smtp.wait_for_messages(received + MESSAGES).await;
    begin.elapsed()
}

#[tokio::test]
async fn an_api_that_floods_delays_no_other_clinic_of_the_worker() {
    let world = World::saved().await;
    let script = vec![
        Step::ReadUntil(b"\r\n\r\n"),
        Step::Flood(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec()),
    ];
    let certificate = world.ca.server_config(&["127.0.0.1"]);
    let api = HostileServer::start(Some(certificate), script).unwrap();
    let entry = json!({"provider": "sendgrid", "credentials": {"apiKey": "planted-key",
        "fromEmail": "hello@clinic.example", "apiUrl": format!("https://127.0.0.1:{}", api.port())}});
    let saved = world.put_settings(ATTACKED, email(&entry, FROM)).await;
    saved.expect(201);

    // The first messages of a process are slower: settings are read, connections made.
    handle_records(&world.worker, &messages(CLINIC, 0), INVOCATION).await;
    let records = messages(CLINIC, 1);
    let (failed, quiet) = tokio::join!(
        handle_records(&world.worker, &records, INVOCATION),
        neighbor_time(&world, MESSAGES)
    );
    assert!(failed.is_empty());

    let mut records = messages(ATTACKED, 2);
    records.extend(messages(CLINIC, 2));
    let begin = Instant::now();
    let (failed, attacked) = tokio::join!(
        handle_records(&world.worker, &records, INVOCATION),
        neighbor_time(&world, 2 * MESSAGES)
    );
    let total = begin.elapsed();
    // Five messages of the attacked clinic are worked on as well: as many again as the neighbor's, and 100 ms for each.
    let most = quiet * 3 + Duration::from_millis(100) * 5;
    let times = format!("neighbor {quiet:?}, attacked {attacked:?}; the batch {total:?}");
    assert!(attacked < most, "{times}");
    assert!(total < Duration::from_secs(5), "{times}");
    let of_neighbor = |id: &&String| id.starts_with(CLINIC);
    assert_eq!(failed.iter().find(of_neighbor), None);
    assert_eq!(world.smtp.messages().len() as u64, 3 * MESSAGES);
    assert!(api.connections() > 0);
}
