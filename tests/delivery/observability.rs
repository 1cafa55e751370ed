//! What operators see: the metrics and lines that the functions write, and that code, table, dashboard, alarms and
//! documents have the same names for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use comms_adapters::registry;
use comms_core::{FailureReason, metric};
use comms_testkit::{
    aws::Fault,
    clock::ManualClock,
    smtp::{Action, Stage},
};
use comms_tests::{
    CLINIC, FROM, World, claims, communication, email, entry, http_event, immediate,
    logs::{Listening, start_listening},
    process::Process,
    record,
    repository::{file, yaml},
    service, super_admin,
};
use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

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

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// The one line of how a delivery fared.
#[track_caller]
fn outcome(listening: &Listening) -> Value {
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
async fn a_sent_message_is_one_line_with_its_latency_and_the_time_since_it_was_queued() {
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
async fn what_nobody_was_asked_about_has_no_provider() {
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
async fn an_unknown_outcome_and_one_that_expired_are_counted_as_that() {
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
async fn a_message_that_has_to_wait_is_deferred_and_has_no_end_yet() {
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
async fn what_an_earlier_owner_may_have_sent_is_a_possible_duplicate_when_it_is_sent() {
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
async fn how_long_a_clinic_has_been_on_its_fallback_is_told_with_every_message_and_is_over_with_the_first_that_works()
 {
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
        let mut one = communication();
        one["idempotencyKey"] = json!(format!("key-{number}"));
        world.enqueue(&one.to_string()).await;
        world
            .run_worker_with(&worker, Duration::from_secs(30))
            .await;
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

#[tokio::test]
async fn the_cache_and_kms_are_told_once_for_an_invocation() {
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
async fn what_aws_does_not_do_is_counted() {
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

const TRACE: &str = "5759e988bd862e3fe1be46a994272793";
const TRACE_ID: &str = "1-5759e988-bd862e3fe1be46a994272793";

#[tokio::test]
async fn every_line_of_a_message_has_the_trace_of_the_request_that_it_came_from() {
    let world = World::saved().await;
    let listening = start_listening();
    let parent = format!("00-{TRACE}-53995c3f42cd8ad8-01");
    let headers = [("traceparent", parent.as_str())];
    let queued = world.post_as(&communication(), service(), &headers).await;
    queued.expect(202);
    let accepted = listening.said("queued");
    assert_eq!(accepted[0]["traceId"], TRACE_ID);
    drop(listening);

    let listening = start_listening();
    let batch = world.run_worker().await;
    let header = &batch.records[0]["attributes"]["AWSTraceHeader"];
    assert_eq!(
        *header,
        format!("Root={TRACE_ID};Parent=53995c3f42cd8ad8;Sampled=1")
    );
    let mut of_message = listening.lines();
    of_message.retain(|line| !line["sqsMessageId"].is_null());
    assert!(of_message.len() >= 2, "{of_message:#?}");
    for line in of_message {
        assert_eq!(line["traceId"], TRACE_ID, "{line}");
    }
    let recorded = listening.said("delivery recorded");
    assert_eq!(recorded[0]["traceId"], TRACE_ID);
    assert_eq!(outcome(&listening)["traceId"], TRACE_ID);
}

#[tokio::test]
async fn messages_of_one_batch_keep_their_own_traces_and_a_dead_letter_its() {
    let world = World::saved().await;
    let roots = [
        "1-00000001-000000000000000000000001",
        "1-00000002-000000000000000000000002",
    ];
    let records: Vec<_> = roots
        .iter()
        .enumerate()
        .map(|(number, root)| {
            let body = if number == 0 {
                communication().to_string()
            } else {
                "{".to_owned()
            };
            let mut record = record(&format!("message-{number}"), &body);
            record["attributes"]["AWSTraceHeader"] = json!(format!("Root={root}"));
            record
        })
        .collect();
    let listening = start_listening();
    world.work_on(&records).await;
    assert_eq!(listening.said("delivery recorded")[0]["traceId"], roots[0]);
    assert_eq!(
        listening.said("a message is a dead letter")[0]["traceId"],
        roots[1]
    );
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["trace"], format!("Root={}", roots[1]));
    // The batch is nobody's.
    assert!(listening.said("batch handled")[0]["traceId"].is_null());
}

#[tokio::test]
async fn a_process_says_once_that_it_was_cold() {
    let world = World::new().await;
    let process = Process::start(&world, "status").await;
    let event = http_event("GET", "/api/v1/health", None, &Value::Null, &[]);
    for _ in 0..2 {
        assert_eq!(process.invoke(&event).await["statusCode"], 200);
    }
    let said = process.said();
    let lines: Vec<Value> = said
        .lines()
        // The harness has written the beginning of the first line.
        .filter_map(|line| serde_json::from_str(&line[line.find('{')?..]).ok())
        .collect();
    let count = |is: &dyn Fn(&Value) -> bool| lines.iter().filter(|line| is(line)).count();
    assert_eq!(count(&|line| line["message"] == "cold start"), 1, "{said}");
    assert_eq!(count(&|line| line["ColdStarts"] == 1), 1, "{said}");
    let cold: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "answered")
        .map(|line| (line["coldStart"].clone(), line["traceId"].is_string()))
        .collect();
    assert_eq!(cold, [(json!(true), true), (json!(false), true)], "{said}");
}

// What follows holds names to each other.

/// The fields of metrics.
fn table() -> BTreeSet<String> {
    metric::ALL
        .iter()
        .map(|metric| metric.field.to_owned())
        .collect()
}

/// The names of metrics.
fn table_names() -> BTreeSet<String> {
    metric::ALL.iter().map(metric::Metric::name).collect()
}

/// The sources that are deployed.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["tests", "target", "testkit", "benches"].contains(&name) {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests.rs"
        {
            found.push(path);
        }
    }
}

/// The fields of each event in `source` that is a metric: what stands after the target, up to the parenthesis
/// that ends the event.
fn emitted(source: &str) -> Vec<Vec<String>> {
    let mut events = Vec::new();
    for event in source.split("target: METRICS,").skip(1) {
        let (mut depth, mut field, mut parts) = (0, String::new(), Vec::new());
        for letter in event.chars() {
            match letter {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth == 0 => break,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => parts.push(std::mem::take(&mut field)),
                _ => {}
            }
            if letter != ',' || depth > 0 {
                field.push(letter);
            }
        }
        parts.push(field);
        let names = parts.iter().map(|part| {
            let name = part.split('=').next().unwrap_or_default().trim();
            name.trim_start_matches(['%', '?']).to_owned()
        });
        events.push(names.filter(|name| !name.is_empty()).collect());
    }
    events
}

/// The fields of each event in the code that is a metric.
fn emitted_by_the_code() -> Vec<Vec<String>> {
    let mut files = Vec::new();
    for directory in ["shared", "functions"] {
        sources(&Path::new(ROOT).join(directory), &mut files);
    }
    files
        .iter()
        .flat_map(|path| emitted(&std::fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn fields_of_events_are_found() {
    let source = "info!(target: METRICS, a = f(1, 2), %provider, b);\n\
                  info!(\n    target: METRICS,\n    c_ms = x.then_some(1_u64),\n    kind = k,\n);";
    assert_eq!(
        emitted(source),
        [vec!["a", "provider", "b"], vec!["c_ms", "kind"]]
    );
}

#[test]
fn the_table_has_every_metric_that_the_code_writes_and_no_other() {
    let written: BTreeSet<_> = emitted_by_the_code().into_iter().flatten().collect();
    // What says of what, and is not counted.
    let mut texts = set(["channel", "provider", "reason", "kind", "attempts"]);
    texts.extend(table());
    let unknown: Vec<_> = written.difference(&texts).collect();
    assert!(
        unknown.is_empty(),
        "not in shared/core/src/metric.rs: {unknown:?}"
    );
    let missing: Vec<_> = texts.difference(&written).collect();
    assert!(
        missing.is_empty(),
        "in the table, and written by nobody: {missing:?}"
    );
}

/// CloudWatch adds nothing up: an alarm on a dimension that the line does not have never goes off.
#[test]
fn a_metric_is_written_with_every_dimension_by_which_it_is_looked_at() {
    for event in emitted_by_the_code() {
        let metrics = event
            .iter()
            .filter_map(|field| metric::Metric::of_field(field));
        for metric in metrics {
            for dimension in metric.by.iter().copied().flatten() {
                assert!(
                    event.iter().any(|field| field == dimension),
                    "{} without its {dimension}: {event:?}",
                    metric.field
                );
            }
        }
    }
}

/// Our metrics of the dashboard, each with the names of the dimensions by which it is looked at.
fn on_the_dashboard(template: &Value) -> BTreeSet<(String, Vec<String>)> {
    let body = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]
        .as_str()
        .unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let mut found = BTreeSet::new();
    for widget in body["widgets"].as_array().unwrap() {
        let metrics = widget["properties"]["metrics"]
            .as_array()
            .into_iter()
            .flatten();
        for metric in metrics {
            let parts = metric.as_array().unwrap();
            if let Some(expression) = parts[0]["expression"].as_str() {
                let Some(search) =
                    expression.strip_prefix("SEARCH('{\"ClinicComms/${AWS::StackName}\",")
                else {
                    assert!(!expression.contains("SEARCH"), "{expression}");
                    continue;
                };
                let (by, rest) = search.split_once("} MetricName=\"").unwrap();
                let (name, _) = rest.split_once('"').unwrap();
                found.insert((name.to_owned(), by.split(',').map(str::to_owned).collect()));
            } else if parts[0].as_str().unwrap().starts_with("ClinicComms") {
                assert_eq!(parts[0], "ClinicComms/${AWS::StackName}");
                assert!(
                    parts[2].is_object(),
                    "{metric}: dimensions are not looked for here"
                );
                found.insert((parts[1].as_str().unwrap().to_owned(), Vec::new()));
            }
        }
    }
    found
}

/// Our metrics of the alarms, by the alarm.
fn of_alarms(template: &Value) -> BTreeMap<String, Vec<Value>> {
    let mut alarms = BTreeMap::new();
    for (name, resource) in template["Resources"].as_object().unwrap() {
        if resource["Type"] != "AWS::CloudWatch::Alarm" {
            continue;
        }
        let properties = &resource["Properties"];
        let parts = properties["Metrics"].as_array().into_iter().flatten();
        let metrics = parts
            .filter_map(|part| part["MetricStat"].get("Metric"))
            .chain([properties])
            .filter(|metric| {
                metric["Namespace"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("ClinicComms"))
            })
            .cloned()
            .collect();
        alarms.insert(name.clone(), metrics);
    }
    alarms
}

#[track_caller]
fn assert_known(name: &str, by: &[String], dimensions: &Value) {
    let metric = metric::ALL.iter().find(|metric| metric.name() == name);
    let metric = metric.unwrap_or_else(|| panic!("{name} is written by nobody"));
    assert!(
        metric
            .by
            .contains(&by.iter().map(String::as_str).collect::<Vec<_>>().as_slice()),
        "{name} by {by:?}"
    );
    for dimension in dimensions.as_array().into_iter().flatten() {
        let value = dimension["Value"].as_str().unwrap();
        let known = match dimension["Name"].as_str().unwrap() {
            "reason" => FailureReason::parse(value).is_some(),
            "provider" => registry::find(value).is_some(),
            other => panic!("{other} has no known values"),
        };
        assert!(known, "{name} is never written for {value}");
    }
}

#[test]
fn dashboard_and_alarms_look_at_what_is_written_and_the_dashboard_at_all_of_it() {
    let template = yaml("template.yaml");
    let dashboard = on_the_dashboard(&template);
    for (name, by) in &dashboard {
        assert_known(name, by, &Value::Null);
    }
    let shown: BTreeSet<_> = dashboard.into_iter().map(|(name, _)| name).collect();
    assert_eq!(shown, table_names());
    let mut looked_at = BTreeSet::new();
    for (alarm, metrics) in of_alarms(&template) {
        for metric in metrics {
            assert_eq!(
                metric["Namespace"], "ClinicComms/${AWS::StackName}",
                "{alarm}"
            );
            let name = metric["MetricName"].as_str().unwrap();
            let dimensions = metric["Dimensions"].as_array().into_iter().flatten();
            let by: Vec<_> = dimensions
                .map(|dimension| dimension["Name"].as_str().unwrap().to_owned())
                .collect();
            assert_known(name, &by, &metric["Dimensions"]);
            looked_at.insert(name.to_owned());
        }
    }
    let expected = set([
        "Failed",
        "Sent",
        "OnFallback",
        "LoginsRefused",
        "CallersRefused",
        "KmsErrors",
        "SettingsRefused",
        "UnrecordedOutcomes",
        "AwsErrors",
        "AwsThrottled",
    ]);
    assert_eq!(looked_at, expected);
    let functions = &template["Globals"]["Function"]["Environment"]["Variables"];
    assert_eq!(
        functions["METRICS_NAMESPACE"],
        "ClinicComms/${AWS::StackName}"
    );
}

/// `QueueAgeAlarm` is about the queue age.
fn subject(alarm: &str) -> String {
    let mut words = String::new();
    for letter in alarm.strip_suffix("Alarm").unwrap().chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[test]
fn every_alarm_tells_somebody_is_on_the_dashboard_and_has_its_page_in_the_runbook() {
    let template = yaml("template.yaml");
    let runbook = file("infra/docs/OPERATIONS.md");
    let (_, runbook) = runbook.split_once("\n## When an alarm goes off\n").unwrap();
    let runbook = runbook.split("\n## ").next().unwrap();
    let pages: BTreeSet<_> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(str::to_lowercase)
        .collect();
    let alarms: BTreeSet<_> = of_alarms(&template).into_keys().collect();
    assert_eq!(pages, alarms.iter().map(|alarm| subject(alarm)).collect());
    let body = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]
        .as_str()
        .unwrap();
    for alarm in &alarms {
        assert!(
            body.contains(&format!("${{{alarm}.Arn}}")),
            "{alarm} is not on the dashboard"
        );
        let properties = &template["Resources"][alarm]["Properties"];
        for actions in ["AlarmActions", "OKActions"] {
            assert!(
                properties[actions].to_string().contains("AlarmTopicArn"),
                "{alarm}"
            );
        }
        assert_eq!(properties["TreatMissingData"], "notBreaching", "{alarm}");
    }
}

/// How the table of LOGGING.md has a metric.
fn row(metric: &metric::Metric) -> String {
    let ways: Vec<_> = metric
        .by
        .iter()
        .filter(|way| !way.is_empty())
        .map(|way| way.join(", "))
        .collect();
    let written = match metric.written {
        metric::Written::Each => "each",
        metric::Written::Summed => "invocation",
    };
    format!(
        "| `{}` | {} | {} | {written} | {} |",
        metric.name(),
        metric.unit(),
        ways.join("; "),
        metric.says
    )
}

#[test]
fn the_document_has_the_table_as_the_code_has_it() {
    let document = file("infra/docs/LOGGING.md");
    let rows: Vec<_> = metric::ALL.iter().map(row).collect();
    let rows = rows.join("\n");
    assert!(
        document.contains(&rows),
        "LOGGING.md should have these rows:\n{rows}"
    );
}

#[test]
fn the_events_that_the_document_names_are_written() {
    let mut files = Vec::new();
    for directory in ["shared", "functions"] {
        sources(&Path::new(ROOT).join(directory), &mut files);
    }
    let code: String = files
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let document = file("infra/docs/LOGGING.md");
    let (_, events) = document.split_once("\n## Events\n").unwrap();
    let events = events.split("\n## ").next().unwrap();
    let named: Vec<_> = events
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once('`'))
        .map(|(message, _)| message)
        .collect();
    assert!(named.len() > 15, "{named:?}");
    for message in named {
        assert!(
            code.contains(&format!("\"{message}\"")),
            "{message:?} is written by nobody"
        );
    }
}
