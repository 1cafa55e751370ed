//! GET: the settings as they are now.

use comms_runtime::{auth::Action, http::routes::HandlerResult};
use comms_settings::Present;
use lambda_http::{
    Request,
    http::{StatusCode, header},
};

use crate::{
    Access, Deps,
    answers::{
        empty_response, etag, no_settings, settings_with_ceilings, store_problem, unreadable,
        with_etag,
    },
    ceilings,
    preconditions::{Failed, Preconditions},
};

pub(crate) async fn get(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    let access = Access::to(deps, request, id, Action::ViewSettings)?;
    let conditions = Preconditions::of(request.headers())?;
    let tenant = &access.tenant;
    let present = deps.store.load_present(tenant).await;
    let present = present.map_err(store_problem)?;
    let number = present.number();
    let problem = match &present {
        // RFC 9110 section 13.2.1: conditions do not change what would be refused without them.
        Present::Nothing | Present::Deleted(_) => return Err(no_settings()),
        Present::Unreadable { error, .. } => unreadable(StatusCode::INTERNAL_SERVER_ERROR, error),
        Present::Settings(stored) => match conditions.check(number) {
            Ok(()) => {
                let (version, settings) = (&stored.version, &stored.settings);
                let ceilings = ceilings::effective(deps, tenant, settings.ceilings).await;
                return Ok(settings_with_ceilings(
                    StatusCode::OK,
                    tenant,
                    version,
                    settings,
                    ceilings,
                ));
            }
            Err(Failed::IfNoneMatch) => {
                let mut response = empty_response(StatusCode::NOT_MODIFIED);
                let etag = number.and_then(etag).map(|etag| (header::ETAG, etag));
                response.headers_mut().extend(etag);
                return Ok(response);
            }
            Err(Failed::IfMatch) => Failed::IfMatch.into(),
        },
    };
    Err(with_etag(deps, tenant, number, problem).await)
}
