//! Recipients' numbers without a country code: the settings of the clinic say which country.

use serde_json::Value;

use crate::{id::Tenant, json};

/// The tenant that a communication names, if it has a number without a country code; for one that cannot be read without the
/// tenant's country. It is not authorized yet.
pub fn tenant_of_national_numbers(text: &[u8]) -> Option<Tenant> {
    let document = json::parse(text).ok()?;
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
    use crate::{Country, request::Submission};

    fn communication(number: &str) -> Value {
        json!({"channels": ["whatsapp"], "body": "Tomorrow at 10:00.", "metadata": {"clinicId": "clinic-123"},
            "recipients": [{"email": "patient@example.com"}, {"phoneNumber": number}]})
    }

    #[test]
    fn a_clinic_is_asked_for_its_country_only_if_a_number_needs_it() {
        let tenant = |value: &Value| tenant_of_national_numbers(value.to_string().as_bytes());
        let named = Tenant::parse("clinic-123").ok();
        assert_eq!(tenant(&communication("0171 1234567")), named);
        assert_eq!(tenant(&communication("+49 171 1234567")), None);
        assert_eq!(tenant(&communication("")), None);
        let mut unnamed = communication("0171 1234567");
        unnamed["metadata"] = json!({});
        assert_eq!(tenant(&unnamed), None);
        unnamed["metadata"] = json!({"clinicId": "not a clinic"});
        assert_eq!(tenant(&unnamed), None);
        assert_eq!(tenant_of_national_numbers(b"no json"), None);
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
        let queued = submission.to_json().unwrap();
        assert_eq!(Submission::parse(queued.as_bytes()), Ok(submission));
    }
}
