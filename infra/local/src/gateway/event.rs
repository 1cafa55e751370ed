//! The event of payload format 2.0 that a function gets.

use std::collections::HashMap;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use comms_functions::Route;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, request};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

/// Names and values of a path's variable segments.
pub(super) type Variables = Vec<(&'static str, String)>;

/// A request that is on its way to its function.
pub(super) struct ReceivedRequest {
    pub(super) route: Route,
    pub(super) variables: Variables,
    pub(super) parts: request::Parts,
    pub(super) body: Bytes,
    pub(super) claims: Option<HashMap<String, String>>,
    pub(super) source: SocketAddr,
    pub(super) id: String,
    pub(super) now: Timestamp,
}

impl ReceivedRequest {
    /// The event of payload format 2.0.
    pub(super) fn event(&self) -> Value {
        let path = self.parts.uri.path();
        let query = self.parts.uri.query().unwrap_or_default();
        let route_key = format!("{} {}", self.route.method, self.route.path);
        let (headers, cookies) = self.headers();
        let host = headers.get(HOST.as_str()).cloned().unwrap_or_default();
        let mut context = json!({
            "accountId": comms_testkit::aws::ACCOUNT,
            "apiId": "local",
            "domainName": host,
            "domainPrefix": "local",
            "http": {
                "method": self.parts.method.as_str(),
                "path": path,
                "protocol": format!("{:?}", self.parts.version),
                "sourceIp": self.source.ip().to_string(),
                "userAgent": headers.get(USER_AGENT.as_str()).cloned().unwrap_or_default(),
            },
            "requestId": self.id,
            "routeKey": route_key,
            "stage": "$default",
            "time": self.now.to_zoned(TimeZone::UTC).strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
            "timeEpoch": self.now.as_millisecond(),
        });
        if let Some(claims) = &self.claims {
            context["authorizer"] = json!({"jwt": {"claims": claims, "scopes": null}});
        }
        let mut event = json!({
            "version": "2.0",
            "routeKey": route_key,
            "rawPath": path,
            "rawQueryString": query,
            "headers": headers,
            "requestContext": context,
            "isBase64Encoded": false,
        });
        if !cookies.is_empty() {
            event["cookies"] = json!(cookies);
        }
        let parameters = query_parameters(query);
        if !parameters.is_empty() {
            event["queryStringParameters"] = Value::Object(parameters);
        }
        if !self.variables.is_empty() {
            event["pathParameters"] = self
                .variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), json!(value)))
                .collect::<Map<_, _>>()
                .into();
        }
        if !self.body.is_empty() {
            let text = std::str::from_utf8(&self.body)
                .ok()
                .filter(|_| is_text(&self.parts.headers));
            event["isBase64Encoded"] = json!(text.is_none());
            event["body"] =
                text.map_or_else(|| json!(BASE64.encode(&self.body)), |text| json!(text));
        }
        event
    }

    /// Headers by lower-case name, several of one name joined by commas, and the cookies, which the event lists apart.
    fn headers(&self) -> (Map<String, Value>, Vec<String>) {
        let mut headers = Map::new();
        let mut cookies = Vec::new();
        for (name, value) in &self.parts.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            if name == http::header::COOKIE {
                cookies.extend(value.split(';').map(|cookie| cookie.trim().to_owned()));
                continue;
            }
            let joined = match headers.get(name.as_str()).and_then(Value::as_str) {
                Some(before) => format!("{before},{value}"),
                None => value.into_owned(),
            };
            headers.insert(name.as_str().to_owned(), json!(joined));
        }
        let forwarded = [
            ("x-forwarded-for", self.source.ip().to_string()),
            ("x-forwarded-port", "443".to_owned()),
            ("x-forwarded-proto", "https".to_owned()),
        ];
        for (name, value) in forwarded {
            headers.entry(name).or_insert_with(|| json!(value));
        }
        (headers, cookies)
    }
}

/// True for a content type that API Gateway passes as text. It encodes any other in Base64.
fn is_text(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    let kind = kind
        .split(';')
        .next()
        .unwrap_or(kind)
        .trim()
        .to_ascii_lowercase();
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || matches!(
            kind.as_str(),
            "application/json" | "application/xml" | "application/javascript"
        )
}

/// Query parameters, several of one name joined by commas.
fn query_parameters(query: &str) -> Map<String, Value> {
    let mut parameters = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name, true), decode(value, true));
        let joined = match parameters.get(&name).and_then(Value::as_str) {
            Some(before) => format!("{before},{value}"),
            None => value,
        };
        parameters.insert(name, json!(joined));
    }
    parameters
}

/// Undoes percent-encoding, and in a query `+` as well.
pub(super) fn decode(text: &str, query: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                if let (Some(high), Some(low)) = (digit(high), digit(low))
                    && let Ok(byte) = u8::try_from(high * 16 + low)
                {
                    bytes.push(byte);
                    rest = after;
                } else {
                    bytes.push(b'%');
                }
            }
            (b'+', _) if query => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
