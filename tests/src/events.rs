//! The events of invocations: of API Gateway with the claims of a token, and of SQS.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comms_testkit::jwt;
use lambda_http::{Request, RequestExt};
use lambda_runtime::Context;
use serde_json::{Value, json};

use crate::world::CLINIC;

/// A record of an SQS event.
pub fn record(id: &str, body: &str) -> Value {
    json!({
        "messageId": id, "receiptHandle": "handle", "body": body, "md5OfBody": "",
        "attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": CLINIC}, "messageAttributes": {},
        "eventSource": "aws:sqs", "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:clinic-comms",
    })
}

pub(crate) fn context(time: Duration) -> Context {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + time;
    let mut context = Context::default();
    context.request_id = String::from("8476a536-e9f4-11e8-9739-2dfe598c3fcd");
    context.deadline = u64::try_from(deadline.as_millis()).unwrap();
    context
}

pub(crate) fn request(event: &str) -> Request {
    lambda_http::request::from_str(event)
        .unwrap()
        .with_lambda_context(context(Duration::from_secs(29)))
}

/// An event of API Gateway's payload format 2.0. `claims` are those of the verified token, which is in the
/// `authorization` header unless `headers` has another; `null` is a request that no authorizer has seen.
pub fn http_event(
    method: &str,
    path: &str,
    body: Option<&str>,
    claims: &Value,
    headers: &[(&str, &str)],
) -> String {
    let mut all = json!({"host": "api.clinic-comms.example", "content-type": "application/json"});
    if !claims.is_null() {
        all["authorization"] = json!(format!("Bearer {}", jwt::token(claims)));
    }
    for (name, value) in headers {
        all[*name] = json!(value);
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut event = json!({
        "version": "2.0", "routeKey": format!("{method} {path}"), "rawPath": path, "rawQueryString": query,
        "headers": all, "isBase64Encoded": false,
        "requestContext": {
            "accountId": "123456789012", "apiId": "api123", "domainName": "api.clinic-comms.example",
            "domainPrefix": "api", "requestId": "JKJaXmPLvHcESHA=", "routeKey": "route", "stage": "$default",
            "time": "01/Dec/2026:09:00:00 +0000", "timeEpoch": 1_796_115_600_000_u64,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.10",
                     "userAgent": "test"},
        },
    });
    if !claims.is_null() {
        let rendered = jwt::rendered_claims(claims);
        event["requestContext"]["authorizer"] =
            json!({"jwt": {"claims": rendered, "scopes": null}});
    }
    if let Some(body) = body {
        event["body"] = json!(body);
    }
    event.to_string()
}

/// The claims of a token with these roles, separated by blanks, and this clinic if there is one.
pub fn claims(roles: &str, clinic: Option<&str>) -> Value {
    let mut claims = json!({"sub": "user-1", "iss": "https://issuer.example.com/", "aud": "clinic-comms",
        "iat": 1_796_115_600, "exp": 4_102_444_800_u64});
    if !roles.is_empty() {
        claims["roles"] = roles.split(' ').collect();
    }
    if let Some(clinic) = clinic {
        claims["clinic_id"] = json!(clinic);
    }
    claims
}

/// A backend of the platform.
pub fn service() -> Value {
    claims("SERVICE", None)
}

/// The platform's own people.
pub fn super_admin() -> Value {
    claims("SUPER_ADMIN", None)
}
