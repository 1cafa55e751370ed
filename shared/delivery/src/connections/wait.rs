//! How long a queued message waits that found no connection.

use std::time::Duration;

/// From this receive on a message is sent without a permit: the server itself says what it thinks of it. The queue's
/// own limit is 100, of which some are for what the server then says.
pub const MAX_RECEIVES: u32 = 80;

/// The wait is this part of the time that the message has been on the queue: so late are the last of many at most.
const PART_OF_AGE: u32 = 16;
const MIN_WAIT: Duration = Duration::from_secs(1);
/// The longest wait until the message was received [`PATIENT_RECEIVES`] times; later it grows with each receive.
const MAX_WAIT: Duration = Duration::from_secs(12);
const PATIENT_RECEIVES: u32 = 40;
const GROWTH: f64 = 1.1;
/// No wait is longer.
const MAX_WAIT_DURATION: Duration = Duration::from_mins(10);

/// The wait of a message that has been on the queue for `age` and was received `receives` times; `jitter` from 0 to 1.
///
/// The part of `age` keeps a backlog's messages from being received more often than there are connections for, and the
/// last of them from waiting for nothing. [`MAX_RECEIVES`] last for more than an hour.
pub(super) fn wait(age: Duration, receives: u32, jitter: f64) -> Duration {
    let wait = (age / PART_OF_AGE).clamp(MIN_WAIT, MAX_WAIT);
    let late = receives.saturating_sub(PATIENT_RECEIVES).min(MAX_RECEIVES);
    let wait = if late == 0 {
        wait
    } else {
        MAX_WAIT.mul_f64(GROWTH.powi(i32::try_from(late).unwrap_or(0)))
    };
    wait.min(MAX_WAIT_DURATION).mul_f64(0.5 + jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The receives of a message and the time on the queue when `is_over`, without jitter.
    fn wait_until(is_over: impl Fn(u32, Duration) -> bool) -> (u32, Duration) {
        let (mut receives, mut age) = (1, Duration::ZERO);
        while !is_over(receives, age) {
            age += wait(age, receives, 0.5);
            receives += 1;
        }
        (receives, age)
    }

    #[test]
    fn last_messages_of_a_backlog_are_late_by_a_small_part_of_its_time() {
        for age in [16, 60, 180] {
            let age = Duration::from_secs(age);
            assert!(wait(age, 20, 0.5) <= age / 16, "{age:?}");
        }
        assert_eq!(wait(Duration::ZERO, 1, 0.5), MIN_WAIT);
    }

    #[test]
    fn receives_last_for_hours() {
        let (_, age) = wait_until(|receives, _| receives >= MAX_RECEIVES);
        assert!(age > Duration::from_hours(1), "{age:?}");
        let (receives, _) = wait_until(|_, age| age >= Duration::from_mins(5));
        assert!(receives < 60, "{receives}");
    }

    #[test]
    fn waits_are_spread_and_never_longer_than_the_longest() {
        let shortest = wait(Duration::ZERO, 1, 0.0);
        let longest = wait(Duration::MAX, u32::MAX, 1.0);
        assert_eq!(shortest, Duration::from_millis(500));
        assert_eq!(longest, MAX_WAIT_DURATION.mul_f64(1.5));
    }
}
