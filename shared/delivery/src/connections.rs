//! Connections to mail servers, counted over all processes.
//!
//! A server allows a login a number of connections, which belong to the mailbox's owner. Before a process opens one, it
//! takes a permit of the login ([`crate::permits`]); it releases its permits when the invocation ends and its connections
//! are closed. The same item says how many permits there are ([`LimitRecord`]): what the server's operator publishes, or
//! what was found out. A login that nobody has found a limit for begins with [`FIRST_LIMIT`] permits. They double
//! whenever all are in use and the server has taken all connections, and are no longer counted from
//! [`record::UNLIMITED_FROM`] on. A refused connection ends that: as many remain as the server had taken.
//!
//! An invocation with a single message to a login of which nothing is known takes no permit: it opens one connection.
//!
//! A queued message that finds no permit returns to its queue before anything was written. Nothing here stops a message
//! when DynamoDB does not answer: the process then goes by what it knows.

mod front;
mod gate;
mod line;
mod publishing;
mod record;
mod releasing;
mod wait;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_config::SdkConfig;
use comms_adapters::{Deadline, smtp::ConnectionLimit};
use comms_aws::Item;
use comms_core::backoff::jitter;
use comms_core::{Clock, HashKey};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::{permits::Permits, slow_workers::WorkerShares};

pub(crate) use gate::{Gate, WaitedTime};
use line::{LEFT_TO_OTHERS, Line, Next};
pub use record::{FIRST_LIMIT, LimitRecord, LimitState};
pub use wait::MAX_RECEIVES;

/// How old what is known of a login may be before it is read again.
const LOOK_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
/// The longest that one request to DynamoDB may delay a message.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// The same for a queued message, which nobody waits for.
const QUEUED_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a permit lasts after its invocation's deadline: clocks differ.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5);
/// How long all permits are believed to be taken.
const FULL_IS_BELIEVED: SignedDuration = SignedDuration::from_millis(200);
/// How long a process does without permits after DynamoDB did not answer.
const UNREACHABLE_IS_BELIEVED: SignedDuration = SignedDuration::from_secs(2);
/// How long a message waits in its process for a permit: a queued one only while the limit still grows.
const MAX_IMMEDIATE_WAIT: Duration = Duration::from_secs(2);
const MAX_GROWING_WAIT: Duration = Duration::from_millis(1_500);
/// How often it asks in that time, and up to twice as long.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a message takes before its process takes a further permit for those behind it.
const FURTHER_AFTER: Duration = Duration::from_secs(2);
/// What must be left of the deadline for a queued message that waits for a connection of its process.
const MESSAGE_MARGIN: Duration = Duration::from_secs(6);

/// Counts connections to mail servers over all processes.
pub struct Connections {
    permits: Permits,
    clock: Arc<dyn Clock>,
    workers: WorkerShares,
    lines: Mutex<HashMap<u64, Line>>,
    writes: AtomicU64,
}

/// Who asks for a connection.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    /// Whether it is the only message of its invocation.
    pub is_alone: bool,
    /// Whether it can return to a queue.
    pub is_queued: bool,
    /// Whether it came by the urgent queue.
    pub is_urgent: bool,
    /// How often the queue has delivered it, and how long it has been there.
    pub receives: u32,
    /// The time since it was put on the queue.
    pub age: Duration,
    /// When its invocation ends.
    pub deadline: Deadline,
}

/// The right to send a message over a connection of this process; until it is dropped.
#[derive(Debug)]
pub struct ConnectionUse<'a> {
    connections: &'a Connections,
    id: u64,
    has_permit: bool,
}

impl Asking {
    /// Whether the message is sent without a permit, so that its wait ends.
    pub(crate) const fn has_waited_enough(&self) -> bool {
        self.is_queued && self.receives >= MAX_RECEIVES
    }
}

impl Drop for ConnectionUse<'_> {
    fn drop(&mut self) {
        let now = self.connections.clock.now();
        if let Some(line) = self.connections.lines().get_mut(&self.id) {
            line.end_use(self.has_permit, now);
        }
    }
}

/// One who waits; until it is dropped.
struct Waiting<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(line) = self.connections.lines().get_mut(&self.id) {
            line.waiting = line.waiting.saturating_sub(1);
        }
    }
}

impl Connections {
    /// Uses the deliveries table `table`. `workers` bounds how many of a queue's workers wait long for one login.
    pub fn new(
        config: &SdkConfig,
        table: impl Into<String>,
        clock: Arc<dyn Clock>,
        workers: WorkerShares,
    ) -> Self {
        Self {
            permits: Permits::new(config, table, clock.clone()).kept_for(record::RETENTION),
            clock,
            workers,
            lines: Mutex::default(),
            writes: AtomicU64::new(0),
        }
    }

    /// Writes since this was asked last.
    pub fn take_writes(&self) -> u64 {
        self.writes.swap(0, Ordering::Relaxed)
    }

    /// Lets a message use one of the login's connections, or says when to ask again.
    pub async fn begin(
        &self,
        key: &HashKey,
        limit: &Arc<ConnectionLimit>,
        asking: Asking,
    ) -> Result<Option<ConnectionUse<'_>>, Duration> {
        if limit.is_relay() {
            return Ok(None);
        }
        let Some(waiting) = self.wait_in_line(key, limit) else {
            return Ok(None);
        };
        let id = waiting.id;
        // Those of a batch ask at the same time.
        tokio::task::yield_now().await;
        self.look(key, id, asking).await;
        let deadline = asking.deadline;
        let time = if asking.is_queued {
            deadline.remaining().saturating_sub(MESSAGE_MARGIN)
        } else {
            MAX_IMMEDIATE_WAIT.min(deadline.remaining() / 3)
        };
        let until = Deadline::after(time);
        let grows_until = Deadline::after(time.min(MAX_GROWING_WAIT));
        loop {
            let next = self.next(id, asking);
            let (freed, taking) = match next {
                Next::Use { has_permit } => {
                    return Ok(Some(ConnectionUse {
                        connections: self,
                        id,
                        has_permit,
                    }));
                }
                Next::Full { is_growing } => {
                    let until = if asking.is_queued { grows_until } else { until };
                    if until.remaining().is_zero() || (asking.is_queued && !is_growing) {
                        return Err(self.wait(id, asking));
                    }
                    sleep(POLL_INTERVAL.mul_f64(1.0 + jitter())).await;
                    continue;
                }
                Next::Wait(freed) => (Some(freed), None),
                Next::Take(taking) => (None, Some(taking)),
            };
            if let Some(freed) = freed {
                // Its own process goes on, whoever waits for the answer.
                let turn = deadline.bound(
                    deadline.remaining().saturating_sub(MESSAGE_MARGIN),
                    freed.notified(),
                );
                if turn.await.is_err() {
                    return Err(self.wait(id, asking));
                }
            } else if let Some(taking) = taking {
                // Those who wait for the one that asks wait no longer than that one.
                let take = Box::pin(async {
                    let _taking = taking.lock().await;
                    if matches!(self.next_without_use(id, asking), Next::Take(_)) {
                        self.set_in_front(id, true);
                        let time = if asking.is_queued {
                            QUEUED_REQUEST_TIMEOUT
                        } else {
                            REQUEST_TIMEOUT
                        };
                        self.take_in_time(key, id, deadline, time).await;
                        if asking.is_queued {
                            self.wait_in_front(key, id, asking).await;
                        }
                        self.set_in_front(id, false);
                    }
                });
                take.await;
            }
        }
    }

    /// Takes a further permit where a message waits behind one that takes long: a hanging one holds up nobody else.
    async fn widen(&self, key: &HashKey, id: u64, deadline: Deadline) {
        let now = self.clock.now();
        let taking = {
            let lines = self.lines();
            let line = lines.get(&id).filter(|line| line.widens(now));
            line.map(Line::taking)
        };
        let Some(taking) = taking else {
            return;
        };
        // Who takes one now takes it for all.
        if let Ok(_taking) = taking.try_lock() {
            self.take_in_time(key, id, deadline, REQUEST_TIMEOUT).await;
        }
    }

    fn count_write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<u64, Line>> {
        // Nothing panics while the lock is held.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins those who wait. `None` if the login cannot be named.
    fn wait_in_line(&self, key: &HashKey, limit: &Arc<ConnectionLimit>) -> Option<Waiting<'_>> {
        let id = limit.id();
        let mut lines = self.lines();
        if let Some(line) = lines.get_mut(&id) {
            line.waiting += 1;
        } else {
            let mut line = Line::new(limit.clone(), limit.account(key)?);
            line.waiting = 1;
            lines.insert(id, line);
        }
        drop(lines);
        Some(Waiting {
            connections: self,
            id,
        })
    }

    fn next(&self, id: u64, asking: Asking) -> Next {
        let now = self.clock.now();
        let mut lines = self.lines();
        lines
            .get_mut(&id)
            .map_or(Next::Full { is_growing: false }, |line| {
                if asking.has_waited_enough() {
                    line.use_freely(now)
                } else {
                    line.next(asking, now)
                }
            })
    }

    /// The same, where a use is not begun.
    fn next_without_use(&self, id: u64, asking: Asking) -> Next {
        let next = self.next(id, asking);
        if let Next::Use { has_permit } = next
            && let Some(line) = self.lines().get_mut(&id)
        {
            line.end_use(has_permit, self.clock.now());
        }
        next
    }

    fn wait(&self, id: u64, asking: Asking) -> Duration {
        let now = self.clock.now();
        let mut lines = self.lines();
        let wait = |jitter: f64| wait::wait(asking.age, asking.receives, jitter);
        lines
            .get_mut(&id)
            .map_or_else(|| wait(jitter()), |line| line.returns_after(now, wait))
    }

    fn note_unreachable(&self, id: u64) {
        let until = self.clock.now().saturating_add(UNREACHABLE_IS_BELIEVED);
        if let Some(line) = self.lines().get_mut(&id) {
            line.unreachable_until = until.ok();
        }
    }

    /// Reads what others found out, at most once a [`LOOK_INTERVAL`], for a message that might take no permit.
    async fn look(&self, key: &HashKey, id: u64, asking: Asking) {
        let now = self.clock.now();
        let account = {
            let mut lines = self.lines();
            let Some(line) = lines.get_mut(&id) else {
                return;
            };
            if !line.is_look_due(asking.is_alone, LOOK_INTERVAL, now) {
                return;
            }
            // Others go by what is known until the response is there.
            line.looked_at = Some(now);
            line.account.clone()
        };
        let partition_key = partition_key(&account);
        let read = Box::pin(self.permits.read(&partition_key));
        match asking.deadline.bound(REQUEST_TIMEOUT, read).await {
            Ok(Ok(item)) => self.observe(key, id, &item),
            Ok(Err(error)) => warn!(%error, "a login's connections were not read"),
            Err(_) => warn!("a login's connections were not read in time"),
        }
    }

    /// Takes in what the item says.
    fn observe(&self, key: &HashKey, id: u64, item: &Item) {
        let now = self.clock.now();
        let live = u32::try_from(self.permits.count(item)).unwrap_or(u32::MAX);
        let mut lines = self.lines();
        if let Some(line) = lines.get_mut(&id) {
            line.observe(LimitRecord::of_item(item, &line.account, key), live, now);
        }
    }

    fn set_in_front(&self, id: u64, is_in_front: bool) {
        if let Some(line) = self.lines().get_mut(&id) {
            line.is_in_front = is_in_front;
        }
    }

    async fn take_in_time(&self, key: &HashKey, id: u64, deadline: Deadline, time: Duration) {
        let take = Box::pin(self.take(key, id, deadline));
        if timeout(time, take).await.is_err() {
            warn!("a connection's permit was not taken in time");
            self.note_unreachable(id);
        }
    }

    /// Takes a permit for this process.
    async fn take(&self, key: &HashKey, id: u64, deadline: Deadline) {
        let now = self.clock.now();
        let Some((account, limit, held, count)) = self.lines().get(&id).and_then(|line| {
            let limit = line.limit_at(now)?;
            let count = line.to_take(limit, now);
            Some((line.account.clone(), limit, line.held.clone(), count))
        }) else {
            return;
        };
        let until = now.saturating_add(deadline.remaining() + EXPIRY_MARGIN);
        let until = until.unwrap_or(Timestamp::MAX);
        self.count_write();
        let partition_key = partition_key(&account);
        // Most are left to others, if nobody has those.
        let others = limit - limit / LEFT_TO_OTHERS;
        let others = usize::try_from(others).unwrap_or(usize::MAX);
        let taken = self
            .permits
            .take_several(&held, &partition_key, limit, until, |free| {
                count.min(free.saturating_sub(others) + 1)
            });
        let excess = match taken.await {
            Ok((slots, item)) => {
                self.observe(key, id, &item);
                let mut lines = self.lines();
                match lines.get_mut(&id) {
                    Some(line) if slots.is_empty() => {
                        line.note_full(limit, self.clock.now());
                        slots
                    }
                    Some(line) => line.hold(slots, self.clock.now()),
                    None => slots,
                }
            }
            Err(error) => {
                warn!(%error, "a connection's permit was not taken");
                self.note_unreachable(id);
                Vec::new()
            }
        };
        // Others found meanwhile that fewer are allowed.
        if !excess.is_empty() {
            self.count_write();
            let released = self.permits.release_several(&excess).await;
            if let Err(error) = released {
                warn!(%error, "a connection's permit was not released, and expires");
            }
        }
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connections(…)")
    }
}

fn partition_key(account: &str) -> String {
    format!("connections#{account}")
}
