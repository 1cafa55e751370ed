//! Attempts as the ledger stores them: without the texts of their kinds, and with times in milliseconds, so that a delivery
//! with two attempts fits into one write unit.

use jiff::Timestamp;
use serde_json::Value;

use super::Attempt;

impl Attempt {
    /// The attempts as JSON text, which [`Attempt::from_json`] reads.
    pub fn to_stored(attempts: &[Self]) -> Result<String, serde_json::Error> {
        let mut values = serde_json::to_value(attempts)?;
        for (value, attempt) in values.as_array_mut().into_iter().flatten().zip(attempts) {
            let Some(fields) = value.as_object_mut() else {
                continue;
            };
            fields.shift_remove("detail");
            if let Some(at) = attempt.at {
                fields.insert("at".to_owned(), at.as_millisecond().into());
            }
        }
        serde_json::to_string(&values)
    }
}

/// A time as it is stored or as it is answered; there is none of attempts of earlier releases.
#[allow(clippy::option_option, reason = "unreadable, absent, and there")]
pub(super) fn time_from_json(value: &Value) -> Option<Option<Timestamp>> {
    match value.get("at") {
        None => Some(None),
        Some(Value::Number(number)) => Timestamp::from_millisecond(number.as_i64()?).ok().map(Some),
        Some(other) => other.as_str()?.parse().ok().map(Some),
    }
}
