//! The chain: a tenant's providers in the order in which they are tried, then the global account's.
//!
//! What to do after a failure is decided by its disposition, and where retries are used up by what the
//! failure says of that ([`AfterRetries`]). Every attempt is recorded, and an end without a receipt says which end it is.

mod attempt_order;
mod connecting;
pub(crate) mod entry;
mod renewal;

use std::{sync::Arc, time::Duration};

use comms_core::{
    AfterRetries, Attempt, AttemptOutcome, Channel, Disposition, EmailAddress, EntryId, ErrorKind,
    HealthState, Position, ProviderError, ProviderKind, Receipt, SkippedEntry, metric::METRICS,
};
use tokio::time::Instant;
use tracing::{info, warn};

pub use self::entry::ChainEntry;
pub use self::renewal::{Renew, RenewAt, Renewal};
use self::{
    connecting::Connected,
    renewal::{Course, Heading},
};
use crate::{
    deadline::Deadline,
    health::{Candidate, Sample},
    message::Message,
    rate_limiter::{Admission, MAX_WAIT_DURATION, ProbePermit, RateLimiter},
    retry::{MIN_ATTEMPT_DURATION, RetryPolicy, jitter},
};

/// What a provider that works needs for a message, with everything that is slow.
const FALLBACK_MARGIN: Duration = Duration::from_secs(6);

/// What to do when it is not known whether a message went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmbiguityPolicy {
    /// Try the next provider: perhaps two copies.
    Failover,
    /// Stop: at most one copy.
    Hold,
}

impl AmbiguityPolicy {
    /// The name in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Hold => "hold",
        }
    }
}

/// A tenant's providers for one channel.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The entries in order; disabled ones are not among them.
    pub entries: Vec<ChainEntry>,
    /// What to do when it is not known whether a message went out.
    pub on_ambiguous: AmbiguityPolicy,
    /// Where answers go when the global account sends for a clinic.
    pub clinic_reply_to: Option<EmailAddress>,
}

/// How a message fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub end: ChainEnd,
    /// Attempts of which it is not known whether the provider accepted the message.
    pub unknown_outcomes: usize,
    /// After which time one of the providers that could not take it now asked to be tried again; the
    /// shortest such time.
    pub retry_after: Option<Duration>,
    /// Entries that were down and were left out: those before the last one tried, and where nobody was left to try, those
    /// that refuse their credentials.
    pub skipped: Vec<SkippedEntry>,
    /// When an entry that was left out may have a connection: its login's connections were all in use, or the server
    /// refused one for their number.
    pub no_connection: Option<Duration>,
}

impl ChainReport {
    /// The same with another end.
    #[must_use]
    pub fn ending(self, end: ChainEnd) -> Self {
        Self { end, ..self }
    }

    /// This run, and the next one of the same message.
    #[must_use]
    pub fn followed_by(mut self, next: Self) -> Self {
        self.attempts.extend(next.attempts);
        Self {
            attempts: self.attempts,
            end: next.end,
            unknown_outcomes: self.unknown_outcomes + next.unknown_outcomes,
            retry_after: next.retry_after,
            skipped: next.skipped,
            no_connection: next.no_connection,
        }
    }
}

/// How a run through the chain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEnd {
    /// A provider accepted the message.
    Sent {
        /// Which.
        provider: ProviderKind,
        /// Its receipt.
        receipt: Receipt,
    },
    /// The message or the recipient is at fault.
    Rejected,
    /// No provider is left to try.
    AllFailed,
    /// It is not known whether the last provider accepted the message, and the tenant wants at most
    /// one copy.
    Held,
    /// There was nobody to try.
    NoProvider,
    /// The deadline came before the next provider could be tried.
    OutOfTime,
    /// The next provider takes no more for now, as far as is known here; it was not asked, and neither was
    /// anybody after it: a campaign does not change its sender because it is large.
    Paced {
        /// The time after which asking again makes sense.
        after: Duration,
    },
    /// All connections of a login are in use, and the message waits for one.
    NoConnection {
        /// The time after which asking again makes sense.
        after: Duration,
    },
    /// The platform's account was not allowed to send, and nobody else did.
    GlobalRefused,
    /// The settings have changed, or may have, and cannot be read: nothing goes out by what they were.
    SettingsUnreadable,
}

impl Chain {
    /// A chain with nobody in it.
    pub const fn empty() -> Self {
        Self {
            entries: Vec::new(),
            on_ambiguous: AmbiguityPolicy::Failover,
            clinic_reply_to: None,
        }
    }

    /// This chain as that of the global account: every position says so.
    #[must_use]
    pub fn as_global(&self) -> Self {
        Self {
            entries: self
                .entries
                .iter()
                .map(|entry| ChainEntry {
                    position: entry.position.of_global(),
                    ..entry.clone()
                })
                .collect(),
            on_ambiguous: self.on_ambiguous,
            clinic_reply_to: None,
        }
    }

    /// The entry that a message is tried with first, as far as is known now.
    pub fn first_choice(&self) -> Option<&ChainEntry> {
        let is_up = |entry: &&ChainEntry| entry.health.state() != HealthState::Down;
        self.entries.iter().find(is_up).or(self.entries.first())
    }

    /// The own entries of a tenant, then those of the global account.
    #[must_use]
    pub fn then_global(&self, global: &Self) -> Self {
        let mut entries = self.entries.clone();
        entries.extend(global.as_global().entries);
        Self {
            entries,
            ..self.clone()
        }
    }

    /// Sends `message` through the first provider that takes it, trying none after `deadline`.
    ///
    /// Who is down goes last ([`crate::health`]), and an entry that refuses its credentials is left out where no caller
    /// waits, but for its probe, for which `limiter` is asked. Before an entry's first attempt `limiter` is asked for its
    /// turn; retries belong to the same turn. Before the first turn at the platform's account it is asked
    /// whether that may send; if not, its entries are left out. Before every attempt but the first, and before the first one
    /// at the platform's account, `renew` is asked for newer settings; an entry that failed is tried again with them.
    pub async fn send(
        self: &Arc<Self>,
        message: &Message,
        deadline: Deadline,
        renew: &Renew<'_>,
        limiter: &dyn RateLimiter,
    ) -> ChainReport {
        let mut run = Run::default();
        let mut course = Course::new(self.clone(), deadline.is_queued());
        let end = loop {
            let chain = course.chain.clone();
            let Some((index, entry, candidate)) = course.order.next_of(&chain) else {
                break course.exhausted(&run);
            };
            // The first attempt is always made: whoever calls has seen to it that there is time.
            if !run.attempts.is_empty() && deadline.remaining() < MIN_ATTEMPT_DURATION {
                break ChainEnd::OutOfTime;
            }
            let left = AttemptBudget {
                deadline,
                is_last: course.order.is_empty(),
                others: course.order.len(),
                policy: chain.on_ambiguous,
                is_probe: matches!(candidate, Candidate::Probe(_)),
            };
            match course.before(entry, &run, renew).await {
                Heading::Same => {}
                Heading::Changed => continue,
                Heading::Over(end) => break end,
            }
            if entry.position.is_global() && !course.may_use_global(message, limiter).await {
                continue;
            }
            match course.connect(entry, &run, renew, limiter).await {
                Connected::Yes => {}
                Connected::No => continue,
                Connected::Over(end) => break end,
            }
            if let Err(after) = entry
                .wait_for_admission(message, left.share(), limiter)
                .await
            {
                break ChainEnd::Paced { after };
            }
            // Held until the attempt is over.
            let Ok(_probe) = entry.permitted(candidate, limiter).await else {
                course.order.defer(index, deadline.is_queued());
                continue;
            };
            let reply = reply_to(&chain, entry, message, limiter).await;
            let renew_before_retry = || course.before_retry(entry, renew);
            let attempted = run.connected(entry, message, reply, left, renew_before_retry, limiter);
            let sent = match attempted.await {
                Ok(sent) => sent,
                Err(after) => match course.without_connection(after, &run, limiter) {
                    Some(end) => break end,
                    None => continue,
                },
            };
            let Failed { error, renewal } = match sent {
                Ok(receipt) => {
                    entry.observe(Sample::Success, message.target.channel());
                    chain.record_failover(entry, message, run.attempts.len());
                    break ChainEnd::Sent {
                        provider: entry.provider.kind(),
                        receipt,
                    };
                }
                Err(failed) => failed,
            };
            let end = run.ended_by(&error, chain.on_ambiguous);
            let heading = match renewal {
                Renewal::Unchanged => {
                    let is_over = end.is_some();
                    course.after(entry, &error, is_over, &run, renew).await
                }
                renewal @ (Renewal::Newer(_) | Renewal::Unreadable) => {
                    course.adopt(renewal, Some(entry), &run)
                }
            };
            match heading {
                Heading::Same => {}
                Heading::Changed => continue,
                Heading::Over(end) => break end,
            }
            if let Some(sample) = Sample::of_error(&error) {
                entry.observe(sample, message.target.channel());
            }
            run.note_retry_after(&error);
            if let Some(end) = end {
                break end;
            }
        };
        let last = run.attempts.last();
        ChainReport {
            skipped: course.order.skipped(&course.chain, last, &end),
            attempts: run.attempts,
            end,
            unknown_outcomes: run.unknown_outcomes,
            retry_after: run.retry_after,
            no_connection: course.no_connection,
        }
    }

    /// Whether there are entries, each of them is down, and none is to be probed now.
    pub fn is_down(&self) -> bool {
        let is_deferred = |entry: &ChainEntry| match entry.health.candidate() {
            Candidate::Last | Candidate::Refused => true,
            Candidate::InPlace | Candidate::Probe(_) => false,
        };
        !self.entries.is_empty() && self.entries.iter().all(is_deferred)
    }

    /// Asks providers how fast they may be used, where that is to be known and has not been asked for long.
    pub async fn learn_rates(&self, deadline: Deadline) {
        for entry in &self.entries {
            if let Some(rate_limit) = &entry.rate_limit {
                rate_limit.learn(&*entry.provider, deadline).await;
            }
        }
    }

    /// A fallback's success must not hide that the first provider is out: it is said for every
    /// message, by a log event and a metric.
    fn record_failover(&self, used: &ChainEntry, message: &Message, attempts: usize) {
        let Some(first) = self.entries.first() else {
            return;
        };
        if first.is_at(&used.id, used.position) {
            return;
        }
        warn!(
            delivery_id = %message.delivery,
            provider = %used.provider.kind(),
            position = %used.position,
            out = %first.provider.kind(),
            out_health = first.health.state().as_str(),
            attempts,
            "sent by a fallback"
        );
        info!(
            target: METRICS,
            sent_by_fallback = 1_u64,
            channel = message.target.channel().as_str(),
            provider = %first.provider.kind(),
            on_fallback_ms = u64::try_from(first.health.failing_for().as_millis()).unwrap_or(0),
        );
    }
}

impl ChainEntry {
    /// Whether this is the entry of that name, of the tenant or of the global account as `position` says.
    pub fn is_at(&self, id: &EntryId, position: Position) -> bool {
        self.id == *id && self.position.is_global() == position.is_global()
    }

    /// Waits for the entry's turn to take `message`. Where that is not soon, or would leave less time until
    /// `until` than an attempt needs: how long it is.
    async fn wait_for_admission(
        &self,
        message: &Message,
        until: Deadline,
        limiter: &dyn RateLimiter,
    ) -> Result<(), Duration> {
        let Some(rate_limit) = &self.rate_limit else {
            return Ok(());
        };
        match limiter.acquire(rate_limit, message).await {
            Admission::NOW => Ok(()),
            Admission::After(wait)
                if wait <= MAX_WAIT_DURATION
                    && wait + MIN_ATTEMPT_DURATION <= until.remaining() =>
            {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Admission::After(wait) | Admission::NotBefore(wait) => Err(wait),
        }
    }

    /// The turn, where the entry may be tried now: a probe of refused credentials needs a permit, which is asked for
    /// here. Its turn at the provider's pace is spent either way.
    async fn permitted(
        &self,
        candidate: Candidate,
        limiter: &dyn RateLimiter,
    ) -> Result<Candidate, Refused> {
        match candidate {
            Candidate::Probe(probe) if probe.needs_permit() => {
                match limiter.may_probe(self).await {
                    ProbePermit::Granted => Ok(Candidate::Probe(probe)),
                    ProbePermit::Taken { until } => {
                        probe.postpone(until);
                        Err(Refused)
                    }
                }
            }
            candidate @ (Candidate::InPlace
            | Candidate::Probe(_)
            | Candidate::Last
            | Candidate::Refused) => Ok(candidate),
        }
    }

    fn observe(&self, sample: Sample, channel: Channel) {
        let Some(change) = self.health.record(sample) else {
            return;
        };
        let kind = change.last_error.map(ErrorKind::as_str);
        let (from, to) = (change.from.as_str(), change.to.as_str());
        let provider = self.provider.kind();
        match change.to {
            HealthState::Healthy => {
                info!(%provider, entry = %self.id, position = %self.position, from, to, "provider health changed");
            }
            HealthState::Degraded | HealthState::Down => {
                warn!(%provider, entry = %self.id, position = %self.position, from, to, kind, "provider health changed");
            }
        }
        if change.to == HealthState::Down {
            info!(target: METRICS, provider_down = 1_u64, channel = channel.as_str(), %provider);
        }
    }
}

/// An entry refuses its credentials, and another process has just tried it.
struct Refused;

/// What an entry has for its attempts.
#[derive(Clone, Copy)]
struct AttemptBudget {
    deadline: Deadline,
    /// Whether nobody comes after it.
    is_last: bool,
    /// How many come after it.
    others: u32,
    policy: AmbiguityPolicy,
    is_probe: bool,
}

impl AttemptBudget {
    /// Until when it may try.
    fn share(self) -> Deadline {
        if self.is_last {
            self.deadline
        } else {
            share(self.deadline, self.others, self.policy)
        }
    }

    /// How often again: a probe is there to see, not to insist.
    fn retries(self, policy: RetryPolicy) -> RetryPolicy {
        if self.is_probe && !self.is_last {
            RetryPolicy { retries: 0 }
        } else {
            policy
        }
    }
}

/// Until when an entry may try behind which there are `others`. While a caller waits, whoever comes next is to have as much
/// time again. From the queue, a server of the clinic's own that is slow is waited for: the others then have what is enough for
/// providers that work. Where a doubt ends everything, which waiting might settle, so has the next one alone.
pub(crate) fn share(deadline: Deadline, others: u32, policy: AmbiguityPolicy) -> Deadline {
    let left = deadline.remaining();
    let for_others = match policy {
        AmbiguityPolicy::Failover if deadline.is_queued() => {
            FALLBACK_MARGIN.saturating_mul(others).min(left / 2)
        }
        AmbiguityPolicy::Failover => left / 2,
        AmbiguityPolicy::Hold => FALLBACK_MARGIN.min(left / 2),
    };
    deadline
        .less(for_others.min(left.saturating_sub(MIN_ATTEMPT_DURATION)))
        .with_others_to_follow()
}

/// Where replies to a message go that an entry sends.
#[derive(Clone, Copy)]
struct ReplyTo<'m> {
    address: Option<&'m EmailAddress>,
    /// Whether there was an address that may not be named.
    is_dropped: bool,
}

/// The message's own address, or the clinic's when the platform's account sends; of these only those that `limiter` lets
/// that account name.
async fn reply_to<'m>(
    chain: &'m Chain,
    entry: &ChainEntry,
    message: &'m Message,
    limiter: &dyn RateLimiter,
) -> ReplyTo<'m> {
    let own = message.reply_to.as_ref();
    if !entry.position.is_global() {
        return ReplyTo {
            address: own,
            is_dropped: false,
        };
    }
    let wanted = own.or(chain.clinic_reply_to.as_ref());
    let is_dropped = match wanted {
        Some(address) => !limiter.may_reply_to(address).await,
        None => false,
    };
    if is_dropped {
        warn!(
            delivery_id = %message.delivery,
            "sent without Reply-To: the address was not verified for the platform's account"
        );
    }
    ReplyTo {
        address: wanted.filter(|_| !is_dropped),
        is_dropped,
    }
}

#[derive(Default)]
struct Run {
    attempts: Vec<Attempt>,
    unknown_outcomes: usize,
    retry_after: Option<Duration>,
}

/// An entry's last failure.
struct Failed {
    error: ProviderError,
    /// What was found before it would have been tried again, where that ended it.
    renewal: Renewal,
}

impl From<ProviderError> for Failed {
    fn from(error: ProviderError) -> Self {
        Self {
            error,
            renewal: Renewal::Unchanged,
        }
    }
}

impl Run {
    /// Whether newer settings want no copy after one that may have been accepted.
    fn is_held(&self, newer: &Chain) -> bool {
        self.unknown_outcomes > 0 && newer.on_ambiguous == AmbiguityPolicy::Hold
    }

    /// How an entry's failure ends the run; `None` where the next one is tried.
    fn ended_by(&mut self, error: &ProviderError, policy: AmbiguityPolicy) -> Option<ChainEnd> {
        match error.disposition {
            Disposition::Final => Some(ChainEnd::Rejected),
            Disposition::Ambiguous => {
                self.unknown_outcomes += 1;
                match policy {
                    AmbiguityPolicy::Hold => Some(ChainEnd::Held),
                    AmbiguityPolicy::Failover => None,
                }
            }
            Disposition::ProviderDown | Disposition::Transient => match error.after_retries {
                AfterRetries::NextProvider | AfterRetries::WhenConnectionFree => None,
                AfterRetries::Later => Some(ChainEnd::AllFailed),
                AfterRetries::GiveUp => Some(ChainEnd::Rejected),
            },
        }
    }

    /// Notes when a provider that cannot take it now asked to be tried again.
    fn note_retry_after(&mut self, error: &ProviderError) {
        if error.disposition == Disposition::Transient
            && let Some(asked) = error.retry_after
        {
            let known = self.retry_after;
            self.retry_after = Some(known.map_or(asked, |known| known.min(asked)));
        }
    }

    /// Tries an entry, and again as its policy says, where `renew` finds no newer settings.
    async fn entry<R: Future<Output = Renewal>>(
        &mut self,
        entry: &ChainEntry,
        message: &Message,
        reply: ReplyTo<'_>,
        left: AttemptBudget,
        renew: impl Fn() -> R,
    ) -> Result<Receipt, Failed> {
        let changed;
        let message = if reply.address == message.reply_to.as_ref() {
            message
        } else {
            changed = Message {
                reply_to: reply.address.cloned(),
                ..message.clone()
            };
            &changed
        };
        let policy = left.retries(entry.retry);
        let mut until = left.share();
        let mut retry = 0;
        loop {
            let (at, started) = (entry.health.now_in_milliseconds(), Instant::now());
            let result = entry.provider.send(message, until).await;
            let duration = started.elapsed();
            log_attempt(entry, message, &result, duration);
            self.attempts.push(Attempt {
                provider: entry.provider.kind(),
                entry: entry.id.clone(),
                position: entry.position,
                outcome: match &result {
                    Ok(receipt) => AttemptOutcome::Accepted {
                        refused_copies: receipt.refused_copies.clone(),
                    },
                    Err(error) => AttemptOutcome::from(error),
                },
                at: Some(at),
                duration,
                possible_duplicate: self.unknown_outcomes > 0,
                reply_to_dropped: reply.is_dropped,
            });
            let error = match result {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            // A provider that hangs has cost enough time; the next one is to have the rest.
            if error.kind == ErrorKind::Timeout && !left.is_last {
                return Err(error.into());
            }
            match error.after_retries {
                AfterRetries::NextProvider | AfterRetries::WhenConnectionFree => {}
                // Nobody comes after it in this case.
                AfterRetries::Later | AfterRetries::GiveUp => until = left.deadline,
            }
            match policy.wait_before(retry, &error, until, jitter) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error.into()),
            }
            match renew().await {
                Renewal::Unchanged if until.remaining() < MIN_ATTEMPT_DURATION => {
                    return Err(error.into());
                }
                Renewal::Unchanged => {}
                renewal @ (Renewal::Newer(_) | Renewal::Unreadable) => {
                    return Err(Failed { error, renewal });
                }
            }
            retry += 1;
        }
    }
}

fn log_attempt(
    entry: &ChainEntry,
    message: &Message,
    result: &Result<Receipt, ProviderError>,
    duration: Duration,
) {
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(receipt) => info!(
            delivery_id = %message.delivery, provider = %entry.provider.kind(),
            position = %entry.position, duration_ms,
            refused_copies = receipt.refused_copies.len(), "attempt accepted"
        ),
        Err(error) => {
            let provider = entry.provider.kind();
            warn!(
                delivery_id = %message.delivery, %provider,
                position = %entry.position, disposition = error.disposition.as_str(),
                kind = error.kind.as_str(), code = error.code.as_ref().map(tracing::field::display),
                duration_ms, detail = error.detail, "attempt failed"
            );
            info!(
                target: METRICS,
                attempts_failed = 1_u64,
                logins_refused = (error.kind == ErrorKind::Unauthenticated).then_some(1_u64),
                channel = message.target.channel().as_str(),
                %provider,
                kind = error.kind.as_str(),
            );
        }
    }
}
