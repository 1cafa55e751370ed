//! The time by which something must be over.

use std::{future::Future, time::Duration};

use futures_util::TryFutureExt as _;
use tokio::time::Instant;

/// A point in time after which nothing more is waited for, and whether somebody waits for the outcome until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Instant,
    is_queued: bool,
}

/// The deadline, or a stage's own limit, passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// `time` from now, while a caller waits for the outcome: a stage of the conversation with a provider gives up early.
    pub fn after(time: Duration) -> Self {
        Self {
            at: Instant::now() + time,
            is_queued: false,
        }
    }

    /// The same of a message from the queue, which nobody waits for: a stage may use all the time that there is.
    #[must_use]
    pub const fn queued(self) -> Self {
        Self {
            is_queued: true,
            ..self
        }
    }

    /// Whether the message comes from the queue.
    pub const fn is_queued(self) -> bool {
        self.is_queued
    }

    /// What is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The same less a margin for what has to be done afterwards.
    #[must_use]
    pub fn less(self, margin: Duration) -> Self {
        Self {
            at: self.at.checked_sub(margin).unwrap_or(self.at),
            ..self
        }
    }

    /// Waits for `work` until the deadline, and not longer than `limit`, both counted from now.
    pub fn bound<F: Future>(
        self,
        limit: Duration,
        work: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> {
        // Not an async function, which would have room for the work twice: as it was given, and as it is waited for.
        tokio::time::timeout(limit.min(self.remaining()), work).map_err(|_| Elapsed)
    }
}
