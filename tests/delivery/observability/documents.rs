//! Code, table, dashboard, alarms and documents have the same names for metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use comms_adapters::registry;
use comms_core::{FailureReason, metric};
use comms_tests::repository::{file, yaml};
use serde_json::Value;

use super::outcomes::set;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

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
fn metric_table_is_exactly_what_the_code_writes() {
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
fn metrics_have_every_dimension_that_is_queried() {
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
fn dashboard_and_alarms_query_only_written_metrics() {
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
fn every_alarm_notifies_and_is_on_dashboard_and_in_runbook() {
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
fn metric_table_of_the_document_is_the_codes() {
    let document = file("infra/docs/LOGGING.md");
    let rows: Vec<_> = metric::ALL.iter().map(row).collect();
    let rows = rows.join("\n");
    assert!(
        document.contains(&rows),
        "LOGGING.md should have these rows:\n{rows}"
    );
}

#[test]
fn documented_log_events_are_written() {
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
