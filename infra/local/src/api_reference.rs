//! The API's reference, made of its contract by [Scalar](https://github.com/scalar/scalar): every operation can be tried
//! there, with a token that is filled in.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /docs` | the page |
//! | `GET /docs/scalar.js` | its script, which comes with the program |
//! | `GET /openapi.yaml` | the contract |
//!
//! The policy of the page lets the script ask nobody but this API, whatever it would like to fetch.

use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use jiff::SignedDuration;
use serde_json::json;

use crate::demo;
use crate::token::{Claims, DeveloperKey};
use crate::web::not_found;

/// The contract.
const OPENAPI: &str = include_str!("../../openapi.yaml");

/// How long the page's token is good: a working day.
const TOKEN_VALIDITY: SignedDuration = SignedDuration::from_hours(12);

/// The page, its script and the contract. Tokens are those of the demo clinic's admin.
pub(crate) fn routes(key: DeveloperKey) -> Router {
    Router::new()
        .route("/docs", get(page))
        .route("/docs/scalar.js", get(script))
        .route("/openapi.yaml", get(openapi))
        .with_state(key)
}

async fn page(State(key): State<DeveloperKey>) -> Response {
    let claims = Claims {
        clinic: Some(demo::CLINIC.to_owned()),
        roles: vec!["CLINIC_ADMIN".to_owned()],
        subject: "reference@localhost".to_owned(),
        expires_in: TOKEN_VALIDITY,
    };
    let token = match key.token(&claims) {
        Ok(token) => token,
        Err(error) => {
            let text = format!("the page has no token: {error}\n");
            return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
        }
    };
    let configuration = json!({
        "url": "/openapi.yaml",
        // Where the page came from, whichever port that is.
        "servers": [{"url": "/", "description": "This local stack"}],
        "authentication": {
            "preferredSecurityScheme": "token",
            "securitySchemes": {"token": {"token": token}},
        },
        "withDefaultFonts": false,
        "hideClientButton": true,
        "showDeveloperTools": "never",
        "telemetry": false,
        "agent": {"disabled": true},
        "mcp": {"disabled": true},
    });
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    // Scalar sets styles on its elements.
    let policy = format!(
        "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src 'self' data:; \
         font-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = include_str!("api_reference.html")
        .replace("{{nonce}}", &nonce)
        .replace("{{configuration}}", &configuration.to_string());
    let mut response = Html(html).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn script() -> Response {
    let Some((kind, script)) = scalar_api_reference::get_asset_with_mime("scalar.js") else {
        return not_found();
    };
    ([(CONTENT_TYPE, kind)], script).into_response()
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/yaml")], OPENAPI).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str) -> (Response, String) {
        let home = tempfile::tempdir().unwrap();
        let key = DeveloperKey::in_directory(home.path()).unwrap();
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let response = routes(key).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        (Response::from_parts(parts, Body::empty()), text)
    }

    #[tokio::test]
    async fn the_page_runs_its_own_scripts_and_asks_this_api_alone() {
        let (response, html) = ask("/docs").await;
        let policy = response.headers()[CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(policy.contains("connect-src 'self';"), "{policy}");
        assert!(html.contains("/docs/scalar.js") && !html.contains("{{"));
        assert!(!html.contains("https://"), "nothing of another host");
    }

    #[tokio::test]
    async fn the_script_and_the_contract_come_with_the_program() {
        let (response, script) = ask("/docs/scalar.js").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(script.contains("createApiReference"));
        let (_, contract) = ask("/openapi.yaml").await;
        assert!(contract.starts_with("openapi: 3.1"));
    }
}
