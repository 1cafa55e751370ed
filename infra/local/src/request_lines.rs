//! One line for each request that changed something or was refused, with why and what to do: the body says so, and a
//! developer who looks at the console sees it without asking again.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::header::{USER_AGENT, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::console::{Event, Mark, say};

/// By this name the stack itself asks the API, which is not told of.
pub(crate) const OWN_USER_AGENT: &str = "clinic-comms-local";

/// Errors of one answer that are told, at most.
const MAX_ERRORS: usize = 3;

/// Tells of a request and its answer.
pub(crate) async fn tell(request: Request, next: Next) -> Response {
    let agent = request.headers().get(USER_AGENT);
    if agent.is_some_and(|agent| agent == OWN_USER_AGENT) {
        return next.run(request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (parts, body) = next.run(request).await.into_parts();
    // A function's answer has 6 MB at most, and is in memory already.
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let body = body.unwrap_or_default();
    let challenge = parts.headers.get(WWW_AUTHENTICATE);
    let challenge = challenge.and_then(|challenge| challenge.to_str().ok());
    if let Some(event) = event(&method, &path, parts.status, challenge, &body) {
        say(event);
    }
    Response::from_parts(parts, Body::from(body))
}

/// The line of a request, if it has one.
fn event(
    method: &Method,
    path: &str,
    status: StatusCode,
    challenge: Option<&str>,
    body: &Bytes,
) -> Option<Event> {
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error && method.is_safe() {
        return None;
    }
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = if is_error {
        refusal(status, challenge, &answer)
    } else {
        done(&answer)
    };
    Some(Event {
        at: Timestamp::now(),
        mark: if is_error {
            Mark::Failed
        } else {
            Mark::Request
        },
        subject: format!(
            "{:<44}",
            format!("{} {:<6} {path}", status.as_u16(), method.as_str())
        ),
        text,
    })
}

/// What was done.
fn done(answer: &Value) -> String {
    let text = |name: &str| answer[name].as_str();
    match (
        text("status"),
        text("requestId"),
        answer["version"].as_u64(),
    ) {
        (Some(status), Some(request), _) => format!("{status}: request {request}"),
        (_, _, Some(version)) => format!("settings, version {version}"),
        (_, _, None) => "done".to_owned(),
    }
}

/// Why it was refused.
fn refusal(status: StatusCode, challenge: Option<&str>, answer: &Value) -> String {
    if status == StatusCode::UNAUTHORIZED {
        let reason = challenge.and_then(|text| text.split("error_description=\"").nth(1));
        let reason = reason.and_then(|text| text.split('"').next());
        let reason = reason.unwrap_or("the token is not accepted");
        return format!(
            "{reason}; `cargo run -q -- token --clinic clinic-123 --role CLINIC_ADMIN` prints a token"
        );
    }
    let errors = answer["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let mut told: Vec<String> = errors
        .iter()
        .take(MAX_ERRORS)
        .filter_map(|error| {
            let detail = error["detail"].as_str()?;
            Some(match error["pointer"].as_str() {
                Some("") | None => detail.to_owned(),
                Some(pointer) => format!("{pointer}: {detail}"),
            })
        })
        .collect();
    if errors.len() > MAX_ERRORS {
        told.push(format!("{} more", errors.len() - MAX_ERRORS));
    }
    if !told.is_empty() {
        return told.join("; ");
    }
    let text = ["detail", "title", "message"];
    let text = text.into_iter().find_map(|name| answer[name].as_str());
    text.unwrap_or("the answer has no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(
        method: &Method,
        status: u16,
        challenge: Option<&str>,
        body: &Value,
    ) -> Option<(Mark, String)> {
        let status = StatusCode::from_u16(status).unwrap();
        let body = Bytes::from(body.to_string());
        let event = event(method, "/api/v1/communications", status, challenge, &body)?;
        Some((event.mark, format!("{}  {}", event.subject, event.text)))
    }

    #[test]
    fn reading_is_not_told_and_changing_is() {
        assert_eq!(told(&Method::GET, 200, None, &json!({})), None);
        let accepted = json!({"status": "queued", "requestId": "5b1e"});
        assert_eq!(
            told(&Method::POST, 202, None, &accepted),
            Some((
                Mark::Request,
                "202 POST   /api/v1/communications             queued: request 5b1e".to_owned()
            ))
        );
    }

    #[test]
    fn a_refused_token_is_told_with_the_command_that_prints_another() {
        let challenge =
            r#"Bearer error="invalid_token", error_description="the token has expired""#;
        let body = json!({"message": "Unauthorized"});
        let (mark, line) = told(&Method::GET, 401, Some(challenge), &body).unwrap();
        assert_eq!(mark, Mark::Failed);
        assert!(
            line.contains("  the token has expired; `cargo run -q -- token"),
            "{line}"
        );
    }

    #[test]
    fn bad_input_is_told_field_by_field() {
        let error = |pointer: &str| json!({"pointer": pointer, "detail": "is missing"});
        let errors: Vec<_> = ["/title", "/body", "/channels", "/recipients"]
            .map(error)
            .into();
        let (_, line) = told(&Method::POST, 422, None, &json!({"errors": errors})).unwrap();
        assert!(
            line.ends_with("/title: is missing; /body: is missing; /channels: is missing; 1 more"),
            "{line}"
        );
        let problem = json!({"title": "Not found", "detail": "There is no such clinic."});
        let (_, line) = told(&Method::GET, 404, None, &problem).unwrap();
        assert!(line.ends_with("There is no such clinic."), "{line}");
    }
}
