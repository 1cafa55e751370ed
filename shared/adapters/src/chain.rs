//! The chain: a tenant's providers in the order in which they are tried, then the global account's.
//!
//! The chain orders the candidates and decides what a failure means for the next: by its disposition, and where retries are
//! used up by its [`AfterRetries`](comms_core::AfterRetries). Retries, time limits and the record of every attempt are
//! [layers](crate::layers) around each provider.

mod admission;
mod ambiguity;
mod attempt_order;
mod connecting;
mod course;
pub(crate) mod entry;
mod renewal;
mod reply_to;
mod report;
mod run;

use std::sync::Arc;

use comms_core::{EmailAddress, HealthState, metric::METRICS};
use tracing::{info, warn};

pub use self::{
    ambiguity::AmbiguityPolicy,
    entry::ChainEntry,
    renewal::{Renew, RenewAt, Renewal},
    report::{ChainEnd, ChainReport},
};
use self::{
    connecting::Connected,
    course::{Course, Heading},
    reply_to::ReplyTo,
    run::{EntryAttempts, Failed, Run},
};
use crate::{
    deadline::{Deadline, MIN_ATTEMPT_DURATION},
    health::{Candidate, Sample},
    layers::deadline::AttemptBudget,
    message::Message,
    rate_limiter::RateLimiter,
};

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
            let budget = AttemptBudget {
                deadline,
                others: course.order.len(),
                on_ambiguous: chain.on_ambiguous,
            };
            let policy = entry.retry_policy(&candidate, budget);
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
                .wait_for_admission(message, budget.share(), limiter)
                .await
            {
                break ChainEnd::Paced { after };
            }
            // Held until the attempt is over.
            let Ok(_probe) = entry.permitted(candidate, limiter).await else {
                course.order.defer(index, deadline.is_queued());
                continue;
            };
            let attempts = EntryAttempts {
                entry,
                message,
                reply: ReplyTo::of(&chain, entry, message, limiter).await,
                budget,
                policy,
            };
            let renew_before_retry = || course.before_retry(entry, renew);
            let sent = match run.connected(attempts, renew_before_retry, limiter).await {
                Ok(sent) => sent,
                Err(after) => match course.without_connection(after, &run, limiter) {
                    Some(end) => break end,
                    None => continue,
                },
            };
            let Failed {
                error,
                interrupted_by,
            } = match sent {
                Ok(receipt) => {
                    entry.record_health(Sample::Success, message.target.channel());
                    chain.record_failover(entry, message, run.attempts.len());
                    break ChainEnd::Sent {
                        provider: entry.provider.kind(),
                        receipt,
                    };
                }
                Err(failed) => failed,
            };
            let end = run.ended_by(&error, chain.on_ambiguous);
            let heading = match interrupted_by {
                None => {
                    let is_over = end.is_some();
                    course.after(entry, &error, is_over, &run, renew).await
                }
                Some(renewal) => course.adopt(renewal, Some(entry), &run),
            };
            match heading {
                Heading::Same => {}
                Heading::Changed => continue,
                Heading::Over(end) => break end,
            }
            if let Some(sample) = Sample::of_error(&error) {
                entry.record_health(sample, message.target.channel());
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
