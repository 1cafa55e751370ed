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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use comms_core::{Clock, Disposition, ErrorKind, HealthRecord, HealthState, ProviderError};
use jiff::{SignedDuration, Timestamp};

/// How far back is looked.
pub const WINDOW: SignedDuration = SignedDuration::from_mins(5);
/// Messages in the window below which their number says nothing.
pub const ENOUGH_SAMPLES: u32 = 5;
/// How long an entry that is down is left alone before its first probe. Each probe that fails doubles
/// it, up to [`MAX_COOL_DOWN_DURATION`].
pub const COOL_DOWN: SignedDuration = SignedDuration::from_secs(30);
/// The longest an entry is left alone; at once so long after a refused login or a suspension, which
/// do not pass in seconds.
pub const MAX_COOL_DOWN_DURATION: SignedDuration = SignedDuration::from_mins(5);

const BUCKETS: usize = 10;
const BUCKET_SECONDS: i64 = WINDOW.as_secs() / 10;

/// What a message that was given to an entry says of its health, retries included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// It works.
    Success,
    /// It does not.
    Failure {
        /// Why.
        kind: ErrorKind,
        /// Whether one such answer is enough: the credentials or the account.
        is_conclusive: bool,
    },
}

impl Sample {
    /// What a failed send says; `None` for what says nothing of the provider.
    pub fn of_error(error: &ProviderError) -> Option<Self> {
        if error.unhealthy {
            return Some(Self::Failure {
                kind: error.kind,
                is_conclusive: is_conclusive(error.kind)
                    && error.disposition == Disposition::ProviderDown,
            });
        }
        // A provider that takes the login and finds the recipient wrong is at work. Without a code, it
        // may be that it was never asked.
        (error.disposition == Disposition::Final && error.code.is_some()).then_some(Self::Success)
    }
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What it was.
    pub from: HealthState,
    /// What it is.
    pub to: HealthState,
    /// What failed last.
    pub last_error: Option<ErrorKind>,
}

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
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By time since the epoch over [`BUCKET_SECONDS`], modulo their number.
    buckets: [Bucket; BUCKETS],
    state: Option<(HealthState, Timestamp)>,
    down: Option<Down>,
    last_error: Option<ErrorKind>,
    /// When it failed first after it last worked, as far as is known here.
    failing_since: Option<Timestamp>,
    is_unshared: bool,
    /// Whether `state` is a first success: nothing was known here before it.
    is_first: bool,
}

#[derive(Default, Clone, Copy)]
struct Bucket {
    /// Which stretch of time this is.
    epoch: i64,
    succeeded: u32,
    failed: u32,
}

struct Down {
    /// How long it is left alone.
    rest: SignedDuration,
    /// When the next probe is due.
    probe_at: Timestamp,
    is_probing: bool,
    /// Whether it refuses its credentials or has suspended the account.
    is_refusal: bool,
}

impl Inner {
    fn state(&self) -> HealthState {
        self.state.map_or(HealthState::Healthy, |(state, _)| state)
    }

    fn since(&self) -> Option<Timestamp> {
        self.state.map(|(_, since)| since)
    }

    fn bucket(&mut self, now: Timestamp) -> Option<&mut Bucket> {
        let epoch = now.as_second().div_euclid(BUCKET_SECONDS);
        let index = usize::try_from(epoch.rem_euclid(10)).ok()?;
        let bucket = self.buckets.get_mut(index)?;
        if bucket.epoch != epoch {
            *bucket = Bucket {
                epoch,
                ..Bucket::default()
            };
        }
        Some(bucket)
    }

    /// Successes and failures in the window.
    fn counts(&self, now: Timestamp) -> (u32, u32) {
        let newest = now.as_second().div_euclid(BUCKET_SECONDS);
        self.buckets
            .iter()
            .filter(|bucket| (newest - 9..=newest).contains(&bucket.epoch))
            .fold((0, 0), |(succeeded, failed), bucket| {
                (succeeded + bucket.succeeded, failed + bucket.failed)
            })
    }

    /// What the window says; `None` where it has too little in it.
    fn state_by_rate(&self, now: Timestamp) -> Option<HealthState> {
        let (succeeded, failed) = self.counts(now);
        let all = u64::from(succeeded) + u64::from(failed);
        if all < u64::from(ENOUGH_SAMPLES) {
            return None;
        }
        let hundredfold = u64::from(succeeded) * 100;
        Some(if hundredfold > 95 * all {
            HealthState::Healthy
        } else if hundredfold >= 80 * all {
            HealthState::Degraded
        } else {
            HealthState::Down
        })
    }

    fn go_to(&mut self, state: HealthState, now: Timestamp) -> Option<Change> {
        let from = self.state();
        if from == state {
            return None;
        }
        // Two changes within one tick of the clock still have an order for the others.
        let since = self.since().map_or(now, |last| {
            now.max(
                last.saturating_add(SignedDuration::from_micros(1))
                    .unwrap_or(last),
            )
        });
        self.state = Some((state, since));
        self.is_unshared = true;
        self.is_first = false;
        Some(Change {
            from,
            to: state,
            last_error: self.last_error,
        })
    }

    fn record(&mut self, sample: Sample, now: Timestamp) -> Option<Change> {
        match sample {
            Sample::Success => {
                self.failing_since = None;
                if self.down.take().is_some() {
                    // What was before is over; it would bring it down again at the next failure.
                    self.buckets = Default::default();
                }
                if let Some(bucket) = self.bucket(now) {
                    bucket.succeeded = bucket.succeeded.saturating_add(1);
                }
                // The first success is no change, and is shared: until then the entry is untried.
                if self.state.is_none() {
                    self.state = Some((HealthState::Healthy, now));
                    self.is_unshared = true;
                    self.is_first = true;
                }
                match (self.state(), self.state_by_rate(now)) {
                    (HealthState::Down, _) | (_, Some(HealthState::Healthy)) => {
                        self.go_to(HealthState::Healthy, now)
                    }
                    // Only a failure takes it down.
                    (_, Some(HealthState::Degraded | HealthState::Down)) => {
                        self.go_to(HealthState::Degraded, now)
                    }
                    (HealthState::Degraded, None)
                        if self
                            .since()
                            .is_some_and(|since| now.duration_since(since) >= WINDOW) =>
                    {
                        self.go_to(HealthState::Healthy, now)
                    }
                    (HealthState::Healthy | HealthState::Degraded, None) => None,
                }
            }
            Sample::Failure {
                kind,
                is_conclusive,
            } => {
                self.last_error = Some(kind);
                self.failing_since.get_or_insert(now);
                if let Some(bucket) = self.bucket(now) {
                    bucket.failed = bucket.failed.saturating_add(1);
                }
                if let Some(down) = &mut self.down {
                    let doubled = down.rest.saturating_mul(2).min(MAX_COOL_DOWN_DURATION);
                    down.rest = if is_conclusive {
                        MAX_COOL_DOWN_DURATION
                    } else {
                        doubled
                    };
                    down.probe_at = later(now, down.rest);
                    down.is_refusal |= is_conclusive;
                    return None;
                }
                let state = if is_conclusive {
                    HealthState::Down
                } else {
                    self.state_by_rate(now)?
                };
                if state == HealthState::Down {
                    self.take_down(is_conclusive, now);
                }
                self.go_to(state, now)
            }
        }
    }

    fn take_down(&mut self, is_refusal: bool, since: Timestamp) {
        let rest = cool_down(is_refusal);
        self.down = Some(Down {
            rest,
            probe_at: later(since, rest),
            is_probing: false,
            is_refusal,
        });
    }
}

fn cool_down(is_conclusive: bool) -> SignedDuration {
    if is_conclusive {
        MAX_COOL_DOWN_DURATION
    } else {
        COOL_DOWN
    }
}

/// When an entry that is down gets its first probe, at the earliest: with the first message from then on. What
/// failed probes have added to that only the process knows that made them.
pub fn first_probe(record: &HealthRecord) -> Option<Timestamp> {
    (record.state == HealthState::Down).then(|| {
        let is_conclusive = record.last_error.is_some_and(is_conclusive);
        later(record.since, cool_down(is_conclusive))
    })
}

/// Whether one such error is enough to take an entry down.
fn is_conclusive(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unauthenticated | ErrorKind::AccountSuspended
    )
}

fn later(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.saturating_add(by).unwrap_or(now)
}

impl Health {
    /// Nothing is known: healthy.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            inner: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
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

    /// A change that nobody else knows of yet, for one to share it. Given to one caller at a time.
    pub fn unshared(self: &Arc<Self>) -> Option<Unshared> {
        let mut inner = self.lock();
        if !inner.is_unshared {
            return None;
        }
        let (state, since) = inner.state?;
        inner.is_unshared = false;
        Some(Unshared {
            health: self.clone(),
            record: HealthRecord {
                state,
                since,
                last_error: inner.last_error,
            },
            is_first: inner.is_first,
            is_shared: false,
        })
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
            HealthState::Healthy | HealthState::Degraded => {
                inner.failing_since = None;
                if inner.down.take().is_some() {
                    inner.buckets = Default::default();
                }
            }
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

/// A change of state on its way to the others. Dropped before [`Unshared::done`], it is offered again.
#[derive(Debug)]
pub struct Unshared {
    health: Arc<Health>,
    record: HealthRecord,
    is_first: bool,
    is_shared: bool,
}

impl Unshared {
    /// The change.
    pub const fn record(&self) -> &HealthRecord {
        &self.record
    }

    /// Whether it is a first success of a process that knew nothing of the entry: it says that the entry is not untried, and
    /// disproves nothing that others recorded.
    pub const fn is_first(&self) -> bool {
        self.is_first
    }

    /// The others know.
    pub fn done(mut self) {
        self.is_shared = true;
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        if !self.is_shared {
            let mut inner = self.health.lock();
            // Unless something newer has come in meanwhile, which has been, or will be, said for itself.
            if inner.since() == Some(self.record.since) {
                inner.is_unshared = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
