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
mod item;
mod login;
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
use comms_core::backoff::jitter;
use comms_core::{Clock, HashKey};
use jiff::SignedDuration;
use tokio::time::sleep;

use crate::{permits::Permits, slow_workers::WorkerShares};

pub(crate) use gate::{Gate, WaitedTime};
use login::{LoginState, Next};
pub use record::{FIRST_LIMIT, LimitRecord, LimitState};
pub use wait::MAX_RECEIVES;

/// The longest that one request to DynamoDB may delay a message.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// The same for a queued message, which nobody waits for.
const QUEUED_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long all permits are believed to be taken.
const FULL_IS_BELIEVED: SignedDuration = SignedDuration::from_millis(200);
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
    logins: Mutex<HashMap<u64, LoginState>>,
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
        if let Some(login) = self.connections.logins().get_mut(&self.id) {
            login.end_use(self.has_permit, now);
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
        if let Some(login) = self.connections.logins().get_mut(&self.id) {
            login.waiting = login.waiting.saturating_sub(1);
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
            logins: Mutex::default(),
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
            let logins = self.logins();
            let login = logins.get(&id).filter(|login| login.widens(now));
            login.map(LoginState::taking)
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

    fn logins(&self) -> MutexGuard<'_, HashMap<u64, LoginState>> {
        // Nothing panics while the lock is held.
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins those who wait. `None` if the login cannot be named.
    fn wait_in_line(&self, key: &HashKey, limit: &Arc<ConnectionLimit>) -> Option<Waiting<'_>> {
        let id = limit.id();
        let mut logins = self.logins();
        if let Some(login) = logins.get_mut(&id) {
            login.waiting += 1;
        } else {
            let mut login = LoginState::new(limit.clone(), limit.account(key)?);
            login.waiting = 1;
            logins.insert(id, login);
        }
        drop(logins);
        Some(Waiting {
            connections: self,
            id,
        })
    }

    fn next(&self, id: u64, asking: Asking) -> Next {
        let now = self.clock.now();
        let mut logins = self.logins();
        logins
            .get_mut(&id)
            .map_or(Next::Full { is_growing: false }, |login| {
                if asking.has_waited_enough() {
                    login.use_freely(now)
                } else {
                    login.next(asking, now)
                }
            })
    }

    /// The same, where a use is not begun.
    fn next_without_use(&self, id: u64, asking: Asking) -> Next {
        let next = self.next(id, asking);
        if let Next::Use { has_permit } = next
            && let Some(login) = self.logins().get_mut(&id)
        {
            login.end_use(has_permit, self.clock.now());
        }
        next
    }

    fn wait(&self, id: u64, asking: Asking) -> Duration {
        let now = self.clock.now();
        let mut logins = self.logins();
        let wait = |jitter: f64| wait::wait(asking.age, asking.receives, jitter);
        logins
            .get_mut(&id)
            .map_or_else(|| wait(jitter()), |login| login.returns_after(now, wait))
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
