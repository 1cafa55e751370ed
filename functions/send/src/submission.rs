//! The communication in a request's body.

use comms_core::{
    Country,
    request::{self, NationalNumbers, Submission},
};
use comms_delivery::{CountryLookup, PipelineError};
use comms_runtime::{
    HttpProblem,
    auth::{Action, Principal},
    http::body_bytes,
};
use comms_settings::Moment;
use futures_util::future::try_join;
use lambda_http::{Request, http::HeaderMap};

use crate::{Deps, key, problems::pipeline_problem};

/// Reads the communication. Numbers without a country code are of the clinic's `defaultCountry`, which is asked for only
/// where there are any: by the settings as of `asked`. A repeated request is read by the country of the first.
pub(crate) async fn read(
    deps: &Deps,
    principal: &Principal,
    request: &Request,
    asked: Moment,
) -> Result<Submission, HttpProblem> {
    let body = body_bytes(request, request::MAX_BYTES)?;
    let read = match Submission::parse(body) {
        Ok(submission) => Ok(submission),
        Err(problems) => match NationalNumbers::of(body) {
            Some(national) => {
                let headers = request.headers();
                let countries = countries(deps, principal, &national, headers, asked).await?;
                Submission::parse_by(countries, body, problems)
            }
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

/// The countries by which numbers without a country code are read: that of the request that was accepted under the caller's
/// key, and the clinic's own. A caller learns nothing about another clinic's country.
async fn countries(
    deps: &Deps,
    principal: &Principal,
    national: &NationalNumbers,
    headers: &HeaderMap,
    asked: Moment,
) -> Result<impl Iterator<Item = Country> + use<>, HttpProblem> {
    let tenant = &national.tenant;
    principal.authorize(Action::Send, tenant)?;
    let pipeline = &deps.pipeline;
    let set = async {
        let country = pipeline.default_country(tenant, asked).await;
        country.map_err(PipelineError::from)
    };
    // A key that is refused is refused once the rest is read.
    let header = key::of_headers(headers).ok().flatten();
    let key = header.or_else(|| national.key.clone());
    let first = async {
        match &key {
            Some(key) => {
                pipeline
                    .first_country(tenant, key, CountryLookup::Read)
                    .await
            }
            None => Ok(None),
        }
    };
    let (first, set) = try_join(first, set).await.map_err(pipeline_problem)?;
    Ok(first.into_iter().chain(set))
}
