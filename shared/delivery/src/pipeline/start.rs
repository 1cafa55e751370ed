//! What a delivery needs before its first attempt: settings, a worker, quota, a connection, and the claim.

use std::{pin::pin, sync::Arc};

use comms_core::{Delivery, Tenant, request::PlannedDelivery};
use comms_settings::{StoreError, cache::MAX_AGE};
use futures_util::future::{Either, join, select};
use jiff::SignedDuration;
use tokio::time::Instant;

use super::{
    Limits, Pipeline, QuotaSource, Requeue, UrgentQuota, address_hash::address_hash,
    chains::ResolvedChain, claim::NotClaimed, tenant_settings::TenantSettings,
    time_limits::MIN_START_DURATION, unreachable, worker_share::Start,
};
use crate::{
    allowance::{Allowance, GlobalQuota},
    ledger::{DeliveryHistory, Owner, RequestRecord},
    policy::ChannelPolicy,
    slow_workers::Working,
};

/// A delivery and its limits.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) record: &'a RequestRecord,
    pub(super) planned: &'a PlannedDelivery,
    pub(super) owner: &'a Owner,
    pub(super) limits: Limits<'a>,
    pub(super) started: Instant,
    /// Envelope recipients; `None` if there is nothing to send.
    pub(super) recipients: Option<u32>,
}

/// A claimed delivery, with the resources that it holds.
pub(super) struct Claimed<'a> {
    pub(super) chain: Arc<ResolvedChain>,
    pub(super) allowance: Allowance<'a>,
    pub(super) working: Option<Working<'a>>,
    /// Whether it waited for quota or a worker as long as it may.
    pub(super) is_refused: bool,
    pub(super) history: DeliveryHistory,
    /// The latest settings, read concurrently; `None` if it started by them.
    pub(super) confirmed: Option<Result<TenantSettings, StoreError>>,
}

/// Why a delivery was not claimed.
pub(super) enum Stop {
    /// Its settings' limits are used up.
    OverQuota(Requeue),
    /// The first provider of its settings has no free connection.
    NoConnection(Requeue),
    /// For a reason that does not depend on its settings.
    NotClaimed(NotClaimed),
}

impl From<Requeue> for Stop {
    fn from(reason: Requeue) -> Self {
        match reason {
            Requeue::OverQuota { .. } => Self::OverQuota(reason),
            Requeue::NoConnection { .. } => Self::NoConnection(reason),
            Requeue::Busy { .. }
            | Requeue::OutOfTime
            | Requeue::Unreachable
            | Requeue::NotRecorded { .. }
            | Requeue::KeyConflict
            | Requeue::Deferred { .. }
            | Requeue::ShareTaken { .. }
            | Requeue::WaitingForProvider { .. }
            | Requeue::RateLimited { .. } => Self::NotClaimed(reason.into()),
        }
    }
}

impl Stop {
    fn waits_longer_than(&self, time: SignedDuration) -> bool {
        match self {
            Self::OverQuota(Requeue::OverQuota { after }) => {
                SignedDuration::try_from(*after).is_ok_and(|after| after > time)
            }
            Self::OverQuota(_) | Self::NoConnection(_) | Self::NotClaimed(_) => false,
        }
    }

    pub(super) fn into_result(self) -> Result<Delivery, Requeue> {
        match self {
            Self::OverQuota(reason)
            | Self::NoConnection(reason)
            | Self::NotClaimed(NotClaimed::Requeue(reason)) => Err(reason),
            Self::NotClaimed(NotClaimed::Ended(delivery)) => Ok(*delivery),
        }
    }
}

impl Limits<'_> {
    pub(super) fn has_time_to_start(&self) -> Result<(), Requeue> {
        if self.deadline.remaining() < MIN_START_DURATION {
            return Err(Requeue::OutOfTime);
        }
        Ok(())
    }
}

impl Pipeline {
    /// Starts a delivery by the cached settings, while `confirm` reads whether they are the latest. If they are not, and had
    /// no quota or connection for it, it starts again by the latest.
    pub(super) async fn begin_beside<'a>(
        &'a self,
        confirm: impl Future<Output = Result<TenantSettings, StoreError>>,
        work: Work<'a>,
        known: &TenantSettings,
        urgent: &mut UrgentQuota,
    ) -> Result<Claimed<'a>, Stop> {
        let (claimed, confirmed) = {
            let confirm = pin!(confirm);
            let begin = Box::pin(self.begin(work, known.clone(), urgent));
            match select(begin, confirm).await {
                // The settings do not matter.
                Either::Left((Err(stop @ Stop::NotClaimed(_)), _)) => return Err(stop),
                Either::Left((claimed, confirm)) => (claimed, confirm.await),
                Either::Right((confirmed, begin)) => (begin.await, confirmed),
            }
        };
        match claimed {
            Ok(claimed) => Ok(Claimed {
                confirmed: Some(confirmed),
                ..claimed
            }),
            Err(stop @ Stop::NotClaimed(_)) => Err(stop),
            Err(stop @ (Stop::OverQuota(_) | Stop::NoConnection(_))) => {
                let mut last = confirmed.map_err(unreachable)?;
                // It would wait longer than the cache's maximum age: only the latest limits count.
                if last.is_same(known)
                    && stop.waits_longer_than(MAX_AGE)
                    && let Ok(newest) = Box::pin(self.newest_settings(&work.record.tenant)).await
                {
                    last = newest;
                }
                if last.is_same(known) {
                    return Err(stop);
                }
                // Quota of the replaced limits is released before more is taken.
                *urgent = UrgentQuota::default();
                Box::pin(self.begin(work, last, urgent)).await
            }
        }
    }

    /// Gets a delivery its chain, worker, quota, connection and claim by `settings`.
    async fn begin<'a>(
        &'a self,
        work: Work<'a>,
        settings: TenantSettings,
        urgent: &mut UrgentQuota,
    ) -> Result<Claimed<'a>, Stop> {
        let (limits, tenant, channel) = (work.limits, &work.record.tenant, work.planned.channel);
        let chain = self.chain(tenant, channel, settings, limits.deadline);
        let look = Box::pin(self.look_at_workers(tenant, limits));
        let (chain, ()) = join(chain, look).await;
        let chain = Arc::new(chain.map_err(unreachable)?);
        let hash = self.hash_keys.get().await.map_err(unreachable)?;
        let rate_limiter = self.rate_limiter.with_key(hash);
        // Before the claim: a delivery that has to wait costs no write.
        let recipients = work.recipients.unwrap_or(1);
        let global = GlobalQuota::new(&self.quotas, channel, chain.policy.global_limit);
        let reply_to = self.reply_tos.gate(hash, tenant, channel);
        let mut allowance = Allowance::new(
            rate_limiter,
            self.gate(hash, limits),
            global,
            reply_to,
            recipients,
            limits.was_given_back,
        );
        let mut working = None;
        let is_refused = if self.is_to_be_sent(work) {
            let is_refused =
                match Box::pin(self.start(tenant, channel, &chain.settings, limits)).await? {
                    Start::Now(begun, taken) => {
                        (working, *urgent) = (begun, taken);
                        self.fill(&mut allowance, tenant, &chain.policy, limits)
                            .await?
                    }
                    Start::WaitedEnough => true,
                };
            // Without quota it needs no connection. Without a connection, the quota is returned.
            if !is_refused {
                self.connect(&chain.chain, &allowance, limits).await?;
            }
            is_refused
        } else {
            false
        };
        let address_hash = address_hash(hash, work.planned);
        let first = chain.chain.entries.first();
        let claimed = self.claim(
            work.record,
            work.planned,
            &address_hash,
            work.owner,
            limits,
            first,
        );
        let history = claimed.await.map_err(Stop::NotClaimed)?;
        Ok(Claimed {
            chain,
            allowance,
            working,
            is_refused,
            history,
            confirmed: None,
        })
    }

    pub(super) fn is_to_be_sent(&self, work: Work<'_>) -> bool {
        work.recipients.is_some() && !self.is_expired(work.limits)
    }

    /// Gives a delivery the quota that was taken for it, or takes it now. `true` if there is none and it has waited as long
    /// as it may.
    pub(super) async fn fill(
        &self,
        allowance: &mut Allowance<'_>,
        tenant: &Tenant,
        policy: &ChannelPolicy,
        limits: Limits<'_>,
    ) -> Result<bool, Requeue> {
        let taken = match limits.quota {
            QuotaSource::Taken(taken) => {
                allowance.take_from(taken);
                Ok(())
            }
            QuotaSource::Deliveries { .. } => allowance.take(tenant, policy).await,
        };
        match taken {
            Ok(()) => Ok(false),
            Err(refusal) => self.wait_for_quota(refusal, limits).map_or(Ok(true), Err),
        }
    }
}
