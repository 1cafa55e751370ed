//! HTTP answers: JSON, and errors as problem details (RFC 9457).

pub mod query;
pub mod routes;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use comms_core::json::{self, Problem, Problems};
use lambda_http::{
    Body, BoxFuture, Request, RequestExt, Response,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    request::RequestContext,
    service_fn,
};
use lambda_runtime::layers::TracingLayer;
use serde::Serialize;
use serde_json::Value;
use tracing::{Instrument, Span, error, info};

use crate::{
    environment::Environment,
    lifetime::EndWithCredentials,
    telemetry::{self, TraceHeader},
};

/// Header fields of a request: as many as Rust's HTTP servers read by default (hyper, `max_headers`).
pub const MAX_HEADERS: usize = 100;
/// Bytes of all names and values of header fields. API Gateway takes 10,240 with the request line (HTTP API
/// quotas), and adds some of its own.
pub const MAX_HEADER_BYTES: usize = 16_384;
/// Bytes of path and query together: what RFC 9110 section 4.1 asks of everybody, and more than there is to say.
pub const MAX_TARGET_BYTES: usize = 8_000;

/// An error as it is answered. Its texts are fixed or name fields; none repeats what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProblem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: Box<str>,
    errors: Box<[Problem]>,
    members: Box<[(&'static str, String)]>,
    retry_after: Option<u32>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl HttpProblem {
    /// A problem with its HTTP status, a code for programs, and a sentence for people.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            title,
            detail: detail.into().into(),
            errors: Box::default(),
            members: Box::default(),
            retry_after: None,
            headers: Vec::new(),
        }
    }

    /// 422: the document is JSON, and wrong in these fields.
    pub fn invalid(problems: &Problems) -> Self {
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_request",
            "The request is not valid",
            "Each entry of errors names a field and what would be right.",
        );
        problem.errors = problems.as_slice().into();
        problem
    }

    /// 400: the body is no JSON document.
    pub fn malformed(problems: &Problems) -> Self {
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "malformed_request",
            "The request cannot be read",
            "Send a JSON document.",
        );
        problem.errors = problems.as_slice().into();
        problem
    }

    /// 413: the body has more bytes than `most`.
    pub fn body_too_large(most: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The body is too large",
            format!("The body of this request may have {most} bytes."),
        )
    }

    /// 403: the caller may not do this.
    pub fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "Not allowed",
            "The role of the token does not allow this for this clinic.",
        )
    }

    /// 404: there is no such thing.
    pub fn not_found(detail: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    /// 429: the caller asks too often, and may ask again after `retry_after`, rounded up to seconds.
    pub fn too_many_requests(detail: &'static str, retry_after: Duration) -> Self {
        let code = "too_many_requests";
        Self::too_many(code, "Too many requests", detail.to_owned(), retry_after)
    }

    /// 429: a limit that is the clinic's own is used up, until `retry_after` has passed.
    pub fn rate_limited(detail: impl Into<String>, retry_after: Duration) -> Self {
        let code = "rate_limited";
        Self::too_many(code, "The limit is used up", detail.into(), retry_after)
    }

    /// 429: the clinic has as many requests at work as it may; one of them ends in about `retry_after`.
    pub fn too_many_in_flight(detail: impl Into<String>, retry_after: Duration) -> Self {
        let code = "too_many_in_flight";
        Self::too_many(
            code,
            "Too many requests in flight",
            detail.into(),
            retry_after,
        )
    }

    fn too_many(
        code: &'static str,
        title: &'static str,
        detail: String,
        retry_after: Duration,
    ) -> Self {
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, code, title, detail);
        let seconds = retry_after.as_millis().div_ceil(1_000).max(1);
        problem.retry_after = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        problem
    }

    /// 503: something that this needs cannot be reached; the same request may work later.
    pub fn unavailable() -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Not available at the moment",
            "Nothing was lost; send the same request again, with the same Idempotency-Key where there was one.",
        );
        problem.retry_after = Some(5);
        problem
    }

    /// 500: something is wrong on our side that will not pass by itself.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something is wrong on our side",
            "The log says what; ask with the time of this request.",
        )
    }

    /// The stored settings cannot be used: they were changed past this service, or are of earlier rules.
    pub fn unreadable_settings(status: StatusCode) -> Self {
        Self::new(
            status,
            "unreadable_settings",
            "The stored settings cannot be read",
            "Replace them by PUT, with every secret in it, or restore an earlier version.",
        )
    }

    /// The same with a header more, such as what its status asks for (`Allow`, `Accept-Patch`).
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same with another sentence for people.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into().into();
        self
    }

    /// The same with what of the request it is about.
    #[must_use]
    pub fn with_errors(mut self, problems: &Problems) -> Self {
        self.errors = problems.as_slice().into();
        self
    }

    /// The same with a member more for programs (RFC 9457, section 3.2): an id, never what was sent.
    #[must_use]
    pub fn with_member(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let mut members = Vec::from(self.members);
        members.push((name, value.into()));
        self.members = members.into();
        self
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<HttpProblem> for Response<Body> {
    fn from(problem: HttpProblem) -> Self {
        #[derive(Serialize)]
        struct Wire<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            code: &'a str,
            detail: &'a str,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            errors: &'a [Problem],
            #[serde(flatten)]
            members: BTreeMap<&'a str, &'a str>,
        }
        let wire = Wire {
            r#type: format!("urn:clinic-comms:problem:{}", problem.code),
            title: problem.title,
            status: problem.status.as_u16(),
            code: problem.code,
            detail: &problem.detail,
            errors: &problem.errors,
            members: problem
                .members
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect(),
        };
        let mut response = json_response(problem.status, &wire);
        response.headers_mut().extend(problem.headers);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = problem.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

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

/// The same of an answer that is JSON text already.
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

/// The longest that an HTTP answer may take: API Gateway gives up after 30 seconds (HTTP API quotas,
/// maximum integration timeout).
const MAX_HANDLER_DURATION: Duration = Duration::from_secs(28);

/// The longest that an invocation may take (Lambda quotas, function timeout).
const MAX_INVOCATION_DURATION: Duration = Duration::from_mins(15);

/// How long there is to answer: what Lambda leaves of the invocation, and what API Gateway waits.
pub fn time_left(request: &Request) -> Duration {
    request
        .lambda_context_ref()
        .map_or(MAX_HANDLER_DURATION, |context| {
            remaining(context).min(MAX_HANDLER_DURATION)
        })
}

/// How long the invocation may still run.
pub fn remaining(context: &lambda_runtime::Context) -> Duration {
    let deadline = Duration::from_millis(context.deadline);
    if deadline <= MAX_INVOCATION_DURATION {
        // No time of day, but a time span: what `cargo lambda watch` (1.9) gives is 600 000.
        return deadline;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    deadline.saturating_sub(now)
}

/// The address that a request came from, as API Gateway saw it.
pub fn source_address(request: &Request) -> Option<String> {
    match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.clone(),
        _ => None,
    }
}

/// Runs an HTTP function under the Lambda runtime until the environment ends: reads the environment,
/// starts the logs, has `build` put the function's parts together, and `handle` answer each request.
pub async fn serve<D: Send + Sync + 'static>(
    build: fn(&Environment<'_>) -> Result<D, lambda_http::Error>,
    handle: for<'a> fn(&'a D, Request) -> BoxFuture<'a, Response<Body>>,
) -> Result<(), lambda_http::Error> {
    let environment = Environment::of_process();
    telemetry::init(&environment);
    let deps = Arc::new(build(&environment)?);
    telemetry::ready();
    lambda_http::runtime_concurrent(service_fn(move |request: Request| {
        let deps = deps.clone();
        async move {
            let span = invocation(&request);
            Ok::<_, lambda_http::Error>(handle(&deps, request).instrument(span).await)
        }
    }))
    .layer(TracingLayer::new())
    .layer(EndWithCredentials)
    .run_concurrent()
    .await
}

/// The span of a request's invocation.
pub fn invocation(request: &Request) -> Span {
    let none = lambda_runtime::Context::default();
    let context = request.lambda_context_ref().unwrap_or(&none);
    telemetry::invocation(context, trace(request).as_ref())
}

/// The trace that a request belongs to: the one in which Lambda runs, else, where Lambda traces nothing, the one
/// that the caller names in `traceparent`.
pub fn trace(request: &Request) -> Option<TraceHeader> {
    let of_lambda = request.lambda_context_ref().and_then(telemetry::trace_of);
    of_lambda.or_else(|| {
        let header = request.headers().get("traceparent")?;
        TraceHeader::from_traceparent(header.to_str().ok()?)
    })
}

/// Turns a handler's result into the answer, and logs what was answered.
pub(crate) fn answer(
    method: &Method,
    route: &'static str,
    started: Instant,
    result: Result<Response<Body>, HttpProblem>,
) -> Response<Body> {
    let code = result.as_ref().err().map(|problem| problem.code);
    let response = result.unwrap_or_else(Into::into);
    info!(
        %method,
        route,
        status = response.status().as_u16(),
        problem = code,
        duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    response
}

/// Refuses a request of an API at a named stage (404), whose name stands before the path: `Location` and mailed links would
/// leave it out. Behind a domain of one's own nobody could tell that it is there.
fn check_stage(request: &Request) -> Result<(), HttpProblem> {
    let stage = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.stage.as_deref(),
        // Other events have no stage that this service knows.
        _ => None,
    };
    match stage {
        None | Some("$default") => Ok(()),
        Some(name) => {
            let detail = format!(
                "The API was deployed at the stage {name:?}. It answers at the stage $default alone."
            );
            Err(HttpProblem::not_found("").with_detail(detail))
        }
    }
}

/// Refuses a request whose head is larger than it may be, before anything in it is looked at: path and query (414),
/// header fields (431, RFC 6585 section 5); and one of an API at a named stage (404).
pub fn check_head(request: &Request) -> Result<(), HttpProblem> {
    check_stage(request)?;
    let uri = request.uri();
    let target = uri.path().len() + uri.query().map_or(0, |query| 1 + query.len());
    if target > MAX_TARGET_BYTES {
        return Err(HttpProblem::new(
            StatusCode::URI_TOO_LONG,
            "target_too_long",
            "Path and query are too long",
            format!("Path and query may have {MAX_TARGET_BYTES} bytes together."),
        ));
    }
    let headers = request.headers();
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(HttpProblem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            "There are too many headers, or too long ones",
            format!(
                "A request may have {MAX_HEADERS} header fields, of {MAX_HEADER_BYTES} bytes together."
            ),
        ));
    }
    Ok(())
}

/// Refuses a body that is compressed, or says so (415, with what is taken: RFC 9110 section 15.5.16).
fn check_encoding(request: &Request) -> Result<(), HttpProblem> {
    let sent = request.headers().get_all(header::CONTENT_ENCODING);
    let is_plain = sent
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_plain {
        return Ok(());
    }
    let problem = HttpProblem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_content_encoding",
        "The body is encoded",
        "Send the body as it is, without Content-Encoding.",
    );
    Err(problem.with_header(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    ))
}

/// The bytes of a request's body, which may be at most `most` (413) and not encoded (415).
pub fn body_bytes(request: &Request, most: usize) -> Result<&[u8], HttpProblem> {
    check_encoding(request)?;
    let bytes = request.body().as_ref();
    if bytes.len() > most {
        return Err(HttpProblem::body_too_large(most));
    }
    Ok(bytes)
}

/// The JSON object in a request's body, which may have `most` bytes.
pub fn json_body(request: &Request, most: usize) -> Result<Value, HttpProblem> {
    json::parse(body_bytes(request, most)?)
        .and_then(|document| {
            if document.is_object() {
                Ok(document)
            } else {
                Err(Problems::one("", "must be an object"))
            }
        })
        .map_err(|problems| HttpProblem::malformed(&problems))
}

/// The parts of a path, without the empty ones.
pub fn path_segments(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_problem_json_with_its_pointers() {
        let problem =
            HttpProblem::invalid(&Problems::one("/recipients/0/email", "must be an address"));
        let response = Response::<Body>::from(problem);
        assert_eq!(response.status(), 422);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let body: Value = serde_json::from_slice(response.body().as_ref()).unwrap();
        assert_eq!(body["errors"][0]["pointer"], "/recipients/0/email");
        assert_eq!(body["type"], "urn:clinic-comms:problem:invalid_request");
    }

    #[test]
    fn the_time_after_a_request_too_many_is_never_rounded_down() {
        for (millis, header) in [
            (0, "1"),
            (1, "1"),
            (1_000, "1"),
            (1_001, "2"),
            (90_000, "90"),
        ] {
            let problem = HttpProblem::too_many_requests("Wait.", Duration::from_millis(millis));
            let response = Response::<Body>::from(problem);
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], header, "{millis}");
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_malformed() {
        assert!(json_body(&Request::new(Body::from("{\"a\":1}")), 7).is_ok());
        for body in ["", "{", "null", "[]", "5", "\"text\""] {
            let problem = json_body(&Request::new(Body::from(body)), 10).unwrap_err();
            assert_eq!(problem.status(), 400, "{body}");
        }
    }

    /// What a problem says, with its status.
    fn said(problem: HttpProblem) -> (u16, String) {
        (problem.status.as_u16(), problem.detail.into())
    }

    #[test]
    fn a_body_of_a_byte_too_many_is_refused_before_it_is_read() {
        let problem = json_body(&Request::new(Body::from("{\"a\":1}")), 6).unwrap_err();
        assert_eq!(
            said(problem),
            (413, "The body of this request may have 6 bytes.".to_owned())
        );
    }

    #[test]
    fn a_head_that_is_larger_than_it_may_be_is_refused_with_its_limit() {
        let request = |target: &str, headers: &[(String, String)]| {
            let mut request = lambda_http::http::Request::builder().uri(target);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request.body(Body::Empty).unwrap()
        };
        let target = |bytes: usize| format!("/a?{}", "q".repeat(bytes - 3));
        assert!(check_head(&request(&target(MAX_TARGET_BYTES), &[])).is_ok());
        let problem = check_head(&request(&target(MAX_TARGET_BYTES + 1), &[])).unwrap_err();
        assert_eq!(
            said(problem),
            (
                414,
                "Path and query may have 8000 bytes together.".to_owned()
            )
        );

        let limits = "A request may have 100 header fields, of 16384 bytes together.";
        let many = |count: usize| -> Vec<_> {
            (0..count)
                .map(|n| (format!("x-{n}"), String::new()))
                .collect()
        };
        assert!(check_head(&request("/", &many(MAX_HEADERS))).is_ok());
        let problem = check_head(&request("/", &many(MAX_HEADERS + 1))).unwrap_err();
        assert_eq!(said(problem), (431, limits.to_owned()));
        let long = |bytes: usize| vec![("x".to_owned(), "v".repeat(bytes - 1))];
        assert!(check_head(&request("/", &long(MAX_HEADER_BYTES))).is_ok());
        let problem = check_head(&request("/", &long(MAX_HEADER_BYTES + 1))).unwrap_err();
        assert_eq!(said(problem), (431, limits.to_owned()));
    }

    #[test]
    fn what_passes_by_itself_says_when_to_come_back() {
        let response = Response::<Body>::from(HttpProblem::unavailable());
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["retry-after"]
            ),
            (503, &HeaderValue::from_static("5"))
        );
    }

    #[test]
    fn a_deadline_is_a_time_of_day_or_the_span_that_a_development_server_gives() {
        let remaining = |deadline: Duration| {
            let mut context = lambda_runtime::Context::default();
            context.deadline = u64::try_from(deadline.as_millis()).unwrap();
            remaining(&context)
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let minute = Duration::from_mins(1);
        assert!(remaining(now + minute) <= minute);
        assert!(remaining(now + 2 * minute) > minute);
        assert_eq!(remaining(now.checked_sub(minute).unwrap()), Duration::ZERO);
        assert_eq!(remaining(10 * minute), 10 * minute);
    }
}
