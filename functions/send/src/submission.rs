//! The communication in a request's body.

use comms_core::{
    Country,
    request::{self, Submission, tenant_of_national_numbers},
};
use comms_runtime::{
    HttpProblem,
    auth::{Action, Principal},
    http::body_bytes,
};
use comms_settings::Moment;
use lambda_http::Request;

use crate::{Deps, key, pipeline_problem};

/// Reads the communication. Numbers without a country code are of the clinic's `defaultCountry`, which is asked for only
/// where there are any: by the settings as of `asked`.
pub(crate) async fn read(
    deps: &Deps,
    principal: &Principal,
    request: &Request,
    asked: Moment,
) -> Result<Submission, HttpProblem> {
    let body = body_bytes(request.body(), request::MAX_BYTES)?;
    let read = match Submission::parse(body) {
        Ok(submission) => Ok(submission),
        Err(problems) => match country_of(deps, principal, body, asked).await? {
            Some(country) => Submission::parse_in(Some(country), body),
            None => Err(problems),
        },
    };
    let mut submission = read.map_err(|problems| {
        // A document that is none has its one problem at its root.
        let unreadable = problems
            .as_slice()
            .iter()
            .any(|problem| problem.pointer.is_empty());
        if unreadable {
            HttpProblem::malformed(&problems)
        } else {
            HttpProblem::invalid(&problems)
        }
    })?;
    key::take_header(&mut submission, request.headers())?;
    Ok(submission)
}

/// The country of the numbers without a country code, if there are any and the clinic has set one. Nobody learns by it what
/// another clinic has set.
async fn country_of(
    deps: &Deps,
    principal: &Principal,
    body: &[u8],
    asked: Moment,
) -> Result<Option<Country>, HttpProblem> {
    let Some(tenant) = tenant_of_national_numbers(body) else {
        return Ok(None);
    };
    principal.authorize(Action::Send, &tenant)?;
    let country = deps.pipeline.default_country(&tenant, asked).await;
    country.map_err(|error| pipeline_problem(error.into()))
}
