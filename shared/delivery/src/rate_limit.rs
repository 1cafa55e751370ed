//! Rate limits of provider accounts, shared by all processes: one item per account, and one per sender and recipient
//! where the provider limits those, in the deliveries table.
//!
//! Each limit is the generic cell rate algorithm ([`comms_aws::gcra`]), whose due times are in microseconds of Unix time. A
//! permit is a moment, reserved by moving the due time on. Permits of an account are an interval apart, in whichever
//! processes: in any time `t` there are at most `1 + t * rate`. There are no windows, so nothing doubles at their edge.
//! A process that wakes up late sends late.
//!
//! A permit is one envelope recipient. A message with copies goes out at its first permit, and later messages wait for
//! all of them.
//!
//! One write reserves permits for every message that waits in this process: a batch of ten costs one. No process reserves
//! permits for later, since an unused permit is lost to all.
//!
//! If DynamoDB does not answer within [`ACQUIRE_TIMEOUT`], the message goes out: the provider limits as well, and what it
//! refuses is retried. A clinic's own quota ([`crate::quota`]) is stricter.

mod reservation;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use comms_adapters::{
    AccountRateLimit, Admission, Message, RateLimiter, rate::Rate, rate_limiter::MAX_WAIT_DURATION,
};
use comms_aws::{TableError, clients};
use comms_core::backoff::Backoff;
use comms_core::{Clock, HashKey, Recent};
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use self::reservation::{Permits, Wanted, borrowed, horizon, micros};

/// How long a process sends one message to a recipient without telling the others. In that time a sender may
/// send 50 to one recipient (Meta), and hardly anybody gets two.
pub const UNTOLD: SignedDuration = SignedDuration::from_mins(5);

/// Accounts whose permits are remembered.
const REMEMBERED_ACCOUNTS: usize = 1_000;
/// Recipients of whom it is remembered when they were sent something.
const REMEMBERED_RECIPIENTS: usize = 10_000;
/// The longest that acquiring a permit may delay a message.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(500);
/// How late a permit may be used whose message went away, in microseconds.
const LATE: i64 = 50_000;
/// By how much two processes' clocks may differ, in microseconds. A time that is due later than that allows was
/// nobody's.
const CLOCKS_DIFFER: i64 = 300_000_000;

/// The rate limiter that all processes share.
pub struct SharedRateLimiter {
    client: Client,
    table: String,
    clock: Arc<dyn Clock>,
    accounts: Mutex<Recent<String, Arc<Waiters>>>,
    told: Mutex<Recent<String, Timestamp>>,
    timeout: Duration,
    writes: AtomicU64,
}

/// Messages of this process that wait for a permit of one account.
#[derive(Default)]
struct Waiters {
    /// How many they are.
    waiting: AtomicU32,
    /// Held by the message that writes.
    permits: tokio::sync::Mutex<Reserved>,
}

/// Permits that are reserved and not used yet, and the last known state of the item.
#[derive(Default)]
struct Reserved {
    next: i64,
    left: u32,
    /// [`DUE`] as it was seen last: a guess of what it is.
    due: Option<i64>,
    /// No permit is available soon before this time, in microseconds.
    none_before: i64,
}

struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(line: &'a AtomicU32) -> Self {
        line.fetch_add(1, Ordering::Relaxed);
        Self(line)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SharedRateLimiter {
    /// Uses the deliveries table `table`.
    pub fn new(config: &SdkConfig, table: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self {
            client: clients::dynamodb(config, "pacing"),
            table: table.into(),
            clock,
            accounts: Mutex::new(Recent::new(REMEMBERED_ACCOUNTS)),
            told: Mutex::new(Recent::new(REMEMBERED_RECIPIENTS)),
            timeout: ACQUIRE_TIMEOUT,
            writes: AtomicU64::new(0),
        }
    }

    /// The same with another time to wait for DynamoDB than half a second.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// This with the key of the hashes by which accounts and recipients are named.
    pub const fn with_key<'a>(&'a self, hash: &'a HashKey) -> KeyedRateLimiter<'a> {
        KeyedRateLimiter {
            rate_limiter: self,
            hash,
        }
    }

    /// Writes since this was asked last.
    pub fn take_writes(&self) -> u64 {
        self.writes.swap(0, Ordering::Relaxed)
    }

    fn now(&self) -> i64 {
        self.clock.now().as_microsecond()
    }

    /// Permits at an account for a message of so many recipients.
    async fn permit(
        &self,
        key: String,
        rate: Rate,
        recipients: u32,
    ) -> Result<Admission, TableError> {
        let line = self
            .accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key.clone(), Arc::default)
            .clone();
        let interval = micros(rate.interval);
        let _waiting = (recipients == 1).then(|| Waiting::new(&line.waiting));
        let mut permits = line.permits.lock().await;
        if recipients > 1 {
            let now = self.now();
            if (now..now + CLOCKS_DIFFER).contains(&permits.none_before) {
                return Ok(not_before(permits.none_before + horizon(rate) - now));
            }
            let wanted = Wanted::Exactly(recipients);
            return match self.reserve(&key, rate, wanted, &mut permits.due).await? {
                Permits::From(first, _) => Ok(Admission::After(duration(first - self.now()))),
                Permits::None(due) => {
                    permits.none_before = due - horizon(rate);
                    Ok(not_before(due - self.now()))
                }
            };
        }
        if permits.left == 0 || permits.next < self.now() - LATE {
            permits.left = 0;
            let now = self.now();
            // A clock that went back proves nothing.
            if (now..now + CLOCKS_DIFFER).contains(&permits.none_before) {
                return Ok(not_before(permits.none_before + horizon(rate) - now));
            }
            // Those who ask at the same time are to be counted.
            tokio::task::yield_now().await;
            let wanted = Wanted::UpTo(line.waiting.load(Ordering::Relaxed));
            match self.reserve(&key, rate, wanted, &mut permits.due).await? {
                Permits::From(first, count) => (permits.next, permits.left) = (first, count),
                Permits::None(due) => {
                    permits.none_before = due - horizon(rate);
                    return Ok(not_before(due - self.now()));
                }
            }
        }
        let permit = permits.next;
        permits.next += interval;
        permits.left -= 1;
        Ok(Admission::After(duration(permit - self.now())))
    }

    /// Whether one more may go to a recipient now.
    async fn permit_of_recipient(&self, key: String, rate: Rate) -> Result<Admission, TableError> {
        let now = self.clock.now();
        let is_first = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let mut is_first = false;
            let first = told.entry(key.clone(), || {
                is_first = true;
                now
            });
            let age = now.duration_since(*first);
            if !(SignedDuration::ZERO..UNTOLD).contains(&age) {
                (*first, is_first) = (now, true);
            }
            is_first
        };
        if is_first {
            return Ok(Admission::NOW);
        }
        Ok(
            match self.reserve(&key, rate, Wanted::UpTo(1), &mut None).await? {
                Permits::From(permit, _) => Admission::After(duration(permit - self.now())),
                Permits::None(due) => not_before(due - borrowed(rate) - self.now()),
            },
        )
    }
}

impl std::fmt::Debug for SharedRateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedRateLimiter(…)")
    }
}

/// [`SharedRateLimiter`] for chains.
#[derive(Debug, Clone, Copy)]
pub struct KeyedRateLimiter<'a> {
    rate_limiter: &'a SharedRateLimiter,
    hash: &'a HashKey,
}

impl KeyedRateLimiter<'_> {
    async fn admission(
        &self,
        rate_limit: &AccountRateLimit,
        message: &Message,
    ) -> Result<Admission, TableError> {
        let account = rate_limit.account().as_bytes();
        let name = |purpose: &str, parts: &[&[u8]]| {
            format!("{purpose}#{}", self.hash.digest(purpose, parts).hex128())
        };
        // The account first: a permit at it that is not used is a few milliseconds lost, one at the recipient six
        // seconds.
        let permit = self
            .rate_limiter
            .permit(
                name("pace", &[account]),
                rate_limit.rate(),
                message.envelope_recipients(),
            )
            .await?;
        let (Admission::After(wait), Some(rate)) = (permit, rate_limit.per_recipient()) else {
            return Ok(permit);
        };
        let recipient = message.target.address().as_bytes();
        let pair = name("pace-pair", &[account, recipient]);
        let permit = self.rate_limiter.permit_of_recipient(pair, rate).await?;
        Ok(match permit {
            Admission::After(other) => Admission::After(wait.max(other)),
            Admission::NotBefore(_) => permit,
        })
    }
}

#[async_trait]
impl RateLimiter for KeyedRateLimiter<'_> {
    async fn acquire(&self, rate_limit: &AccountRateLimit, message: &Message) -> Admission {
        let asking = self.admission(rate_limit, message);
        match tokio::time::timeout(self.rate_limiter.timeout, asking).await {
            Ok(Ok(admission)) => admission,
            Ok(Err(error)) => {
                warn!(%error, "a message goes out without a turn at its provider");
                Admission::NOW
            }
            Err(_) => {
                warn!("a message goes out without a turn at its provider: there was no answer");
                Admission::NOW
            }
        }
    }
}

/// The time over which messages without a permit are spread, by their receives.
const SPREAD: Backoff = Backoff::new(MAX_WAIT_DURATION, Duration::from_mins(15));

/// How long a message waits on the queue for its permit, when it asked to come back after `after` and the queue has
/// brought it `receives` times. As of [`crate::quota::wait_for`].
pub fn wait_for(after: Duration, receives: u32, jitter: f64) -> Duration {
    after + SPREAD.with_full_jitter(receives.saturating_sub(1), jitter)
}

/// Nothing for what is past.
fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

fn not_before(micros: i64) -> Admission {
    Admission::NotBefore(duration(micros))
}
