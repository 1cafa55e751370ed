//! JSON of all requests.

use comms_core::{
    Attempt,
    json::{self, MAX_DEPTH, MAX_VALUES},
};
use comms_testkit::fuzz::PLANTED;
use serde_json::Value;

/// How deep a JSON text is nested, and its members and elements in all.
fn size_of_text(text: &[u8]) -> (usize, usize) {
    let (mut depth, mut deepest, mut values) = (0_usize, 0, 0);
    let (mut in_string, mut escaped, mut opened) = (false, false, false);
    for byte in text {
        let is_value = !byte.is_ascii_whitespace() && !matches!(byte, b']' | b'}');
        if opened && !in_string {
            // The first of its array or object; the others are behind a comma.
            values += usize::from(is_value);
            opened = byte.is_ascii_whitespace();
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
                opened = true;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
    }
    (deepest, values)
}

/// What our reader of JSON takes, `serde_json` takes for the same; and it is within limits.
pub(super) fn read_json(input: &[u8]) {
    fn measure(value: &Value) -> (usize, usize) {
        let children: Vec<&Value> = match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return (0, 0),
        };
        let inner: Vec<_> = children.iter().map(|child| measure(child)).collect();
        let depth = inner.iter().map(|(depth, _)| *depth).max().unwrap_or(0);
        (
            depth + 1,
            children.len() + inner.iter().map(|(_, values)| values).sum::<usize>(),
        )
    }
    let theirs = serde_json::from_slice::<Value>(input);
    match json::parse(input) {
        Ok(value) => {
            assert_eq!(Some(&value), theirs.as_ref().ok());
            let (depth, values) = measure(&value);
            assert_eq!(size_of_text(input), (depth, values));
            assert!(
                depth <= MAX_DEPTH && values <= MAX_VALUES,
                "{depth} {values}"
            );
            let written = value.to_string();
            assert_eq!(
                json::parse(written.as_bytes()).as_ref(),
                Ok(&value),
                "{written}"
            );
            let _ = Attempt::from_json(&value).map(|attempt| {
                let again = serde_json::to_value(&attempt).unwrap();
                assert_eq!(Attempt::from_json(&again), Some(attempt));
            });
        }
        Err(problems) => {
            assert_eq!(problems.as_slice().len(), 1);
            assert!(!problems.to_string().contains(PLANTED));
            if theirs.is_ok() {
                // Of the text: of a field that is there twice they show the last alone.
                let (depth, values) = size_of_text(input);
                let says_twice = problems.to_string().contains("repeated");
                assert!(
                    depth > MAX_DEPTH || values > MAX_VALUES || says_twice,
                    "{problems}"
                );
            }
        }
    }
}
