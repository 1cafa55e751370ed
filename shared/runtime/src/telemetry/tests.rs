use std::time::Duration;

use comms_testkit::logs::{Captured, listen};
use serde_json::{Value, json};
use tracing::{Level, error, info, info_span, warn};

use super::*;

fn written(config: TelemetryConfig, work: impl FnOnce()) -> Vec<Value> {
    let lines = Captured::default();
    let guard = listen(tracing_subscriber::registry().with(layer(config, lines.clone())));
    work();
    drop(guard);
    let lines = lines.text();
    let lines = lines.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

fn metrics(work: impl FnOnce()) -> Vec<Value> {
    written(TelemetryConfig::default(), work)
}

#[test]
fn a_metric_event_is_one_line_in_the_embedded_metric_format() {
    let provider = "smtp";
    let lines = metrics(|| {
        let delivery = info_span!("delivery", clinic_id = "clinic-1", delivery_id = "d-1");
        let _in = delivery.enter();
        info!(target: METRICS, sent = 1_u64, latency_ms = 12_u64, channel = "email", %provider);
    });
    assert_eq!(lines.len(), 1);
    let mut line = lines[0].clone();
    assert!(line["_aws"]["Timestamp"].as_i64().unwrap() > 1_700_000_000_000);
    line["_aws"]["Timestamp"] = json!(0);
    assert_eq!(
        line,
        json!({
            "_aws": {"Timestamp": 0, "CloudWatchMetrics": [{
                "Namespace": "ClinicComms",
                "Dimensions": [[], ["channel", "provider"]],
                "Metrics": [
                    {"Name": "Sent", "Unit": "Count"},
                    {"Name": "Latency", "Unit": "Milliseconds"},
                ],
            }]},
            // Neither metric nor dimension, and there to be searched for.
            "clinicId": "clinic-1", "deliveryId": "d-1",
            "Sent": 1, "Latency": 12, "channel": "email", "provider": "smtp",
        })
    );
}

#[test]
fn metrics_that_are_told_apart_in_different_ways_stand_apart() {
    let lines = metrics(|| {
        info!(target: METRICS, failed = 1_u64, latency_ms = 1_u64, channel = "email", provider = "smtp", reason = "REJECTED");
    });
    let directives = &lines[0]["_aws"]["CloudWatchMetrics"];
    let ways = |number: usize| {
        let directive = &directives[number];
        (
            directive["Metrics"][0]["Name"].clone(),
            directive["Dimensions"].clone(),
        )
    };
    assert_eq!(
        ways(0),
        (
            json!("Failed"),
            json!([[], ["reason"], ["channel", "provider"]])
        )
    );
    assert_eq!(
        ways(1),
        (json!("Latency"), json!([[], ["channel", "provider"]]))
    );
    // What a line does not say can be no dimension of it.
    let lines = metrics(|| info!(target: METRICS, failed = 1_u64));
    let dimensions = &lines[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"];
    assert_eq!(*dimensions, json!([[]]));
}

#[test]
fn a_clinic_is_a_dimension_when_that_is_asked_for_and_not_otherwise() {
    let event = || {
        let delivery = info_span!("delivery", clinic_id = "clinic-1");
        delivery.in_scope(|| {
            info!(target: METRICS, sent = 1_u64, channel = "email", provider = "smtp");
        });
        info!(target: METRICS, dead_lettered = 1_u64, reason = "no_key");
    };
    let dimensions = |lines: &[Value], line: usize| {
        lines[line]["_aws"]["CloudWatchMetrics"][0]["Dimensions"].clone()
    };
    let without = metrics(event);
    assert_eq!(
        dimensions(&without, 0),
        json!([[], ["channel", "provider"]])
    );
    let config = TelemetryConfig {
        by_clinic: true,
        ..TelemetryConfig::default()
    };
    let with = written(config, event);
    assert_eq!(
        dimensions(&with, 0),
        json!([
            [],
            ["channel", "provider"],
            ["clinicId", "channel", "provider"]
        ])
    );
    assert_eq!(dimensions(&with, 1), json!([[], ["reason"]]));
}

#[test]
fn what_is_summed_is_one_line_when_the_invocation_ends() {
    let lines = metrics(|| {
        for number in 0..2 {
            let context = lambda_runtime::Context::default();
            let invocation = invocation(&context, None);
            let _in = invocation.enter();
            for _ in 0..=number {
                info!(target: METRICS, config_cache_hits = 2_u64);
                info!(target: METRICS, kms_decrypts = 1_u64);
            }
            info!("done");
        }
    });
    assert_eq!(lines.len(), 4);
    let counts = |line: &Value| (line["ConfigCacheHits"].clone(), line["KmsDecrypts"].clone());
    assert_eq!(lines[0]["message"], "done");
    assert_eq!(counts(&lines[1]), (json!(2), json!(1)));
    // From nothing again.
    assert_eq!(counts(&lines[3]), (json!(4), json!(2)));
    let directives = lines[1]["_aws"]["CloudWatchMetrics"].as_array().unwrap();
    assert_eq!(directives.len(), 1);
    assert_eq!(directives[0]["Dimensions"], json!([[]]));
}

#[test]
fn numbers_that_are_not_in_the_table_and_other_events_are_no_metrics() {
    assert!(metrics(|| info!(target: METRICS, nobody_knows = 1_u64, channel = "email")).is_empty());
    let lines = metrics(|| info!(target: METRICS, sent = 1_u64, nobody_knows = 1_u64));
    let directives = lines[0]["_aws"]["CloudWatchMetrics"].as_array().unwrap();
    assert_eq!(directives[0]["Metrics"].as_array().unwrap().len(), 1);
    assert_eq!(lines[0]["nobodyKnows"], 1);
    let lines = metrics(|| info!(sent = 1_u64, "not for CloudWatch"));
    assert!(lines[0]["_aws"].is_null());
}

#[test]
fn metrics_go_to_the_namespace_of_the_stack() {
    let environment = Environment::from_lookup(|name| match name {
        "METRICS_NAMESPACE" => Some("ClinicComms/prod".to_owned()),
        "METRICS_BY_CLINIC" => Some("true".to_owned()),
        "LOG_LEVEL" => Some("warn".to_owned()),
        _ => None,
    });
    let config = TelemetryConfig::from_environment(&environment);
    environment.finish().unwrap();
    assert!(config.by_clinic);
    assert_eq!(config.level, "warn".parse().unwrap());
    let lines = written(config, || info!(target: METRICS, sent = 1_u64));
    let directive = &lines[0]["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(directive["Namespace"], "ClinicComms/prod");

    let environment =
        Environment::from_lookup(|name| (name == "METRICS_BY_CLINIC").then(|| "yes".to_owned()));
    TelemetryConfig::from_environment(&environment);
    let error = environment.finish().unwrap_err().to_string();
    assert!(error.contains("METRICS_BY_CLINIC"), "{error}");
}

#[test]
fn a_log_line_says_what_its_spans_say_and_the_inner_one_knows_better() {
    let lines = metrics(|| {
        let outer = info_span!("message", trace_id = "outer", receive_count = 2_u32);
        let _outer = outer.enter();
        let inner = info_span!("delivery", trace_id = "inner", clinic_id = %"clinic-1");
        let _inner = inner.enter();
        warn!(
            duration_ms = 5_u64,
            ok = false,
            share = 0.5,
            skipped = None::<u64>,
            "a line"
        );
    });
    let mut line = lines[0].clone();
    let timestamp: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
    assert!(timestamp.as_second() > 1_700_000_000);
    line["timestamp"] = Value::Null;
    assert_eq!(
        line,
        json!({
            "timestamp": null, "level": "WARN", "message": "a line",
            "target": "comms_runtime::telemetry::tests",
            "traceId": "inner", "receiveCount": 2, "clinicId": "clinic-1",
            "durationMs": 5, "ok": false, "share": 0.5,
        })
    );
}

#[test]
fn a_line_has_the_ids_of_its_spans_at_every_level_and_so_have_metrics() {
    let config = TelemetryConfig {
        level: "error".parse().unwrap(),
        ..TelemetryConfig::default()
    };
    let lines = written(config, || {
        let span = info_span!("delivery", delivery_id = "d-1");
        let _in = span.enter();
        info!("not written");
        error!("written");
        info!(target: METRICS, sent = 1_u64);
    });
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["message"], "written");
    assert_eq!(lines[1]["Sent"], 1);
    for line in lines {
        assert_eq!(line["deliveryId"], "d-1");
    }
}

#[test]
fn libraries_are_silent_at_every_level() {
    let targets = targets("trace".parse().unwrap());
    assert!(targets.would_enable("comms_delivery::pipeline", &Level::TRACE));
    assert!(targets.would_enable("comms_send", &Level::TRACE));
    for library in [
        "lettre",
        "hyper",
        "aws_smithy_runtime",
        "aws_sdk_kms",
        "rustls",
        "reqwest",
        "h2",
    ] {
        assert!(!targets.would_enable(library, &Level::ERROR), "{library}");
    }
    assert!(!targets.would_enable("lambda_runtime", &Level::INFO));
}

#[test]
fn a_process_has_one_cold_start_and_says_how_long_it_took() {
    let process = Process {
        started: Instant::now(),
        init: OnceLock::from(Duration::from_millis(123)),
        was_invoked: AtomicBool::new(false),
    };
    let context = lambda_runtime::Context::default();
    let lines = metrics(|| {
        for _ in 0..2 {
            let span = invocation_of(Some(&process), &context, None);
            span.in_scope(|| info!("at work"));
        }
    });
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str()).collect();
    assert_eq!(
        messages,
        [Some("cold start"), None, Some("at work"), Some("at work")]
    );
    let cold: Vec<_> = lines.iter().map(|line| line["coldStart"].clone()).collect();
    assert_eq!(cold, [true, true, true, false]);
    assert_eq!(lines[0]["initMs"], 123);
    assert_eq!(
        (&lines[1]["ColdStarts"], &lines[1]["Init"]),
        (&json!(1), &json!(123))
    );
}
