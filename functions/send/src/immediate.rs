//! A clinic's share: priorities, immediate requests in flight, urgent messages.

use comms_core::{
    Problems,
    request::{CommunicationRequest, Priority, Submission},
};
use comms_delivery::{ImmediateError, ShareLimits, UrgentError};
use comms_runtime::{Environment, HttpProblem, auth::Principal};

use crate::{
    Deps, QueueMessages,
    problems::{pipeline_problem, quota_problem},
};

/// The platform's limits, with the overrides of the environment.
pub(crate) fn share_limits(environment: &Environment<'_>) -> ShareLimits {
    let defaults = ShareLimits::default();
    ShareLimits {
        immediate_in_flight: environment
            .parsed_or("IMMEDIATE_SENDS_IN_FLIGHT", defaults.immediate_in_flight),
        urgent_per_hour: environment.parsed_or("URGENT_PER_HOUR", defaults.urgent_per_hour),
        ..defaults
    }
}

/// Refuses `critical` from a clinic's user, unless the platform allows it to the clinic.
pub(crate) async fn check_priority(
    deps: &Deps,
    caller: &Principal,
    request: &CommunicationRequest,
) -> Result<(), HttpProblem> {
    match request.priority {
        Priority::Critical if !caller.is_of_platform() => {}
        Priority::Critical | Priority::High | Priority::Normal | Priority::Low => return Ok(()),
    }
    let ceilings = deps.pipeline.ceilings(&request.tenant()).await;
    let ceilings = ceilings.map_err(|error| pipeline_problem(error.into()))?;
    if ceilings.critical == Some(true) {
        return Ok(());
    }
    let detail = "must be low, normal or high: critical is for the platform, and for clinics that it allowed it to \
                  (ceilings.critical)";
    Err(HttpProblem::forbidden()
        .with_detail("The token does not allow this priority for this clinic.")
        .with_errors(&Problems::one("/priority", detail)))
}

pub(crate) fn problem(error: ImmediateError) -> HttpProblem {
    match error {
        ImmediateError::Quota(error) => quota_problem(error),
        ImmediateError::TooManyInFlight { limit, after } => HttpProblem::too_many_in_flight(
            format!(
                "This request was not started: the clinic has {limit} immediate requests in flight, as many as it may. \
                 A first copy of it, with the same idempotency key, may be one of them. Wait as long as Retry-After says \
                 and send the same request again with the same key, or use the queued strategy."
            ),
            after,
        ),
    }
}

pub(crate) fn urgent_problem(error: UrgentError) -> HttpProblem {
    match error {
        UrgentError::Pipeline(error) => pipeline_problem(error),
        UrgentError::Exhausted { limit, after } => HttpProblem::rate_limited(
            format!(
                "Nothing was sent: the clinic's limit of {limit} messages of priority high and critical in an hour \
                 leaves no room for this request. Wait as long as Retry-After says, or use a lower priority."
            ),
            after,
        ),
        UrgentError::TooMany { count, limit } => HttpProblem::invalid(&Problems::one(
            "/recipients",
            format!(
                "must make at most {limit} urgent messages together, not {count}: the clinic's limit for an hour; send \
                 fewer at once, or use a lower priority"
            ),
        )),
    }
}

/// An immediate request as it goes to the queue because the clinic's providers do not answer.
pub(crate) fn queued_instead(submission: &Submission) -> Result<QueueMessages, HttpProblem> {
    QueueMessages::new(submission).map_err(|_| {
        HttpProblem::unavailable().with_detail(
            "This request was not started: the clinic's providers did not answer its last requests, and this one is too \
             large for the queue. Send it again later, or with fewer attachments.",
        )
    })
}
