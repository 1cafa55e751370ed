//! How well a provider entry works, judged by the sends themselves: there are no requests of its own
//! for it.
//!
//! An entry is [`HealthState::Down`] when it refuses the credentials or has suspended the account, or
//! when less than 80 % of at least [`ENOUGH_SAMPLES`] messages of the last [`WINDOW`] worked. One that
//! is down goes to the end of the chain rather than out of it. After a cool-down one message at a time
//! is its probe: it is tried in its old place, and the first success makes it healthy again. An entry that
//! refuses its credentials is tried by queued messages only as a probe, for which they need a permit that all
//! processes share ([`RateLimiter::may_probe`](crate::RateLimiter::may_probe)): providers lock accounts for less than what many
//! messages would try.
//!
//! What is known belongs to the entry at one version of the settings: new settings start afresh, so
//! that a corrected password is tried at once. Here it is local to the process;
//! [`Health::unshared`] and [`Health::adopt`] are for whoever shares it with others.

mod observed;
mod unshared;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use comms_core::{Clock, HealthRecord, HealthState};
use jiff::{SignedDuration, Timestamp};

use self::observed::{ObservedHealth, is_conclusive};
pub use self::{
    observed::{
        COOL_DOWN, Change, ENOUGH_SAMPLES, MAX_COOL_DOWN_DURATION, Sample, WINDOW, first_probe,
    },
    unshared::Unshared,
};

/// When an entry is tried.
#[derive(Debug)]
pub enum Candidate {
    /// In its place.
    InPlace,
    /// In its place, to see whether it works again.
    Probe(Probe),
    /// After all others.
    Last,
    /// After all others, and only while a caller waits: it refuses its credentials or has suspended the account.
    Refused,
}

/// The health of one provider entry at one version of its settings.
pub struct Health {
    clock: Arc<dyn Clock>,
    inner: Mutex<ObservedHealth>,
}

impl Health {
    /// Nothing is known: healthy.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            inner: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ObservedHealth> {
        // Nothing panics while the lock is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the entry is tried for a message that is to be sent now.
    pub fn candidate(self: &Arc<Self>) -> Candidate {
        let now = self.clock.now();
        let mut inner = self.lock();
        let Some(down) = &mut inner.down else {
            return Candidate::InPlace;
        };
        // A clock that went back must not hold the probe off for longer than the cool-down.
        let wait = down.probe_at.duration_since(now);
        let is_due = wait <= SignedDuration::ZERO || wait > down.rest;
        if is_due && !down.is_probing {
            down.is_probing = true;
            Candidate::Probe(Probe(self.clone()))
        } else if down.is_refusal {
            Candidate::Refused
        } else {
            Candidate::Last
        }
    }

    /// Takes in how a message fared.
    pub fn record(&self, sample: Sample) -> Option<Change> {
        let now = self.clock.now();
        self.lock().record(sample, now)
    }

    /// The present state.
    pub fn state(&self) -> HealthState {
        self.lock().state()
    }

    /// What is known of an entry that is down; `None` of any other.
    pub fn down(&self) -> Option<HealthRecord> {
        let inner = self.lock();
        let (state, since) = inner
            .state
            .filter(|(state, _)| *state == HealthState::Down)?;
        Some(HealthRecord {
            state,
            since,
            last_error: inner.last_error,
        })
    }

    /// The time by the clock that health goes by, as exact as an attempt's time is kept.
    pub fn now_in_milliseconds(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    /// For how long nothing has worked, as far as is known here; nothing where the last message did.
    ///
    /// Few messages do not take an entry down, and all go by the next one all the same: so this is not the
    /// time since it was.
    pub fn failing_for(&self) -> SignedDuration {
        let now = self.clock.now();
        let since = self.lock().failing_since.unwrap_or(now);
        now.duration_since(since).max(SignedDuration::ZERO)
    }

    /// Takes over what somebody else has seen, where it is newer than what was seen here.
    pub fn adopt(&self, record: &HealthRecord) {
        let mut inner = self.lock();
        if inner.since().is_some_and(|since| since >= record.since) {
            return;
        }
        match record.state {
            HealthState::Down if inner.down.is_none() => {
                let is_refusal = record.last_error.is_some_and(is_conclusive);
                // The cool-down is counted from the change, not from now: processes that live for less
                // than it would never probe.
                inner.take_down(is_refusal, record.since);
                inner.failing_since.get_or_insert(record.since);
            }
            HealthState::Down => {}
            HealthState::Healthy | HealthState::Degraded => inner.recover(),
        }
        inner.state = Some((record.state, record.since));
        inner.last_error = record.last_error.or(inner.last_error);
        inner.is_unshared = false;
        inner.is_first = false;
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Health").field(&self.state()).finish()
    }
}

/// The right to try an entry that is down in its old place. While it is held nobody else has it; a
/// message that never came to its turn gives it back.
#[derive(Debug)]
pub struct Probe(Arc<Health>);

impl Probe {
    /// Whether it tries credentials or an account that were refused, for which a process needs a permit.
    pub fn needs_permit(&self) -> bool {
        let inner = self.0.lock();
        inner.down.as_ref().is_some_and(|down| down.is_refusal)
    }

    /// Gives the probe back, because another process has made one: the next is due at `next`.
    pub fn postpone(self, next: Timestamp) {
        if let Some(down) = &mut self.0.lock().down {
            down.probe_at = next;
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(down) = &mut self.0.lock().down {
            down.is_probing = false;
        }
    }
}

#[cfg(test)]
mod tests;
