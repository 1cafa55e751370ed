//! Answers: API Gateway's own, and those that a function's result is turned into.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use comms_testkit::runtime_api::InvocationError;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// API Gateway's own answers.
pub(super) fn message(status: StatusCode, text: &str) -> Response {
    (status, axum::Json(json!({"message": text}))).into_response()
}

pub(super) fn too_large() -> Response {
    message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large")
}

pub(super) fn failed(error: &InvocationError) -> Response {
    match error {
        InvocationError::TimedOut { .. } => {
            message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable")
        }
        InvocationError::TooLarge { .. } => too_large(),
        InvocationError::Function { .. }
        | InvocationError::InitFailed { .. }
        | InvocationError::Exited { .. }
        | InvocationError::ResponseTooLarge
        | InvocationError::Closed => {
            message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        }
    }
}

pub(super) fn unauthorized(reason: &str) -> Response {
    // The reason in the body is an addition to API Gateway's answer: a developer need not read the header.
    let body = json!({"message": "Unauthorized", "detail": reason});
    let mut response = (StatusCode::UNAUTHORIZED, axum::Json(body)).into_response();
    let challenge = format!(r#"Bearer error="invalid_token", error_description="{reason}""#);
    let challenge = HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static("Bearer"));
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// A function's answer in payload format 2.0.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FunctionAnswer {
    status_code: u16,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    multi_value_headers: Option<Map<String, Value>>,
    #[serde(default)]
    cookies: Option<Vec<String>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

/// The HTTP answer of a function's answer, or why it is none.
pub(super) fn from_function(answer: &[u8]) -> Result<Response, String> {
    let value: Value = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
    if value.get("statusCode").is_none() {
        // Payload format 2.0 takes such an answer as the body of a 200.
        return Ok(axum::Json(value).into_response());
    }
    let answer: FunctionAnswer = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let body = answer.body.unwrap_or_default();
    let body = if answer.is_base64_encoded {
        BASE64.decode(body).map_err(|e| e.to_string())?
    } else {
        body.into_bytes()
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(answer.status_code).map_err(|e| e.to_string())?;
    let headers = response.headers_mut();
    let single = answer.headers.unwrap_or_default();
    let several = answer.multi_value_headers.unwrap_or_default();
    for (name, value) in several.into_iter().chain(single) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        if name == http::header::CONTENT_LENGTH
            || name == http::header::TRANSFER_ENCODING
            || name == http::header::CONNECTION
            || headers.contains_key(&name)
        {
            continue;
        }
        let values = if let Value::Array(values) = value {
            values
        } else {
            vec![value]
        };
        for value in values {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned);
            headers.append(
                name.clone(),
                HeaderValue::from_str(&value).map_err(|e| e.to_string())?,
            );
        }
    }
    for cookie in answer.cookies.unwrap_or_default() {
        headers.append(
            http::header::SET_COOKIE,
            HeaderValue::from_str(&cookie).map_err(|e| e.to_string())?,
        );
    }
    headers
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("text/plain;charset=utf-8"));
    Ok(response)
}
