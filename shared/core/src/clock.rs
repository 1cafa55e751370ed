//! What time it is. Wall-clock time throughout: a Lambda is frozen between invocations, and a
//! monotonic clock may stand still meanwhile.

use jiff::Timestamp;

/// A source of the present time.
pub trait Clock: Send + Sync {
    /// The present time.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
