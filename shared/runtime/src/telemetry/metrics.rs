//! Metrics as log lines in CloudWatch's embedded metric format, which CloudWatch turns into metrics without a request or an
//! agent.
//!
//! [`comms_core::metric`] lists the metrics and their dimensions. The other fields of a line are neither: they can be searched
//! for, and cost only their bytes.
//!
//! Source: Amazon CloudWatch User Guide, "Specification: Embedded metric format"
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).

use std::collections::BTreeMap;

use comms_core::metric::{Dimensions, Metric, Written};
use jiff::Timestamp;

use super::{
    TelemetryConfig,
    fields::{Fields, Said},
    line::{LogLine, name_in_line},
};

/// The dimension of the clinic, if clinics are a dimension.
const CLINIC: &str = "clinic_id";

/// What is counted in an invocation and written at its end.
#[derive(Default)]
pub(super) struct Sums(BTreeMap<&'static str, u64>);

impl Sums {
    /// Takes the summed metrics out of an event.
    pub(super) fn take_from(&mut self, event: &mut Fields) {
        event.retain(|field, said| {
            let metric = Metric::of_field(field);
            match (metric.map(|metric| metric.written), said.as_u64()) {
                (Some(Written::Summed), Some(number)) => {
                    let sum = self.0.entry(field).or_default();
                    *sum = sum.saturating_add(number);
                    false
                }
                _ => true,
            }
        });
    }

    /// All that there is, unless there is nothing.
    pub(super) fn into_fields(self) -> Option<Fields> {
        if self.0.is_empty() {
            return None;
        }
        let mut fields = Fields::default();
        for (field, sum) in self.0 {
            fields.set(field, Said::Unsigned(sum));
        }
        Some(fields)
    }
}

/// Metrics with the same sets of dimensions.
struct Directive<'m> {
    by: &'static [Dimensions],
    metrics: Vec<&'m Metric>,
}

/// The metric line of `fields`; `None` if they have no metric.
pub(super) fn line(fields: &Fields, config: &TelemetryConfig, now: Timestamp) -> Option<Vec<u8>> {
    let metric = |(field, said): (_, &Said)| Metric::of_field(field).zip(said.as_u64());
    let (metrics, others): (Vec<_>, Vec<_>) = fields
        .iter()
        .map(|field| (field, metric(field)))
        .partition(|(_, metric)| metric.is_some());
    let metrics = metrics.into_iter().filter_map(|(_, metric)| metric);
    let mut directives: Vec<Directive<'_>> = Vec::new();
    for (metric, _) in metrics.clone() {
        let is_same = |known: &&mut Directive<'_>| {
            known.by == metric.by
                || dimension_sets(known.by, fields).eq(dimension_sets(metric.by, fields))
        };
        match directives.iter_mut().find(is_same) {
            Some(directive) => directive.metrics.push(metric),
            None => directives.push(Directive {
                by: metric.by,
                metrics: vec![metric],
            }),
        }
    }
    if directives.is_empty() {
        return None;
    }
    let mut line = LogLine::new();
    line.name("_aws".chars());
    line.raw("{\"Timestamp\":");
    line.value(&now.as_millisecond());
    line.raw(",\"CloudWatchMetrics\":[");
    line.items(&directives, |line, directive| {
        line.raw("{\"Namespace\":");
        line.value(&config.namespace);
        line.raw(",\"Dimensions\":[");
        write_dimension_sets(line, directive.by, fields, config);
        line.raw("],\"Metrics\":[");
        line.items(&directive.metrics, |line, metric| {
            line.raw("{\"Name\":\"");
            line.letters(metric.letters());
            line.raw("\",\"Unit\":\"");
            line.raw(metric.unit());
            line.raw("\"}");
        });
        line.raw("]}");
    });
    line.raw("]}");
    line.fields(&others.iter().map(|(field, _)| *field), &["_aws"]);
    for (metric, number) in metrics {
        line.name(metric.letters());
        line.value(&number);
    }
    Some(line.end())
}

/// The sets of dimensions of a metric in this line: each dimension has to be a text of the line.
fn dimension_sets(by: &'static [Dimensions], fields: &Fields) -> impl Iterator<Item = Dimensions> {
    by.iter()
        .copied()
        .filter(|way| way.iter().all(|dimension| fields.is_text(dimension)))
}

fn write_dimension_sets(
    line: &mut LogLine,
    by: &'static [Dimensions],
    fields: &Fields,
    config: &TelemetryConfig,
) {
    let mut all: Vec<(Option<&str>, Dimensions)> =
        dimension_sets(by, fields).map(|way| (None, way)).collect();
    if config.by_clinic
        && fields.is_text(CLINIC)
        && let Some(by_provider) = dimension_sets(by, fields).find(|way| way.contains(&"provider"))
    {
        all.push((Some(CLINIC), by_provider));
    }
    line.items(&all, |line, (clinic, way)| {
        let dimensions: Vec<_> = clinic.iter().chain(*way).collect();
        line.raw("[");
        line.items(&dimensions, |line, dimension| {
            line.raw("\"");
            line.letters(name_in_line(dimension));
            line.raw("\"");
        });
        line.raw("]");
    });
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
