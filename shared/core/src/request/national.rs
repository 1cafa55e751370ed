//! Recipients' numbers without a country code: the settings of the clinic say which country.

use serde_json::Value;

use super::Submission;
use crate::{
    country::Country,
    id::{IdempotencyKey, Tenant},
    json::{self, Problems},
};

/// What is known of a communication with a number without a country code before it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NationalNumbers {
    /// The tenant that it names. It is not authorized yet.
    pub tenant: Tenant,
    /// The idempotency key in its body, if it has a valid one.
    pub key: Option<IdempotencyKey>,
}

impl NationalNumbers {
    /// `None` for a communication that needs no country, and for one whose tenant cannot be read.
    pub fn of(text: &[u8]) -> Option<Self> {
        let document = json::parse(text).ok()?;
        let tenant = tenant(&document)?;
        let key = document.get("idempotencyKey").and_then(Value::as_str);
        Some(Self {
            tenant,
            key: key.and_then(|key| IdempotencyKey::parse(key).ok()),
        })
    }
}

impl Submission {
    /// Reads a communication by the first of `countries` by which it can be read. `problems` are those of reading it by
    /// none, which are reported where there is no country; else those of the last.
    pub fn parse_by(
        countries: impl IntoIterator<Item = Country>,
        text: &[u8],
        problems: Problems,
    ) -> Result<Self, Problems> {
        let mut read = Err(problems);
        for country in countries {
            read = Self::parse_in(Some(country), text);
            if read.is_ok() {
                break;
            }
        }
        read
    }
}

fn tenant(document: &Value) -> Option<Tenant> {
    let recipients = document.get("recipients")?.as_array()?;
    let has_national = recipients.iter().any(|recipient| {
        let number = recipient.get("phoneNumber").and_then(Value::as_str);
        number.is_some_and(|number| {
            let number = number.trim_start();
            !number.is_empty() && !number.starts_with('+')
        })
    });
    let named = document.get("metadata")?.get("clinicId")?.as_str()?;
    has_national.then(|| Tenant::parse(named).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn communication(number: &str) -> Value {
        json!({"channels": ["whatsapp"], "body": "Tomorrow at 10:00.", "metadata": {"clinicId": "clinic-123"},
            "recipients": [{"email": "patient@example.com"}, {"phoneNumber": number}]})
    }

    #[test]
    fn a_clinic_is_asked_for_its_country_only_if_a_number_needs_it() {
        let tenant = |value: &Value| {
            let found = NationalNumbers::of(value.to_string().as_bytes());
            found.map(|numbers| numbers.tenant)
        };
        let named = Tenant::parse("clinic-123").ok();
        assert_eq!(tenant(&communication("0171 1234567")), named);
        assert_eq!(tenant(&communication("+49 171 1234567")), None);
        assert_eq!(tenant(&communication("")), None);
        let mut unnamed = communication("0171 1234567");
        unnamed["metadata"] = json!({});
        assert_eq!(tenant(&unnamed), None);
        unnamed["metadata"] = json!({"clinicId": "not a clinic"});
        assert_eq!(tenant(&unnamed), None);
        assert_eq!(NationalNumbers::of(b"no json"), None);
    }

    #[test]
    fn the_key_is_known_before_the_numbers_are_read() {
        let key = |key: Value| {
            let mut keyed = communication("0171 1234567");
            keyed["idempotencyKey"] = key;
            NationalNumbers::of(keyed.to_string().as_bytes())
                .unwrap()
                .key
        };
        assert_eq!(key(json!("key-1")), IdempotencyKey::parse("key-1").ok());
        assert_eq!(key(json!(" ")), None);
        assert_eq!(key(json!(1)), None);
    }

    #[test]
    fn a_number_of_the_country_is_written_with_its_code() {
        let text = communication("0171 1234567").to_string();
        let problems = Submission::parse(text.as_bytes()).unwrap_err();
        assert_eq!(problems.as_slice()[0].pointer, "/recipients/1/phoneNumber");
        assert!(
            problems.to_string().contains("defaultCountry"),
            "{problems}"
        );
        let germany = Country::parse("DE").ok();
        let submission = Submission::parse_in(germany, text.as_bytes()).unwrap();
        let number = submission.request.recipients[1].phone_number.as_ref();
        assert_eq!(number.unwrap().as_str(), "+491711234567");
        // On the queue it needs no country any more.
        let mut submission = submission;
        let queued = submission.to_json().unwrap();
        submission.request.read_in = None;
        assert_eq!(Submission::parse(queued.as_bytes()), Ok(submission));
    }
}
