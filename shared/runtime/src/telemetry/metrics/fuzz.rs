//! Fuzz targets of metric lines.

use serde_json::Value;

use super::{Fields, NAMESPACE};

/// Whatever the values of dimensions are, a metric is one line of JSON with them in their places. The input is a line
/// with a number, and a text.
pub(crate) fn lines(input: &[u8]) {
    let input = String::from_utf8_lossy(input);
    let (number, text) = input.split_once('\n').unwrap_or(("1", &input));
    let number = number.trim().parse::<u64>().unwrap_or_default();
    let mut fields = Fields::default();
    fields.values.insert("waited_ms", number.into());
    fields.dimensions.insert("provider", text.to_owned());
    let line = fields.line(0).to_string();
    assert!(!line.contains(['\n', '\r']), "{line}");
    let read: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&read["provider"], &read["Waited"]),
        (&text.into(), &number.into())
    );
    assert_eq!(read["_aws"]["CloudWatchMetrics"][0]["Namespace"], NAMESPACE);
}
