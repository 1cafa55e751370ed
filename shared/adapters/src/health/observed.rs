//! What the sends of one process say of an entry's health.

use comms_core::{Disposition, ErrorKind, HealthRecord, HealthState, ProviderError};
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

#[derive(Default)]
pub(super) struct ObservedHealth {
    /// By time since the epoch over [`BUCKET_SECONDS`], modulo their number.
    buckets: [Bucket; BUCKETS],
    pub(super) state: Option<(HealthState, Timestamp)>,
    pub(super) down: Option<Down>,
    pub(super) last_error: Option<ErrorKind>,
    /// When it failed first after it last worked, as far as is known here.
    pub(super) failing_since: Option<Timestamp>,
    pub(super) is_unshared: bool,
    /// Whether `state` is a first success: nothing was known here before it.
    pub(super) is_first: bool,
}

#[derive(Default, Clone, Copy)]
struct Bucket {
    /// Which stretch of time this is.
    epoch: i64,
    succeeded: u32,
    failed: u32,
}

pub(super) struct Down {
    /// How long it is left alone.
    pub(super) rest: SignedDuration,
    /// When the next probe is due.
    pub(super) probe_at: Timestamp,
    pub(super) is_probing: bool,
    /// Whether it refuses its credentials or has suspended the account.
    pub(super) is_refusal: bool,
}

impl ObservedHealth {
    pub(super) fn state(&self) -> HealthState {
        self.state.map_or(HealthState::Healthy, |(state, _)| state)
    }

    pub(super) fn since(&self) -> Option<Timestamp> {
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

    pub(super) fn record(&mut self, sample: Sample, now: Timestamp) -> Option<Change> {
        match sample {
            Sample::Success => {
                self.recover();
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

    /// Notes that it works again.
    pub(super) fn recover(&mut self) {
        self.failing_since = None;
        if self.down.take().is_some() {
            // What was before is over; it would bring it down again at the next failure.
            self.buckets = Default::default();
        }
    }

    pub(super) fn take_down(&mut self, is_refusal: bool, since: Timestamp) {
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
pub(super) fn is_conclusive(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unauthenticated | ErrorKind::AccountSuspended
    )
}

fn later(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.saturating_add(by).unwrap_or(now)
}
