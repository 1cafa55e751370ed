//! Metrics as lines of the log, in CloudWatch's embedded metric format: CloudWatch makes metrics of
//! them by itself, without a request and without an agent.
//!
//! Which numbers are metrics, and by which texts they are told apart, says [`comms_core::metric`]. All else
//! in a line is neither metric nor dimension: it can be searched for, and costs nothing but its bytes.
//!
//! Source: Amazon CloudWatch User Guide, "Specification: Embedded metric format"
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).

use std::collections::BTreeMap;

use comms_core::metric::{Metric, Written};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    TelemetryConfig,
    fields::{Fields, name_in_line},
};

/// The dimension of whoever the clinic is, where clinics are one.
const CLINIC: &str = "clinic_id";

/// What is counted in an invocation and written at its end.
#[derive(Default)]
pub(super) struct Sums(BTreeMap<&'static str, u64>);

impl Sums {
    /// Takes in what is summed, and gives back the rest.
    pub(super) fn add(&mut self, mut event: Fields) -> Fields {
        event.0.retain(|field, value| {
            let metric = Metric::of_field(field);
            match (metric.map(|metric| metric.written), value.as_u64()) {
                (Some(Written::Summed), Some(number)) => {
                    if let Some(metric) = metric {
                        let sum = self.0.entry(metric.field).or_default();
                        *sum = sum.saturating_add(number);
                    }
                    false
                }
                _ => true,
            }
        });
        event
    }

    /// All that there is, unless there is nothing.
    pub(super) fn into_fields(self) -> Option<Fields> {
        if self.0.is_empty() {
            return None;
        }
        let fields = self.0.into_iter();
        Some(Fields(
            fields
                .map(|(field, sum)| (field.to_owned(), sum.into()))
                .collect(),
        ))
    }
}

/// The line of what `fields` have of metrics; none where they have none.
pub(super) fn line(
    fields: &Fields,
    config: &TelemetryConfig,
    now: Timestamp,
) -> Option<Map<String, Value>> {
    // Metrics that are told apart in the same ways stand together.
    let mut directives: Vec<(Vec<Vec<&str>>, Vec<Value>)> = Vec::new();
    let mut members = Map::new();
    for (field, value) in &fields.0 {
        let Some(metric) = Metric::of_field(field).filter(|_| value.is_u64()) else {
            members
                .entry(name_in_line(field))
                .or_insert_with(|| value.clone());
            continue;
        };
        let ways = ways(metric, fields, config);
        let definition = json!({"Name": metric.name(), "Unit": metric.unit()});
        match directives.iter_mut().find(|(known, _)| *known == ways) {
            Some((_, definitions)) => definitions.push(definition),
            None => directives.push((ways, vec![definition])),
        }
        members.insert(metric.name(), value.clone());
    }
    if directives.is_empty() {
        return None;
    }
    let namespace = &config.namespace;
    let directives: Vec<_> = directives
        .into_iter()
        .map(|(ways, definitions)| {
            let ways: Vec<Vec<_>> = ways
                .into_iter()
                .map(|way| way.into_iter().map(name_in_line).collect())
                .collect();
            json!({"Namespace": namespace, "Dimensions": ways, "Metrics": definitions})
        })
        .collect();
    let mut line = Map::new();
    line.insert(
        "_aws".to_owned(),
        json!({"Timestamp": now.as_millisecond(), "CloudWatchMetrics": directives}),
    );
    line.append(&mut members);
    Some(line)
}

/// The sets of dimensions by which a metric is told apart here: a dimension has to be a text of the line.
fn ways(metric: &Metric, fields: &Fields, config: &TelemetryConfig) -> Vec<Vec<&'static str>> {
    let is_there = |dimension: &&str| fields.text(dimension).is_some();
    let mut ways: Vec<Vec<_>> = metric
        .by
        .iter()
        .filter(|dimensions| dimensions.iter().all(is_there))
        .map(|dimensions| dimensions.to_vec())
        .collect();
    if config.by_clinic
        && is_there(&CLINIC)
        && let Some(by_provider) = ways.iter().find(|way| way.contains(&"provider"))
    {
        let mut by_clinic = by_provider.clone();
        by_clinic.insert(0, CLINIC);
        ways.push(by_clinic);
    }
    ways
}

#[cfg(test)]
pub(crate) mod fuzz;
