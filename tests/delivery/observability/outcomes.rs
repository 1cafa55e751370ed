//! The line and the metrics of a message: what became of it, when, and by which provider.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use comms_testkit::{
    clock::ManualClock,
    smtp::{Action, Stage},
};
use comms_tests::{
    CLINIC, FROM, World, communication, email, entry, immediate,
    logs::{Listening, start_listening},
    record,
};
use serde_json::{Value, json};

use super::names;

pub(super) fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// The one line of how a delivery fared.
#[track_caller]
pub(super) fn outcome(listening: &Listening) -> Value {
    let lines = listening.metrics("Latency");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let line = lines[0].clone();
    assert_eq!(line["clinicId"], CLINIC);
    for id in ["requestId", "deliveryId", "invocationId"] {
        assert!(line[id].is_string(), "{line}");
    }
    // No id is a dimension.
    for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
        for dimension in directive["Dimensions"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|set| set.as_array().unwrap())
        {
            let name = dimension.as_str().unwrap();
            assert!(["channel", "provider", "reason"].contains(&name), "{name}");
        }
    }
    line
}

#[tokio::test]
async fn sent_message_is_one_line_with_its_latency_and_time_on_the_queue() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    let listening = start_listening();
    world.run_worker().await;
    let line = outcome(&listening);
    assert_eq!(names(&line), set(["Sent", "Latency", "TimeToOutcome"]));
    assert_eq!(line["Sent"], 1);
    assert_eq!(
        (&line["channel"], &line["provider"]),
        (&json!("email"), &json!("smtp"))
    );

    // Nobody waits on a queue for what is sent at once.
    drop(listening);
    let listening = start_listening();
    world.post(&immediate()).await.expect(200);
    assert_eq!(names(&outcome(&listening)), set(["Sent", "Latency"]));
}

#[tokio::test]
async fn a_failed_message_is_counted_by_its_reason_and_its_last_provider() {
    let world = World::saved().await;
    let refused = Action::reply("554 5.7.1 planted");
    world.smtp.always(Stage::Mail, refused);
    let listening = start_listening();
    world.post(&immediate()).await.expect(207);
    let line = outcome(&listening);
    assert_eq!(names(&line), set(["Failed", "Latency"]));
    assert_eq!(line["provider"], "smtp");
    assert_eq!(line["reason"], "ALL_PROVIDERS_FAILED");
    assert_eq!(
        line["_aws"]["CloudWatchMetrics"][0]["Dimensions"],
        json!([[], ["reason"], ["channel", "provider"]])
    );
    let attempts = listening.metrics("AttemptsFailed");
    assert_eq!(attempts.len(), 1);
    assert_eq!(names(&attempts[0]), set(["AttemptsFailed"]));
    assert_eq!(attempts[0]["clinicId"], CLINIC);
}

#[tokio::test]
async fn message_that_no_provider_saw_has_no_provider_dimension() {
    let world = World::new().await;
    let listening = start_listening();
    world.post(&immediate()).await.expect(207);
    let line = outcome(&listening);
    assert_eq!(
        (&line["provider"], &line["reason"]),
        (&json!("none"), &json!("NO_PROVIDER"))
    );
}

#[tokio::test]
async fn unknown_and_expired_outcomes_are_counted_as_such() {
    let world = World::saved().await;
    world.smtp.always(Stage::Body, Action::AcceptThenClose);
    let listening = start_listening();
    world.post(&immediate()).await.expect(207);
    assert_eq!(names(&outcome(&listening)), set(["Unknown", "Latency"]));
    drop(listening);

    let mut late = communication();
    late["expiresAt"] = json!("2020-01-01T00:00:00Z");
    let listening = start_listening();
    world
        .work_on(&[record("message-1", &late.to_string())])
        .await;
    let line = outcome(&listening);
    assert_eq!(names(&line), set(["Expired", "Latency"]));
    assert_eq!(line["Expired"], 1);
}

#[tokio::test]
async fn waiting_message_is_counted_as_deferred_without_an_outcome() {
    let world = World::saved().await;
    world
        .smtp
        .always(Stage::Mail, Action::reply("451 4.7.1 planted"));
    world.post(&communication()).await.expect(202);
    let listening = start_listening();
    world.run_worker().await;
    let line = outcome(&listening);
    assert_eq!(names(&line), set(["Deferred", "Latency"]));
    assert_eq!(line["provider"], "smtp");
}

#[tokio::test]
async fn message_of_an_expired_lease_is_counted_as_a_possible_duplicate() {
    let world = World::saved().await;
    let fallback = world
        .server("fallback-user", "planted-fallback-password")
        .start()
        .await;
    let mut settings = email(&world.entry(), FROM);
    settings["email"]["fallback"] = json!([entry(
        fallback.port(),
        "fallback-user",
        "planted-fallback-password"
    )]);
    world.put_settings(CLINIC, settings).await;
    world.smtp.always(Stage::Body, Action::AcceptThenClose);
    let listening = start_listening();
    world.post(&immediate()).await.expect(200);
    let line = outcome(&listening);
    assert_eq!(names(&line), set(["Sent", "PossibleDuplicate", "Latency"]));
    // By the provider that took it, and that it was not the first is said by the one that was.
    assert_eq!(listening.sum("SentByFallback"), 1);
}

#[tokio::test]
async fn time_on_the_fallback_is_logged_until_the_primary_works() {
    let world = World::saved().await;
    let global = world.save_global().await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    world
        .smtp
        .always(Stage::Mail, Action::reply("554 5.7.1 planted"));
    let listening = start_listening();
    let mut number = 0;
    let mut send = async || {
        number += 1;
        world.deliver(&worker, number).await;
    };
    send().await;
    // Long after it has left the window in which health is judged: two messages never take an entry down.
    clock.advance(Duration::from_mins(11));
    send().await;
    let lines = listening.metrics("OnFallback");
    let times: Vec<_> = lines
        .iter()
        .map(|line| line["OnFallback"].clone())
        .collect();
    assert_eq!(times, [json!(0), json!(660_000)]);
    assert_eq!(lines[1]["clinicId"], CLINIC);
    assert_eq!(lines[1]["provider"], "smtp");
    world.smtp.clear_script();
    send().await;
    world
        .smtp
        .always(Stage::Mail, Action::reply("554 5.7.1 planted"));
    clock.advance(Duration::from_mins(1));
    send().await;
    let last = listening.metrics("OnFallback").pop().unwrap();
    assert_eq!(last["OnFallback"], 0);
    assert_eq!(global.messages().len(), 3);
}

#[tokio::test]
async fn a_refused_login_is_counted_for_its_provider() {
    let world = World::new().await;
    let wrong = email(
        &entry(world.smtp.port(), "clinic-user", "planted-wrong"),
        FROM,
    );
    world.put_settings(CLINIC, wrong).await.expect(201);
    let listening = start_listening();
    world.post(&immediate()).await.expect(207);
    let lines = listening.metrics("LoginsRefused");
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (
            &lines[0]["LoginsRefused"],
            &lines[0]["provider"],
            &lines[0]["clinicId"]
        ),
        (&json!(1), &json!("smtp"), &json!(CLINIC))
    );
}
