//! Errors as problem details (RFC 9457).

use std::{collections::BTreeMap, time::Duration};

use comms_core::json::{Problem, Problems};
use lambda_http::{
    Body, Response,
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use serde::Serialize;

use super::json_response;

/// An error response. Its texts are fixed or name fields; none repeats what was sent.
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

    /// Adds a header field, such as one that the status requires (`Allow`, `Accept-Patch`).
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Replaces the sentence for people.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into().into();
        self
    }

    /// Names the fields of the request that are wrong.
    #[must_use]
    pub fn with_errors(mut self, problems: &Problems) -> Self {
        self.errors = problems.as_slice().into();
        self
    }

    /// Adds an extension member for programs (RFC 9457, section 3.2): an id, never a value that was sent.
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

    /// The code for programs.
    pub(crate) const fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence for people.
    #[cfg(test)]
    pub(super) fn detail(&self) -> &str {
        &self.detail
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

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
}
