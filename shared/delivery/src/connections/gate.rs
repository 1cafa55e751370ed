//! One delivery's way to a connection.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use comms_adapters::{Chain, smtp::ConnectionLimit};
use comms_core::HashKey;
use futures_util::future::{Either, select};
use tokio::time::{Instant, sleep, timeout};

use super::{Asking, ConnectionUse, Connections, FURTHER_AFTER};

/// The longest that a message that was sent waits for the permit of those behind it.
const PERMIT_TIMEOUT: Duration = Duration::from_millis(100);

/// The connection that one delivery may use. It has one at a time.
pub(crate) struct Gate<'a> {
    connections: &'a Connections,
    key: &'a HashKey,
    asking: Asking,
    used: Mutex<Option<Used<'a>>>,
    /// The login that had no connection, and when to ask again: nobody waits for the same one twice.
    refused: Mutex<Option<(u64, Duration)>>,
    waited: Arc<WaitedTime>,
}

/// The time that a delivery has waited for connections.
#[derive(Debug, Default)]
pub(crate) struct WaitedTime(Mutex<Waited>);

#[derive(Debug, Default, Clone, Copy)]
struct Waited {
    before: Duration,
    since: Option<Instant>,
}

impl WaitedTime {
    /// With the wait that is not over yet.
    pub(crate) fn so_far(&self) -> Duration {
        let waited = *self.waited();
        waited.before + waited.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    async fn during<F: Future>(&self, wait: F) -> F::Output {
        self.waited().since = Some(Instant::now());
        let output = wait.await;
        let before = self.so_far();
        *self.waited() = Waited {
            before,
            since: None,
        };
        output
    }

    fn waited(&self) -> MutexGuard<'_, Waited> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Used<'a> {
    id: u64,
    connection: Option<ConnectionUse<'a>>,
}

impl<'a> Gate<'a> {
    pub(crate) fn new(connections: &'a Connections, key: &'a HashKey, asking: Asking) -> Self {
        Self {
            connections,
            key,
            asking,
            used: Mutex::default(),
            refused: Mutex::default(),
            waited: Arc::default(),
        }
    }

    /// The time that this delivery has waited for connections.
    pub(crate) fn waited(&self) -> Arc<WaitedTime> {
        self.waited.clone()
    }

    /// Reserves a connection of the login, or says when to ask again.
    pub(crate) async fn connect(&self, limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        {
            let mut used = self.used();
            if used.as_ref().is_some_and(|used| used.id == limit.id()) {
                return Ok(());
            }
            *used = None;
        }
        if let Some((id, after)) = *self.refused()
            && id == limit.id()
        {
            return Err(after);
        }
        let begun = self.begin(limit, self.asking).await;
        if let Err(after) = begun {
            *self.refused() = Some((limit.id(), after));
        }
        begun
    }

    /// The same after the server refused a connection for their number.
    pub(crate) async fn connect_again(&self, limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        let had_permit = {
            let used = self.used().take();
            let connection = used.and_then(|used| used.connection);
            connection.is_some_and(|connection| connection.has_permit)
        };
        let deadline = self.asking.deadline;
        let publish = self
            .connections
            .publish_seen(self.key, limit, deadline, had_permit);
        publish.await;
        // A queued message waits for the next permit with those of its process. Somebody waits for an immediate one.
        let is_refused = had_permit && !self.asking.is_queued;
        if is_refused || self.asking.has_waited_enough() {
            return Err(self.connections.wait(limit.id(), self.asking));
        }
        let asking = Asking {
            is_alone: false,
            ..self.asking
        };
        self.begin(limit, asking).await
    }

    /// Whether a message without a connection waits for one.
    pub(crate) const fn waits(&self) -> bool {
        self.asking.is_queued && !self.asking.has_waited_enough()
    }

    /// Sends, and sees to it that messages behind a slow one get a connection of their own, and that it holds none that
    /// others need.
    pub(crate) async fn watch<F: Future>(&self, sending: F) -> F::Output {
        let mut sending = pin!(sending);
        loop {
            let pause = pin!(sleep(FURTHER_AFTER));
            if let Either::Left((sent, _)) = select(sending.as_mut(), pause).await {
                return sent;
            }
            let used = self.used().as_ref().map(|used| used.id);
            let deadline = self.asking.deadline;
            let change = pin!(async {
                Box::pin(self.connections.release_idle(deadline)).await;
                if let Some(id) = used {
                    self.connections.widen(self.key, id, deadline).await;
                }
            });
            if let Either::Left((sent, change)) = select(sending.as_mut(), change).await {
                // A permit that was written is to be known here, and released; one that is not expires. What was
                // accepted waits to be recorded.
                let _ = timeout(PERMIT_TIMEOUT, change).await;
                return sent;
            }
        }
    }

    /// Tells other processes what the servers of a chain did.
    pub(crate) async fn publish(&self, chain: &Chain) {
        for entry in &chain.entries {
            if let Some(limit) = entry.provider.connection_limit() {
                self.connections
                    .publish(self.key, limit, self.asking.deadline)
                    .await;
            }
        }
    }

    async fn begin(&self, limit: &Arc<ConnectionLimit>, asking: Asking) -> Result<(), Duration> {
        let begun = Box::pin(self.connections.begin(self.key, limit, asking));
        let connection = self.waited.during(begun).await?;
        *self.used() = Some(Used {
            id: limit.id(),
            connection,
        });
        Ok(())
    }

    fn refused(&self) -> MutexGuard<'_, Option<(u64, Duration)>> {
        // Nothing panics while the lock is held.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> MutexGuard<'_, Option<Used<'a>>> {
        // Nothing panics while the lock is held.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
