//! The tenant of a communication, and whether this caller may send for it.

use comms_adapters::Deadline;
use comms_core::{
    Delivery, DeliveryStatus, IdempotencyKey, Problems,
    request::{CommunicationRequest, RequestedTenant},
};
use comms_delivery::ExpectedVia;
use comms_runtime::{
    HttpProblem,
    auth::{Action, Principal},
};
use comms_settings::Moment;
use tracing::warn;

use crate::{
    Deps,
    problems::{clinic_missing, pipeline_problem},
};

/// Refuses a caller who may not send for the tenant. A caller who may send for one clinic only must name it: the clinic is
/// never guessed.
pub(crate) fn authorize(
    principal: &Principal,
    request: &CommunicationRequest,
) -> Result<(), HttpProblem> {
    let is_unnamed = request.requested == RequestedTenant::Unnamed;
    if is_unnamed && principal.acts_for_own_clinic_only(Action::Send) {
        let detail = "is required: the token allows sending for one clinic only; name it";
        return Err(HttpProblem::invalid(&Problems::one(
            "/metadata/clinicId",
            detail,
        )));
    }
    principal.authorize(Action::Send, &request.tenant())
}

/// Whether the caller's request was accepted before under its own key, as its repetition is whatever has changed since.
pub(crate) async fn is_known(
    deps: &Deps,
    request: &CommunicationRequest,
    own_key: Option<&IdempotencyKey>,
) -> Result<bool, HttpProblem> {
    match own_key {
        Some(key) => {
            let known = deps.pipeline.is_known(&request.tenant(), key).await;
            known.map_err(pipeline_problem)
        }
        None => Ok(false),
    }
}

/// Whose account the channels go by, where it is known beforehand; a request whose clinic is missing is refused, unless it
/// was accepted before under `own_key`. Settings that cannot be read refuse nothing: the worker finds out. `asked` is the
/// moment at which the request began.
pub(crate) async fn check(
    deps: &Deps,
    request: &CommunicationRequest,
    own_key: Option<&IdempotencyKey>,
    asked: Moment,
    deadline: Deadline,
) -> Result<ExpectedVia, HttpProblem> {
    let expected = match deps.pipeline.expected_via(request, asked, deadline).await {
        Ok(expected) => expected,
        Err(error) => {
            warn!(%error, "whose account will send is not known yet");
            ExpectedVia::default()
        }
    };
    match deps.pipeline.missing_clinic(request, &expected) {
        Some(missing) if !is_known(deps, request, own_key).await? => Err(clinic_missing(&missing)),
        Some(_) | None => Ok(expected),
    }
}

/// Says of deliveries that have not ended whose account they go by, where that is known.
pub(crate) fn note_via(deliveries: &mut [Delivery], expected: &ExpectedVia) {
    for delivery in deliveries {
        let has_ended = match delivery.status {
            DeliveryStatus::Queued | DeliveryStatus::Sending => false,
            DeliveryStatus::Sent
            | DeliveryStatus::Failed
            | DeliveryStatus::Unknown
            | DeliveryStatus::Expired => true,
        };
        if !has_ended {
            delivery.via = delivery.via.or(expected.of(delivery.channel));
        }
    }
}
