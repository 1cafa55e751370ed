//! Alarms of `template.yaml` over the metrics that the functions emit: what is one clinic's own affair wakes nobody, and what
//! concerns all of them does. What AWS counts is given as AWS writes it.

mod cloudwatch;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use comms_testkit::{
    aws::Fault,
    clock::ManualClock,
    smtp::{Action, Stage},
};
use comms_tests::{
    CLINIC, FROM, World, claims, communication, email, entry, immediate, logs::start_listening,
    repository::yaml,
};
use serde_json::{Value, json};

use self::cloudwatch::{Alarm, Period, Series};

/// Lines with metrics, each so many times.
fn period(lines: &[(&[Value], usize)]) -> Period {
    let mut period = Period::default();
    for (lines, times) in lines {
        for line in lines.iter().cycle().take(lines.len() * times) {
            period.add_line(line);
        }
    }
    period
}

/// Whether an alarm is on when this has happened in all of its periods.
fn is_on(alarm: &str, period: &Period) -> bool {
    let template = yaml("template.yaml");
    let alarm = Alarm::of(&template, alarm);
    alarm.is_on(&vec![period.clone(); alarm.evaluation_periods()])
}

/// What the functions write of `work`.
async fn emitted(work: impl Future<Output = ()>) -> Vec<Value> {
    let listening = start_listening();
    work.await;
    let mut lines = listening.lines();
    lines.retain(|line| !line["_aws"].is_null());
    lines
}

async fn sent(world: &World) -> Vec<Value> {
    let send = async {
        world.post(&immediate()).await.expect(200);
    };
    emitted(send).await
}

#[tokio::test]
async fn one_failing_clinic_is_no_alarm_but_a_tenth_of_messages_is() {
    let world = World::saved().await;
    let sent = sent(&world).await;
    world
        .smtp
        .always(Stage::Mail, Action::reply("554 5.7.1 planted"));
    let failing = async {
        world.post(&immediate()).await.expect(207);
    };
    let failed = emitted(failing).await;
    let share = |failures, successes| period(&[(&failed, failures), (&sent, successes)]);
    let alarm = "AllProvidersFailedAlarm";
    assert!(!is_on(alarm, &share(10, 300)));
    assert!(is_on(alarm, &share(40, 300)));
    // Nothing was sent at all, and too little to say anything.
    assert!(is_on(alarm, &share(20, 0)));
    assert!(!is_on(alarm, &share(19, 0)));
    assert!(!is_on(alarm, &share(0, 300)));
    assert!(!is_on(alarm, &Period::default()));
}

#[tokio::test]
async fn one_clinic_on_its_fallback_is_no_alarm_but_a_tenth_is() {
    let world = World::saved().await;
    let _global = world.save_global().await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    world
        .smtp
        .always(Stage::Mail, Action::reply("554 5.7.1 planted"));
    let mut number = 0;
    let mut deliver = async || {
        number += 1;
        world.deliver(&worker, number).await;
    };
    let at_first = emitted(deliver()).await;
    clock.advance(Duration::from_mins(11));
    let later = emitted(deliver()).await;
    assert!(later.iter().any(|line| line["OnFallback"] == 660_000));
    world.smtp.clear_script();
    let sent = sent(&world).await;
    let alarm = "ClinicOnFallbackAlarm";
    assert!(is_on(alarm, &period(&[(&later, 30), (&sent, 200)])));
    assert!(!is_on(alarm, &period(&[(&later, 10), (&sent, 200)])));
    // Whatever has failed for less than ten minutes may be over.
    assert!(!is_on(alarm, &period(&[(&at_first, 100), (&sent, 100)])));
    assert!(!is_on(alarm, &period(&[(&later, 10)])));
}

#[tokio::test]
async fn wrong_password_of_one_clinic_is_no_alarm_but_of_many_is() {
    let world = World::new().await;
    let wrong = email(
        &entry(world.smtp.port(), "clinic-user", "planted-wrong"),
        FROM,
    );
    world.put_settings(CLINIC, wrong).await.expect(201);
    let refusing = async {
        world.post(&immediate()).await.expect(207);
    };
    let refused = emitted(refusing).await;
    let another = World::saved().await;
    let sent = sent(&another).await;
    let alarm = "LoginsRefusedAlarm";
    assert!(!is_on(alarm, &period(&[(&refused, 12), (&sent, 20)])));
    assert!(!is_on(alarm, &period(&[(&refused, 40), (&sent, 5_000)])));
    assert!(is_on(alarm, &period(&[(&refused, 40), (&sent, 500)])));
}

#[tokio::test]
async fn keys_that_do_not_open_and_requests_that_fail_are_alarms() {
    let mut world = World::saved().await;
    world.restart();
    world
        .aws
        .fail_next("kms", "Decrypt", 100, Fault::AccessDenied);
    let failing = async {
        world.post(&immediate()).await;
        world.post(&immediate()).await;
    };
    let lines = emitted(failing).await;
    assert!(is_on("KmsErrorsAlarm", &period(&[(&lines, 1)])));
    assert!(is_on("AwsErrorsAlarm", &period(&[(&lines, 10)])));
    world.aws.clear_faults();

    world
        .aws
        .fail_next("sqs", "SendMessageBatch", 100, Fault::Throttle);
    let throttled = async {
        world.post(&communication()).await.expect(503);
    };
    let lines = emitted(throttled).await;
    assert!(!is_on("ThrottlingAlarm", &period(&[(&lines, 10)])));
    assert!(is_on("ThrottlingAlarm", &period(&[(&lines, 11)])));
    assert!(!is_on("KmsErrorsAlarm", &period(&[(&lines, 11)])));
}

#[tokio::test]
async fn refused_callers_and_forged_settings_are_alarms() {
    let mut world = World::saved().await;
    let trying = async {
        let stranger = claims("CLINIC_ADMIN", Some("clinic-456"));
        world.post_as(&immediate(), stranger, &[]).await.expect(403);
    };
    let refused = emitted(trying).await;
    assert!(!is_on("CallersRefusedAlarm", &period(&[(&refused, 20)])));
    assert!(is_on("CallersRefusedAlarm", &period(&[(&refused, 21)])));

    world.restart();
    comms_tests::items::change_sender(&world).await;
    let sending = async {
        world.post(&immediate()).await;
    };
    let lines = emitted(sending).await;
    assert!(is_on("SettingsRefusedAlarm", &period(&[(&lines, 1)])));
}

#[tokio::test]
async fn outcome_that_was_not_recorded_is_an_alarm() {
    let world = World::saved().await;
    world.aws.watch(|call| {
        let update = call.request["UpdateExpression"].as_str();
        let is_outcome = update.is_some_and(|update| update.starts_with("SET #status = :status,"));
        Box::pin(async move { is_outcome.then_some(Fault::AccessDenied) })
    });
    // Its writes are tried again until the invocation's time is over: it has little.
    let sending = async {
        let time = Duration::from_secs(10);
        world.post_within(&immediate(), time).await.expect(200);
    };
    let lines = emitted(sending).await;
    assert!(is_on("UnrecordedOutcomesAlarm", &period(&[(&lines, 1)])));
    assert!(!is_on("UnrecordedOutcomesAlarm", &Period::default()));
}

/// So many values of a metric of AWS's own.
type Values<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], usize, f64);

fn of_aws(values: &[Values<'_>]) -> Period {
    let mut period = Period::default();
    for &(namespace, name, dimensions, times, value) in values {
        for _ in 0..times {
            period.add(Series::new(namespace, name, dimensions), value);
        }
    }
    period
}

const API: [(&str, &str); 1] = [("ApiId", "Api")];
const WORKER: [(&str, &str); 1] = [("FunctionName", "WorkerFunction")];
const CONFIG: [(&str, &str); 1] = [("FunctionName", "ConfigFunction")];

#[test]
fn api_errors_and_latency_alarm_from_five_percent() {
    let answers = |errors, requests| {
        of_aws(&[
            ("AWS/ApiGateway", "5xx", &API, errors, 1.0),
            ("AWS/ApiGateway", "Count", &API, requests, 1.0),
        ])
    };
    assert!(!is_on("ApiErrorsAlarm", &answers(5, 100)));
    assert!(is_on("ApiErrorsAlarm", &answers(6, 100)));
    assert!(!is_on("ApiErrorsAlarm", &answers(10, 10)));
    let latencies = |slow, fast| {
        of_aws(&[
            ("AWS/ApiGateway", "Latency", &API, slow, 12_000.0),
            ("AWS/ApiGateway", "Latency", &API, fast, 90.0),
            ("AWS/ApiGateway", "Count", &API, slow + fast, 1.0),
        ])
    };
    assert!(!is_on("ApiLatencyAlarm", &latencies(4, 96)));
    assert!(is_on("ApiLatencyAlarm", &latencies(6, 94)));
}

#[test]
fn crashes_timeouts_and_a_full_concurrency_quota_are_alarms() {
    let duration = |dimensions: &'static [(&str, &str)], milliseconds, runs| {
        of_aws(&[
            ("AWS/Lambda", "Duration", dimensions, runs, milliseconds),
            ("AWS/Lambda", "Invocations", dimensions, runs, 1.0),
        ])
    };
    assert!(!is_on(
        "FunctionDurationAlarm",
        &duration(&WORKER, 26_500.0, 50)
    ));
    assert!(is_on(
        "FunctionDurationAlarm",
        &duration(&WORKER, 27_500.0, 50)
    ));
    assert!(is_on(
        "FunctionDurationAlarm",
        &duration(&CONFIG, 14_000.0, 20)
    ));
    assert!(!is_on(
        "FunctionDurationAlarm",
        &duration(&CONFIG, 14_000.0, 19)
    ));
    let running =
        |executions| of_aws(&[("AWS/Lambda", "ConcurrentExecutions", &[], 1, executions)]);
    assert!(!is_on("ConcurrencyAlarm", &running(800.0)));
    assert!(is_on("ConcurrencyAlarm", &running(801.0)));
    let crashed = of_aws(&[("AWS/Lambda", "Errors", &WORKER, 1, 1.0)]);
    assert!(is_on("FunctionErrorsAlarm", &crashed));
}

#[test]
fn queues_that_stand_still_and_dead_letters_are_alarms() {
    let of_queue = |name, queue, value| {
        let dimensions = [("QueueName", queue)];
        of_aws(&[("AWS/SQS", name, &dimensions, 1, value)])
    };
    let age = |queue, seconds| of_queue("ApproximateAgeOfOldestMessage", queue, seconds);
    assert!(is_on("QueueAgeAlarm", &age("Queue.QueueName", 601.0)));
    assert!(!is_on("QueueAgeAlarm", &age("Queue.QueueName", 600.0)));
    assert!(is_on(
        "UrgentQueueAgeAlarm",
        &age("UrgentQueue.QueueName", 61.0)
    ));
    let five_days = 5.0 * 86_400.0;
    assert!(!is_on(
        "DeadLetterAgeAlarm",
        &age("DeadLetterQueue.QueueName", five_days)
    ));
    assert!(is_on(
        "DeadLetterAgeAlarm",
        &age("DeadLetterQueue.QueueName", five_days + 1.0)
    ));
    let in_flight =
        |queue, messages| of_queue("ApproximateNumberOfMessagesNotVisible", queue, messages);
    for queue in ["Queue.QueueName", "UrgentQueue.QueueName"] {
        assert!(!is_on("InFlightAlarm", &in_flight(queue, 80_000.0)));
        assert!(is_on("InFlightAlarm", &in_flight(queue, 80_001.0)));
    }
    let letters = of_queue(
        "ApproximateNumberOfMessagesVisible",
        "DeadLetterQueue.QueueName",
        1.0,
    );
    assert!(is_on("DeadLettersAlarm", &letters));
}

#[test]
fn a_key_that_is_disabled_is_an_alarm() {
    let template = yaml("template.yaml");
    let changed = of_aws(&[(
        "AWS/Events",
        "TriggeredRules",
        &[("RuleName", "KeyChanges")],
        1,
        1.0,
    )]);
    assert!(is_on("KeyChangedAlarm", &changed));
    let detail = &template["Resources"]["KeyChanges"]["Properties"]["EventPattern"]["detail"];
    let names: Vec<_> = detail["eventName"].as_array().unwrap().iter().collect();
    for name in ["DisableKey", "ScheduleKeyDeletion", "PutKeyPolicy"] {
        assert!(names.contains(&&json!(name)), "{name}");
    }
    assert_eq!(
        detail["resources"]["ARN"],
        json!(["Key.Arn", "QueueKey.Arn"])
    );
}

#[test]
fn copy_that_fails_is_an_alarm() {
    let vault = [("BackupVaultName", "Backups.Outputs.VaultName")];
    let failed = |jobs| of_aws(&[("AWS/Backup", "NumberOfBackupJobsFailed", &vault, 1, jobs)]);
    assert!(is_on("FailedBackupsAlarm", &failed(1.0)));
    assert!(!is_on("FailedBackupsAlarm", &failed(0.0)));
}

/// What the limits of the alarms mean depends on what is said elsewhere in the template.
#[test]
fn durations_are_measured_by_the_functions_own_timeouts() {
    let template = yaml("template.yaml");
    let resources = &template["Resources"];
    let parts = resources["FunctionDurationAlarm"]["Properties"]["Metrics"]
        .as_array()
        .unwrap();
    let expression = parts[0]["Expression"].as_str().unwrap();
    for part in parts {
        let metric = &part["MetricStat"]["Metric"];
        if metric["MetricName"] == "Duration" {
            let function = metric["Dimensions"][0]["Value"].as_str().unwrap();
            let timeout = resources[function]["Properties"]["Timeout"]
                .as_u64()
                .unwrap();
            let id = part["Id"].as_str().unwrap();
            // Milliseconds by a hundredth of the timeout.
            let term = format!("IF({id}Runs >= 20, {id} / {}, 0)", timeout * 10);
            assert!(expression.contains(&term), "{term}");
        }
    }
}

#[test]
fn cloudwatch_evaluates_every_alarm() {
    let template = yaml("template.yaml");
    let mut seen = BTreeSet::new();
    for (name, resource) in template["Resources"].as_object().unwrap() {
        if resource["Type"] != "AWS::CloudWatch::Alarm" {
            continue;
        }
        let alarm = Alarm::of(&template, name);
        // At most ten metrics in an alarm by metric math, and at most a day, or a week for periods of an hour and more
        // (CloudWatch API reference, PutMetricAlarm).
        let series = alarm.series();
        assert!(series.len() <= 10, "{name}");
        let distinct: BTreeSet<_> = series.iter().collect();
        assert_eq!(distinct.len(), series.len(), "{name}");
        let periods = u64::try_from(alarm.evaluation_periods()).unwrap();
        assert!(alarm.period_seconds() * periods <= 86_400, "{name}");
        assert!(!is_on(name, &Period::default()), "{name}");
        seen.insert(name.clone());
    }
    // A new alarm is computed by a test of its own.
    let here = include_str!("alarms.rs");
    for name in &seen {
        assert!(
            here.contains(&format!("\"{name}\"")),
            "{name} is computed by no test"
        );
    }
}
