//! Answers in JSON.

use lambda_http::{
    Body, Response,
    http::{HeaderValue, StatusCode, header},
};
use serde::Serialize;
use tracing::error;

/// A JSON answer that no cache keeps.
pub fn json_response(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    match serde_json::to_string(body) {
        Ok(body) => json_text_response(status, body),
        Err(error) => {
            error!(%error, "an answer could not be written");
            json_text_response(StatusCode::INTERNAL_SERVER_ERROR, "{}".to_owned())
        }
    }
}

/// An answer that is JSON text already, and that no cache keeps.
pub fn json_text_response(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::Text(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
