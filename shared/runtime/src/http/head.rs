//! The head of a request: how large it may be, and at which stage of API Gateway it may arrive.

use lambda_http::{Request, RequestExt as _, http::StatusCode, request::RequestContext};

use super::HttpProblem;

/// Header fields of a request: the default of Rust's HTTP servers (hyper, `max_headers`).
pub const MAX_HEADERS: usize = 100;
/// Bytes of all names and values of header fields. API Gateway takes 10,240 with the request line (HTTP API
/// quotas), and adds some of its own.
pub const MAX_HEADER_BYTES: usize = 16_384;
/// Bytes of path and query together: the length that RFC 9110 section 4.1 asks every server to support.
pub const MAX_TARGET_BYTES: usize = 8_000;

/// Refuses a request that arrives at a named stage (404). The stage's name stands before the path, and `Location` and mailed
/// links would lack it. Behind a custom domain the function cannot see the name in the path.
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

/// Checks the head of a request before anything in it is read.
///
/// # Errors
/// 404 at a named stage, 414 for a path and query that are too long, 431 for too many or too large header fields (RFC 6585
/// section 5).
pub(super) fn check_head(request: &Request) -> Result<(), HttpProblem> {
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

#[cfg(test)]
mod tests {
    use lambda_http::Body;

    use super::*;

    /// The status and the detail of a problem.
    fn status_and_detail(problem: &HttpProblem) -> (u16, &str) {
        (problem.status().as_u16(), problem.detail())
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
            status_and_detail(&problem),
            (414, "Path and query may have 8000 bytes together.")
        );

        let limits = "A request may have 100 header fields, of 16384 bytes together.";
        let many = |count: usize| -> Vec<_> {
            (0..count)
                .map(|n| (format!("x-{n}"), String::new()))
                .collect()
        };
        assert!(check_head(&request("/", &many(MAX_HEADERS))).is_ok());
        let problem = check_head(&request("/", &many(MAX_HEADERS + 1))).unwrap_err();
        assert_eq!(status_and_detail(&problem), (431, limits));
        let long = |bytes: usize| vec![("x".to_owned(), "v".repeat(bytes - 1))];
        assert!(check_head(&request("/", &long(MAX_HEADER_BYTES))).is_ok());
        let problem = check_head(&request("/", &long(MAX_HEADER_BYTES + 1))).unwrap_err();
        assert_eq!(status_and_detail(&problem), (431, limits));
    }
}
