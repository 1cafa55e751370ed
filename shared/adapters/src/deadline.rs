//! The time by which something must be over.

use std::{future::Future, time::Duration};

use futures_util::TryFutureExt as _;
use tokio::time::Instant;

/// The least time that an attempt at a provider is begun with.
pub const MIN_ATTEMPT_DURATION: Duration = Duration::from_secs(3);

/// A point in time at which all waiting ends, and whether a caller waits for the outcome until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Instant,
    is_queued: bool,
    others_follow: bool,
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
            others_follow: false,
        }
    }

    /// This deadline for a queued message, for whose outcome no caller waits.
    #[must_use]
    pub const fn queued(self) -> Self {
        Self {
            is_queued: true,
            ..self
        }
    }

    /// This deadline for a provider after which another is tried: a stage that hangs is given up in time for it.
    #[must_use]
    pub const fn with_others_to_follow(self) -> Self {
        Self {
            others_follow: true,
            ..self
        }
    }

    /// Whether the message comes from the queue.
    pub const fn is_queued(self) -> bool {
        self.is_queued
    }

    /// True if one stage may use all the time that is left: no caller waits for the outcome, and no other provider follows.
    pub const fn allows_slow_stages(self) -> bool {
        self.is_queued && !self.others_follow
    }

    /// The time that is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// This deadline earlier by `margin`, for work that has to follow.
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
