//! Connections of one provider entry and settings version, kept for the next message.
//!
//! Correct without timers or tasks of its own, since a Lambda is frozen between invocations: whether
//! a connection is still good is looked at when it is taken out.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use comms_core::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::connection::{Cause, Connection, Failure, Stage};
use crate::deadline::{Deadline, Elapsed};

/// Messages that a connection carries before it is replaced. Some servers close after 100.
const MESSAGES_PER_CONNECTION: u32 = 100;
/// The longest that is waited for the right to hold a connection: then the next provider is to have its
/// turn.
const SLOT_TIME: Duration = Duration::from_secs(10);
/// How long a connection may be idle: servers wait 5 minutes at least (RFC 5321 section 4.5.3.2.7).
const IDLE_TIME: SignedDuration = SignedDuration::from_secs(290);

pub(super) struct Pool {
    idle: Mutex<Vec<(Connection, Timestamp)>>,
    slots: Semaphore,
    clock: Arc<dyn Clock>,
}

/// The right to hold one connection.
pub(super) type Slot<'a> = SemaphorePermit<'a>;

impl Pool {
    pub(super) fn new(most: u8, clock: Arc<dyn Clock>) -> Self {
        Self {
            idle: Mutex::default(),
            slots: Semaphore::new(usize::from(most.max(1))),
            clock,
        }
    }

    /// Waits for the right to hold one more connection.
    pub(super) async fn slot(&self, deadline: Deadline) -> Result<Slot<'_>, Failure> {
        match deadline.bound(SLOT_TIME, self.slots.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(Failure {
                stage: Stage::Pool,
                cause: Cause::Local,
            }),
            Err(Elapsed) => Err(Failure {
                stage: Stage::Pool,
                cause: Cause::TimedOut,
            }),
        }
    }

    /// A connection that was put back last and still looks good; the others on the way are closed.
    pub(super) fn take(&self, _slot: &Slot<'_>) -> Option<Connection> {
        let now = self.clock.now();
        loop {
            let (mut connection, since) = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()?;
            if is_fresh(since, now) && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection that is in step for the next message, unless it has carried enough.
    pub(super) fn put_back(&self, connection: Connection, _slot: &Slot<'_>) {
        let now = self.clock.now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The last put back is the first taken, so those below it may never be looked at again.
        idle.retain(|(_, since)| is_fresh(*since, now));
        if connection.messages() < MESSAGES_PER_CONNECTION {
            idle.push((connection, now));
        }
    }
}

fn is_fresh(since: Timestamp, now: Timestamp) -> bool {
    let idle = now.duration_since(since);
    // A clock that went backwards proves nothing about age.
    idle >= SignedDuration::ZERO && idle < IDLE_TIME
}
