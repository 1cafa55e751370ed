//! Whose communication it is, and whether this caller may send it.

use comms_core::{
    Channel, Delivery, Problems, SentVia,
    request::{CommunicationRequest, RequestedTenant},
};
use comms_delivery::ClinicMissing;
use comms_runtime::{
    HttpProblem,
    auth::{Action, Principal},
};
use comms_settings::Moment;
use tracing::warn;

use crate::Deps;

/// Refuses a caller who may not send for the tenant. One who may send for a clinic only, and names none, is told so:
/// nobody guesses a clinic.
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

/// What a clinic that is required and missing is answered with.
pub(crate) fn problem(missing: &ClinicMissing) -> HttpProblem {
    let detail = match missing {
        ClinicMissing::NoClinicId => {
            "is required: this deployment sends for clinics only; name one, or _global for the platform's own account"
                .to_owned()
        }
        ClinicMissing::NoSettings(channel) => format!(
            "must be a clinic with an enabled provider of the {channel} channel: this deployment does not send for others \
             by the platform's account"
        ),
    };
    HttpProblem::invalid(&Problems::one("/metadata/clinicId", detail))
}

/// Whose account the channels go by, where it is known beforehand; a request whose clinic is missing is refused. Settings
/// that cannot be read refuse nothing: the worker finds out. `asked` is the moment at which the request began.
pub(crate) async fn check(
    deps: &Deps,
    request: &CommunicationRequest,
    asked: Moment,
) -> Result<Vec<(Channel, Option<SentVia>)>, HttpProblem> {
    let expected = match deps.pipeline.expected_via(request, asked).await {
        Ok(expected) => expected,
        Err(error) => {
            warn!(%error, "whose account will send is not known yet");
            Vec::new()
        }
    };
    match deps.pipeline.missing_clinic(request, &expected) {
        Some(missing) => Err(problem(&missing)),
        None => Ok(expected),
    }
}

/// Says of deliveries that are queued whose account they go by, where that is known.
pub(crate) fn note_via(deliveries: &mut [Delivery], expected: &[(Channel, Option<SentVia>)]) {
    for delivery in deliveries {
        let of_channel = expected
            .iter()
            .find(|(channel, _)| *channel == delivery.channel);
        delivery.via = delivery.via.or(of_channel.and_then(|(_, via)| *via));
    }
}
