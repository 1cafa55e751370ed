//! What the stack costs by the month, and for the functions' time: counted from the template and the table of metrics, and held
//! against OPERATIONS.md. What a message costs is in `requests.rs`.

use comms_adapters::registry;
use comms_core::{Channel, FailureReason, metric};
use comms_tests::{
    repository::{file, yaml},
    routes::deployed,
};
use serde_json::Value;

/// Dollars a month for a metric, and for a metric that an alarm looks at (Amazon CloudWatch pricing, us-east-1, the first
/// 10,000 metrics).
const METRIC: f64 = 0.30;
const ALARM_METRIC: f64 = 0.10;
const DASHBOARD: f64 = 3.00;
/// Dollars a month for a key (AWS KMS pricing).
const KEY: f64 = 1.00;
/// Dollars for a gigabyte-second of arm64 (AWS Lambda pricing).
const GIGABYTE_SECOND: f64 = 0.000_013_333_4;
/// Metrics that API Gateway writes for a route of an HTTP API with detailed metrics: 4xx, 5xx, Count, `DataProcessed`,
/// `IntegrationLatency`, Latency (API Gateway developer guide, "Working with metrics for HTTP APIs").
const ROUTE_METRICS: usize = 6;

fn of_type<'a>(template: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = template["Resources"].as_object().unwrap().values();
    all.filter(|resource| resource["Type"] == kind).collect()
}

/// Every metric that the functions can write, with each value of its dimensions: what is billed if all of it happens in a month.
fn metrics() -> usize {
    // Each provider on each channel that it serves, and each channel has `none`.
    let of_channel = |channel| registry::of_channel(channel).count() + 1;
    let by_provider: usize = Channel::ALL.into_iter().map(of_channel).sum();
    let by_reason = FailureReason::ALL.len();
    let combinations = |by: &[&str]| match by {
        [] => 1,
        ["reason"] => by_reason,
        ["channel", "provider"] => by_provider,
        other => panic!("{other:?} is a dimension that is unknown here"),
    };
    let all = metric::ALL.iter().flat_map(|metric| metric.by.iter());
    all.map(|by| combinations(by)).sum()
}

fn dollars(count: usize, each: f64) -> f64 {
    f64::from(u32::try_from(count).unwrap()) * each
}

#[test]
fn fixed_costs_are_those_of_the_document() {
    let template = yaml("template.yaml");
    let alarms: usize = of_type(&template, "AWS::CloudWatch::Alarm")
        .iter()
        .map(|alarm| {
            let parts = alarm["Properties"]["Metrics"].as_array();
            parts.map_or(1, |parts| {
                parts
                    .iter()
                    .filter(|part| part["MetricStat"].is_object())
                    .count()
            })
        })
        .sum();
    let routes = deployed().len();
    let keys = of_type(&template, "AWS::KMS::Key").len();
    let written = metrics();
    let rows = [
        (
            "metrics of the functions, if each is written in the month",
            written,
            METRIC,
        ),
        (
            "metrics of the API's routes, six each",
            routes * ROUTE_METRICS,
            METRIC,
        ),
        ("metrics that alarms look at", alarms, ALARM_METRIC),
        (
            "dashboards",
            of_type(&template, "AWS::CloudWatch::Dashboard").len(),
            DASHBOARD,
        ),
        ("KMS keys", keys, KEY),
    ];
    let document = file("infra/docs/OPERATIONS.md");
    let rows: Vec<_> = rows
        .iter()
        .map(|(what, count, each)| format!("| {what} | {count} | ${:.2} |", dollars(*count, *each)))
        .collect();
    assert!(
        document.contains(&rows.join("\n  ")),
        "OPERATIONS.md needs\n{}",
        rows.join("\n  ")
    );
}

#[test]
fn the_functions_time_costs_what_the_document_says() {
    let template = yaml("template.yaml");
    let megabytes = template["Globals"]["Function"]["MemorySize"]
        .as_f64()
        .unwrap();
    let rows: Vec<_> = [50, 250, 1_000]
        .map(|milliseconds: u32| {
            let seconds = f64::from(milliseconds) / 1_000.0;
            let million = seconds * megabytes / 1_024.0 * GIGABYTE_SECOND * 1e6;
            format!(
                "| {milliseconds} ms | ${million:.2} | ${:.2} |",
                million / 10.0
            )
        })
        .into();
    let document = file("infra/docs/OPERATIONS.md");
    assert!(
        document.contains(&rows.join("\n  ")),
        "OPERATIONS.md needs\n{}",
        rows.join("\n  ")
    );
}
