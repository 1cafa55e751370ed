//! The first page of the local stack: what there is on this machine, how it does, and where to go on.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /api/home` | where the API is, and which clinic is the demo's |
//! | `GET /api/settings` | that clinic's settings, as the API answers; `null` where it has none |

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use serde_json::{Value, json};

use crate::api_client::ApiClient;
use crate::{demo, web};

/// The page.
pub(crate) const PAGE: &str = include_str!("home.html");

/// The web side, to be [`web::guarded`].
pub(crate) fn routes(api: ApiClient) -> Router {
    Router::new()
        .route("/", get(async || web::page(PAGE)))
        .route("/api/home", get(home))
        .route("/api/settings", get(settings))
        .with_state(api)
}

async fn home(State(api): State<ApiClient>) -> Response {
    axum::Json(json!({"api": api.url(), "clinic": demo::CLINIC})).into_response()
}

async fn settings(State(api): State<ApiClient>) -> Response {
    let answer = api.forward(&["clinics", demo::CLINIC]).await;
    if answer.status() == StatusCode::NOT_FOUND {
        // No fault of the page, which a browser would report as one.
        return axum::Json(Value::Null).into_response();
    }
    answer
}
