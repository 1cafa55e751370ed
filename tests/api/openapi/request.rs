//! Requests of an operation, as the document describes them.

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_tests::{ApiResponse, World, contract::Operation, http_event};
use serde_json::{Map, Value, json};

use super::{function_of, requests::Body, text};

/// A request of an operation.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) path: Vec<(String, String)>,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content_type: String,
    pub(super) body: Body,
}

impl Request {
    /// With the document's examples as parameters.
    pub(super) fn of(operation: &Operation, body: Body) -> Self {
        let of_path = operation
            .parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path");
        let path = of_path.map(|parameter| (text(&parameter["name"]), text(&parameter["example"])));
        Self {
            path: path.collect(),
            query: Vec::new(),
            headers: Vec::new(),
            content_type: "application/json".to_owned(),
            body,
        }
    }

    pub(super) fn at(mut self, clinic: &str) -> Self {
        for (name, value) in &mut self.path {
            if name == "clinicId" {
                clinic.clone_into(value);
            }
        }
        self
    }

    pub(super) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn event(&self, operation: &Operation, claims: &Value) -> String {
        let mut path = operation.path.clone();
        for (name, value) in &self.path {
            path = path.replace(&format!("{{{name}}}"), &percent_encoded(value));
        }
        let mut headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        headers.push(("content-type", &self.content_type));
        let event = http_event(&operation.method, &path, None, claims, &headers);
        let mut event: Value = serde_json::from_str(&event).unwrap();
        let query: Vec<_> = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encoded(value)))
            .collect();
        event["rawQueryString"] = json!(query.join("&"));
        if !self.query.is_empty() {
            event["queryStringParameters"] = self
                .query
                .iter()
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect::<Map<_, _>>()
                .into();
        }
        match &self.body {
            Body::None => {}
            Body::Json(value) => event["body"] = json!(value.to_string()),
            Body::Bytes(bytes) => {
                event["body"] = json!(BASE64_STANDARD.encode(bytes));
                event["isBase64Encoded"] = json!(true);
            }
        }
        event.to_string()
    }

    pub(super) async fn ask(
        &self,
        world: &World,
        operation: &Operation,
        claims: &Value,
    ) -> ApiResponse {
        let event = self.event(operation, claims);
        match function_of(operation) {
            "send" => world.ask_send(&event).await,
            "status" => world.ask_status(&event).await,
            "config" => world.ask_config(&event).await,
            "config-test" => world.ask_config_test(&event).await,
            other => panic!("World does not ask {other}"),
        }
    }
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded = |byte: u8| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encoded).collect()
}
