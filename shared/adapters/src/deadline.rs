//! The time by which something must be over.

use std::{future::Future, time::Duration};

use futures_util::TryFutureExt as _;
use tokio::time::Instant;

/// A point in time after which nothing more is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The deadline, or a stage's own limit, passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// `time` from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// What is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The same less a margin for what has to be done afterwards.
    #[must_use]
    pub fn less(self, margin: Duration) -> Self {
        Self(self.0.checked_sub(margin).unwrap_or(self.0))
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
