//! How long a message waits on the queue for quota.

use std::{cmp::min, time::Duration};

use comms_core::backoff::Backoff;
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
    let spread = Backoff::new(min(period, Duration::from_mins(15)), most);
    let extra = spread.with_full_jitter(receives.saturating_sub(1), jitter);
    min(until + extra, MAX_WAIT_DURATION)
}
