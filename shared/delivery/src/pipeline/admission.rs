//! Admission: the quota of a communication that is sent at once, and the ceilings it falls under.

use std::{collections::HashSet, time::Duration};

use comms_aws::TableError;
use comms_core::{
    Channel, DeliveryStatus, IdempotencyKey, RequestId, Tenant,
    request::{CommunicationRequest, Recipient},
};
use comms_settings::{Ceilings, Moment, Period, StoreError};
use thiserror::Error;

use super::{Pipeline, tenant_settings::TenantSettings};
use crate::quota::{Exhausted, Payer, Quota, TakenQuota};

/// Why a communication that is sent at once gets no quota.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// The settings table or KMS.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The deliveries table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A limit is used up.
    #[error("the limit of {} {channel} recipients in a {} is used up", exhausted.limit, exhausted.period)]
    Exhausted {
        /// The account whose limit it is.
        payer: Payer,
        /// On which channel.
        channel: Channel,
        /// Which limit.
        exhausted: Exhausted,
        /// The time until the limit is available again.
        after: Duration,
    },
    /// The communication has more recipients than a limit allows in one period.
    #[error("{count} {channel} recipients are more than the {limit} that a {period} has")]
    TooMany {
        /// The account whose limit it is.
        payer: Payer,
        /// On which channel.
        channel: Channel,
        /// Its recipients on the channel.
        count: u32,
        /// The limit's period.
        period: Period,
        /// The limit.
        limit: u32,
    },
}

impl Pipeline {
    /// Takes quota for all deliveries of a communication that is sent at once, or for none. If only the platform's account
    /// can send, takes its quota as well.
    ///
    /// A communication that has ended before needs no quota. If a limit is used up, one read checks that.
    pub(super) async fn take_quota(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
        settings: &TenantSettings,
        asked: Moment,
    ) -> Result<TakenQuota, QuotaError> {
        let tenant = request.tenant();
        let taken = TakenQuota::by_settings_of(asked);
        for channel in &request.channels {
            let policy = settings.policy(&tenant, *channel);
            let has_address = |recipient: &&Recipient| match channel {
                Channel::Email => recipient.email.is_some(),
                Channel::Whatsapp => recipient.phone_number.is_some(),
            };
            let messages = request.recipients.iter().filter(has_address).count();
            let messages = u32::try_from(messages).unwrap_or(u32::MAX);
            let count = messages.saturating_mul(request.content.envelope_recipients(*channel));
            let platform_limit = policy.global_limit.filter(|_| policy.is_global_only);
            let limits = [
                (Payer::Clinic, &tenant, policy.rate_limit),
                (Payer::Platform, &Tenant::Global, platform_limit),
            ];
            for (payer, whose, limits) in limits {
                let Some(limits) = limits.filter(|_| count > 0) else {
                    continue;
                };
                let counted = (*channel).into();
                let refused = match self.quotas.take(whose, counted, &limits, count).await? {
                    Quota::Granted(grant) => {
                        taken.add(payer, counted, grant, count);
                        continue;
                    }
                    Quota::Exhausted(exhausted) => QuotaError::Exhausted {
                        payer,
                        channel: *channel,
                        exhausted,
                        after: self.time_until(exhausted.until),
                    },
                    Quota::TooMany { period, limit } => QuotaError::TooMany {
                        payer,
                        channel: *channel,
                        count,
                        period,
                        limit,
                    },
                };
                return if self.has_ended(request, key).await? {
                    Ok(TakenQuota::default())
                } else {
                    Err(refused)
                };
            }
        }
        Ok(taken)
    }

    /// The ceilings that hold for a tenant.
    pub async fn ceilings(&self, tenant: &Tenant) -> Result<Ceilings, StoreError> {
        let (asked, known) = (
            self.settings.moment(),
            self.remembered_settings(tenant).await?,
        );
        let settings = self.confirmed_settings(tenant, &known, true, asked).await?;
        Ok(settings.ceilings(tenant))
    }

    /// Whether `expiresAt` has passed.
    pub fn has_expired(&self, request: &CommunicationRequest) -> bool {
        request.expires_at.is_some_and(|at| at <= self.clock.now())
    }

    /// Whether all deliveries of a communication have ended.
    pub(super) async fn has_ended(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
    ) -> Result<bool, QuotaError> {
        let hash = self.hash_keys.get().await?;
        let id = RequestId::derive(hash, &request.tenant(), key);
        let recorded = self.ledger.read(&id, self.clock.now()).await?;
        let recorded = recorded.map_or_else(Vec::new, |recorded| recorded.deliveries);
        let ended: HashSet<_> = recorded
            .iter()
            .filter(|delivery| match delivery.status {
                DeliveryStatus::Queued | DeliveryStatus::Sending => false,
                DeliveryStatus::Sent
                | DeliveryStatus::Failed
                | DeliveryStatus::Unknown
                | DeliveryStatus::Expired => true,
            })
            .map(|delivery| &delivery.id)
            .collect();
        let planned = request.deliveries(hash, &id, self.mask);
        Ok(planned.iter().all(|planned| ended.contains(&planned.id)))
    }
}
