//! What one delivery may use: its clinic's quota, that of the platform's account, and turns at providers.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use comms_adapters::{AccountRateLimit, Admission, Message, RateLimiter, smtp::ConnectionLimit};
use comms_aws::TableError;
use comms_core::{Attempt, Channel, EmailAddress, Tenant};
use comms_settings::RateLimit;
use tracing::{info, warn};

use crate::{
    connections::Gate,
    policy::ChannelPolicy,
    quota::{Exhausted, Grant, Payer, Quota, Quotas, TakenQuota},
    rate_limit::KeyedRateLimiter,
    reply_to::ReplyToGate,
};

/// Why a delivery may not go out for now, or ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A limit is used up.
    Exhausted(Exhausted),
    /// One message has more recipients than the limit ever lets through.
    TooMany,
    /// The quota's table did not answer.
    Unreachable,
}

/// Whether the attempts at a delivery may have reached anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Each of them was refused, for a reason that people have to mend.
    Nobody,
    /// At least as far as the quota is concerned, which a provider counts that was given a message.
    Perhaps,
}

/// What one delivery may use. Whatever was taken and not used is given back when this is dropped.
pub(crate) struct Allowance<'a> {
    /// Its clinic's quota.
    own: Option<Grant>,
    global: GlobalQuota<'a>,
    rate_limiter: KeyedRateLimiter<'a>,
    connection: Gate<'a>,
    reply_to: ReplyToGate<'a>,
    /// Envelope recipients.
    weight: u32,
    /// Set when quota is given back that others may wait for.
    was_given_back: &'a AtomicBool,
}

/// The quota of the platform's account.
pub(crate) struct GlobalQuota<'a> {
    quotas: &'a Quotas,
    channel: Channel,
    state: Mutex<GlobalState>,
}

#[derive(Default)]
struct GlobalState {
    /// `None` where nothing limits it.
    limit: Option<RateLimit>,
    grant: Option<Grant>,
    /// From the first attempt on it may be used, whatever becomes of this process.
    is_in_use: bool,
    refusal: Option<Refusal>,
}

impl<'a> GlobalQuota<'a> {
    pub(crate) fn new(quotas: &'a Quotas, channel: Channel, limit: Option<RateLimit>) -> Self {
        Self {
            quotas,
            channel,
            state: Mutex::new(GlobalState {
                limit,
                ..GlobalState::default()
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, GlobalState> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the quota for so many recipients, unless it is there already.
    async fn take(&self, weight: u32) -> Result<(), Refusal> {
        let limit = {
            let state = self.state();
            match state.limit {
                Some(limit) if state.grant.is_none() => limit,
                Some(_) | None => return Ok(()),
            }
        };
        let taken = self
            .quotas
            .take(&Tenant::Global, self.channel.into(), &limit, weight)
            .await;
        let grant = granted(taken)?;
        self.state().grant = Some(grant);
        Ok(())
    }
}

/// The grant, or why there is none.
fn granted(taken: Result<Quota, TableError>) -> Result<Grant, Refusal> {
    match taken {
        Ok(Quota::Granted(grant)) => Ok(grant),
        Ok(Quota::Exhausted(exhausted)) => Err(Refusal::Exhausted(exhausted)),
        Ok(Quota::TooMany { .. }) => Err(Refusal::TooMany),
        Err(error) => {
            warn!(%error, "there is no answer about a quota");
            Err(Refusal::Unreachable)
        }
    }
}

impl<'a> Allowance<'a> {
    pub(crate) fn new(
        rate_limiter: KeyedRateLimiter<'a>,
        connection: Gate<'a>,
        global: GlobalQuota<'a>,
        reply_to: ReplyToGate<'a>,
        weight: u32,
        was_given_back: &'a AtomicBool,
    ) -> Self {
        Self {
            own: None,
            global,
            rate_limiter,
            connection,
            reply_to,
            weight,
            was_given_back,
        }
    }

    /// Takes this delivery's part of the quota that was taken for all deliveries of a request.
    pub(crate) fn take_from(&mut self, taken: &TakenQuota) {
        let counted = self.global.channel.into();
        self.own = taken.take(Payer::Clinic, counted, self.weight);
        let global = taken.take(Payer::Platform, counted, self.weight);
        self.global.state().grant = global;
    }

    /// Takes the clinic's quota, and that of the platform's account if nothing else can send; or nothing.
    pub(crate) async fn take(
        &mut self,
        tenant: &Tenant,
        policy: &ChannelPolicy,
    ) -> Result<(), Refusal> {
        if let Some(limit) = &policy.rate_limit {
            let (quotas, counted) = (self.global.quotas, self.global.channel.into());
            let taken = quotas.take(tenant, counted, limit, self.weight).await;
            self.own = Some(granted(taken)?);
        }
        if !policy.is_global_only {
            return Ok(());
        }
        let taken = self.global.take(self.weight).await;
        if taken.is_err() {
            // Nobody was kept waiting by it, so that nobody is asked again.
            if let Some(own) = self.own.take() {
                own.return_unused(self.weight);
            }
        }
        taken
    }

    /// From here on the quota may be used, whatever becomes of this process.
    pub(crate) fn start(&mut self) -> Option<Grant> {
        self.global.state().is_in_use = true;
        self.own.take()
    }

    /// Gives back what the attempts did not use: whether there were none, or none that reached anybody.
    pub(crate) fn finish(&mut self, own: Option<Grant>, attempts: &[Attempt], reached: Reached) {
        let is_used = !attempts.is_empty() && reached == Reached::Perhaps;
        if !is_used {
            if self.refusal().is_some() {
                // As in `take_global`.
                if let Some(own) = own {
                    own.return_unused(self.weight);
                }
            } else {
                self.own = own;
            }
        }
        let used_global = attempts.iter().any(|attempt| attempt.position.is_global());
        self.global.state().is_in_use = is_used && used_global;
    }

    /// From here on the platform's account has this limit. What was taken by the former one counts.
    pub(crate) fn set_global_limit(&self, limit: Option<RateLimit>) {
        let mut state = self.global.state();
        state.limit = limit;
        state.refusal = None;
    }

    /// Gives back what was taken and not used.
    pub(crate) fn return_quota(&mut self) {
        let global = {
            let mut state = self.global.state();
            let is_unused = !state.is_in_use;
            state.grant.take_if(|_| is_unused)
        };
        for grant in self.own.take().into_iter().chain(global) {
            grant.return_unused(self.weight);
            self.was_given_back.store(true, Ordering::Relaxed);
        }
    }

    /// The delivery's way to a connection.
    pub(crate) const fn connection(&self) -> &Gate<'a> {
        &self.connection
    }

    /// Why the platform's account did not send.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.global.state().refusal
    }
}

#[async_trait]
impl RateLimiter for Allowance<'_> {
    async fn acquire(&self, rate_limit: &AccountRateLimit, message: &Message) -> Admission {
        self.rate_limiter.acquire(rate_limit, message).await
    }

    async fn connect(&self, limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        self.connection.connect(limit).await
    }

    async fn connect_again(&self, limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        self.connection.connect_again(limit).await
    }

    fn waits_for_connection(&self) -> bool {
        self.connection.waits()
    }

    async fn may_use_global(&self, _message: &Message) -> bool {
        let taken = self.global.take(self.weight).await;
        if let Err(refusal) = taken {
            info!(channel = %self.global.channel, "the platform's account has no quota left");
            self.global.state().refusal = Some(refusal);
        }
        taken.is_ok()
    }

    async fn may_reply_to(&self, address: &EmailAddress) -> bool {
        self.reply_to.is_allowed(address).await
    }
}

impl Drop for Allowance<'_> {
    fn drop(&mut self) {
        self.return_quota();
    }
}
