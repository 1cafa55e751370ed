//! Immediate requests: whether one may be sent now, and with which quota.

use std::{num::NonZeroU32, time::Duration};

use comms_adapters::Deadline;
use comms_core::{DeliveryStatus, IdempotencyKey, metric::METRICS, request::CommunicationRequest};
use comms_settings::Moment;
use futures_util::future::join;
use thiserror::Error;
use tracing::info;

use super::{Accepted, DeliveryResult, Pipeline, QuotaError, tenant_settings::TenantSettings};
use crate::{
    in_flight::{Dispatch, HANGS_AFTER, InFlightPermit, RequestEnd},
    quota::TakenQuota,
};

/// What is done with an immediate request.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one of it for a request, and nearly always the large one"
)]
pub enum Immediate {
    /// It is sent now, with this quota.
    Now {
        /// The quota of all its deliveries.
        quota: TakenQuota,
        /// Counts it as in flight; `None` for the repeat of a request that has ended.
        permit: Option<InFlightPermit>,
    },
    /// It goes to the queue: the clinic's providers do not answer.
    Queue,
}

/// Why an immediate request is refused, before anything is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImmediateError {
    /// There is no quota for it, or a store cannot be reached.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The clinic has as many in flight as it may.
    #[error("the clinic has {limit} immediate requests in flight")]
    TooManyInFlight {
        /// How many it may have.
        limit: NonZeroU32,
        /// When to ask again.
        after: Duration,
    },
}

impl InFlightPermit {
    /// Says how the request ended, by what became of its deliveries in the time that it `took`.
    pub fn end_with(self, accepted: &Accepted, results: &[DeliveryResult], took: Duration) {
        // What a repeat returns may be the outcome of the first copy.
        let answered = results.iter().filter_map(|result| match result {
            DeliveryResult::Recorded(delivery) if !accepted.is_repeated() => Some(delivery),
            DeliveryResult::Unrecorded { delivery, .. } => Some(delivery),
            DeliveryResult::Recorded(_) | DeliveryResult::Requeued(..) => None,
        });
        let answered = answered.filter(|delivery| !delivery.attempts.is_empty());
        let mut statuses = answered.map(|delivery| delivery.status);
        if statuses
            .clone()
            .any(|status| status == DeliveryStatus::Sent)
        {
            self.end(RequestEnd::Answered);
        } else if took >= HANGS_AFTER {
            self.end(RequestEnd::Hung);
        } else if statuses.next().is_some() {
            self.end(RequestEnd::Answered);
        }
        // Else no provider answered, which says nothing of any.
    }
}

impl Pipeline {
    /// Takes a permit for a communication that is to be sent at once, and then its quota: a request that is refused or
    /// diverted takes none from others. The repeat of a request that has ended needs neither.
    pub async fn admit_immediate(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
        deadline: Deadline,
    ) -> Result<Immediate, ImmediateError> {
        let tenant = request.tenant();
        let asked = self.settings.moment();
        let known = self.remembered_settings(&tenant).await;
        let known = known.map_err(QuotaError::from)?;
        // Beside the permit, which is a write.
        let mut channels = request.channels.iter();
        let needs_platform = channels.any(|channel| known.policy(&tenant, *channel).is_global_only);
        let confirm = self.confirmed_settings(&tenant, &known, needs_platform, asked);
        let dispatch = Box::pin(self.dispatch(request, &known, deadline));
        let (dispatched, settings) = join(dispatch, confirm).await;
        let (mut dispatched, mut settings) = (dispatched?, settings.map_err(QuotaError::from)?);
        // A refusal may be by the platform's ceilings as well, and is by the last ones.
        if let Dispatch::TooMany { .. } = dispatched {
            let newest = self.newest_settings(&tenant).await;
            settings = newest.map_err(QuotaError::from)?;
        }
        let in_flight = |settings: &TenantSettings| settings.ceilings(&tenant).immediate_in_flight;
        if in_flight(&known) != in_flight(&settings) {
            drop(dispatched);
            dispatched = Box::pin(self.dispatch(request, &settings, deadline)).await?;
        }
        let dispatched = match dispatched {
            Dispatch::Now(permit) => {
                return Ok(Immediate::Now {
                    quota: self.take_last_quota(request, key, settings, asked).await?,
                    permit: Some(permit),
                });
            }
            dispatched @ (Dispatch::Queue | Dispatch::TooMany { .. }) => dispatched,
        };
        if self.has_ended(request, key).await? {
            return Ok(Immediate::Now {
                quota: TakenQuota::default(),
                permit: None,
            });
        }
        match dispatched {
            Dispatch::TooMany { limit, after } => {
                info!(clinic_id = %tenant, limit, "too many immediate requests in flight");
                info!(target: METRICS, immediate_refused = 1_u64);
                Err(ImmediateError::TooManyInFlight { limit, after })
            }
            // A permit was returned above.
            Dispatch::Queue | Dispatch::Now(_) => {
                info!(clinic_id = %tenant, "immediate request diverted to the queue");
                info!(target: METRICS, immediate_diverted = 1_u64);
                Ok(Immediate::Queue)
            }
        }
    }

    /// Takes the quota of a request, and refuses it by the last settings only.
    async fn take_last_quota(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
        settings: TenantSettings,
        asked: Moment,
    ) -> Result<TakenQuota, QuotaError> {
        let taken = self.take_quota(request, key, &settings, asked).await;
        let Err(QuotaError::Exhausted { .. } | QuotaError::TooMany { .. }) = &taken else {
            return taken;
        };
        let newest = self.newest_settings(&request.tenant()).await?;
        if newest.is_same(&settings) {
            return taken;
        }
        self.take_quota(request, key, &newest, asked).await
    }

    async fn dispatch(
        &self,
        request: &CommunicationRequest,
        settings: &TenantSettings,
        deadline: Deadline,
    ) -> Result<Dispatch, QuotaError> {
        let tenant = request.tenant();
        let ceiling = settings.ceilings(&tenant).immediate_in_flight;
        let limit = ceiling.unwrap_or(self.shares.limits.immediate_in_flight);
        let in_flight = &self.shares.in_flight;
        Ok(in_flight
            .dispatch(&tenant, &request.channels, limit, deadline)
            .await?)
    }
}
