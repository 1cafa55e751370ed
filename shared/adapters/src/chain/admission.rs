//! Whether an entry may be tried now: by its account's rate limit, and while it refuses its credentials.

use std::time::Duration;

use super::ChainEntry;
use crate::{
    deadline::{Deadline, MIN_ATTEMPT_DURATION},
    health::Candidate,
    message::Message,
    rate_limiter::{Admission, MAX_WAIT_DURATION, ProbePermit, RateLimiter},
};

/// An entry refuses its credentials, and another process has just tried it.
pub(super) struct Refused;

impl ChainEntry {
    /// Waits for a permit of the account's rate limit. An error is the time until one, where that is longer than
    /// [`MAX_WAIT_DURATION`] or would leave less than [`MIN_ATTEMPT_DURATION`] before `until`.
    pub(super) async fn wait_for_admission(
        &self,
        message: &Message,
        until: Deadline,
        limiter: &dyn RateLimiter,
    ) -> Result<(), Duration> {
        let Some(rate_limit) = &self.rate_limit else {
            return Ok(());
        };
        match limiter.acquire(rate_limit, message).await {
            Admission::NOW => Ok(()),
            Admission::After(wait)
                if wait <= MAX_WAIT_DURATION
                    && wait + MIN_ATTEMPT_DURATION <= until.remaining() =>
            {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Admission::After(wait) | Admission::NotBefore(wait) => Err(wait),
        }
    }

    /// The candidate, if it may be tried now: a probe of refused credentials needs a permit, which is asked for here. The
    /// permit of the account's rate limit is spent either way.
    pub(super) async fn permitted(
        &self,
        candidate: Candidate,
        limiter: &dyn RateLimiter,
    ) -> Result<Candidate, Refused> {
        match candidate {
            Candidate::Probe(probe) if probe.needs_permit() => {
                match limiter.may_probe(self).await {
                    ProbePermit::Granted => Ok(Candidate::Probe(probe)),
                    ProbePermit::Taken { until } => {
                        probe.postpone(until);
                        Err(Refused)
                    }
                }
            }
            candidate @ (Candidate::InPlace
            | Candidate::Probe(_)
            | Candidate::Last
            | Candidate::Refused) => Ok(candidate),
        }
    }
}
