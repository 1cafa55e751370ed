//! The events for `sam local invoke`: each is understood by its function and answered as `answers.json` beside them
//! says, by a process of its own under the Lambda Runtime API.
//!
//! With `FUNCTIONS_DIR` set to a directory with the functions' programs it is those that answer (`infra/ci/events.sh`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use comms_functions::{SourceQueue, Trigger};
use comms_testkit::http::{HttpServer, Reply};
use comms_tests::{CLINIC, FUNCTIONS, World, process::Process, repository::yaml, routes::deployed};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// What is beside the events and is none: the environment that `sam local invoke` gives, and the answers.
const NO_EVENTS: [&str; 2] = ["answers", "env"];

/// What is expected of an event, of a clinic that has a mail server and nothing else, at its first version.
struct Expected {
    /// The function that gets it, as its program is called.
    function: &'static str,
    /// What is in the answer; there may be more in it.
    answer: Value,
    /// How many messages the mail server gets.
    mails: u64,
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("events/{name}.json"))
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// The names of the events.
fn events() -> BTreeSet<String> {
    let files = fs::read_dir(path("env").parent().unwrap()).unwrap();
    let names = files.filter_map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        Some(name.strip_suffix(".json")?.to_owned())
    });
    names
        .filter(|name| !NO_EVENTS.contains(&name.as_str()))
        .collect()
}

/// `answers.json`.
fn expected() -> BTreeMap<String, Expected> {
    let answers: Value = serde_json::from_str(&read("answers")).unwrap();
    let answers = answers.as_object().unwrap().iter();
    answers
        .map(|(event, expected)| {
            let logical_name = expected["function"].as_str().unwrap();
            let function = FUNCTIONS.into_iter().find(|function| {
                logical_name == comms_tests::permissions::template::logical_name(function)
            });
            let expected = Expected {
                function: function.unwrap_or_else(|| panic!("{logical_name} is no function")),
                answer: expected["answer"].clone(),
                mails: expected["mails"].as_u64().unwrap_or(0),
            };
            (event.clone(), expected)
        })
        .collect()
}

/// Whether everything of `part` is in `whole`: members of objects by their names, of lists by their places.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(name, part)| whole.get(name).is_some_and(|whole| contains(whole, part))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len()
                && whole
                    .iter()
                    .zip(part)
                    .all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}

/// An answer with its body as JSON rather than as text.
fn opened(mut answer: Value) -> Value {
    if let Some(body) = answer["body"].as_str().filter(|body| !body.is_empty()) {
        answer["body"] = serde_json::from_str(body).unwrap();
    }
    answer
}

async fn check(event: &str, expected: &Expected) {
    let world = World::saved().await;
    let process = Process::start(&world, expected.function).await;
    let answer = opened(process.invoke(&read(event)).await);
    assert!(
        contains(&answer, &expected.answer),
        "{event} is answered with {answer}, which is not {}\n{}",
        expected.answer,
        process.said()
    );
    assert_eq!(
        world.smtp.messages().len() as u64,
        expected.mails,
        "{event}\n{}",
        process.said()
    );
}

#[tokio::test]
async fn every_event_is_answered_by_a_process_of_its_function_as_expected() {
    let expected = expected();
    // A few at a time: each starts a process.
    let all: Vec<_> = expected.iter().collect();
    for some in all.chunks(4) {
        join_all(some.iter().map(|(event, expected)| check(event, expected))).await;
    }
}

#[test]
fn every_event_has_its_answer_and_every_route_and_function_an_event() {
    let expected = expected();
    assert_eq!(events(), expected.keys().cloned().collect());
    let mut asked: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, Expected { function, .. }) in &expected {
        let event: Value = serde_json::from_str(&read(name)).unwrap();
        let source = event["routeKey"]
            .as_str()
            .or_else(|| event["Records"][0]["eventSourceARN"].as_str());
        asked
            .entry(function)
            .or_default()
            .insert(source.unwrap().to_owned());
    }
    let mut deployed_to: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for route in deployed() {
        let source = format!("{} {}", route.method, route.path);
        deployed_to
            .entry(route.function.name)
            .or_default()
            .insert(source);
    }
    for function in comms_functions::ALL {
        if let Trigger::Sqs(queues) = function.trigger {
            let queues = queues.iter().map(|queue| {
                let name = match queue {
                    SourceQueue::Normal => "clinic-comms",
                    SourceQueue::Urgent => "clinic-comms-urgent",
                };
                format!("arn:aws:sqs:us-east-1:123456789012:{name}")
            });
            deployed_to.insert(function.name, queues.collect());
        }
    }
    assert_eq!(asked, deployed_to);
}

/// `sam local invoke` gives a function only those variables of its file that the template declares for it.
#[test]
fn the_environment_for_sam_sets_what_the_template_declares() {
    let template = yaml("template.yaml");
    let declared = |of: &Value| -> BTreeSet<String> {
        let variables = of["Environment"]["Variables"].as_object();
        variables
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect()
    };
    let mut all = declared(&template["Globals"]["Function"]);
    for function in FUNCTIONS {
        let function = comms_tests::permissions::template::logical_name(function);
        all.extend(declared(&template["Resources"][function]["Properties"]));
    }
    let given: Value = serde_json::from_str(&read("env")).unwrap();
    let given: BTreeSet<_> = given["Parameters"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert!(given.is_subset(&all), "{given:?} {all:?}");
    // What is left is good as the template has it by default.
    let defaults: Vec<_> = all.difference(&given).map(String::as_str).collect();
    assert_eq!(
        defaults,
        [
            "ACCEPT_UNSEALED_SETTINGS",
            "ADDRESS_MASK",
            "AUDIT_SUBJECTS",
            "AWS_USE_FIPS_ENDPOINT",
            "EXTRA_CA_FILE",
            "IMMEDIATE_SENDS_IN_FLIGHT",
            "JWT_CLINIC_CLAIM",
            "JWT_ROLES_CLAIM",
            "METRICS_BY_CLINIC",
            "METRICS_NAMESPACE",
            "PURGE_AFTER_DAYS",
            "REQUIRE_CLINIC",
            "SETTINGS_RETENTION_DAYS",
            "SLOW_WORKER_SHARE_PERCENT",
            "STACK_ACCOUNT_ID",
            "URGENT_PER_HOUR",
            "URGENT_WORKER_CONCURRENCY",
            "WORKER_CONCURRENCY",
        ]
    );
}

#[tokio::test]
async fn queued_event_of_send_is_delivered_by_the_worker() {
    let world = World::saved().await;
    world.ask_send(&read("send-post-queued")).await.expect(202);
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn the_event_for_whatsapp_tests_with_a_template_where_the_clinic_has_a_provider() {
    let world = World::saved().await;
    let graph = world.api().await;
    save_whatsapp(&world, &graph).await;
    let answer = world
        .ask_config_test(&read("config-test-whatsapp"))
        .await
        .expect(200);
    assert_eq!(answer.body["ok"], true, "{}", answer.text);
    let sent = graph.requests().pop().unwrap().json();
    assert_eq!(sent["template"]["name"], "hello_world");
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
async fn message_that_is_no_communication_is_a_dead_letter_and_takes_no_other_along() {
    let world = World::saved().await;
    let event: Value = serde_json::from_str(&read("worker-poison")).unwrap();
    world.work_on(event["Records"].as_array().unwrap()).await;
    let letters = world.dead_letters().await;
    let source = |letter: &Value| letter["attributes"]["sourceMessageId"].clone();
    let dead: Vec<_> = letters.iter().map(source).collect();
    assert_eq!(dead, ["059f36b4-87a3-44ab-83d2-661975970002"]);
}
