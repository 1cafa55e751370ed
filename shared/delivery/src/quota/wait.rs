//! How long a message waits on the queue for quota.

use std::{cmp::min, time::Duration};

use jiff::Timestamp;

use super::{Exhausted, windows::lasts};

/// The longest wait on the queue: a message may stay invisible for twelve hours after it was received (Amazon
/// SQS Developer Guide, "Visibility timeout").
pub(super) const MAX_WAIT_DURATION: Duration = Duration::from_hours(11);

/// How long a message without quota waits after `receives` receives: until the window ends, and longer by `jitter` (0 to
/// 1), so that messages do not return at once. The extra time doubles with each receive, since a message that is refused
/// often does not fit into one window.
pub fn wait_for(exhausted: &Exhausted, receives: u32, now: Timestamp, jitter: f64) -> Duration {
    let period = Duration::from_secs(exhausted.period.seconds().unsigned_abs());
    let most = if lasts(exhausted.period) {
        Duration::from_hours(4)
    } else {
        Duration::from_mins(30)
    };
    let until = Duration::try_from(exhausted.until.duration_since(now)).unwrap_or_default();
    let first = min(period, Duration::from_mins(15));
    min(
        until + spread(first, most, receives).mul_f64(jitter),
        MAX_WAIT_DURATION,
    )
}

/// The time over which messages are spread after `receives` receives.
pub(crate) fn spread(first: Duration, most: Duration, receives: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(receives.saturating_sub(1));
    min(first.saturating_mul(doubled), most)
}
