//! Answers of all routes: the settings with their `ETag`, and problems of the store.

use comms_core::Tenant;
use comms_runtime::{HttpProblem, http::json_response};
use comms_settings::{CommunicationSettings, StoreError, Version};
use lambda_http::{
    Body, Response,
    http::{HeaderValue, StatusCode, header},
};
use serde_json::{Value, json};
use tracing::{error, warn};

use crate::Deps;

/// The strong entity tag of a version (RFC 9110 section 8.8.3): every change has a number of its own.
pub(crate) fn etag(number: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"{number}\"")).ok()
}

/// The settings for an answer, with their `ETag`.
pub(crate) fn settings_response(
    status: StatusCode,
    tenant: &Tenant,
    version: &Version,
    settings: &CommunicationSettings,
) -> Response<Body> {
    settings_with_ceilings(status, tenant, version, settings, None)
}

/// The settings for an answer, with the ceilings that apply to the clinic.
pub(crate) fn settings_with_ceilings(
    status: StatusCode,
    tenant: &Tenant,
    version: &Version,
    settings: &CommunicationSettings,
    ceilings: Option<Value>,
) -> Response<Body> {
    let mut body = json!({
        "clinicId": tenant,
        "version": version.number,
        "savedAt": version.saved_at,
        "savedBy": version.saved_by,
        "settings": {"communicationSettings": settings.view()},
    });
    if let Some(ceilings) = ceilings {
        body["effectiveCeilings"] = ceilings;
    }
    let mut response = json_response(status, &body);
    response
        .headers_mut()
        .extend(etag(version.number).map(|etag| (header::ETAG, etag)));
    response
}

/// An answer without a body.
pub(crate) fn empty_response(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Adds the `ETag` of the present settings to the problem: the version `seen`, or, after a conflict, the one that is read
/// again.
pub(crate) async fn with_etag(
    deps: &Deps,
    tenant: &Tenant,
    seen: Option<u64>,
    problem: HttpProblem,
) -> HttpProblem {
    let number = if problem.status() == StatusCode::CONFLICT {
        // Without the version the answer still reports the conflict.
        deps.store.present_number(tenant).await.unwrap_or_default()
    } else {
        seen
    };
    match number.and_then(etag) {
        Some(etag) => problem.with_header(header::ETAG, etag),
        None => problem,
    }
}

/// 404: there are no settings.
pub(crate) fn no_settings() -> HttpProblem {
    HttpProblem::not_found("This clinic has no settings; PUT saves some.")
}

/// Stored settings that cannot be read. Somebody who has them must save them again.
pub(crate) fn unreadable(status: StatusCode, error: &StoreError) -> HttpProblem {
    error!(%error, "the stored settings cannot be read");
    HttpProblem::unreadable_settings(status)
}

/// The answer to a failure of the store.
#[allow(clippy::needless_pass_by_value, reason = "used as a map_err function")]
pub(crate) fn store_problem(error: StoreError) -> HttpProblem {
    match error {
        StoreError::Conflict => HttpProblem::new(
            StatusCode::CONFLICT,
            "conflict",
            "Somebody else saved at the same time",
            "Nothing of this change was saved. Read the settings again, and make the change to what they are now.",
        ),
        StoreError::TooLarge => HttpProblem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The settings are too large",
            "A clinic's settings may have 400 KB in all; shorten caPem or leave out fallbacks.",
        ),
        StoreError::Table(_) | StoreError::Envelope(_) if error.is_worth_a_retry() => {
            warn!(%error, "the settings store cannot be reached");
            HttpProblem::unavailable()
        }
        StoreError::Table(_)
        | StoreError::Envelope(_)
        | StoreError::Refused(_)
        | StoreError::Invalid(_) => {
            error!(%error, "the settings cannot be used");
            HttpProblem::internal()
        }
    }
}
