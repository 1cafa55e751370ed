//! Exponential backoff: the one calculation of how long to wait before a retry.

use std::time::Duration;

/// Exponential backoff with a cap.
///
/// Pure: the caller brings the random number, so that its tests choose it. Both kinds of jitter are those of "Exponential
/// Backoff And Jitter" (AWS Architecture Blog).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// The first wait is `first`, each later one twice as long as the one before, and none is longer than `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// The wait before retry number `retry` (from 0), without jitter.
    pub fn without_jitter(self, retry: u32) -> Duration {
        self.first
            .saturating_mul(2_u32.saturating_pow(retry))
            .min(self.max)
    }

    /// A wait from zero to [`Backoff::without_jitter`]. `random` is a number from 0 to 1, such as [`jitter`] returns.
    pub fn with_full_jitter(self, retry: u32, random: f64) -> Duration {
        self.without_jitter(retry).mul_f64(random.clamp(0.0, 1.0))
    }

    /// A wait from half of [`Backoff::without_jitter`] to all of it, for a caller that must not retry without a pause.
    pub fn with_equal_jitter(self, retry: u32, random: f64) -> Duration {
        self.without_jitter(retry)
            .mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// A random number from 0 to 1, for waits; not for secrets.
pub fn jitter() -> f64 {
    fastrand::f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits = [0, 1, 2, 3, 4, 5, 31, 32, u32::MAX].map(|n| BACKOFF.without_jitter(n));
        assert_eq!(
            waits.map(|wait| wait.as_millis()),
            [200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000]
        );
    }

    #[test]
    fn full_jitter_spreads_a_wait_from_zero_to_all_of_it() {
        let waits = [-1.0, 0.0, 0.5, 1.0, 2.0].map(|random| BACKOFF.with_full_jitter(1, random));
        assert_eq!(waits.map(|wait| wait.as_millis()), [0, 0, 200, 400, 400]);
    }

    #[test]
    fn equal_jitter_leaves_half_of_a_wait_at_least() {
        let waits = [-1.0, 0.0, 0.5, 1.0, 2.0].map(|random| BACKOFF.with_equal_jitter(1, random));
        assert_eq!(
            waits.map(|wait| wait.as_millis()),
            [200, 200, 300, 400, 400]
        );
    }

    #[test]
    fn jitter_is_spread_over_its_range() {
        let drawn: Vec<f64> = (0..1_000).map(|_| jitter()).collect();
        assert!(drawn.iter().all(|x| (0.0..=1.0).contains(x)));
        assert!(drawn.iter().any(|x| *x < 0.5) && drawn.iter().any(|x| *x > 0.5));
    }
}
