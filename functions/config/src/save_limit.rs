//! How often a clinic's settings may be changed.

use comms_runtime::HttpProblem;
use comms_settings::Saver;
use tracing::warn;

use crate::{Access, Deps, answers::store_problem};

/// Takes a change from the clinic's limit, or answers 429.
pub(crate) async fn acquire_save(deps: &Deps, access: &Access) -> Result<(), HttpProblem> {
    let tenant = &access.tenant;
    let saver = if access.principal.is_of_platform() {
        Saver::Platform
    } else {
        Saver::Clinic
    };
    let taken = deps.save_limits.take(tenant, saver).await;
    let taken = taken.map_err(store_problem)?;
    taken.map_err(|retry_after| {
        warn!(clinic_id = %tenant, "settings are changed too often");
        HttpProblem::too_many_requests(
            "The settings of this clinic were changed too often, and nothing was changed now. Wait as long as Retry-After says.",
            retry_after,
        )
    })
}
