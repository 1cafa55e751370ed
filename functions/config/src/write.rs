//! PUT, PATCH, DELETE: a change applies to the version that its author has seen, as a whole or not at all.

use comms_core::Problems;
use comms_runtime::{
    HttpProblem,
    auth::Action,
    http::{json_body, routes::HandlerResult},
};
use comms_settings::{CommunicationSettings, Present, document::MAX_DOCUMENT_BYTES};
use lambda_http::{
    Request,
    http::{HeaderName, HeaderValue, StatusCode},
};
use serde_json::Value;
use tracing::warn;

use crate::{
    Access, Deps,
    answers::{
        empty_response, no_settings, settings_response, store_problem, unreadable, with_etag,
    },
    ceilings::{self, Wanted},
    document::{read_body, read_settings},
    merge_patch::{self, Patched},
    preconditions::Preconditions,
    purge,
    save_limit::acquire_save,
};

pub(crate) async fn put(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    let access = Access::to(deps, request, id, Action::ManageSettings)?;
    let conditions = Preconditions::of(request.headers())?;
    let body = json_body(request, MAX_DOCUMENT_BYTES)?;
    change(deps, &access, &conditions, async |present| {
        ceilings::check_readable(present, &access)?;
        if let Present::Unreadable { error, .. } = present {
            warn!(%error, clinic_id = %access.tenant, "settings that cannot be read are being replaced");
        }
        let document = read_body(body, &access.tenant).map_err(|error| HttpProblem::invalid(&error))?;
        let mut problems = Problems::default();
        let wanted = Wanted::of_document(&document);
        let settings = read_settings(deps, document, &access.tenant, present.settings(), &mut problems);
        let mut settings = problems
            .or(settings)
            .map_err(|problems| HttpProblem::invalid(&problems))?;
        ceilings::settle(&mut settings, wanted, present, &access)?;
        save(deps, &access, present, &settings, None).await
    })
    .await
}

pub(crate) async fn patch(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    let access = Access::to(deps, request, id, Action::ManageSettings)?;
    let conditions = Preconditions::of(request.headers())?;
    if !merge_patch::is_announced(request.headers()) {
        return Err(unsupported_media_type());
    }
    let body = json_body(request, MAX_DOCUMENT_BYTES)?;
    change(deps, &access, &conditions, async |present| {
        let stored = match present {
            Present::Settings(stored) => &stored.settings,
            Present::Unreadable { error, .. } => {
                return Err(unreadable(StatusCode::CONFLICT, error));
            }
            Present::Nothing | Present::Deleted(_) => return Err(no_settings()),
        };
        let mut settings = patched(deps, body, &access, stored)
            .map_err(|problems| HttpProblem::invalid(&problems))?;
        // The patched document has them unless the patch removed them.
        ceilings::settle(&mut settings, Wanted::Document, present, &access)?;
        save(deps, &access, present, &settings, None).await
    })
    .await
}

fn patched(
    deps: &Deps,
    body: Value,
    access: &Access,
    stored: &CommunicationSettings,
) -> Result<CommunicationSettings, Problems> {
    let patch = read_body(body, &access.tenant)?;
    let mut patched = Patched::of(stored, &patch);
    let mut problems = Problems::default();
    let document = patched.document.take();
    let settings = read_settings(deps, document, &access.tenant, Some(stored), &mut problems);
    if let Some(settings) = &settings {
        patched.check_removed_secrets(settings, &mut problems);
    }
    problems.or(settings)
}

/// 415 with the accepted media types (RFC 5789 section 2.2).
fn unsupported_media_type() -> HttpProblem {
    HttpProblem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "Not a patch that is understood here",
        "Send a JSON Merge Patch (RFC 7396) as application/merge-patch+json or application/json.",
    )
    .with_header(
        HeaderName::from_static("accept-patch"),
        HeaderValue::from_static(merge_patch::MEDIA_TYPES),
    )
}

pub(crate) async fn delete(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    if purge::is_asked_for(request)? {
        return purge::purge(deps, request, id).await;
    }
    let access = Access::to(deps, request, id, Action::DeleteSettings)?;
    let conditions = Preconditions::of(request.headers())?;
    let tenant = &access.tenant;
    // Settings that cannot be opened are deleted as well.
    let present = deps.store.load_present(tenant).await;
    let present = present.map_err(store_problem)?;
    let number = present.number().ok_or_else(no_settings)?;
    ceilings::check_readable(&present, &access)?;
    let kept = present.ceilings().to_document();
    let deleted = match conditions.check(Some(number)) {
        Ok(()) => match acquire_save(deps, &access).await {
            Ok(()) => deps
                .store
                .delete(tenant, number, &kept, &access.author, &*deps.clock)
                .await
                .map_err(store_problem),
            Err(problem) => Err(problem),
        },
        Err(failed) => Err(failed.into()),
    };
    match deleted {
        Ok(_) => Ok(empty_response(StatusCode::NO_CONTENT)),
        Err(problem) => Err(with_etag(deps, tenant, Some(number), problem).await),
    }
}

/// Changes the stored settings if the conditions hold for them. A refusal has their `ETag`.
pub(crate) async fn change(
    deps: &Deps,
    access: &Access,
    conditions: &Preconditions,
    make: impl AsyncFnOnce(&Present) -> HandlerResult,
) -> HandlerResult {
    let present = deps.store.load_present(&access.tenant).await;
    let present = present.map_err(store_problem)?;
    let result = match conditions.check(present.number()) {
        Ok(()) => make(&present).await,
        Err(failed) => Err(failed.into()),
    };
    match result {
        Ok(response) => Ok(response),
        Err(problem) => Err(with_etag(deps, &access.tenant, present.number(), problem).await),
    }
}

/// The earlier version that is restored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restored {
    pub(crate) from: u64,
    /// Whether this undoes a pending purge, which is a change even where no field changes.
    pub(crate) undoes_purge: bool,
}

/// Saves settings, perhaps of an earlier version, unless they equal the stored ones.
pub(crate) async fn save(
    deps: &Deps,
    access: &Access,
    present: &Present,
    settings: &CommunicationSettings,
    restored: Option<Restored>,
) -> HandlerResult {
    let tenant = &access.tenant;
    let status = match present {
        Present::Settings(stored) => {
            let undoes_purge = restored.is_some_and(|restored| restored.undoes_purge);
            if !undoes_purge && settings.changed_fields(Some(&stored.settings)).is_empty() {
                let version = &stored.version;
                return Ok(settings_response(StatusCode::OK, tenant, version, settings));
            }
            StatusCode::OK
        }
        Present::Unreadable { .. } => StatusCode::OK,
        Present::Nothing | Present::Deleted(_) => StatusCode::CREATED,
    };
    acquire_save(deps, access).await?;
    let (basis, author, clock) = (present.basis(), &access.author, &*deps.clock);
    let saved = match restored {
        None => {
            deps.store
                .save(tenant, settings, basis, author, clock)
                .await
        }
        Some(Restored { from, .. }) => {
            let store = &deps.store;
            store
                .restore(tenant, settings, from, basis, author, clock)
                .await
        }
    };
    let version = saved.map_err(store_problem)?;
    Ok(settings_response(status, tenant, &version, settings))
}
