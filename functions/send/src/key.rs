//! The idempotency key: in the body, or in the header as draft-ietf-httpapi-idempotency-key-header-07 (section 2.1) writes
//! it.

use comms_core::{IdempotencyKey, Problems, id::IdError, request::Submission, structured_field};
use comms_runtime::HttpProblem;
use lambda_http::http::{HeaderMap, HeaderName, HeaderValue};

/// The header field of an answer about an earlier communication with the same key.
pub(crate) const REPLAYED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("idempotency-replayed"),
    HeaderValue::from_static("true"),
);

/// Takes the key of the header into the submission, whose body may repeat it.
pub(crate) fn take_header(
    submission: &mut Submission,
    headers: &HeaderMap,
) -> Result<(), HttpProblem> {
    let Some(key) = of_headers(headers)? else {
        return Ok(());
    };
    let body = submission.idempotency_key.as_ref();
    if body.is_some_and(|body| *body != key) {
        let detail = "must be the same as the Idempotency-Key header; send one of them";
        return Err(HttpProblem::invalid(&Problems::one(
            "/idempotencyKey",
            detail,
        )));
    }
    submission.idempotency_key = Some(key);
    Ok(())
}

/// The key in the header, if there is one.
pub(crate) fn of_headers(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, HttpProblem> {
    let mut sent = headers.get_all("idempotency-key").iter();
    let Some(header) = sent.next() else {
        return Ok(None);
    };
    if sent.any(|other| other != header) {
        let detail = "must be one: the Idempotency-Key header was sent with several values";
        return Err(HttpProblem::invalid(&Problems::one(
            "/idempotencyKey",
            detail,
        )));
    }
    let key = header
        .to_str()
        .map_err(|_| IdError::IdempotencyKey)
        .and_then(parse)
        .map_err(|error| {
            let detail = format!(
                "the Idempotency-Key header {error}; in quotation marks it is a string of RFC 9651 (section 3.3.3)"
            );
            HttpProblem::invalid(&Problems::one("/idempotencyKey", detail))
        })?;
    Ok(Some(key))
}

/// `"abc"` and `abc` are the key `abc`. The draft defines no parameters (`"abc";v=1`), and a key with any is refused.
fn parse(text: &str) -> Result<IdempotencyKey, IdError> {
    if !text.starts_with('"') {
        return IdempotencyKey::parse(text);
    }
    let key = structured_field::parse_string(text).ok_or(IdError::IdempotencyKey)?;
    IdempotencyKey::parse(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(values: &[&'static str]) -> Result<Option<IdempotencyKey>, HttpProblem> {
        let request = br#"{"body": "b", "channels": ["whatsapp"], "recipients": [{"phoneNumber": "+15550100"}]}"#;
        let mut submission = Submission::parse(request).unwrap();
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("idempotency-key", HeaderValue::from_static(value));
        }
        take_header(&mut submission, &headers)?;
        Ok(submission.idempotency_key)
    }

    #[test]
    fn several_headers_with_different_keys_are_refused() {
        assert!(taken(&["one-key", "another-key"]).is_err());
        let key = IdempotencyKey::parse("one-key").ok();
        assert_eq!(taken(&["one-key", "one-key"]).unwrap(), key);
        assert_eq!(taken(&[]).unwrap(), None);
    }
}
