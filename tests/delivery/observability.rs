//! What operators see: the metrics and lines that the functions write, and that code, table, dashboard, alarms and
//! documents have the same names for them.

mod documents;
mod outcomes;
mod traces;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use comms_testkit::{aws::Fault, clock::ManualClock};
use comms_tests::{
    CLINIC, World, claims, communication, http_event, immediate, logs::start_listening, super_admin,
};
use serde_json::{Value, json};

/// The names of the metrics of a line.
fn names(line: &Value) -> BTreeSet<String> {
    let directives = line["_aws"]["CloudWatchMetrics"].as_array().unwrap();
    let metrics = directives
        .iter()
        .flat_map(|directive| directive["Metrics"].as_array().unwrap());
    metrics
        .map(|metric| metric["Name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn cache_and_kms_metrics_are_written_once_an_invocation() {
    let mut world = World::saved().await;
    world.restart();
    let mut many = communication();
    many["recipients"] = (0..5)
        .map(|number| json!({"email": format!("patient-{number}@example.com")}))
        .collect();
    world.enqueue(&many.to_string()).await;
    let listening = start_listening();
    world.run_worker().await;
    let lines = listening.metrics("ConfigCacheMisses");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let line = &lines[0];
    // The clinic's, and those of the platform, of which there are none. Whoever waited for them had them.
    assert_eq!(line["ConfigCacheMisses"], 2);
    assert_eq!(line["ConfigCacheHits"], 8);
    // The clinic's data key, and the key of the hashes.
    assert_eq!(
        listening.sum("KmsDecrypts") + listening.sum("KmsDataKeys"),
        2
    );
    assert!(line["invocationId"].is_string());
    drop(listening);

    let listening = start_listening();
    world.enqueue(&communication().to_string()).await;
    world.run_worker().await;
    assert_eq!(listening.sum("ConfigCacheHits"), 2);
    for nothing in ["ConfigCacheMisses", "ConfigCacheStale", "KmsDecrypts"] {
        assert_eq!(listening.sum(nothing), 0, "{nothing}");
    }
}

#[tokio::test]
async fn remembered_settings_that_were_replaced_are_stale() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let send = async || {
        world.enqueue(&communication().to_string()).await;
        world
            .run_worker_with(&worker, Duration::from_secs(30))
            .await;
    };
    send().await;
    let listening = start_listening();
    clock.advance(Duration::from_secs(61));
    send().await;
    // The clinic's, and those of the platform, of which it is known that there are none.
    assert_eq!(listening.sum("SettingsVersionReads"), 2);
    assert_eq!(listening.sum("ConfigCacheStale"), 0);
    drop(listening);

    let patch = json!({"email": {"defaultFromName": "Another Name"}});
    world.patch_settings(CLINIC, patch).await.expect(200);
    let listening = start_listening();
    send().await;
    assert_eq!(listening.sum("SettingsVersionReads"), 1);
    assert_eq!(listening.sum("ConfigCacheStale"), 1);
    assert_eq!(listening.sum("KmsDecrypts"), 1);
}

#[tokio::test]
async fn aws_failures_are_counted() {
    let mut world = World::saved().await;
    world.restart();
    world
        .aws
        .fail_next("kms", "Decrypt", 100, Fault::AccessDenied);
    let listening = start_listening();
    world.post(&immediate()).await;
    assert!(listening.sum("KmsErrors") > 0);
    assert_eq!(listening.sum("AwsErrors"), listening.sum("KmsErrors"));
    assert_eq!(listening.sum("AwsThrottled"), 0);
    drop(listening);
    world.aws.clear_faults();

    let listening = start_listening();
    world
        .aws
        .fail_next("sqs", "SendMessageBatch", 100, Fault::Throttle);
    world.post(&communication()).await.expect(503);
    // After the retries of the SDK, and not once for each.
    assert_eq!(listening.sum("AwsErrors"), 1);
    assert_eq!(listening.sum("AwsThrottled"), 1);
    assert_eq!(listening.sum("KmsErrors"), 0);
}

#[tokio::test]
async fn callers_that_are_refused_are_counted() {
    let world = World::saved().await;
    let listening = start_listening();
    let stranger = claims("CLINIC_ADMIN", Some("clinic-456"));
    world.post_as(&immediate(), stranger, &[]).await.expect(403);
    world
        .post_as(&immediate(), Value::Null, &[])
        .await
        .expect(403);
    assert_eq!(listening.sum("CallersRefused"), 2);
    let sent = world.post(&immediate()).await.expect(200);
    assert_eq!(listening.sum("CallersRefused"), 2);
    // What is answered as an unknown id is logged as what it is.
    let path = format!("/api/v1/communications/{}", sent.request_id());
    let stranger = claims("CLINIC_ADMIN", Some("clinic-456"));
    let event = http_event("GET", &path, None, &stranger, &[]);
    world.ask_status(&event).await.expect(404);
    assert_eq!(listening.sum("CallersRefused"), 3);
    assert_eq!(listening.said("refused").len(), 2);
    let event = http_event(
        "GET",
        &path,
        None,
        &super_admin(),
        &[("authorization", "Bearer x")],
    );
    world.ask_status(&event).await.expect(403);
    assert_eq!(listening.sum("CallersRefused"), 4);
    let line = &listening.said("a token was refused that the authorizer accepted")[0];
    assert_eq!(line["error"], "the token is not a signed JWT");
}

// What follows holds names to each other.
