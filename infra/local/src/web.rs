//! The common parts of the local stack's pages: head, style and script, content security policy, and host check.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use comms_testkit::host_guard::HostGuard;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use serde_json::json;

/// The beginning of every page, in place of `{{page_head.html}}`.
const HEAD: &str = include_str!("page_head.html");

/// The style of every page, in place of `{{page.css}}`.
const STYLE: &str = include_str!("page.css");

/// The script that every page begins with, in place of `{{page.js}}`.
const SCRIPT: &str = include_str!("page.js");

/// A page. Its policy allows its own script and style element, and requests to its own origin.
pub(crate) fn page(html: &str) -> Response {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = html
        .replace("{{page_head.html}}\n", HEAD)
        .replace("{{page.css}}", STYLE)
        .replace("{{page.js}}", SCRIPT)
        .replace("{{nonce}}", &nonce);
    let mut response = Html(html).into_response();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// 404.
pub(crate) fn not_found() -> Response {
    let body = axum::Json(json!({"message": "Not Found"}));
    (StatusCode::NOT_FOUND, body).into_response()
}

/// Restricts these routes to this machine, and adds headers by which a browser renders nothing but the pages.
pub(crate) fn guarded(routes: Router, guard: HostGuard) -> Router {
    guard.protect(routes.layer(middleware::from_fn(add_headers)))
}

async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("sandbox; default-src 'none'"));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use comms_testkit::host_guard::CrossOrigin;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{deliveries, home, inbox};

    #[tokio::test]
    async fn a_page_allows_its_own_script_only_and_inserts_text_only() {
        for html in [home::PAGE, inbox::PAGE, deliveries::PAGE] {
            let response = page(html);
            let policy = response.headers()[CONTENT_SECURITY_POLICY].clone();
            let policy = policy.to_str().unwrap();
            let nonce = policy.split("script-src 'nonce-").nth(1).unwrap();
            let nonce = nonce.split('\'').next().unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8_lossy(&body);
            assert!(body.contains(&format!("<script nonce=\"{nonce}\">")));
            assert!(body.contains(&format!("<style nonce=\"{nonce}\">")));
            assert!(!body.contains("{{"), "an unfilled placeholder");
            for dangerous in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!body.contains(dangerous), "{dangerous}");
            }
            assert!(
                !body.contains("http://") && !body.contains("https://"),
                "nothing from outside"
            );
        }
    }

    #[tokio::test]
    async fn another_name_than_localhost_is_refused() {
        let guard = HostGuard::new(([127, 0, 0, 1], 8025).into(), CrossOrigin::Read, &[]);
        let routes = guarded(Router::new().route("/", get(|| async { "mail" })), guard);
        for (host, status) in [
            ("attacker.example:8025", StatusCode::MISDIRECTED_REQUEST),
            ("localhost:8025", StatusCode::OK),
        ] {
            let request = http::Request::get("/").header("host", host);
            let request = request.body(Body::empty()).unwrap();
            let response = routes.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{host}");
        }
    }
}
