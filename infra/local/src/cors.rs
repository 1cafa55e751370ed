//! Cross-origin requests, as API Gateway answers them by the `CorsConfiguration` of the template: preflights by itself and
//! without a token, never with credentials. Only origins that were named are answered so; the guard of the listener still
//! refuses every other page.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use comms_testkit::host_guard::PageOrigin;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use http::{HeaderValue, Method, StatusCode};

// As the template has them, which a test compares.
const METHODS: &str = "GET,POST,PUT,PATCH,DELETE";
const HEADERS: &str = "authorization,content-type,idempotency-key,if-match,if-none-match";
const EXPOSED: &str = "accept-patch,apigw-requestid,etag,idempotency-replayed,location,retry-after";
const MAX_AGE_SECONDS: &str = "600";

/// Answers the pages of `origins`.
pub(crate) fn layer(routes: Router, origins: &[PageOrigin]) -> Router {
    if origins.is_empty() {
        return routes;
    }
    let origins = origins.to_vec();
    routes.layer(middleware::from_fn(move |request: Request, next: Next| {
        let origin = request.headers().get(ORIGIN).cloned();
        let origin = origin.filter(|origin| origins.iter().any(|allowed| allowed.is(origin)));
        async move {
            match origin {
                Some(origin) => answer(origin, request, next).await,
                None => next.run(request).await,
            }
        }
    }))
}

async fn answer(origin: HeaderValue, request: Request, next: Next) -> Response {
    let is_preflight = *request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight {
        let mut response = StatusCode::NO_CONTENT.into_response();
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS),
        ] {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    headers.append(VARY, HeaderValue::from_static("origin"));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::any;
    use comms_testkit::host_guard::{CrossOrigin, HostGuard};
    use tower::ServiceExt as _;

    use super::*;

    const PAGE: &str = "https://app.example.com";

    async fn ask(method: Method, origin: &str, preflight: bool) -> Response {
        let origins = [PAGE.parse().unwrap()];
        let guard = HostGuard::new(([127, 0, 0, 1], 3000).into(), CrossOrigin::Read, &[]);
        let routes = Router::new().route("/", any(|| async { "answer" }));
        let routes = guard
            .allowing_pages(&origins)
            .protect(layer(routes, &origins));
        let mut request = http::Request::builder()
            .method(method)
            .uri("/")
            .header("host", "localhost:3000")
            .header("sec-fetch-site", "cross-site")
            .header("origin", origin);
        if preflight {
            request = request.header("access-control-request-method", "POST");
        }
        routes
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn named_page_is_answered_and_no_other() {
        let preflight = ask(Method::OPTIONS, PAGE, true).await;
        assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
        assert_eq!(preflight.headers()["access-control-allow-origin"], PAGE);
        assert_eq!(preflight.headers()["access-control-allow-headers"], HEADERS);
        assert!(
            !preflight
                .headers()
                .contains_key("access-control-allow-credentials")
        );
        let posted = ask(Method::POST, PAGE, false).await;
        assert_eq!(posted.status(), StatusCode::OK);
        assert_eq!(posted.headers()["access-control-expose-headers"], EXPOSED);
        for other in [
            "https://evil.example",
            "https://app.example.com.evil.example",
            "https://app.example.com:8443",
            "http://app.example.com",
            "null",
        ] {
            for (method, preflight) in [(Method::OPTIONS, true), (Method::POST, false)] {
                let refused = ask(method, other, preflight).await;
                assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{other}");
                assert!(
                    !refused
                        .headers()
                        .contains_key("access-control-allow-origin")
                );
            }
        }
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for text in [
            "https://app.example.com",
            "http://localhost:5173",
            "https://[::1]:8443",
        ] {
            assert!(text.parse::<PageOrigin>().is_ok(), "{text}");
        }
        for text in [
            "*",
            "null",
            "",
            "app.example.com",
            "https://app.example.com/",
            "https://App.example.com",
            "https://user@app.example.com",
            "ftp://app.example.com",
            "https://app.example.com?x",
            "https://*.example.com",
            "https://app.example.com:443",
            "http://localhost:80",
            "https://app.example.com:0",
            "https://app.example.com:0443",
            "https://app.example.com:99999",
            "https://app.example.com:",
        ] {
            assert!(text.parse::<PageOrigin>().is_err(), "{text}");
        }
    }

    /// The deployed API and this one say the same.
    #[test]
    fn methods_and_headers_are_those_of_the_template() {
        let template = include_str!("../../../template.yaml");
        for list in [METHODS, HEADERS, EXPOSED] {
            let list = format!("[{}]", list.replace(',', ", "));
            assert!(template.contains(&list), "{list}");
        }
        assert!(template.contains(&format!("MaxAge: {MAX_AGE_SECONDS}\n")));
    }
}
