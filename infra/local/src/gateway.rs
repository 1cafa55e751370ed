//! API Gateway's HTTP API, as the functions see it: routes, the JWT authorizer, and the payload format 2.0.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>. What
//! API Gateway refuses by itself is refused here with its own words and without an invocation: unknown routes,
//! missing or bad tokens, bodies over 10 MB. Claims arrive as text, an array as `[A B]`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use comms_functions::{Authorizer, Function, Route};
use comms_testkit::runtime_api::InvocationError;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::console::warn;
use crate::processes::Processes;
use crate::token::DeveloperKey;

/// API Gateway's limit of a request's body, in bytes.
const MAX_BODY: usize = 10 * 1024 * 1024;

/// Names and values of a path's variable segments.
type Variables = Vec<(&'static str, String)>;

#[derive(Clone)]
struct Gateway {
    routes: Vec<(Route, &'static Function)>,
    processes: Processes,
    key: DeveloperKey,
}

/// The API as an HTTP service. It wants the peer's address ([`ConnectInfo`]).
pub(crate) fn service(processes: Processes, key: DeveloperKey) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(Gateway {
        routes: comms_functions::routes(),
        processes,
        key,
    }))
}

async fn answer(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let found = find(&gateway.routes, &parts.method, parts.uri.path());
    let Some((route, function, variables)) = found else {
        return message(StatusCode::NOT_FOUND, "Not Found");
    };
    let claims = match route.authorizer {
        Authorizer::Jwt => match authorize(&gateway.key, &parts.headers) {
            Ok(claims) => Some(claims),
            Err(reason) => return unauthorized(&reason),
        },
        Authorizer::None => None,
    };
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return too_large(),
        Err(_) => return message(StatusCode::BAD_REQUEST, "Bad Request"),
    };
    let request = Received {
        route: route.clone(),
        variables,
        parts,
        body,
        claims,
        source: peer,
        id: uuid::Uuid::new_v4().to_string(),
        now: Timestamp::now(),
    };
    let id = request.id.clone();
    let payload = Bytes::from(request.event().to_string());
    let mut response = match gateway.processes.invoke(function, payload).await {
        Ok(answer) => from_function(&answer).unwrap_or_else(|reason| {
            warn(format_args!(
                "[gateway] {function}: not an answer: {reason}"
            ));
            message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        }),
        Err(error) => {
            warn(format_args!("[gateway] {function}: {error}"));
            failed(&error)
        }
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("apigw-requestid", id);
    }
    response
}

/// API Gateway's own answers.
fn message(status: StatusCode, text: &str) -> Response {
    (status, axum::Json(json!({"message": text}))).into_response()
}

fn too_large() -> Response {
    message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large")
}

fn failed(error: &InvocationError) -> Response {
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

fn unauthorized(reason: &str) -> Response {
    // Beside API Gateway's own word the reason, which a developer would otherwise look for in a header.
    let body = json!({"message": "Unauthorized", "detail": reason});
    let mut response = (StatusCode::UNAUTHORIZED, axum::Json(body)).into_response();
    let challenge = format!(r#"Bearer error="invalid_token", error_description="{reason}""#);
    let challenge = HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static("Bearer"));
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// The claims of the request's bearer token, or what is wrong with it.
fn authorize(key: &DeveloperKey, headers: &HeaderMap) -> Result<HashMap<String, String>, String> {
    let header = headers
        .get(AUTHORIZATION)
        .ok_or("no Authorization header")?
        .to_str()
        .map_err(|_| "the Authorization header is not text")?;
    // API Gateway takes the token with or without the scheme.
    let token = match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        Some(_) => return Err("not a bearer token".to_owned()),
        None => header,
    };
    key.verify(token)
}

/// The route of a request, its function, and the variables of its path.
fn find<'r>(
    routes: &'r [(Route, &'static Function)],
    method: &Method,
    path: &str,
) -> Option<(&'r Route, &'static Function, Variables)> {
    routes
        .iter()
        .filter(|(route, _)| route.method == *method)
        .find_map(|(route, function)| Some((route, *function, matches(route.path, path)?)))
}

fn matches(pattern: &'static str, path: &str) -> Option<Variables> {
    let (mut patterns, mut segments) = (pattern.split('/'), path.split('/'));
    let mut variables = Vec::new();
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) => return Some(variables),
            (Some(pattern), Some(segment)) => {
                let name = pattern
                    .strip_prefix('{')
                    .and_then(|name| name.strip_suffix('}'));
                match name {
                    Some(_) if segment.is_empty() => return None,
                    Some(name) => variables.push((name, decode(segment, false))),
                    None if pattern == segment => {}
                    None => return None,
                }
            }
            (Some(_), None) | (None, Some(_)) => return None,
        }
    }
}

/// Undoes percent-encoding, and in a query `+` as well.
fn decode(text: &str, query: bool) -> String {
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

/// A request that is on its way to its function.
struct Received {
    route: Route,
    variables: Variables,
    parts: request::Parts,
    body: Bytes,
    claims: Option<HashMap<String, String>>,
    source: SocketAddr,
    id: String,
    now: Timestamp,
}

impl Received {
    /// The event of payload format 2.0.
    fn event(&self) -> Value {
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

    /// Headers by lower-case name, several of one name joined by commas, and the cookies, which come apart.
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

/// What API Gateway hands over as text; anything else goes as Base64.
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
fn from_function(answer: &[u8]) -> Result<Response, String> {
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

#[cfg(test)]
mod tests {
    use comms_testkit::runtime_api::RuntimeApi;
    use jiff::SignedDuration;
    use tower::ServiceExt as _;

    use super::*;
    use crate::function_logs::FunctionLogs;
    use crate::token::Claims;

    fn received(request: http::Request<&str>, claims: Option<HashMap<String, String>>) -> Received {
        let (parts, body) = request.into_parts();
        let routes = comms_functions::routes();
        let (route, _, variables) = find(&routes, &parts.method, parts.uri.path()).unwrap();
        Received {
            route: route.clone(),
            variables,
            parts,
            body: Bytes::copy_from_slice(body.as_bytes()),
            claims,
            source: ([127, 0, 0, 1], 50_000).into(),
            id: "id".to_owned(),
            now: "2026-11-22T17:05:09Z".parse().unwrap(),
        }
    }

    #[test]
    fn the_event_has_the_shape_of_payload_format_2() {
        let request = http::Request::builder()
            .method("PUT")
            .uri("/api/v1/clinics/clinic%20123?parameter1=value1&parameter1=value2&parameter2=a%20b+c")
            .header("Host", "127.0.0.1:3000")
            .header("User-Agent", "curl/8")
            .header("Header2", "value1")
            .header("Header2", "value2")
            .header("Cookie", "cookie1=a; cookie2=b")
            .header("Content-Type", "application/json; charset=utf-8")
            .body(r#"{"a":1}"#)
            .unwrap();
        let claims = HashMap::from([("roles".to_owned(), "[CLINIC_ADMIN]".to_owned())]);
        assert_eq!(
            received(request, Some(claims)).event(),
            json!({
                "version": "2.0",
                "routeKey": "PUT /api/v1/clinics/{clinicId}",
                "rawPath": "/api/v1/clinics/clinic%20123",
                "rawQueryString": "parameter1=value1&parameter1=value2&parameter2=a%20b+c",
                "cookies": ["cookie1=a", "cookie2=b"],
                "headers": {
                    "host": "127.0.0.1:3000",
                    "user-agent": "curl/8",
                    "header2": "value1,value2",
                    "content-type": "application/json; charset=utf-8",
                    "x-forwarded-for": "127.0.0.1",
                    "x-forwarded-port": "443",
                    "x-forwarded-proto": "https",
                },
                "queryStringParameters": {"parameter1": "value1,value2", "parameter2": "a b c"},
                "requestContext": {
                    "accountId": "123456789012",
                    "apiId": "local",
                    "authorizer": {"jwt": {"claims": {"roles": "[CLINIC_ADMIN]"}, "scopes": null}},
                    "domainName": "127.0.0.1:3000",
                    "domainPrefix": "local",
                    "http": {
                        "method": "PUT",
                        "path": "/api/v1/clinics/clinic%20123",
                        "protocol": "HTTP/1.1",
                        "sourceIp": "127.0.0.1",
                        "userAgent": "curl/8",
                    },
                    "requestId": "id",
                    "routeKey": "PUT /api/v1/clinics/{clinicId}",
                    "stage": "$default",
                    "time": "22/Nov/2026:17:05:09 +0000",
                    "timeEpoch": 1_795_367_109_000_i64,
                },
                "body": "{\"a\":1}",
                "pathParameters": {"clinicId": "clinic 123"},
                "isBase64Encoded": false,
            })
        );
    }

    #[test]
    fn a_body_that_is_not_declared_as_text_goes_as_base64() {
        let request = http::Request::builder()
            .method("POST")
            .uri("/api/v1/communications")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body("{}")
            .unwrap();
        let event = received(request, None).event();
        assert_eq!(event["isBase64Encoded"], true);
        assert_eq!(event["body"], "e30=");
    }

    #[test]
    fn routes_are_told_apart_by_method_and_path() {
        let routes = comms_functions::routes();
        let function = |method: &str, path: &str| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            find(&routes, &method, path).map(|(_, function, _)| function.name)
        };
        assert_eq!(function("POST", "/api/v1/communications"), Some("send"));
        assert_eq!(function("GET", "/api/v1/communications/a"), Some("status"));
        assert_eq!(function("PATCH", "/api/v1/clinics/_global"), Some("config"));
        assert_eq!(
            function("POST", "/api/v1/clinics/a/communication/test-email"),
            Some("config-test")
        );
        assert_eq!(function("GET", "/api/v1/communications"), Some("status"));
        assert_eq!(function("GET", "/api/v1/communications/"), None);
        assert_eq!(function("POST", "/api/v1/clinics/a"), None);
        assert_eq!(function("GET", "/"), None);
    }

    #[tokio::test]
    async fn an_answer_keeps_its_status_headers_cookies_and_bytes() {
        let answer = json!({
            "statusCode": 202,
            "headers": {"Content-Type": "application/problem+json", "content-length": "99"},
            "multiValueHeaders": {"x-a": ["1", "2"]},
            "cookies": ["a=b"],
            "body": "aGk=",
            "isBase64Encoded": true,
        });
        let response = from_function(answer.to_string().as_bytes()).unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(response.headers()["set-cookie"], "a=b");
        assert_eq!(response.headers().get_all("x-a").iter().count(), 2);
        assert!(!response.headers().contains_key("content-length"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "hi");
    }

    #[test]
    fn what_is_no_answer_is_refused_and_a_bare_value_is_a_body() {
        assert!(from_function(b"not json").is_err());
        assert!(from_function(br#"{"statusCode":"many"}"#).is_err());
        assert!(from_function(br#"{"statusCode":200,"isBase64Encoded":true,"body":"?"}"#).is_err());
        let bare = from_function(br#"{"hello":1}"#).unwrap();
        assert_eq!(bare.status(), StatusCode::OK);
    }

    /// A gateway whose functions cannot be started, and its key.
    async fn gateway(directory: &std::path::Path) -> (Router, DeveloperKey) {
        let key = DeveloperKey::in_directory(directory).unwrap();
        let api = RuntimeApi::start().await;
        let processes = Processes::new(
            api,
            "/nowhere".into(),
            Vec::new(),
            false,
            FunctionLogs::default(),
        );
        (service(processes, key.clone()), key)
    }

    async fn ask(app: &Router, request: http::request::Builder, body: Body) -> (StatusCode, Value) {
        let peer: SocketAddr = ([127, 0, 0, 1], 50_000).into();
        let request = request.extension(ConnectInfo(peer)).body(body).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn the_gateway_answers_by_itself_what_never_reaches_a_function() {
        let dir = tempfile::tempdir().unwrap();
        let (app, key) = gateway(dir.path()).await;
        let token = |hours| {
            let claims = Claims {
                clinic: None,
                roles: vec!["SERVICE".to_owned()],
                subject: "test".to_owned(),
                expires_in: SignedDuration::from_hours(hours),
            };
            format!("Bearer {}", key.token(&claims).unwrap())
        };
        let post = || http::Request::post("/api/v1/communications");

        let unknown = ask(&app, http::Request::get("/nothing"), Body::empty()).await;
        assert_eq!(
            unknown,
            (StatusCode::NOT_FOUND, json!({"message": "Not Found"}))
        );

        let refused = |answer: (StatusCode, Value)| {
            assert_eq!(answer.0, StatusCode::UNAUTHORIZED);
            assert_eq!(answer.1["message"], "Unauthorized");
            answer.1["detail"].as_str().unwrap_or_default().to_owned()
        };
        let without = refused(ask(&app, post(), Body::empty()).await);
        assert_eq!(without, "no Authorization header");
        for header in ["Bearer x", "Basic YTpi", &token(-1)] {
            let request = post().header("authorization", header);
            assert_ne!(refused(ask(&app, request, Body::empty()).await), without);
        }

        let request = post().header("authorization", token(1));
        let large = ask(&app, request, Body::from(vec![b'a'; MAX_BODY + 1])).await;
        assert_eq!(
            large,
            (
                StatusCode::PAYLOAD_TOO_LARGE,
                json!({"message": "Request Entity Too Large"})
            )
        );

        let request = post().header("authorization", token(1));
        let broken = ask(&app, request, Body::from("{}")).await;
        assert_eq!(
            broken,
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                json!({"message": "Internal Server Error"})
            )
        );
    }

    #[test]
    fn a_time_out_is_a_503() {
        let response = failed(&InvocationError::TimedOut { process: None });
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
