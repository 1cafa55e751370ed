//! A clock that moves when a test says so.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use comms_core::Clock;
use jiff::Timestamp;

/// A clock that stands still until [`ManualClock::advance`].
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows 2026-01-01T00:00:00Z.
    pub fn new() -> Self {
        Self(Mutex::new(Timestamp::constant(1_767_225_600, 0)))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now += by;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
