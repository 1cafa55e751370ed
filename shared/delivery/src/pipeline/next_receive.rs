//! When the queue brings a message again some of whose deliveries have not ended.

use std::time::Duration;

use super::Requeue;
use crate::quota::MAX_RECEIVES;

/// Waits that are at most this many times as long as the shortest share a receive: each has its own jitter of up to a
/// quarter, and receives are the message's.
const SHARED_RECEIVE: f64 = 1.5;

/// How long a message waits that was received `receives` times by now; `None` where nothing was given back. As soon as one
/// of its deliveries may be tried, and a little later where others may be by then. Once it has been received as often as it
/// may be, when all of them may be tried, and end.
pub fn next_receive(reasons: impl IntoIterator<Item = Requeue>, receives: u32) -> Option<Duration> {
    let waits: Vec<_> = reasons.into_iter().map(|why| why.wait(receives)).collect();
    let shortest = waits.iter().min()?;
    let latest = if receives >= MAX_RECEIVES {
        Duration::MAX
    } else {
        shortest.mul_f64(SHARED_RECEIVE)
    };
    waits.into_iter().filter(|wait| *wait <= latest).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(seconds: [u64; 3], receives: u32) -> u64 {
        let waits = seconds.map(|seconds| Requeue::Deferred {
            after: Duration::from_secs(seconds),
        });
        next_receive(waits, receives).unwrap().as_secs()
    }

    #[test]
    fn deliveries_that_are_due_together_share_a_receive() {
        assert_eq!(next([60, 75, 200], 1), 75);
        assert_eq!(next([0, 60, 75], 1), 0);
        assert_eq!(next_receive([], 1), None);
    }

    #[test]
    fn the_last_receives_find_every_delivery_due() {
        assert_eq!(next([60, 75, 2_000], MAX_RECEIVES), 2_000);
    }

    #[test]
    fn no_wait_is_longer_than_the_queue_can_hold() {
        let day = 24 * 60 * 60;
        assert!(next([day, day, day], 1) < 43_200);
    }
}
