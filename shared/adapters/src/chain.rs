//! The chain: a tenant's providers in the order in which they are tried, then the global account's.
//!
//! What to do after a failure is decided by its disposition, and where retries are used up by what the
//! failure says of that ([`AfterRetries`]). Every attempt is recorded, and an end without a receipt says which end it is.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use comms_core::{
    AfterRetries, Attempt, AttemptOutcome, Disposition, EmailAddress, EntryId, ErrorKind, Position,
    ProviderError, ProviderKind, Receipt,
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    deadline::Deadline,
    message::Message,
    provider::Provider,
    retry::{ATTEMPT_TIME, RetryPolicy, jitter},
};

/// A provider in its place.
#[derive(Debug, Clone)]
pub struct ChainEntry {
    /// The entry's id in its tenant's settings.
    pub id: EntryId,
    /// Where in the chain.
    pub position: Position,
    /// The provider.
    pub provider: Arc<dyn Provider>,
    /// How often it is tried again.
    pub retry: RetryPolicy,
}

/// What to do when it is not known whether a message went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmbiguityPolicy {
    /// Try the next provider: perhaps two copies.
    Failover,
    /// Stop: at most one copy.
    Hold,
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

/// Gives a chain built from settings that are newer than the ones the running chain was built from,
/// where there are such: the global account's where asked for those, else the tenant's.
pub type Renew<'a> = dyn Fn(bool) -> Pin<Box<dyn Future<Output = Option<Arc<Chain>>> + Send + 'a>>
    + Send
    + Sync
    + 'a;

/// How a message fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub end: ChainEnd,
    /// Attempts of which it is not known whether the provider accepted the message.
    pub unknown_outcomes: usize,
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
    /// When a provider refuses its credentials, `renew` is asked for newer settings, once for the
    /// tenant's own and once for the global account's, and the same entry is tried again with them.
    pub async fn send(
        self: &Arc<Self>,
        message: &Message,
        deadline: Deadline,
        renew: &Renew<'_>,
    ) -> ChainReport {
        let mut run = Run {
            attempts: Vec::new(),
            unknown_outcomes: 0,
        };
        let mut chain = self.clone();
        let mut renewed = [false; 2];
        let mut index = 0;
        let end = loop {
            let Some(entry) = chain.entries.get(index) else {
                break if run.attempts.is_empty() {
                    ChainEnd::NoProvider
                } else {
                    ChainEnd::AllFailed
                };
            };
            // The first attempt is always made: whoever calls has seen to it that there is time.
            if !run.attempts.is_empty() && deadline.remaining() < ATTEMPT_TIME {
                break ChainEnd::OutOfTime;
            }
            let last = index + 1 == chain.entries.len();
            let error = match run.entry(&chain, entry, message, last, deadline).await {
                Ok(receipt) => {
                    if index > 0 {
                        info!(
                            delivery_id = %message.delivery,
                            provider = %entry.provider.kind(),
                            position = %entry.position,
                            attempts = run.attempts.len(),
                            "failed over"
                        );
                    }
                    break ChainEnd::Sent {
                        provider: entry.provider.kind(),
                        receipt,
                    };
                }
                Err(error) => error,
            };
            match error.disposition {
                Disposition::Final => break ChainEnd::Rejected,
                Disposition::Ambiguous => {
                    run.unknown_outcomes += 1;
                    match chain.on_ambiguous {
                        AmbiguityPolicy::Hold => break ChainEnd::Held,
                        AmbiguityPolicy::Failover => {}
                    }
                }
                Disposition::ProviderDown | Disposition::Transient => {
                    let global = entry.position.is_global();
                    if error.kind == ErrorKind::Unauthenticated && !renewed[usize::from(global)] {
                        renewed[usize::from(global)] = true;
                        let refused = (entry.id.clone(), global);
                        if let Some(newer) = renew(global).await {
                            index = run.next_in(&newer, &refused);
                            chain = newer;
                            continue;
                        }
                    }
                    match error.after_retries {
                        AfterRetries::NextProvider => {}
                        AfterRetries::Later => break ChainEnd::AllFailed,
                        AfterRetries::GiveUp => break ChainEnd::Rejected,
                    }
                }
            }
            index += 1;
        };
        ChainReport {
            attempts: run.attempts,
            end,
            unknown_outcomes: run.unknown_outcomes,
        }
    }
}

struct Run {
    attempts: Vec<Attempt>,
    unknown_outcomes: usize,
}

impl Run {
    /// Where to go on in newer settings: at the entry that was refused, or, where it is gone, at the
    /// first that was not tried.
    fn next_in(&self, newer: &Chain, refused: &(EntryId, bool)) -> usize {
        let is = |entry: &ChainEntry, id: &EntryId, global: bool| {
            entry.id == *id && entry.position.is_global() == global
        };
        let tried = |entry: &ChainEntry| {
            self.attempts
                .iter()
                .any(|attempt| is(entry, &attempt.entry, attempt.position.is_global()))
        };
        let mut entries = newer.entries.iter();
        let again = entries
            .clone()
            .position(|entry| is(entry, &refused.0, refused.1));
        again
            .or_else(|| entries.position(|entry| !tried(entry)))
            .unwrap_or(newer.entries.len())
    }

    async fn entry(
        &mut self,
        chain: &Chain,
        entry: &ChainEntry,
        message: &Message,
        last: bool,
        deadline: Deadline,
    ) -> Result<Receipt, ProviderError> {
        let for_global;
        let message = if entry.position.is_global() && message.reply_to.is_none() {
            for_global = Message {
                reply_to: chain.clinic_reply_to.clone(),
                ..message.clone()
            };
            &for_global
        } else {
            message
        };
        let mut retry = 0;
        loop {
            let started = Instant::now();
            let result = entry.provider.send(message, deadline).await;
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
                duration,
                possible_duplicate: self.unknown_outcomes > 0,
            });
            let error = match result {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            // A provider that hangs has cost enough time; the next one is to have the rest.
            if error.kind == ErrorKind::Timeout && !last {
                return Err(error);
            }
            match entry.retry.wait_before(retry, &error, deadline, jitter) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
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
        Err(error) => warn!(
            delivery_id = %message.delivery, provider = %entry.provider.kind(),
            position = %entry.position, disposition = error.disposition.as_str(),
            kind = error.kind.as_str(), code = error.code.as_ref().map(tracing::field::display),
            duration_ms, detail = error.detail, "attempt failed"
        ),
    }
}
