//! Fuzz targets of metric lines.

#![allow(
    clippy::unwrap_used,
    reason = "what is not as it should be is the target's failure"
)]

use jiff::Timestamp;
use serde_json::Value;

use super::{Fields, Said, TelemetryConfig, line};

/// Whatever the values of dimensions are, a metric is one line of JSON with them in their places. The input is a line
/// with a number, and a text.
pub(crate) fn lines(input: &[u8]) {
    let input = String::from_utf8_lossy(input);
    let (number, text) = input.split_once('\n').unwrap_or(("1", &input));
    let number = number.trim().parse::<u64>().unwrap_or_default();
    let mut fields = Fields::default();
    for (field, said) in [
        ("latency_ms", Said::Unsigned(number)),
        ("channel", Said::Text("email".into())),
        ("provider", Said::Text(text.into())),
    ] {
        fields.set(field, said);
    }
    let config = TelemetryConfig::default();
    let line = line(&fields, &config, Timestamp::UNIX_EPOCH).unwrap();
    let line = String::from_utf8(line).unwrap();
    let line = line.strip_suffix('\n').unwrap();
    assert!(!line.contains(['\n', '\r']), "{line}");
    let read: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&read["provider"], &read["Latency"]),
        (&text.into(), &number.into())
    );
    assert_eq!(
        read["_aws"]["CloudWatchMetrics"][0]["Namespace"],
        config.namespace
    );
}
