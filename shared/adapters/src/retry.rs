//! Trying one provider again: exponential backoff with full jitter, inside the deadline.

use std::time::Duration;

use comms_core::{AfterRetries, Disposition, ProviderError};

use crate::deadline::Deadline;

/// The first wait is up to this long; each later one up to twice as long as the one before.
const BASE: Duration = Duration::from_millis(200);
/// No wait is longer than this, unless the provider asks for it.
const CAP: Duration = Duration::from_secs(5);
/// What an attempt needs at least to be worth starting.
pub const MIN_ATTEMPT_DURATION: Duration = Duration::from_secs(3);

/// Whether and how often a provider is tried again after a transient failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: u8,
}

impl RetryPolicy {
    /// How long to wait before retry number `retry` (from 0), or `None` for not at all: the retries
    /// are used up, the error is none that passes, or the deadline comes first.
    pub fn wait_before(
        self,
        retry: u8,
        error: &ProviderError,
        deadline: Deadline,
        jitter: impl FnOnce() -> f64,
    ) -> Option<Duration> {
        let retries = match error.after_retries {
            AfterRetries::NextProvider | AfterRetries::Later => self.retries,
            AfterRetries::GiveUp => 1,
            AfterRetries::WhenConnectionFree => 0,
        };
        match error.disposition {
            Disposition::Transient if retry < retries => {}
            Disposition::Transient
            | Disposition::ProviderDown
            | Disposition::Ambiguous
            | Disposition::Final => return None,
        }
        let ceiling = BASE.saturating_mul(1 << retry.min(10)).min(CAP);
        let backoff = ceiling.mul_f64(jitter().clamp(0.0, 1.0));
        let asked = match error.after_retries {
            AfterRetries::NextProvider
            | AfterRetries::WhenConnectionFree
            | AfterRetries::GiveUp => error.retry_after,
            // Each refusal makes the limit of one recipient last four times as long (Meta, error codes,
            // 131056).
            AfterRetries::Later => error
                .retry_after
                .map(|asked| asked.saturating_mul(4_u32.saturating_pow(retry.into()))),
        };
        let wait = asked.map_or(backoff, |asked| asked.max(backoff));
        (wait + MIN_ATTEMPT_DURATION < deadline.remaining()).then_some(wait)
    }
}

/// A random number from 0 to 1 for [`RetryPolicy`]; not for secrets.
pub fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // Every state is keyed anew by the standard library, from the system's random numbers.
    let bits = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(u32::MAX);
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use comms_core::ErrorKind;

    use super::*;

    fn error(disposition: Disposition) -> ProviderError {
        ProviderError::new(disposition, ErrorKind::Unavailable, "test")
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_one_recipient_is_waited_for_four_times_as_long_each_time() {
        let policy = RetryPolicy { retries: 3 };
        let deadline = Deadline::after(Duration::from_mins(10));
        let limited = error(Disposition::Transient)
            .with_retry_after(Duration::from_secs(6))
            .after_retries(AfterRetries::Later);
        let waits = [0, 1, 2].map(|retry| policy.wait_before(retry, &limited, deadline, || 0.0));
        assert_eq!(
            waits,
            [6, 24, 96].map(|seconds| Some(Duration::from_secs(seconds)))
        );
        let once = error(Disposition::Transient).after_retries(AfterRetries::GiveUp);
        for retries in [0, 3] {
            let policy = RetryPolicy { retries };
            let again = |retry| policy.wait_before(retry, &once, deadline, || 0.0).is_some();
            assert_eq!([again(0), again(1)], [true, false]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_transient_errors_are_tried_again_and_only_so_often() {
        let policy = RetryPolicy { retries: 2 };
        let deadline = Deadline::after(Duration::from_mins(1));
        for disposition in Disposition::ALL {
            let again = |retry| {
                policy
                    .wait_before(retry, &error(disposition), deadline, || 1.0)
                    .is_some()
            };
            let transient = disposition == Disposition::Transient;
            assert_eq!(
                [again(0), again(1), again(2)],
                [transient, transient, false]
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_are_capped_and_spread() {
        let policy = RetryPolicy { retries: 20 };
        let deadline = Deadline::after(Duration::from_mins(10));
        let wait = |retry, jitter: f64| {
            policy.wait_before(retry, &error(Disposition::Transient), deadline, || jitter)
        };
        assert_eq!(wait(0, 1.0), Some(Duration::from_millis(200)));
        assert_eq!(wait(1, 1.0), Some(Duration::from_millis(400)));
        assert_eq!(wait(19, 1.0), Some(CAP));
        assert_eq!(wait(3, 0.0), Some(Duration::ZERO));
        assert!(
            (0..1000)
                .map(|_| jitter())
                .all(|x| (0.0..=1.0).contains(&x))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honoured_when_it_fits_the_deadline() {
        let policy = RetryPolicy { retries: 2 };
        let mut asked = error(Disposition::Transient);
        asked.retry_after = Some(Duration::from_secs(7));
        let wait = |seconds| {
            policy.wait_before(
                0,
                &asked,
                Deadline::after(Duration::from_secs(seconds)),
                || 0.5,
            )
        };
        assert_eq!(wait(20), Some(Duration::from_secs(7)));
        assert_eq!(wait(8), None);
    }
}
