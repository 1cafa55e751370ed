//! The quota of urgent messages: deliveries of priority `high` and `critical` that a clinic may have in an hour.
//!
//! What comes by HTTP takes it for all deliveries before anything is recorded. What a producer put on the urgent queue
//! takes it delivery by delivery, and waits on the queue where there is none.

use std::{num::NonZeroU32, time::Duration};

use comms_adapters::Deadline;
use comms_core::{
    IdempotencyKey, RequestId, Tenant,
    request::{CommunicationRequest, Priority},
};
use comms_settings::{Period, RateLimit, StoreError};
use thiserror::Error;
use tracing::warn;

use super::{
    Limits, Pipeline, PipelineError, Requeue, tenant_settings::TenantSettings,
    time_limits::SETTINGS_TIMEOUT, unreachable,
};
use crate::{
    allowance::Refusal,
    counted::Counted,
    quota::{Grant, Quota},
};

/// Urgent quota that was taken for a request. Dropped it is given back.
#[derive(Debug, Default)]
pub struct UrgentQuota(Option<(Grant, u32)>);

impl UrgentQuota {
    /// Uses it.
    pub fn spend(&mut self) {
        self.0 = None;
    }

    /// Whether there is some that was not used.
    pub(super) const fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for UrgentQuota {
    fn drop(&mut self) {
        if let Some((grant, count)) = self.0.take() {
            grant.return_unused(count);
        }
    }
}

/// Why there is no urgent quota for a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrgentError {
    /// A store cannot be reached.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The limit of this hour is used up.
    #[error("the limit of {limit} urgent messages in an hour is used up")]
    Exhausted {
        /// The limit.
        limit: u32,
        /// The time until the next hour.
        after: Duration,
    },
    /// The request has more deliveries than the limit lets through at once.
    #[error("{count} urgent messages are more than the {limit} of an hour")]
    TooMany {
        /// How many it has.
        count: u32,
        /// The limit.
        limit: u32,
    },
}

const fn is_urgent(priority: Priority) -> bool {
    match priority {
        Priority::High | Priority::Critical => true,
        Priority::Low | Priority::Normal => false,
    }
}

impl Pipeline {
    /// Takes the urgent quota of a request, all of it or nothing; nothing where it is not urgent, where no clinic
    /// sends it, or where it has been accepted before. `key` is the caller's own; without one it is new.
    pub async fn take_urgent(
        &self,
        request: &CommunicationRequest,
        key: Option<&IdempotencyKey>,
        deadline: Deadline,
    ) -> Result<UrgentQuota, UrgentError> {
        let tenant = request.tenant();
        if !is_urgent(request.priority) || tenant == Tenant::Global {
            return Ok(UrgentQuota::default());
        }
        let count = request.recipients.len() * request.channels.len();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        // Before it takes any: what it gave back, others would have gone without for a while.
        if let Some(key) = key
            && self.is_known(&tenant, key).await?
        {
            return Ok(UrgentQuota::default());
        }
        let recent = self.recent_settings(&tenant);
        let limit = if let Ok(recent) = deadline.bound(SETTINGS_TIMEOUT, recent).await {
            self.urgent_limit_or_default(&tenant, recent)
        } else {
            warn!(
                "the urgent limit is the platform's: the clinic's settings were not read in time"
            );
            self.shares.limits.urgent_per_hour
        };
        let taken = self.take_urgent_within(&tenant, limit, count).await;
        match taken {
            // Nobody is refused by a limit that was raised.
            Err(UrgentError::Exhausted { .. } | UrgentError::TooMany { .. }) => {
                let newest = self.newest_settings(&tenant).await;
                let newest = self.urgent_limit_or_default(&tenant, newest);
                if newest == limit {
                    taken
                } else {
                    self.take_urgent_within(&tenant, newest, count).await
                }
            }
            Ok(_) | Err(UrgentError::Pipeline(_)) => taken,
        }
    }

    async fn take_urgent_within(
        &self,
        tenant: &Tenant,
        limit: NonZeroU32,
        count: u32,
    ) -> Result<UrgentQuota, UrgentError> {
        let Some(rate_limit) = per_hour(limit) else {
            return Ok(UrgentQuota::default());
        };
        let taken = self
            .quotas
            .take(tenant, Counted::Urgent, &rate_limit, count);
        match taken.await.map_err(PipelineError::from)? {
            Quota::Granted(grant) => Ok(UrgentQuota(Some((grant, count)))),
            Quota::Exhausted(exhausted) => Err(UrgentError::Exhausted {
                limit: exhausted.limit,
                after: self.time_until(exhausted.until),
            }),
            Quota::TooMany { limit, .. } => Err(UrgentError::TooMany { count, limit }),
        }
    }

    /// Whether a request was accepted under the key.
    pub async fn is_known(
        &self,
        tenant: &Tenant,
        key: &IdempotencyKey,
    ) -> Result<bool, PipelineError> {
        let hash = self.hash_keys.get().await?;
        let id = RequestId::derive(hash, tenant, key);
        let recorded = self.ledger.read(&id, self.clock.now()).await?;
        Ok(recorded.is_some())
    }

    /// The urgent quota of a delivery that a producer put on the urgent queue; `None` if it has waited for it for long
    /// enough.
    pub(super) async fn urgent_quota(
        &self,
        tenant: &Tenant,
        settings: &TenantSettings,
        limits: Limits<'_>,
    ) -> Result<Option<UrgentQuota>, Requeue> {
        if !limits.counts_as_urgent || *tenant == Tenant::Global {
            return Ok(Some(UrgentQuota::default()));
        }
        let Some(rate_limit) = per_hour(self.urgent_limit(tenant, settings)) else {
            return Ok(Some(UrgentQuota::default()));
        };
        let taken = self.quotas.take(tenant, Counted::Urgent, &rate_limit, 1);
        let refusal = match taken.await.map_err(unreachable)? {
            Quota::Granted(grant) => return Ok(Some(UrgentQuota(Some((grant, 1))))),
            Quota::Exhausted(exhausted) => Refusal::Exhausted(exhausted),
            Quota::TooMany { .. } => Refusal::TooMany,
        };
        self.wait_for_quota(refusal, limits).map_or(Ok(None), Err)
    }

    fn urgent_limit(&self, tenant: &Tenant, settings: &TenantSettings) -> NonZeroU32 {
        let ceiling = settings.ceilings(tenant).urgent_per_hour;
        ceiling.unwrap_or(self.shares.limits.urgent_per_hour)
    }

    /// Settings that cannot be read keep no urgent request from the queue; there it waits until they can be.
    fn urgent_limit_or_default(
        &self,
        tenant: &Tenant,
        settings: Result<TenantSettings, StoreError>,
    ) -> NonZeroU32 {
        match settings {
            Ok(settings) => self.urgent_limit(tenant, &settings),
            Err(error) => {
                warn!(%error, "the urgent limit is the platform's: the clinic's settings cannot be read");
                self.shares.limits.urgent_per_hour
            }
        }
    }
}

fn per_hour(limit: NonZeroU32) -> Option<RateLimit> {
    RateLimit::new([(Period::Hour, limit)])
}
