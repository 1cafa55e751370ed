//! Metrics as lines of the log, in CloudWatch's embedded metric format: CloudWatch makes metrics of
//! them by itself, without a request and without an agent.
//!
//! An event with the target [`METRICS`] becomes one line. Each number is a metric, named as the field in
//! camel case and counted in milliseconds where the field ends in `_ms`; texts are dimensions. Every metric
//! is there in all and by its dimensions. Only fields that have few values are to be dimensions:
//! CloudWatch bills each combination.
//!
//! Source: Amazon CloudWatch User Guide, "Specification: Embedded metric format".

use std::{collections::BTreeMap, fmt, io::Write};

use comms_core::{Clock, SystemClock, metric::METRICS};
use serde_json::{Map, Value, json};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::MakeWriter,
    layer::{Context, Filter, Layer},
};

/// The namespace of all metrics of this service.
pub const NAMESPACE: &str = "ClinicComms";

/// Writes metric events, and nothing else, to `W`.
pub(super) struct MetricLayer<W>(pub(super) W);

/// Lets metric events through, at whatever level logs are.
pub(super) struct OnlyMetrics;

impl<S> Filter<S> for OnlyMetrics {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.target() == METRICS
    }
}

impl<S, W> Layer<S> for MetricLayer<W>
where
    S: Subscriber,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.values.is_empty() {
            return;
        }
        let mut line = fields.line(SystemClock.now().as_millisecond()).to_string();
        line.push('\n');
        // One write, so that no other line comes in between. There is nobody to tell of a failure.
        let _ = self.0.make_writer().write_all(line.as_bytes());
    }
}

#[derive(Default)]
struct Fields {
    values: BTreeMap<&'static str, Value>,
    dimensions: BTreeMap<&'static str, String>,
}

impl Fields {
    fn line(self, timestamp: i64) -> Value {
        let metrics: Vec<_> = self
            .values
            .keys()
            .map(|field| json!({"Name": name(field), "Unit": unit(field)}))
            .collect();
        let by: Vec<_> = self.dimensions.keys().collect();
        let dimensions = if by.is_empty() {
            json!([[]])
        } else {
            json!([[], by])
        };
        let mut line = Map::new();
        line.insert(
            "_aws".to_owned(),
            json!({
                "Timestamp": timestamp,
                "CloudWatchMetrics": [{
                    "Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": metrics,
                }],
            }),
        );
        for (dimension, value) in self.dimensions {
            line.insert(dimension.to_owned(), Value::String(value));
        }
        for (field, value) in self.values {
            line.insert(name(field), value);
        }
        Value::Object(line)
    }
}

fn unit(field: &str) -> &'static str {
    if field.ends_with("_ms") {
        "Milliseconds"
    } else {
        "Count"
    }
}

/// `sent_by_fallback` is `SentByFallback`; the unit is no part of a name.
fn name(field: &str) -> String {
    let words = field.trim_end_matches("_ms").split('_');
    words
        .flat_map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            first.into_iter().chain(letters)
        })
        .collect()
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.values.insert(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.dimensions.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.dimensions.insert(field.name(), format!("{value:?}"));
    }
}

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests {
    use comms_testkit::logs::{Captured, listen};
    use tracing::info;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn written(work: impl FnOnce()) -> Vec<Value> {
        let lines = Captured::default();
        let layer = MetricLayer(lines.clone()).with_filter(OnlyMetrics);
        let guard = listen(tracing_subscriber::registry().with(layer));
        work();
        drop(guard);
        let lines = lines.text();
        let lines = lines.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_metric_event_is_one_line_in_the_embedded_metric_format() {
        let provider = "smtp";
        let lines = written(|| {
            info!(target: METRICS, sent_by_fallback = 1_u64, waited_ms = 12_u64, channel = "email", %provider);
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
                        {"Name": "SentByFallback", "Unit": "Count"},
                        {"Name": "Waited", "Unit": "Milliseconds"},
                    ],
                }]},
                "channel": "email", "provider": "smtp", "SentByFallback": 1, "Waited": 12,
            })
        );
    }

    /// What the worker says of a message that it sets aside; the dashboards and OPERATIONS.md name the metric.
    #[test]
    fn dead_letters_are_counted_by_reason() {
        let lines = written(|| {
            info!(target: METRICS, dead_lettered = 1_u64, reason = "not_a_communication");
        });
        assert_eq!(
            lines[0]["_aws"]["CloudWatchMetrics"],
            json!([{
                "Namespace": "ClinicComms",
                "Dimensions": [[], ["reason"]],
                "Metrics": [{"Name": "DeadLettered", "Unit": "Count"}],
            }])
        );
        assert_eq!(lines[0]["DeadLettered"], 1);
        assert_eq!(lines[0]["reason"], "not_a_communication");
    }

    #[test]
    fn other_events_are_no_metrics() {
        assert!(written(|| info!(count = 1_u64, "not for CloudWatch")).is_empty());
    }
}
