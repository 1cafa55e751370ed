//! One delivery: its settings, what it needs before it may begin, the claim, its attempts, the record.
//!
//! The version of its settings is read beside all that comes before the first attempt, and joined there: by then a warm
//! delivery has waited longer for its claim.

use std::{pin::pin, sync::Arc, time::Duration};

use comms_adapters::Message;
use comms_core::{
    Channel, Delivery, DeliveryStatus, Tenant, WaitReason, Waited, Waiting,
    request::PlannedDelivery,
};
use comms_settings::{Moment, StoreError, cache::MAX_AGE};
use futures_util::future::{Either, join, select};
use jiff::SignedDuration;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Limits, MIN_START_DURATION, Pipeline, QuotaSource, Requeue, Started, UrgentQuota,
    address_hash::address_hash, attempts::Attempted, chains::ResolvedChain, claim::NotClaimed,
    freshness::Freshness, tenant_settings::TenantSettings, unreachable, via, worker_share::Start,
};
use crate::{
    allowance::{Allowance, GlobalQuota},
    ledger::{DeliveryHistory, Outcome, Owner, RequestRecord},
    policy::ChannelPolicy,
    slow_workers::Working,
};

/// What is left of the deadline when sharing what was learned ends: the result of the delivery must not be cut off.
const SHARING_MARGIN: Duration = Duration::from_millis(100);
/// A delivery that waits longer for a connection has its settings confirmed once more before its first attempt.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// A delivery and what bounds it.
#[derive(Clone, Copy)]
struct Work<'a> {
    record: &'a RequestRecord,
    planned: &'a PlannedDelivery,
    owner: &'a Owner,
    limits: Limits<'a>,
    started: Instant,
    /// Envelope recipients; `None` where there is nothing to send.
    recipients: Option<u32>,
}

/// A delivery that was claimed, with what it may use.
struct Claimed<'a> {
    chain: Arc<ResolvedChain>,
    allowance: Allowance<'a>,
    working: Option<Working<'a>>,
    /// Whether there is no quota or worker for it, and was none for long enough.
    is_refused: bool,
    history: DeliveryHistory,
    /// The last settings, which were read beside; `None` where it began by them.
    confirmed: Option<Result<TenantSettings, StoreError>>,
}

/// Why a delivery was not claimed.
enum Stop {
    /// Its settings leave it no quota.
    OverQuota(Requeue),
    /// The provider that its settings name first has no connection for it.
    NoConnection(Requeue),
    /// Whatever its settings say.
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
            | Requeue::Paced { .. } => Self::NotClaimed(reason.into()),
        }
    }
}

/// Whether the table did not take how the delivery ended.
fn is_unrecorded(recorded: &Result<Delivery, Requeue>) -> bool {
    match recorded {
        Ok(delivery) => !delivery.is_recorded,
        Err(reason) => matches!(reason, Requeue::NotRecorded { .. }),
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

    fn into_result(self) -> Result<Delivery, Requeue> {
        match self {
            Self::OverQuota(reason)
            | Self::NoConnection(reason)
            | Self::NotClaimed(NotClaimed::Requeue(reason)) => Err(reason),
            Self::NotClaimed(NotClaimed::Ended(delivery)) => Ok(*delivery),
        }
    }
}

impl Limits<'_> {
    fn has_time_to_start(&self) -> Result<(), Requeue> {
        if self.deadline.remaining() < MIN_START_DURATION {
            return Err(Requeue::OutOfTime);
        }
        Ok(())
    }
}

impl Pipeline {
    pub(super) async fn deliver_one(
        &self,
        record: &RequestRecord,
        planned: &PlannedDelivery,
        message: Option<Message>,
        limits: Limits<'_>,
        urgent: &mut UrgentQuota,
    ) -> Result<Delivery, Requeue> {
        let started = Instant::now();
        limits.has_time_to_start()?;
        let (tenant, channel) = (&record.tenant, planned.channel);
        let asked = limits.quota.settings_asked();
        let asked = asked.unwrap_or_else(|| self.settings.moment());
        // Before the claim: where settings cannot be read, nothing has been touched.
        let known = self.remembered_settings(tenant).await;
        let known = known.map_err(unreachable)?;
        let needs_platform = known.policy(tenant, channel).is_global_only;
        let owner = self.owner(limits.deadline);
        let work = Work {
            record,
            planned,
            owner: &owner,
            limits,
            started,
            recipients: message.as_ref().map(Message::envelope_recipients),
        };
        let confirm = self.confirmed_settings(tenant, &known, needs_platform, asked);
        let begun = self.begin_beside(confirm, work, &known, urgent).await;
        let mut claimed = match begun {
            Ok(claimed) => claimed,
            Err(stop) => {
                if let Stop::OverQuota(_) = &stop {
                    self.note_quota_wait(record, planned, limits).await;
                }
                return stop.into_result();
            }
        };
        let asked = self
            .confirm_after_wait(&mut claimed, work, needs_platform, asked)
            .await;
        let ready = self.go_by_last_settings(&mut claimed, work, urgent).await;
        let Claimed {
            chain,
            mut allowance,
            mut working,
            is_refused,
            history,
            ..
        } = claimed;
        // Reading settings and claiming may have taken long: then it is given back untouched.
        if let Err(reason) = ready.and_then(|()| limits.has_time_to_start()) {
            return self.give_back(work, history, reason).await;
        }
        // A delivery that was begun before took its urgent quota then.
        let has_paid = history.deferrals > 0 || !history.attempts.is_empty();
        let attempts_before = history.attempts.len();
        let (waited, waited_until) = (history.waiting.clone(), self.clock.now());
        let fresh = Freshness::new(
            self,
            tenant,
            channel,
            limits.deadline,
            asked,
            chain,
            needs_platform,
        );
        let waited_time = allowance.connection().waited();
        let attempted = self.attempt(&fresh, message, limits, history, is_refused, &mut allowance);
        let attempted = Box::pin(attempted);
        let attempted = self.watch(working.as_mut(), limits, &waited_time, attempted);
        let Attempted {
            mut outcome,
            returned,
        } = attempted.await;
        via::note(&mut outcome, record, &fresh.current());
        if outcome.waiting.is_none() {
            outcome.waited = waited.map(|waiting| Waited::until(waiting, waited_until));
        }
        if !has_paid && outcome.attempts.len() > attempts_before {
            urgent.spend();
        }
        if outcome.status == DeliveryStatus::Sent
            && let Some(working) = &working
        {
            working.sent();
        }
        let used = fresh.current();
        let tried = outcome.attempts.last();
        let by_fallback = tried
            .zip(used.chain.entries.first())
            .is_some_and(|(tried, first)| !first.is_at(&tried.entry, tried.position));
        let started = Started {
            at: started,
            limits,
            by_fallback,
        };
        let recorded = match self.record(record, planned, &owner, outcome, started).await {
            Err(Requeue::OutOfTime) => Err(returned.unwrap_or(Requeue::OutOfTime)),
            recorded => recorded,
        };
        self.count(record, channel, by_fallback, &recorded);
        if is_unrecorded(&recorded) {
            // What is left of the time is for the queue.
            return recorded;
        }
        // What was recorded stays so, however long this takes.
        let shared = self.share_what_was_learned(&allowance, &used, tenant, channel, limits);
        let time = limits.deadline.less(SHARING_MARGIN);
        let _ = time.bound(Duration::MAX, Box::pin(shared)).await;
        recorded
    }

    /// Publishes what the servers did to connections and the providers' health, and asks providers for their rates.
    async fn share_what_was_learned(
        &self,
        allowance: &Allowance<'_>,
        used: &ResolvedChain,
        tenant: &Tenant,
        channel: Channel,
        limits: Limits<'_>,
    ) {
        allowance.connection().publish(&used.chain).await;
        match self.hash_keys.get().await {
            Ok(hash) => {
                for (tenant, version, own) in used.parts(tenant) {
                    self.health
                        .publish(hash, tenant, version, channel, own, limits.deadline)
                        .await;
                }
            }
            Err(error) => warn!(%error, "a provider's health was not told to others"),
        }
        used.chain.learn_rates(limits.deadline).await;
    }

    /// Begins a delivery by the settings that are remembered, while `confirm` reads whether they are the last ones. Where
    /// they are not, and left it no quota or no connection, it begins by the last ones.
    async fn begin_beside<'a>(
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
                // Nothing is sent, whatever the settings are.
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
                // It would wait for longer than what is remembered may be old: by the last limits only.
                if last.is_same(known)
                    && stop.waits_longer_than(MAX_AGE)
                    && let Ok(newest) = Box::pin(self.newest_settings(&work.record.tenant)).await
                {
                    last = newest;
                }
                if last.is_same(known) {
                    return Err(stop);
                }
                // What was taken by the limits that were replaced is not held beside what is taken now.
                *urgent = UrgentQuota::default();
                Box::pin(self.begin(work, last, urgent)).await
            }
        }
    }

    /// What a delivery needs before its first attempt, by `settings`: its chain, a worker, its quota, and the claim.
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
        let pacing = self.pacing.with_key(hash);
        // Before the claim as well: what has to wait costs no write.
        let recipients = work.recipients.unwrap_or(1);
        let global = GlobalQuota::new(&self.quotas, channel, chain.policy.global_limit);
        let reply_to = self.reply_tos.gate(hash, tenant, channel);
        let mut allowance = Allowance::new(
            pacing,
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
            // What there is no quota for needs no connection; without one, the quota is given back.
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

    /// Reads the version of the settings once more where the delivery has waited for a connection since: somebody may have
    /// saved meanwhile. The moment that the settings are of.
    async fn confirm_after_wait(
        &self,
        claimed: &mut Claimed<'_>,
        work: Work<'_>,
        needs_platform: bool,
        asked: Moment,
    ) -> Moment {
        if claimed.allowance.connection().waited().so_far() < LONG_WAIT {
            return asked;
        }
        let asked = self.settings.moment();
        let (tenant, known) = (&work.record.tenant, &claimed.chain.settings);
        let confirmed = self.confirmed_settings(tenant, known, needs_platform, asked);
        claimed.confirmed = Some(confirmed.await);
        asked
    }

    /// Lets a claimed delivery go by the last settings, where it began by others. An error gives it back untouched.
    async fn go_by_last_settings(
        &self,
        claimed: &mut Claimed<'_>,
        work: Work<'_>,
        urgent: &mut UrgentQuota,
    ) -> Result<(), Requeue> {
        if let Some(confirmed) = claimed.confirmed.take() {
            let last = confirmed.map_err(unreachable)?;
            if !last.is_same(&claimed.chain.settings) {
                Box::pin(self.rebuild(claimed, last, work, urgent)).await?;
            }
        }
        // It is about to fail for want of quota.
        if claimed.is_refused
            && let Ok(last) = Box::pin(self.newest_settings(&work.record.tenant)).await
            && !last.is_same(&claimed.chain.settings)
        {
            Box::pin(self.rebuild(claimed, last, work, urgent)).await?;
        }
        Ok(())
    }

    /// Builds the chain of a claimed delivery anew, and takes its quota anew by what newer settings allow.
    async fn rebuild(
        &self,
        claimed: &mut Claimed<'_>,
        settings: TenantSettings,
        work: Work<'_>,
        urgent: &mut UrgentQuota,
    ) -> Result<(), Requeue> {
        let (limits, tenant, channel) = (work.limits, &work.record.tenant, work.planned.channel);
        let chain = self.chain(tenant, channel, settings, limits.deadline).await;
        let chain = Arc::new(chain.map_err(unreachable)?);
        let version = chain.settings.own().map(|own| own.version.number);
        info!(
            version,
            "a delivery goes by newer settings than those that were remembered"
        );
        claimed.chain = chain.clone();
        let allowance = &mut claimed.allowance;
        allowance.set_global_limit(chain.policy.global_limit);
        if !self.is_to_be_sent(work) {
            return Ok(());
        }
        if let QuotaSource::Paid(_) = limits.quota {
            // What was taken for the whole request is taken.
            return Ok(());
        }
        *urgent = UrgentQuota::default();
        allowance.give_back();
        let taken = self.urgent_quota(tenant, &chain.settings, limits).await?;
        let Some(taken) = taken else {
            claimed.is_refused = true;
            return Ok(());
        };
        *urgent = taken;
        claimed.is_refused = self.fill(allowance, tenant, &chain.policy, limits).await?;
        Ok(())
    }

    /// Gives a claimed delivery back as it was.
    async fn give_back(
        &self,
        work: Work<'_>,
        history: DeliveryHistory,
        reason: Requeue,
    ) -> Result<Delivery, Requeue> {
        let untouched = Outcome {
            status: DeliveryStatus::Queued,
            receipt: None,
            reason: None,
            possible_duplicate: history.possible_duplicate,
            attempts: history.attempts,
            not_before: None,
            waited: None,
            via: None,
            skipped: None,
            is_untouched: true,
            waiting: if matches!(reason, Requeue::OverQuota { .. }) {
                let (before, now) = (history.waiting.as_ref(), self.clock.now());
                Some(Waiting::after(before, WaitReason::Quota, now))
            } else {
                history.waiting
            },
        };
        let (started, limits) = (work.started, work.limits);
        let started = Started {
            at: started,
            limits,
            by_fallback: false,
        };
        let recorded = self.record(work.record, work.planned, work.owner, untouched, started);
        match recorded.await {
            Err(Requeue::OutOfTime) => Err(reason),
            recorded => recorded,
        }
    }

    fn is_to_be_sent(&self, work: Work<'_>) -> bool {
        work.recipients.is_some() && !self.is_expired(work.limits)
    }

    /// Gives a delivery its quota: what was taken for it, or what it takes now. If there is none it waits;
    /// `true` if it has waited for long enough, or waiting would not help.
    async fn fill(
        &self,
        allowance: &mut Allowance<'_>,
        tenant: &Tenant,
        policy: &ChannelPolicy,
        limits: Limits<'_>,
    ) -> Result<bool, Requeue> {
        let taken = match limits.quota {
            QuotaSource::Paid(paid) => {
                allowance.take_from(paid);
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
