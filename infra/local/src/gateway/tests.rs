//! Routes, the event of a request, and the answers.

use axum::body::Body;
use comms_testkit::runtime_api::{InvocationError, RuntimeApi};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::function_logs::FunctionLogs;
use crate::token::Claims;

fn received(
    request: http::Request<&str>,
    claims: Option<HashMap<String, String>>,
) -> ReceivedRequest {
    let (parts, body) = request.into_parts();
    let routes = comms_functions::routes();
    let (route, _, variables) = find(&routes, &parts.method, parts.uri.path()).unwrap();
    ReceivedRequest {
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
