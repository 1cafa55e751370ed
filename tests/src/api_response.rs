//! What an HTTP function answered.

use lambda_http::{Body, Response};
use serde_json::Value;

/// What an HTTP function answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiResponse {
    /// The status.
    pub status: u16,
    /// The headers and the body as text, to be searched.
    pub text: String,
    /// The body.
    pub body: Value,
    headers: lambda_http::http::HeaderMap,
}

impl ApiResponse {
    pub(crate) fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = match body {
            Body::Text(text) => text.into_bytes(),
            Body::Binary(bytes) => bytes,
            Body::Empty => Vec::new(),
            other => panic!("an answer has a body or none, not {other:?}"),
        };
        let text = String::from_utf8(bytes).unwrap();
        // 204 and 304 have none (RFC 9110 sections 15.3.5 and 15.4.5).
        assert_eq!(text.is_empty(), [204, 304].contains(&parts.status.as_u16()));
        Self {
            status: parts.status.as_u16(),
            body: match text.as_str() {
                "" => Value::Null,
                html if html.starts_with("<!doctype html>") => Value::Null,
                text => serde_json::from_str(text).unwrap(),
            },
            text: format!("{:?} {text}", parts.headers),
            headers: parts.headers,
        }
    }

    /// A header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The status, for an `assert_eq!` that shows the body when it fails.
    #[track_caller]
    #[allow(
        clippy::return_self_not_must_use,
        reason = "the status is what is asserted"
    )]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// The pointers of a problem's errors, sorted.
    pub fn pointers(&self) -> Vec<String> {
        let errors = self.body["errors"].as_array().cloned().unwrap_or_default();
        let mut pointers: Vec<_> = errors
            .iter()
            .map(|error| error["pointer"].as_str().unwrap().to_owned())
            .collect();
        pointers.sort();
        pointers
    }

    /// The request's id.
    pub fn request_id(&self) -> String {
        self.body["requestId"].as_str().unwrap().to_owned()
    }
}
