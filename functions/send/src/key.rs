//! The idempotency key: in the body, or in the header as draft-ietf-httpapi-idempotency-key-header-07 (section 2.1) writes
//! it.

use comms_core::{IdempotencyKey, Problems, id::IdError, request::Submission, structured_field};
use comms_runtime::HttpProblem;
use lambda_http::http::{HeaderMap, HeaderName, HeaderValue};

/// Tells a caller that the key was used before for the same communication, and that the answer is about that one.
pub(crate) const REPLAYED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("idempotency-replayed"),
    HeaderValue::from_static("true"),
);

/// Takes the key of the header into the submission, whose body may repeat it.
pub(crate) fn take_header(
    submission: &mut Submission,
    headers: &HeaderMap,
) -> Result<(), HttpProblem> {
    let Some(header) = headers.get("idempotency-key") else {
        return Ok(());
    };
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

/// `"abc"` and `abc` are the key `abc`. The draft defines no parameters (`"abc";v=1`), and a key with any is refused.
fn parse(text: &str) -> Result<IdempotencyKey, IdError> {
    if !text.starts_with('"') {
        return IdempotencyKey::parse(text);
    }
    let key = structured_field::parse_string(text).ok_or(IdError::IdempotencyKey)?;
    IdempotencyKey::parse(&key)
}
