//! One delivery's way to a connection.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use comms_adapters::{Chain, smtp::ConnectionLimit};
use comms_core::HashKey;
use futures_util::future::{Either, select};
use tokio::time::{sleep, timeout};

use super::{Asking, ConnectionUse, Connections, FURTHER_AFTER};

/// The longest that a message that was sent waits for the permit of those behind it.
const PERMIT_TIME: Duration = Duration::from_millis(100);

/// The connection that one delivery may use. It has one at a time.
pub(crate) struct Gate<'a> {
    connections: &'a Connections,
    key: &'a HashKey,
    asking: Asking,
    used: Mutex<Option<Used<'a>>>,
    /// The login that had no connection, and when to ask again: nobody waits for the same one twice.
    refused: Mutex<Option<(u64, Duration)>>,
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
        }
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
        self.connections
            .publish(self.key, limit, self.asking.deadline)
            .await;
        if had_permit || self.asking.has_waited_enough() {
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

    /// Sends, and sees to it that messages behind a slow one get a connection of their own.
    pub(crate) async fn watch<F: Future>(&self, sending: F) -> F::Output {
        let mut sending = pin!(sending);
        loop {
            let pause = pin!(sleep(FURTHER_AFTER));
            if let Either::Left((sent, _)) = select(sending.as_mut(), pause).await {
                return sent;
            }
            let used = self.used().as_ref().map(|used| used.id);
            let Some(id) = used else {
                continue;
            };
            let widen = pin!(self.connections.widen(self.key, id, self.asking.deadline));
            if let Either::Left((sent, widen)) = select(sending.as_mut(), widen).await {
                // A permit that was written is to be known here, and released; one that is not expires. What was
                // accepted waits to be recorded.
                let _ = timeout(PERMIT_TIME, widen).await;
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
        let connection = begun.await?;
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
