//! Whose account deliveries go by, and whether the platform's may stand in for a clinic that has no providers.

use comms_adapters::Deadline;
use comms_core::{
    Channel, Delivery, GlobalCause, RequestId, SentVia,
    delivery::accepted_position,
    metric::METRICS,
    request::{CommunicationRequest, RequestedTenant},
};
use comms_settings::{Moment, StoreError};
use tracing::{info, warn};

use super::{
    Pipeline, PipelineError, chains::ResolvedChain, tenant_settings::TenantSettings,
    time_limits::SETTINGS_TIMEOUT,
};
use crate::{
    ledger::{Outcome, RequestRecord},
    require_clinic::RequireClinic,
};

/// Whose account the channels of a request will go by, as far as that is known before it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpectedVia {
    via: Vec<(Channel, SentVia)>,
    /// The first channel on which the clinic has no enabled provider.
    lacks_own: Option<Channel>,
}

impl ExpectedVia {
    /// The account of a channel; `None` for a clinic's own providers, which may fail, and where nobody may send.
    pub fn of(&self, channel: Channel) -> Option<SentVia> {
        let mut known = self.via.iter();
        known.find(|(of, _)| *of == channel).map(|(_, via)| *via)
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
    /// Refuses a producer's message that names no clinic although it has to. One that the ledger knows was accepted before
    /// a clinic was required, and is delivered.
    pub(super) async fn check_clinic_of_queued(
        &self,
        request: &CommunicationRequest,
        id: &RequestId,
    ) -> Result<(), PipelineError> {
        let is_refused = self.require_clinic == RequireClinic::Yes
            && request.requested == RequestedTenant::Unnamed;
        if !is_refused || self.ledger.is_accepted(id).await? {
            return Ok(());
        }
        Err(PipelineError::ClinicRequired)
    }

    /// The present moment in the order of the settings' reads, for [`Pipeline::expected_via`].
    pub fn settings_moment(&self) -> Moment {
        self.settings.moment()
    }

    /// Whose account each channel of a request will go by. By settings that are remembered, or one read; that a clinic has
    /// none is read again before it is said, unless it was since `asked`, and by a strongly consistent read before it
    /// refuses the request. Where that takes longer than [`SETTINGS_TIMEOUT`], nothing is known, unless it may refuse the
    /// request.
    pub async fn expected_via(
        &self,
        request: &CommunicationRequest,
        asked: Moment,
        deadline: Deadline,
    ) -> Result<ExpectedVia, StoreError> {
        let expected = self.expected_by_settings(request, asked);
        match self.require_clinic {
            RequireClinic::Yes => expected.await,
            RequireClinic::No => {
                let expected = deadline.bound(SETTINGS_TIMEOUT, expected).await;
                expected.unwrap_or_else(|_| {
                    warn!("whose account will send was not read in time");
                    Ok(ExpectedVia::default())
                })
            }
        }
    }

    async fn expected_by_settings(
        &self,
        request: &CommunicationRequest,
        asked: Moment,
    ) -> Result<ExpectedVia, StoreError> {
        let tenant = request.tenant();
        let by_global = |cause| ExpectedVia {
            via: request
                .channels
                .iter()
                .map(|channel| (*channel, SentVia::Global(cause)))
                .collect(),
            lacks_own: None,
        };
        match request.requested {
            RequestedTenant::Unnamed => return Ok(by_global(GlobalCause::NoClinicId)),
            RequestedTenant::Global => return Ok(by_global(GlobalCause::Requested)),
            RequestedTenant::Clinic(_) => {}
        }
        let lacks_own = |settings: &TenantSettings| {
            let mut channels = request.channels.iter().copied();
            channels.find(|channel| !settings.policy(&tenant, *channel).has_own)
        };
        let mut settings = self.recent_settings(&tenant).await?;
        if lacks_own(&settings).is_some() {
            settings = match self.require_clinic {
                RequireClinic::Yes => self.newest_settings(&tenant).await?,
                RequireClinic::No => {
                    self.confirmed_settings(&tenant, &settings, false, asked)
                        .await?
                }
            };
        }
        let stands_in = |channel: &&Channel| settings.policy(&tenant, **channel).is_global_only;
        let channels = request.channels.iter().filter(stands_in);
        Ok(ExpectedVia {
            via: channels
                .map(|channel| (*channel, SentVia::Global(GlobalCause::NoSettings)))
                .collect(),
            lacks_own: lacks_own(&settings),
        })
    }

    /// What is missing of a request where a clinic is required.
    pub fn missing_clinic(
        &self,
        request: &CommunicationRequest,
        expected: &ExpectedVia,
    ) -> Option<ClinicMissing> {
        if self.require_clinic == RequireClinic::No {
            return None;
        }
        if request.requested == RequestedTenant::Unnamed {
            return Some(ClinicMissing::NoClinicId);
        }
        expected.lacks_own.map(ClinicMissing::NoSettings)
    }
}

/// Notes in an outcome whose account the delivery went by, may have gone by, or will.
pub(super) fn note(outcome: &mut Outcome, record: &RequestRecord, chain: &ResolvedChain) {
    let of_tenant = record.details.cause_of_global(&record.tenant);
    let accepted = accepted_position(&outcome.attempts);
    outcome.via = match (of_tenant, accepted) {
        (Some(cause), _) => Some(SentVia::Global(cause)),
        (None, Some(position)) if !position.is_global() => Some(SentVia::Clinic),
        (None, _) if chain.policy.is_global_only => Some(SentVia::Global(GlobalCause::NoSettings)),
        (None, Some(_)) => Some(SentVia::Global(GlobalCause::OwnFailed)),
        (None, None) => None,
    };
    if !Delivery::may_be_of_global(outcome.status, &outcome.attempts) {
        outcome.via = None;
    }
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
