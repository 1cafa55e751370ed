//! How many sockets to providers a process has open at once: one ceiling for all clinics, and fair
//! between them.
//!
//! An SMTP connection holds a place from before it is made until it is closed, idle or not; an HTTP
//! request holds one while it is in flight. Who finds no place free closes the SMTP connection that
//! has been idle for the longest, whoever's it is; where none is idle, it waits in the order of
//! arrival.
//!
//! Nobody waits behind more SMTP messages of another provider entry than that may have connections: an
//! entry's message first takes one of the entry's own slots, and there are no more of those. And a
//! connection is not kept for its own entry's next message while somebody else waits. HTTP requests have
//! no such slots: there are never more of them than an invocation has deliveries at once.
//!
//! There is no task and no timer behind it, and the ceiling knows the pools by weak references only: a
//! provider that is dropped takes its connections with it, and their places are free.

mod statistics;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

pub(crate) use self::statistics::Retirement;
pub use self::statistics::{Retirements, SocketStatistics};
use crate::deadline::{Deadline, Elapsed};

/// Sockets to providers that a process has open at once, unless it is told otherwise. A Lambda has
/// 1,024 file descriptors (AWS Lambda Developer Guide, "Lambda quotas"), of which the AWS SDK, DNS
/// and the idle connections of the HTTP client need some as well.
pub const CEILING: usize = 256;

/// The longest that is waited for one's turn: then the next provider is to have its own.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// What must be left of the deadline for a message to be started on. A body that our own deadline cuts
/// off may have been accepted; one that was not begun has not.
pub(crate) const MIN_MESSAGE_DURATION: Duration = Duration::from_secs(2);

/// The open sockets of a process. Clones share them.
#[derive(Clone)]
pub struct Sockets(Arc<Inner>);

struct Inner {
    ceiling: usize,
    places: Arc<Semaphore>,
    pools: Mutex<Vec<Weak<dyn IdleConnections>>>,
    /// Those who wait for a place, or are about to.
    queue: AtomicUsize,
    /// Tells which of two connections was used last, whatever the clock does.
    uses: AtomicU64,
    statistics: Mutex<SocketStatistics>,
}

/// One socket's place under the ceiling; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketPermit {
    _permit: OwnedSemaphorePermit,
}

/// Connections that are kept, of one pool.
pub(crate) trait IdleConnections: Send + Sync {
    /// When the one that was used the longest ago was last used, in [`Sockets::next_use`]'s count.
    fn least_recent_use(&self) -> Option<u64>;
    /// Closes that one. Whether there was one.
    fn close_least_recently_used(&self) -> bool;
    /// Closes those that must not outlive the invocation. Where others wait for their places, the future ends when the
    /// server has closed them too, or after `limit`.
    fn close_at_invocation_end(&self, limit: Duration) -> Option<BoxFuture<'static, ()>>;
}

impl Sockets {
    /// At most `ceiling` at once, at least one.
    pub fn new(ceiling: usize) -> Self {
        let ceiling = ceiling.clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            ceiling,
            places: Arc::new(Semaphore::new(ceiling)),
            pools: Mutex::default(),
            queue: AtomicUsize::new(0),
            uses: AtomicU64::new(0),
            statistics: Mutex::default(),
        }))
    }

    /// How it stands now, with what was counted since the statistics were last taken.
    pub fn statistics(&self) -> SocketStatistics {
        let statistics = self
            .0
            .statistics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.complete(*statistics)
    }

    /// The same, and the counts begin anew.
    pub fn take_statistics(&self) -> SocketStatistics {
        let mut statistics = self
            .0
            .statistics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = self.complete(*statistics);
        statistics.begin_anew();
        taken
    }

    fn complete(&self, statistics: SocketStatistics) -> SocketStatistics {
        let held = self
            .0
            .ceiling
            .saturating_sub(self.0.places.available_permits());
        SocketStatistics {
            held: u64::try_from(held).unwrap_or(u64::MAX),
            ..statistics
        }
    }

    /// Notes something. Under a lock rather than in atomics of their own, so that the counts of one look
    /// agree with each other.
    pub(crate) fn count(&self, change: impl FnOnce(&mut SocketStatistics)) {
        let mut statistics = self
            .0
            .statistics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut statistics);
    }

    /// Makes a pool's idle connections known, for as long as the pool lives.
    pub(crate) fn register(&self, pool: Weak<dyn IdleConnections>) {
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }

    /// A number that is higher with every use of a connection.
    pub(crate) fn next_use(&self) -> u64 {
        self.0.uses.fetch_add(1, SeqCst)
    }

    /// A place for a socket that is closed after its one use.
    pub(crate) async fn place(&self, deadline: Deadline) -> Result<SocketPermit, Elapsed> {
        let own = AtomicUsize::new(0);
        let _queueing = self.queue(&own);
        match self.free_place() {
            Some(place) => Ok(place),
            None => self.wait(deadline, self.place_in_turn()).await,
        }
    }

    /// Joins those who wait for a place; `own` counts those of the same pool. To be joined before
    /// [`Sockets::free_place`]: who puts a connection back afterwards sees that somebody waits, and who
    /// has put one back before has it closed.
    pub(crate) fn queue<'a>(&'a self, own: &'a AtomicUsize) -> Queueing<'a> {
        // The whole counts one before the part does, so that the difference is never too small.
        self.0.queue.fetch_add(1, SeqCst);
        own.fetch_add(1, SeqCst);
        Queueing { all: self, own }
    }

    /// Whether anybody waits for a place beside those whom `own` counts. Where a place is free, nobody
    /// does who has not been given one.
    pub(crate) fn others_wait(&self, own: &AtomicUsize) -> bool {
        let own = own.load(SeqCst);
        self.0.queue.load(SeqCst) > own && self.0.places.available_permits() == 0
    }

    /// A place without waiting: a free one, or that of an idle connection, which is closed. Does not go
    /// before those who wait: a place that becomes free is theirs at once.
    pub(crate) fn free_place(&self) -> Option<SocketPermit> {
        loop {
            if let Ok(permit) = self.0.places.clone().try_acquire_owned() {
                return Some(SocketPermit { _permit: permit });
            }
            if !self.close_least_recently_used() {
                return None;
            }
        }
    }

    /// A place when it is one's turn.
    pub(crate) async fn place_in_turn(&self) -> SocketPermit {
        match self.0.places.clone().acquire_owned().await {
            Ok(permit) => SocketPermit { _permit: permit },
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for one's `turn`, not longer than [`TURN_TIMEOUT`] nor so long that it would be of no use, and
    /// counts the wait.
    pub(crate) async fn wait<T>(
        &self,
        deadline: Deadline,
        turn: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let _waiting = Waiting::new(self);
        let turned = deadline
            .less(MIN_MESSAGE_DURATION)
            .bound(TURN_TIMEOUT, turn)
            .await;
        if turned.is_err() {
            self.count(|statistics| statistics.timed_out += 1);
        }
        turned
    }

    /// Closes the idle connections that must not outlive the invocation: a frozen process cannot notice that somebody
    /// else needs its place at the server. Each gets a QUIT. Those of logins whose connections are counted over all
    /// processes are waited for until the server has closed them too, for `limit` at most.
    pub async fn close_at_invocation_end(&self, limit: Duration) {
        let pools = self.pools();
        let closes = pools
            .iter()
            .filter_map(|pool| pool.close_at_invocation_end(limit));
        join_all(closes).await;
    }

    /// The pools' own locks are taken without the one of their list.
    fn pools(&self) -> Vec<Arc<dyn IdleConnections>> {
        let pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    fn close_least_recently_used(&self) -> bool {
        let pools = self.pools();
        loop {
            let least_recent = pools
                .iter()
                .filter_map(|pool| Some((pool.least_recent_use()?, pool)))
                .min_by_key(|(last_use, _)| *last_use);
            match least_recent {
                None => return false,
                Some((_, pool)) if pool.close_least_recently_used() => return true,
                // Somebody took it meanwhile.
                Some(_) => {}
            }
        }
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Self::new(CEILING)
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets")
            .field("ceiling", &self.0.ceiling)
            .finish_non_exhaustive()
    }
}

/// One who waits for a place; until this is dropped.
pub(crate) struct Queueing<'a> {
    all: &'a Sockets,
    own: &'a AtomicUsize,
}

impl Drop for Queueing<'_> {
    fn drop(&mut self) {
        self.own.fetch_sub(1, SeqCst);
        self.all.0.queue.fetch_sub(1, SeqCst);
    }
}

/// A wait that is counted, also where it is given up.
struct Waiting<'a> {
    sockets: &'a Sockets,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn new(sockets: &'a Sockets) -> Self {
        sockets.count(|statistics| statistics.waiting += 1);
        Self {
            sockets,
            since: Instant::now(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let time = self.since.elapsed();
        self.sockets.count(|statistics| {
            statistics.waiting -= 1;
            statistics.add_wait(time);
        });
    }
}
