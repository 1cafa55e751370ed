//! API Gateway's HTTP API for the functions: routes, the JWT authorizer, and the payload format 2.0.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>. The
//! gateway refuses unknown routes, missing or bad tokens, and bodies over 10 MB as API Gateway does: with its texts, and
//! without an invocation. Claims arrive as text, an array as `[A B]`.

mod event;
mod reply;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use bytes::Bytes;
use comms_functions::{Authorizer, Function, Route};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jiff::Timestamp;

use crate::console::warn;
use crate::processes::Processes;
use crate::token::DeveloperKey;
use event::{ReceivedRequest, Variables, decode};
use reply::{failed, from_function, message, too_large, unauthorized};

/// API Gateway's limit of a request's body, in bytes.
const MAX_BODY: usize = 10 * 1024 * 1024;

#[derive(Clone)]
struct Gateway {
    routes: Vec<(Route, &'static Function)>,
    processes: Processes,
    key: DeveloperKey,
}

/// The API as an HTTP service. It needs the peer's address ([`ConnectInfo`]).
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
    let request = ReceivedRequest {
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

/// The claims of the request's bearer token, or why it is refused.
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
