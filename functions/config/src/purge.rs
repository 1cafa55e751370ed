//! `DELETE …?purge=true`: deletes the settings with all their versions, after a period in which a restore undoes it.

use comms_runtime::{
    HttpProblem,
    auth::Action,
    http::{json_response, query, routes::HandlerResult},
};
use lambda_http::{Request, http::StatusCode};
use serde_json::json;

use crate::{
    Access, Deps,
    answers::{no_settings, store_problem, with_etag},
    preconditions::Preconditions,
    save_limit::acquire_save,
};

const ALLOWED: &str = "It may have purge (true or false), and nothing else.";

/// Whether the query asks for a purge. A query that is not understood is refused: it may have asked for one.
pub(crate) fn is_asked_for(request: &Request) -> Result<bool, HttpProblem> {
    let [purge] = query::parameters(request, ["purge"], ALLOWED)?;
    match purge.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(query::malformed(ALLOWED)),
    }
}

pub(crate) async fn purge(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    let access = Access::to(deps, request, id, Action::PurgeSettings)?;
    let conditions = Preconditions::of(request.headers())?;
    let tenant = &access.tenant;
    let present = deps
        .store
        .load_present(tenant)
        .await
        .map_err(store_problem)?;
    // Settings that are deleted already have versions to purge.
    let last = present.last_number().ok_or_else(no_settings)?;
    let number = present.number();
    let purged = async {
        conditions.check(number)?;
        acquire_save(deps, &access).await?;
        let at = deps.purge_delay.after(deps.clock.now());
        let (author, clock) = (&access.author, &*deps.clock);
        let kept = present.ceilings().to_document();
        let purge = deps.store.purge(tenant, last, &kept, at, author, clock);
        let (version, versions) = purge.await.map_err(store_problem)?;
        let body = json!({
            "clinicId": tenant, "version": version.number, "purgeAt": at, "versions": versions,
        });
        Ok(json_response(StatusCode::OK, &body))
    };
    match purged.await {
        Ok(response) => Ok(response),
        Err(problem) => Err(with_etag(deps, tenant, number, problem).await),
    }
}
