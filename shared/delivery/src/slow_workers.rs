//! How many of a queue's workers a clinic may hold with deliveries that are slow, over all processes.
//!
//! A worker is held by its slowest delivery: 26.5 s where the last provider is a mail server that says nothing. A delivery
//! that has been at work for [`SLOW_AFTER`] registers its process as slow: one of the clinic's permits ([`crate::permits`]) for that queue,
//! released when the invocation ends. Normal, fast deliveries write nothing.
//!
//! A process that has seen a slow delivery of a clinic in the last [`CAUTION`] takes the permit before it begins the
//! next one, and returns the message to the queue if the clinic's share is taken. A process that knows nothing of the
//! clinic reads once a [`LOOK_INTERVAL`] whether others are slow, beside its settings. Nothing here stops a message
//! when DynamoDB does not answer.

mod shares;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_config::SdkConfig;
use comms_adapters::Deadline;
use comms_core::backoff::{Backoff, jitter};
use comms_core::{Channel, Clock, Recent, Tenant};
use futures_util::future::{join, join_all};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

pub use shares::{WorkQueue, WorkerShares};

use crate::permits::{Permits, Rider, Taken, TakenSlot};

/// A delivery that is at work for so long is slow. Waiting for a provider's rate takes two seconds at most.
pub const SLOW_AFTER: Duration = Duration::from_secs(3);
/// While a delivery waits for a connection, it is not looked at more often.
const LEAST_STEP: Duration = Duration::from_millis(100);
/// How long a process takes a permit first after it saw a slow delivery of the clinic.
pub const CAUTION: SignedDuration = SignedDuration::from_mins(5);
/// How old what is known of other processes may be.
pub const LOOK_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
/// How long a clinic's share is believed to be taken.
const FULL_IS_BELIEVED: SignedDuration = SignedDuration::from_secs(2);
/// The longest that reading or writing may delay a delivery.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a permit lasts after its invocation's deadline: clocks differ.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5);
/// A message that is returned waits at least so long.
const MIN_WAIT: Duration = Duration::from_secs(2);
/// And longer by up to this, by its receives.
const SPREAD: Backoff = Backoff::new(Duration::from_secs(4), Duration::from_mins(15));
/// Clinics, queues and channels that are remembered.
const REMEMBERED: usize = 2_000;

/// The share of the workers is taken; the message goes back to its queue untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareTaken;

/// Counts the workers that slow deliveries hold.
pub struct SlowWorkers {
    permits: Permits,
    clock: Arc<dyn Clock>,
    shares: WorkerShares,
    known: Mutex<Known>,
    writes: AtomicU64,
}

type Key = (WorkQueue, Tenant);

struct Known {
    clinics: Recent<Key, Clinic>,
    /// Permits of this process.
    held: Vec<Held>,
}

/// What a process knows of a clinic's deliveries from one queue.
#[derive(Debug, Default)]
struct Clinic {
    looked_at: Option<Timestamp>,
    /// Until when a permit is taken first, by channel.
    cautious_until: [Option<Timestamp>; Channel::ALL.len()],
    full_at: Option<Timestamp>,
    /// Held by the delivery that takes a permit for all that wait.
    taking: Arc<tokio::sync::Mutex<()>>,
}

/// A permit of this process.
#[derive(Debug)]
struct Held {
    key: Key,
    slot: TakenSlot,
    /// Deliveries under it.
    users: u32,
    /// Slots of other processes when it was taken.
    others: usize,
}

/// A delivery that was let begin.
#[derive(Debug)]
pub struct Working<'a> {
    workers: &'a SlowWorkers,
    key: Key,
    channel: Channel,
    permit: Option<HeldUse<'a>>,
    was_slow: bool,
}

/// A delivery's use of a permit of its process.
#[derive(Debug)]
struct HeldUse<'a> {
    workers: &'a SlowWorkers,
    slot: TakenSlot,
}

impl Drop for HeldUse<'_> {
    fn drop(&mut self) {
        let mut known = self.workers.known();
        let held = known.held.iter_mut().find(|held| held.slot == self.slot);
        if let Some(held) = held {
            held.users = held.users.saturating_sub(1);
        }
    }
}

/// What became of asking for a permit.
enum Asked<'a> {
    Permit(HeldUse<'a>),
    Full,
    /// DynamoDB did not answer.
    Unknown,
}

impl SlowWorkers {
    /// Uses the deliveries table `table`.
    pub fn new(
        config: &SdkConfig,
        table: impl Into<String>,
        clock: Arc<dyn Clock>,
        shares: WorkerShares,
    ) -> Self {
        Self {
            permits: Permits::new(config, table, clock.clone()),
            clock,
            shares,
            known: Mutex::new(Known {
                clinics: Recent::new(REMEMBERED),
                held: Vec::new(),
            }),
            writes: AtomicU64::new(0),
        }
    }

    /// Learns whether other processes are slow for the clinic, at most once a [`LOOK_INTERVAL`].
    pub async fn look(&self, queue: WorkQueue, tenant: &Tenant, deadline: Deadline) {
        let now = self.clock.now();
        let key = (queue, tenant.clone());
        {
            let mut known = self.known();
            let clinic = known.clinics.entry(key.clone(), Clinic::default);
            if is_recent(clinic.looked_at, LOOK_INTERVAL, now) {
                return;
            }
            // Others go by what is known until the response is there.
            clinic.looked_at = Some(now);
        }
        let partition_key = partition_key(&key);
        let read = Box::pin(self.permits.held(&partition_key));
        match deadline.bound(REQUEST_TIMEOUT, read).await {
            Ok(Ok(0)) => {}
            Ok(Ok(_)) => {
                for channel in Channel::ALL {
                    self.be_cautious(&key, channel);
                }
            }
            Ok(Err(error)) => warn!(%error, "slow workers were not counted"),
            Err(_) => warn!("slow workers were not counted in time"),
        }
    }

    /// Lets a delivery begin, if the clinic's slow deliveries leave it a worker.
    pub async fn begin(
        &self,
        queue: WorkQueue,
        tenant: &Tenant,
        channel: Channel,
        deadline: Deadline,
    ) -> Result<Working<'_>, ShareTaken> {
        let key = (queue, tenant.clone());
        let now = self.clock.now();
        let working = |permit| Working {
            workers: self,
            key: key.clone(),
            channel,
            permit,
            was_slow: false,
        };
        if let Some(permit) = self.join_held(&key) {
            return Ok(working(Some(permit)));
        }
        if self.is_full(&key) {
            return Err(ShareTaken);
        }
        {
            let mut known = self.known();
            let clinic = known.clinics.entry(key.clone(), Clinic::default);
            let until = clinic.cautious_until.get(place(channel)).copied().flatten();
            if until.is_none_or(|until| until <= now) {
                return Ok(working(None));
            }
        }
        match self.ask(&key, deadline).await {
            Asked::Permit(permit) => Ok(working(Some(permit))),
            Asked::Full => Err(ShareTaken),
            Asked::Unknown => Ok(working(None)),
        }
    }

    /// Waits for `work`, and registers the process as slow while it takes long. The time that `waited` says it has waited
    /// for a connection is not counted: that others have them makes no provider slow.
    pub async fn watch<'a, F: Future>(
        &'a self,
        working: &mut Working<'a>,
        deadline: Deadline,
        waited: impl Fn() -> Duration,
        work: F,
    ) -> F::Output {
        let mut work = std::pin::pin!(work);
        let slow_from = Instant::now() + SLOW_AFTER;
        let mut slow_at = slow_from;
        loop {
            if let Ok(done) = timeout_at(slow_at, &mut work).await {
                return done;
            }
            let later = slow_from + waited();
            if later <= slow_at {
                break;
            }
            slow_at = later.max(slow_at + LEAST_STEP);
        }
        working.was_slow = true;
        self.be_cautious(&working.key, working.channel);
        if working.permit.is_some() {
            return work.await;
        }
        let key = working.key.clone();
        let register = Box::pin(async {
            match self.ask(&key, deadline).await {
                Asked::Permit(permit) => Some(permit),
                Asked::Full | Asked::Unknown => None,
            }
        });
        let (done, permit) = join(work, register).await;
        working.permit = permit;
        done
    }

    /// Releases the permits that no delivery of this process uses: once before an invocation ends.
    pub async fn release(&self, deadline: Deadline) {
        let now = self.clock.now();
        let released: Vec<_> = {
            let mut known = self.known();
            // What has expired may be somebody else's by now.
            known.held.retain(|held| held.slot.until() > now);
            let (used, unused) = known.held.drain(..).partition(|held| held.users > 0);
            known.held = used;
            unused
        };
        let writes = released.iter().map(|held| async {
            self.writes.fetch_add(1, Ordering::Relaxed);
            let rider = Rider::default();
            if let Err(error) = self.permits.release(&held.slot, &rider).await {
                warn!(%error, "a slow worker's permit was not released, and expires");
            }
        });
        let released = deadline.bound(REQUEST_TIMEOUT, join_all(writes)).await;
        if released.is_err() {
            warn!("permits of slow workers were not released in time, and expire");
        }
    }

    /// Writes since this was asked last.
    pub fn take_writes(&self) -> u64 {
        self.writes.swap(0, Ordering::Relaxed)
    }

    /// Uses the process's permit, or takes one: one for all deliveries that ask at the same time.
    async fn ask(&self, key: &Key, deadline: Deadline) -> Asked<'_> {
        let taking = {
            let mut known = self.known();
            let clinic = known.clinics.entry(key.clone(), Clinic::default);
            clinic.taking.clone()
        };
        let ask = Box::pin(async {
            let _taking = taking.lock().await;
            if let Some(permit) = self.join_held(key) {
                return Asked::Permit(permit);
            }
            if self.is_full(key) {
                return Asked::Full;
            }
            self.take(key, deadline).await
        });
        // Those who wait for the one that writes wait no longer than that one.
        let asked = deadline.bound(REQUEST_TIMEOUT, ask).await;
        asked.unwrap_or_else(|_| {
            warn!("a slow worker was not registered in time");
            Asked::Unknown
        })
    }

    /// Takes a permit for the process.
    async fn take(&self, key: &Key, deadline: Deadline) -> Asked<'_> {
        let (queue, tenant) = key;
        let until = self
            .clock
            .now()
            .saturating_add(deadline.remaining() + EXPIRY_MARGIN);
        let limit = self.shares.of_queue(*queue).get();
        let (partition_key, rider) = (partition_key(key), Rider::default());
        self.writes.fetch_add(1, Ordering::Relaxed);
        let take = Box::pin(self.permits.take(
            &partition_key,
            limit,
            until.unwrap_or(Timestamp::MAX),
            &rider,
            |_| false,
        ));
        let taken = match take.await {
            Ok(taken) => taken,
            Err(error) => {
                warn!(%error, "a slow worker was not registered");
                return Asked::Unknown;
            }
        };
        let now = self.clock.now();
        let mut known = self.known();
        match taken {
            Taken::Slot(slot, item) => {
                let others = self.permits.count(&item).saturating_sub(1);
                known.held.push(Held {
                    key: key.clone(),
                    slot: slot.clone(),
                    users: 1,
                    others,
                });
                Asked::Permit(HeldUse {
                    workers: self,
                    slot,
                })
            }
            Taken::Full | Taken::Refused(_) => {
                let clinic = known.clinics.entry(key.clone(), Clinic::default);
                clinic.full_at = Some(now);
                drop(known);
                info!(clinic_id = %tenant, queue = queue.as_str(), limit, "a clinic's slow deliveries hold its share of the workers");
                Asked::Full
            }
        }
    }

    /// Whether the clinic's share was seen to be taken a moment ago.
    fn is_full(&self, key: &Key) -> bool {
        let now = self.clock.now();
        let mut known = self.known();
        let clinic = known.clinics.entry(key.clone(), Clinic::default);
        is_recent(clinic.full_at, FULL_IS_BELIEVED, now)
    }

    /// Uses a permit that the process has.
    fn join_held(&self, key: &Key) -> Option<HeldUse<'_>> {
        let now = self.clock.now();
        let mut known = self.known();
        let held = known
            .held
            .iter_mut()
            .find(|held| held.key == *key && held.slot.until() > now)?;
        held.users += 1;
        Some(HeldUse {
            workers: self,
            slot: held.slot.clone(),
        })
    }

    fn be_cautious(&self, key: &Key, channel: Channel) {
        let until = self.clock.now().saturating_add(CAUTION);
        self.set_caution(key, channel, Some(until.unwrap_or(Timestamp::MAX)));
    }

    fn set_caution(&self, key: &Key, channel: Channel, until: Option<Timestamp>) {
        let mut known = self.known();
        let clinic = known.clinics.entry(key.clone(), Clinic::default);
        if let Some(cautious_until) = clinic.cautious_until.get_mut(place(channel)) {
            *cautious_until = until;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while the lock is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for SlowWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SlowWorkers(…)")
    }
}

impl Working<'_> {
    /// Says that the message was accepted. If that was soon and no other process is slow, the caution is over.
    pub fn sent(&self) {
        if self.was_slow {
            return;
        }
        let is_alone = {
            let known = self.workers.known();
            let mut held = known.held.iter();
            let held = held.find(|held| held.key == self.key);
            held.is_some_and(|held| held.others == 0)
        };
        if is_alone {
            self.workers.set_caution(&self.key, self.channel, None);
        }
    }
}

/// How long a message waits that the queue has delivered `receives` times; `jitter` is from 0 to 1.
pub fn wait_for(receives: u32, jitter: f64) -> Duration {
    MIN_WAIT + SPREAD.with_full_jitter(receives.saturating_sub(1), jitter)
}

/// The same with a jitter of its own.
pub(crate) fn wait(receives: u32) -> Duration {
    wait_for(receives, jitter())
}

fn partition_key((queue, tenant): &Key) -> String {
    format!("slow#{}#{tenant}", queue.as_str())
}

/// Whether `time` was less than `age` ago. A clock that went back proves nothing.
fn is_recent(time: Option<Timestamp>, age: SignedDuration, now: Timestamp) -> bool {
    time.is_some_and(|time| (SignedDuration::ZERO..age).contains(&now.duration_since(time)))
}

const fn place(channel: Channel) -> usize {
    match channel {
        Channel::Email => 0,
        Channel::Whatsapp => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_for_a_worker_grows_with_each_receive() {
        assert_eq!(wait_for(1, 0.0), MIN_WAIT);
        assert_eq!(wait_for(1, 1.0), MIN_WAIT + Duration::from_secs(4));
        assert_eq!(wait_for(3, 1.0), MIN_WAIT + Duration::from_secs(16));
        assert_eq!(wait_for(90, 1.0), MIN_WAIT + Duration::from_mins(15));
    }
}
