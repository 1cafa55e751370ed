//! Deferral: how long a message waits on the queue before it is tried again.

use std::time::Duration;

use comms_core::backoff::{Backoff, jitter};

/// How often a delivery is deferred because no provider could take it. With the waits below that is
/// two hours, after which it has failed.
pub const MAX_DEFERRALS: u32 = 12;

/// The waits, unless a provider asks for a longer one.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_mins(15));
/// No wait is longer than this whoever asks: a message may stay invisible for twelve hours after it
/// was received (Amazon SQS Developer Guide, "Visibility timeout").
pub(crate) const MAX_DEFERRAL_DURATION: Duration = Duration::from_hours(11);

/// The wait after so many, from 0, doubling from half a minute to a quarter of an hour.
pub fn backoff(waits: u32) -> Duration {
    BACKOFF.without_jitter(waits)
}

/// The wait before the next try of a delivery that was deferred `deferrals` times before, where the
/// provider asked to be left alone for `asked`; in whole seconds. Up to a quarter longer than it has to
/// be, so that what was refused together is not redelivered together.
pub fn before_next_try(deferrals: u32, asked: Option<Duration>) -> Duration {
    let wait = backoff(deferrals).max(asked.unwrap_or_default());
    let wait = wait
        .mul_f64(1.0 + jitter() / 4.0)
        .min(MAX_DEFERRAL_DURATION);
    Duration::from_secs(
        wait.as_millis()
            .div_ceil(1_000)
            .try_into()
            .unwrap_or(MAX_DEFERRAL_DURATION.as_secs()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_quarter_of_an_hour_and_are_two_hours_together() {
        let waits: Vec<_> = (0..MAX_DEFERRALS).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(
            waits,
            [30, 60, 120, 240, 480, 900, 900, 900, 900, 900, 900, 900]
        );
        assert_eq!(backoff(u32::MAX), Duration::from_mins(15));
    }

    #[test]
    fn no_provider_is_asked_again_before_it_said_and_no_wait_is_longer_than_the_queue_can_hold() {
        for deferrals in [0, 3, MAX_DEFERRALS] {
            for asked in [0, 10, 3_600, 1_000_000] {
                let wait = before_next_try(deferrals, Some(Duration::from_secs(asked)));
                assert!(
                    wait >= Duration::from_secs(asked).min(MAX_DEFERRAL_DURATION),
                    "{wait:?}"
                );
                assert!(
                    (backoff(0)..=MAX_DEFERRAL_DURATION).contains(&wait),
                    "{wait:?}"
                );
            }
        }
    }
}
