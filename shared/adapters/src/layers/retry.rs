//! Tries one provider again: exponential backoff with full jitter, inside the deadline.

use std::{future::Future, ops::ControlFlow, time::Duration};

use comms_core::{
    AfterRetries, Disposition, ProviderError, Receipt,
    backoff::{Backoff, jitter},
};

use super::{SendOnce, deadline::Bounded};
use crate::{
    deadline::{Deadline, MIN_ATTEMPT_DURATION},
    message::Message,
};

/// The waits between attempts, unless the provider asks for a longer one.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Whether and how often a provider is tried again after a transient failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: u8,
}

impl RetryPolicy {
    /// The wait before retry number `retry` (from 0). `None` if the provider is not tried again: the retries are used up, the
    /// error is not transient, or the deadline comes first. `random` returns a number from 0 to 1.
    pub fn wait_before(
        self,
        retry: u8,
        error: &ProviderError,
        deadline: Deadline,
        random: impl FnOnce() -> f64,
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
        let backoff = BACKOFF.with_full_jitter(retry.into(), random());
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

/// Tries an entry's provider again as its policy allows.
pub(crate) struct Retry<S, B> {
    pub(crate) inner: Bounded<S>,
    pub(crate) policy: RetryPolicy,
    /// Asked after each wait; a `Break` ends the attempts.
    pub(crate) proceed: B,
}

/// An entry's last failure.
pub(crate) struct Failed<N> {
    pub(crate) error: ProviderError,
    /// What ended the attempts early, if it was not the failure.
    pub(crate) interrupted_by: Option<N>,
}

impl<N> Failed<N> {
    const fn by(error: ProviderError) -> Self {
        Self {
            error,
            interrupted_by: None,
        }
    }
}

impl<S: SendOnce, B> Retry<S, B> {
    /// Sends `message` until the provider accepts it, the policy allows no further attempt, or `proceed` ends it.
    pub(crate) async fn send<N, F>(mut self, message: &Message) -> Result<Receipt, Failed<N>>
    where
        B: Fn() -> F,
        F: Future<Output = ControlFlow<N>>,
    {
        let mut retry = 0;
        loop {
            let error = match self.inner.send(message).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            let until = self.inner.until();
            match self.policy.wait_before(retry, &error, until, jitter) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(Failed::by(error)),
            }
            match (self.proceed)().await {
                ControlFlow::Break(reason) => {
                    return Err(Failed {
                        error,
                        interrupted_by: Some(reason),
                    });
                }
                ControlFlow::Continue(()) if until.remaining() < MIN_ATTEMPT_DURATION => {
                    return Err(Failed::by(error));
                }
                ControlFlow::Continue(()) => {}
            }
            retry += 1;
        }
    }
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
        let wait = |retry, random: f64| {
            policy.wait_before(retry, &error(Disposition::Transient), deadline, || random)
        };
        assert_eq!(wait(0, 1.0), Some(Duration::from_millis(200)));
        assert_eq!(wait(1, 1.0), Some(Duration::from_millis(400)));
        assert_eq!(wait(19, 1.0), Some(Duration::from_secs(5)));
        assert_eq!(wait(3, 0.0), Some(Duration::ZERO));
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
