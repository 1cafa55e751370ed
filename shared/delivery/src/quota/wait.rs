//! How long a message waits on the queue for quota.

use std::{cmp::min, time::Duration};

use jiff::Timestamp;

use super::{Exhausted, windows::lasts};

/// The longest wait on the queue: a message may stay invisible for twelve hours after it was received (Amazon
/// SQS Developer Guide, "Visibility timeout").
pub(super) const MAX_WAIT_DURATION: Duration = Duration::from_hours(11);

/// How long a message waits for which nothing was left, when the queue has brought it `receives` times: until
/// the window ends, and then by `jitter`, from 0 to 1, somewhat longer, so that not everything comes back at that
/// instant. Each time up to twice as much longer: what is refused again and again is more than fits into one
/// window.
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

/// Over which time those are spread that come back after the queue has brought them `receives` times.
pub(crate) fn spread(first: Duration, most: Duration, receives: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(receives.saturating_sub(1));
    min(first.saturating_mul(doubled), most)
}
