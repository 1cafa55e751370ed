//! The body of a request: how large it may be, and the JSON in it.

use comms_core::json::{self, Problems};
use lambda_http::{
    Request,
    http::{HeaderValue, StatusCode, header},
};
use serde_json::Value;

use super::HttpProblem;

/// Refuses a body with a content coding: 415 with `Accept-Encoding: identity` (RFC 9110 section 15.5.16).
fn check_encoding(request: &Request) -> Result<(), HttpProblem> {
    let sent = request.headers().get_all(header::CONTENT_ENCODING);
    let is_plain = sent
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_plain {
        return Ok(());
    }
    let problem = HttpProblem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_content_encoding",
        "The body is encoded",
        "Send the body as it is, without Content-Encoding.",
    );
    Err(problem.with_header(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    ))
}

/// The bytes of a request's body.
///
/// # Errors
/// 413 for more than `most` bytes, 415 for a content coding.
pub fn body_bytes(request: &Request, most: usize) -> Result<&[u8], HttpProblem> {
    check_encoding(request)?;
    let bytes = request.body().as_ref();
    if bytes.len() > most {
        return Err(HttpProblem::body_too_large(most));
    }
    Ok(bytes)
}

/// The JSON object in a request's body.
///
/// # Errors
/// As [`body_bytes`], and 400 for a body that is not a JSON object within the limits of [`json::parse`].
pub fn json_body(request: &Request, most: usize) -> Result<Value, HttpProblem> {
    json::parse(body_bytes(request, most)?)
        .and_then(|document| {
            if document.is_object() {
                Ok(document)
            } else {
                Err(Problems::one("", "must be an object"))
            }
        })
        .map_err(|problems| HttpProblem::malformed(&problems))
}

#[cfg(test)]
mod tests {
    use lambda_http::Body;

    use super::*;

    #[test]
    fn a_body_that_is_no_object_is_malformed() {
        assert!(json_body(&Request::new(Body::from("{\"a\":1}")), 7).is_ok());
        for body in ["", "{", "null", "[]", "5", "\"text\""] {
            let problem = json_body(&Request::new(Body::from(body)), 10).unwrap_err();
            assert_eq!(problem.status(), 400, "{body}");
        }
    }

    #[test]
    fn a_body_of_a_byte_too_many_is_refused_before_it_is_read() {
        let problem = json_body(&Request::new(Body::from("{\"a\":1}")), 6).unwrap_err();
        assert_eq!(problem.status(), 413);
        assert_eq!(
            problem.detail(),
            "The body of this request may have 6 bytes."
        );
    }
}
