//! Whose account deliveries go by, and whether the platform's may stand in for a clinic that has no providers.

use std::str::FromStr;

use comms_core::{
    Channel, GlobalCause, SentVia,
    delivery::accepted_position,
    metric::METRICS,
    request::{CommunicationRequest, RequestedTenant},
};
use comms_settings::{Moment, StoreError};
use tracing::info;

use super::{Pipeline, chains::ResolvedChain, tenant_settings::TenantSettings};
use crate::ledger::{Outcome, RequestRecord};

/// Whether every communication has to name a clinic that has providers of its own (`REQUIRE_CLINIC`). Without it, the
/// platform's account sends what names no clinic, and for clinics without settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RequireClinic {
    /// Yes. The platform's account is only for communications that name it, and for clinics whose own providers failed.
    Yes,
    /// No.
    #[default]
    No,
}

impl FromStr for RequireClinic {
    type Err = std::str::ParseBoolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text.parse()? { Self::Yes } else { Self::No })
    }
}

/// What is wrong with a request where a clinic is required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClinicMissing {
    /// It names none.
    NoClinicId,
    /// The clinic has no provider that is enabled on this channel.
    NoSettings(Channel),
}

impl Pipeline {
    /// Whether a request of the queue names no clinic although it has to.
    pub fn lacks_clinic(&self, request: &CommunicationRequest) -> bool {
        self.require_clinic == RequireClinic::Yes && request.requested == RequestedTenant::Unnamed
    }

    /// The present moment in the order of the settings' reads, for [`Pipeline::expected_via`].
    pub fn settings_moment(&self) -> Moment {
        self.settings.moment()
    }

    /// Whose account each channel of a request will go by, as far as that is known before it is sent: `None` for a clinic's
    /// own providers, which may fail. By settings that are remembered, or one read; that a clinic has none is read again
    /// before it is said, unless it was since `asked`, and by a strongly consistent read before it refuses the request.
    pub async fn expected_via(
        &self,
        request: &CommunicationRequest,
        asked: Moment,
    ) -> Result<Vec<(Channel, Option<SentVia>)>, StoreError> {
        let tenant = request.tenant();
        let of_all = |via| {
            request
                .channels
                .iter()
                .map(|channel| (*channel, via))
                .collect()
        };
        match request.requested {
            RequestedTenant::Unnamed => {
                return Ok(of_all(Some(SentVia::Global(GlobalCause::NoClinicId))));
            }
            RequestedTenant::Global => {
                return Ok(of_all(Some(SentVia::Global(GlobalCause::Requested))));
            }
            RequestedTenant::Clinic(_) => {}
        }
        let mut settings = self.recent_settings(&tenant).await?;
        let lacks_own = |settings: &TenantSettings| {
            let mut channels = request.channels.iter();
            channels.any(|channel| !settings.policy(&tenant, *channel).has_own)
        };
        if lacks_own(&settings) {
            settings = match self.require_clinic {
                RequireClinic::Yes => self.newest_settings(&tenant).await?,
                RequireClinic::No => {
                    self.confirmed_settings(&tenant, &settings, false, asked)
                        .await?
                }
            };
        }
        let channels = request.channels.iter().map(|channel| {
            let policy = settings.policy(&tenant, *channel);
            let via = (!policy.has_own).then_some(SentVia::Global(GlobalCause::NoSettings));
            (*channel, via)
        });
        Ok(channels.collect())
    }

    /// What is missing of a request where a clinic is required.
    pub fn missing_clinic(
        &self,
        request: &CommunicationRequest,
        expected: &[(Channel, Option<SentVia>)],
    ) -> Option<ClinicMissing> {
        if self.require_clinic == RequireClinic::No {
            return None;
        }
        if request.requested == RequestedTenant::Unnamed {
            return Some(ClinicMissing::NoClinicId);
        }
        let without = expected
            .iter()
            .find(|(_, via)| *via == Some(SentVia::Global(GlobalCause::NoSettings)));
        without.map(|(channel, _)| ClinicMissing::NoSettings(*channel))
    }
}

/// Notes in an outcome whose account the delivery went by, or could only have gone by.
pub(super) fn note(outcome: &mut Outcome, record: &RequestRecord, chain: &ResolvedChain) {
    let of_tenant = record.details.cause_of_global(&record.tenant);
    let accepted = accepted_position(&outcome.attempts);
    outcome.via = match (of_tenant, accepted) {
        (Some(cause), _) => Some(SentVia::Global(cause)),
        (None, _) if !chain.policy.has_own && chain.policy.may_use_global => {
            Some(SentVia::Global(GlobalCause::NoSettings))
        }
        (None, Some(position)) if position.is_global() => {
            Some(SentVia::Global(GlobalCause::OwnFailed))
        }
        (None, Some(_)) => Some(SentVia::Clinic),
        (None, None) => None,
    };
}

/// Counts what the platform's account has sent, by the reason for which it did.
pub(super) fn count_global(channel: Channel, via: Option<SentVia>) {
    if let Some(cause) = via.and_then(SentVia::because) {
        info!(
            target: METRICS,
            sent_by_global = 1_u64,
            channel = channel.as_str(),
            reason = cause.as_str(),
        );
    }
}
