//! The versions: their authors, times and changed fields, and the restore of one.

use comms_core::Problems;
use comms_runtime::{
    HttpProblem,
    auth::Action,
    http::{json_response, query, routes::HandlerResult},
};
use comms_settings::{Change, Past, Version, version::MAX_VERSION};
use lambda_http::{Request, http::StatusCode};
use serde_json::{Value, json};
use tracing::error;

use crate::{
    Access, Deps,
    answers::store_problem,
    ceilings::{self, Wanted},
    document::read_settings,
    preconditions::Preconditions,
    write::{self, Restored},
};

/// Versions in one answer, where the request does not say how many.
const USUAL_LIMIT: u8 = 20;
/// Versions in one answer, at most.
const MAX_LIMIT: u8 = 100;

pub(crate) async fn list(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    let access = Access::to(deps, request, id, Action::ViewSettings)?;
    let range = Range::of(request)?;
    let page = deps
        .store
        .versions(&access.tenant, range.before, range.limit, &*deps.clock)
        .await
        .map_err(store_problem)?;
    let versions: Vec<_> = page.versions.iter().map(version_json).collect();
    let mut body = json!({"versions": versions});
    if let Some(next) = page.next {
        body["next"] = json!(next);
    }
    Ok(json_response(StatusCode::OK, &body))
}

/// Which versions are asked for.
struct Range {
    limit: u8,
    before: Option<u64>,
}

impl Range {
    fn of(request: &Request) -> Result<Self, HttpProblem> {
        let allowed = format!(
            "It may have limit (1 to {MAX_LIMIT}) and before (the number of a version, as next gives it), and nothing else."
        );
        let [limit, before] = query::parameters(request, ["limit", "before"], &allowed)?;
        let range = Self::parse(limit.as_deref(), before.as_deref());
        range.ok_or_else(|| query::malformed(allowed))
    }

    fn parse(limit: Option<&str>, before: Option<&str>) -> Option<Self> {
        let limit = match limit {
            Some(limit) => u8::try_from(whole_number(limit)?).ok()?,
            None => USUAL_LIMIT,
        };
        let before = match before {
            Some(before) => Some(version_number(before)?),
            None => None,
        };
        (1..=MAX_LIMIT)
            .contains(&limit)
            .then_some(Self { limit, before })
    }
}

fn whole_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A version in its one spelling: `01` is no other name of version 1.
fn version_number(text: &str) -> Option<u64> {
    let is_padded = text.starts_with('0');
    whole_number(text)
        .filter(|_| !is_padded)
        .filter(|number| (1..=MAX_VERSION).contains(number))
}

fn version_json(version: &Version) -> Value {
    let mut json = json!({
        "version": version.number,
        "savedAt": version.saved_at,
        "savedBy": version.saved_by,
        "change": version.change.as_str(),
        "changed": version.changed,
    });
    if let Some(address) = &version.source_address {
        json["sourceAddress"] = json!(address);
    }
    match version.change {
        Change::Saved | Change::Deleted => {}
        Change::Restored { from } => json["restoredFrom"] = json!(from),
        Change::Purged { at } => json["purgeAt"] = json!(at),
    }
    json
}

pub(crate) async fn restore(
    deps: &Deps,
    request: &Request,
    id: &str,
    version: &str,
) -> HandlerResult {
    let access = Access::to(deps, request, id, Action::ManageSettings)?;
    let no_version = || HttpProblem::not_found("There is no such version, or no longer.");
    let from = version_number(version).ok_or_else(no_version)?;
    let conditions = Preconditions::of(request.headers())?;
    let tenant = &access.tenant;
    write::change(deps, &access, &conditions, async |present| {
        ceilings::check_readable(present, &access)?;
        let past = deps.store.load_version(tenant, from, &*deps.clock).await;
        let (past, undoes_purge) = match past {
            Ok(Past::Settings { settings, is_purge_pending }) => (settings.settings, is_purge_pending),
            Ok(Past::Nothing) => return Err(no_version()),
            Ok(Past::ContentRemoved) => {
                return Err(HttpProblem::not_found(
                    "The content of this version was removed: by a purge, or because newer versions fill the limits. Only who changed what is left of it.",
                ));
            }
            Ok(Past::Deletion) => {
                return Err(not_restorable(
                    "This version is a deletion. DELETE deletes the settings; to have them back, restore an earlier version.",
                ));
            }
            Err(error) if error.is_worth_a_retry() => return Err(store_problem(error)),
            Err(error) => {
                error!(%error, clinic_id = %tenant, version = from, "a stored version cannot be read");
                return Err(not_restorable(
                    "This version cannot be read any more; restore another one.",
                ));
            }
        };
        if undoes_purge {
            let allowed = access.principal.authorize(Action::PurgeSettings, tenant);
            allowed.map_err(|problem| {
                problem.with_detail("This version is under a purge, which the platform's administrators alone undo.")
            })?;
        }
        // By today's rules, as if it came from outside; its secrets are its own.
        let mut problems = Problems::default();
        let settings = read_settings(deps, past.view(), tenant, Some(&past), &mut problems);
        let mut settings = problems
            .or(settings)
            .map_err(|problems| HttpProblem::invalid(&problems))?;
        // A restore brings back the clinic's own settings and leaves the platform's ceilings as they are.
        ceilings::settle(&mut settings, Wanted::Version, present, &access)?;
        let restored = Some(Restored { from, undoes_purge });
        write::save(deps, &access, present, &settings, restored).await
    })
    .await
}

fn not_restorable(detail: &'static str) -> HttpProblem {
    HttpProblem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "not_restorable",
        "This version cannot be restored",
        detail,
    )
}
