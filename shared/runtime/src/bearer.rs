//! The payload of the bearer token that API Gateway's authorizer has verified.
//!
//! API Gateway renders every claim of a token as text, and an array as `[A B]`, which is ambiguous. This module reads the
//! payload from the header that the authorizer has verified. It does not verify the signature; `infra/docs/adr/0019-claims-from-the-token.md` says why that is safe.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use comms_core::json;
use lambda_http::http::{HeaderMap, header::AUTHORIZATION};
use serde_json::{Map, Value};

/// Bytes of a bearer token: API Gateway accepts no larger request line and header fields together (HTTP API quotas).
const MAX_TOKEN_BYTES: usize = 10_240;

/// The claims by which a token and the authorizer's rendering of it are compared. Each is one string or one number, so
/// API Gateway's rendering of it loses nothing; `aud` is compared unless it is an array.
const COMPARED: [&str; 8] = ["sub", "iss", "exp", "iat", "nbf", "jti", "client_id", "aud"];

/// Why a token's payload is not trusted. No variant has a part of the token in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BearerError {
    /// API Gateway verifies no token that it was not sent.
    #[error("there is no Authorization header")]
    Missing,
    /// Which of several tokens the authorizer verified cannot be known.
    #[error("there is more than one Authorization header")]
    Repeated,
    /// Another scheme, such as `Basic`.
    #[error("the Authorization header has another scheme")]
    Scheme,
    /// More than [`MAX_TOKEN_BYTES`].
    #[error("the token is too large")]
    TooLarge,
    /// Not three parts of base64url without padding (RFC 7515 section 7.1).
    #[error("the token is not a signed JWT")]
    NotCompact,
    /// Not a JSON object, nested too deep, or with a member twice.
    #[error("the token's payload cannot be read")]
    Payload,
    /// No subject, an empty one, or one that is not a string (RFC 7519 section 4.1.2).
    #[error("the token has no subject")]
    NoSubject,
    /// The token is not the one whose claims the authorizer passes.
    #[error("the token and the authorizer's claims differ in {0}")]
    Differs(&'static str),
}

/// The payload of the request's only bearer token, if `verified`, the authorizer's claims, are those of this token.
pub(crate) fn payload(
    headers: &HeaderMap,
    verified: &HashMap<String, String>,
) -> Result<Map<String, Value>, BearerError> {
    let payload = decode(token(headers)?)?;
    let has_subject = payload.get("sub").and_then(Value::as_str);
    if has_subject.is_none_or(str::is_empty) {
        return Err(BearerError::NoSubject);
    }
    for name in COMPARED {
        if !agree(payload.get(name), verified.get(name).map(String::as_str)) {
            return Err(BearerError::Differs(name));
        }
    }
    Ok(payload)
}

/// The token of the only `Authorization` header, with or without the scheme, as API Gateway accepts both.
fn token(headers: &HeaderMap) -> Result<&str, BearerError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(BearerError::Missing)?;
    if values.next().is_some() {
        return Err(BearerError::Repeated);
    }
    let value = value.to_str().map_err(|_| BearerError::NotCompact)?;
    // A Lambda event has several header fields of one name as one, joined by commas. No token has a comma in it.
    if value.contains(',') {
        return Err(BearerError::Repeated);
    }
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            token.trim_start_matches(' ')
        }
        Some(_) => return Err(BearerError::Scheme),
        None => value,
    };
    if token.len() > MAX_TOKEN_BYTES {
        return Err(BearerError::TooLarge);
    }
    Ok(token)
}

fn decode(token: &str) -> Result<Map<String, Value>, BearerError> {
    let parts: Vec<&str> = token.splitn(4, '.').collect();
    let [head, payload, signature] = parts.as_slice() else {
        return Err(BearerError::NotCompact);
    };
    let decode = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok();
        let bytes = bytes.filter(|bytes| !bytes.is_empty());
        bytes.ok_or(BearerError::NotCompact)
    };
    decode(head)?;
    decode(signature)?;
    let payload = decode(payload)?;
    match json::parse(&payload) {
        Ok(Value::Object(payload)) => Ok(payload),
        Ok(_) | Err(_) => Err(BearerError::Payload),
    }
}

/// True if a claim of the token and the authorizer's text of it can be the same.
fn agree(claim: Option<&Value>, text: Option<&str>) -> bool {
    match (claim, text) {
        // The text of an array cannot be compared: ["A B"] and ["A","B"] have the same.
        (None | Some(Value::Null), None) | (Some(Value::Array(_)), Some(_)) => true,
        (Some(Value::String(claim)), Some(text)) => claim == text,
        // API Gateway may write a number in another form, such as 1.7961156e+09.
        (Some(Value::Number(claim)), Some(text)) => {
            let number = text.parse::<f64>();
            number.is_ok_and(|number| claim.as_f64() == Some(number))
        }
        // None of these claims is a boolean or an object; null has no text that is documented.
        (Some(Value::Bool(_) | Value::Object(_) | Value::Null) | None, Some(_))
        | (
            Some(
                Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_)
                | Value::Object(_),
            ),
            None,
        ) => false,
    }
}

#[cfg(test)]
mod tests {
    use comms_testkit::jwt;
    use lambda_http::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| {
            let value = HeaderValue::from_str(value).unwrap();
            (AUTHORIZATION, value)
        });
        values.collect()
    }

    /// What is read from one header, beside the claims that API Gateway makes of `verified`.
    fn read(value: &str, verified: &Value) -> Result<Map<String, Value>, BearerError> {
        payload(&headers(&[value]), &jwt::rendered_claims(verified))
    }

    fn claims() -> Value {
        json!({"sub": "user-1", "iss": "https://issuer.example.com/", "aud": ["a", "b"],
               "exp": 4_102_444_800_u64, "iat": 1_796_115_600, "jti": "id-1", "roles": ["A"]})
    }

    #[test]
    fn the_payload_is_read_with_and_without_the_scheme() {
        let token = jwt::token(&claims());
        for value in [
            format!("Bearer {token}"),
            format!("bearer {token}"),
            token.clone(),
        ] {
            let payload = read(&value, &claims());
            assert_eq!(payload.map(Value::Object), Ok(claims()), "{value}");
        }
    }

    #[test]
    fn a_header_that_is_not_one_bearer_token_is_refused() {
        let token = jwt::token(&claims());
        let [head, body, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let padded = "a".repeat(MAX_TOKEN_BYTES + 1);
        for (value, error) in [
            (String::new(), BearerError::NotCompact),
            (format!("Basic {token}"), BearerError::Scheme),
            (format!("Bearer Bearer {token}"), BearerError::NotCompact),
            (
                format!("Bearer {token},Bearer {token}"),
                BearerError::Repeated,
            ),
            (format!("Bearer {token}, "), BearerError::Repeated),
            (format!("{token} {token}"), BearerError::Scheme),
            (format!("Bearer {padded}"), BearerError::TooLarge),
            (format!("Bearer {head}.{body}"), BearerError::NotCompact),
            (format!("Bearer {head}.{body}."), BearerError::NotCompact),
            (
                format!("Bearer .{body}.{signature}"),
                BearerError::NotCompact,
            ),
            (format!("Bearer {token}.x"), BearerError::NotCompact),
            (
                format!("Bearer {head}.{body}=.{signature}"),
                BearerError::NotCompact,
            ),
            (
                format!("Bearer {head}.{body}!.{signature}"),
                BearerError::NotCompact,
            ),
        ] {
            assert_eq!(read(&value, &claims()), Err(error), "{value}");
        }
        let verified = jwt::rendered_claims(&claims());
        let one = format!("Bearer {token}");
        let twice = headers(&[&one, &one]);
        assert_eq!(payload(&twice, &verified), Err(BearerError::Repeated));
        assert_eq!(payload(&headers(&[]), &verified), Err(BearerError::Missing));
    }

    #[test]
    fn a_payload_that_two_readers_read_differently_is_refused() {
        let deep = format!(
            r#"{{"sub":"user-1","a":{}{}}}"#,
            "[".repeat(20),
            "]".repeat(20)
        );
        for payload in [
            r#"{"sub":"user-1","sub":"user-1"}"#,
            r#"{"sub":"user-1","roles":["A"],"roles":["SUPER_ADMIN"]}"#,
            r#"{"sub":"user-1","a":{"b":1,"b":2}}"#,
            r#"{"sub":"user-1"} x"#,
            r#"["sub"]"#,
            "{",
            &deep,
        ] {
            let token = jwt::token_of_text(payload);
            let error = read(&token, &json!({"sub": "user-1"}));
            assert_eq!(error, Err(BearerError::Payload), "{payload}");
        }
    }

    #[test]
    fn a_token_without_a_subject_is_refused() {
        for sub in [json!(null), json!(""), json!(1), json!(["user-1"])] {
            let claims = json!({"sub": sub});
            let error = read(&jwt::token(&claims), &claims);
            assert_eq!(error, Err(BearerError::NoSubject), "{sub}");
        }
        let error = read(&jwt::token(&json!({})), &json!({}));
        assert_eq!(error, Err(BearerError::NoSubject));
    }

    #[test]
    fn a_token_that_the_authorizer_did_not_see_is_refused() {
        let token = jwt::token(&claims());
        for (name, other) in [
            ("sub", json!("user-2")),
            ("iss", json!("https://other.example.com/")),
            ("exp", json!(4_102_444_801_u64)),
            ("exp", json!("soon")),
            ("iat", json!(0)),
            ("jti", json!("id-2")),
            ("nbf", json!(1)),
            ("client_id", json!("web")),
        ] {
            let mut verified = claims();
            verified[name] = other.clone();
            let error = read(&token, &verified);
            assert_eq!(error, Err(BearerError::Differs(name)), "{name} {other}");
            // A claim that the authorizer does not hand on is no better.
            if let Some(object) = verified.as_object_mut()
                && claims().get(name).is_some()
            {
                object.remove(name);
                let error = read(&token, &verified);
                assert_eq!(error, Err(BearerError::Differs(name)), "no {name}");
            }
        }
        let one_audience = json!({"sub": "user-1", "aud": "a"});
        let error = read(
            &jwt::token(&one_audience),
            &json!({"sub": "user-1", "aud": "b"}),
        );
        assert_eq!(error, Err(BearerError::Differs("aud")));
    }

    #[test]
    fn a_number_agrees_in_each_form_that_it_may_have() {
        let claim = json!(1_796_115_600);
        for text in ["1796115600", "1.7961156e+09", "1.7961156E9"] {
            assert!(agree(Some(&claim), Some(text)), "{text}");
        }
        assert!(!agree(Some(&claim), Some("1796115601")));
    }
}
