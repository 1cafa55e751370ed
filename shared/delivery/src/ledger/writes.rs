//! Claims and outcomes are tried until they are known to have happened.
//!
//! Each is one conditional write that names its owner, so it may be repeated: what a lost answer had brought about, the
//! next try finds in the item that refuses it. An outcome that is given up means a second message to a patient
//! (ADR 29), and a worker has nothing better to do with its time.

use std::time::Duration;

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::SdkError,
    operation::update_item::{
        UpdateItemError, UpdateItemOutput, builders::UpdateItemFluentBuilder,
    },
};
use comms_adapters::{Deadline, retry::jitter};
use comms_settings::is_refusal;
use futures_util::FutureExt as _;

use super::Ledger;

/// How long a write is tried that has no deadline of its own.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(8);
/// The first wait is up to this long; each later one up to twice as long as the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// No wait is longer. DynamoDB counts capacity by the second.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// The wait after `tries` tries, from 1: half of it at least, so that a failing table is not asked without a pause.
fn backoff(tries: u32, jitter: f64) -> Duration {
    let doublings = tries.saturating_sub(1).min(10);
    let ceiling = FIRST_BACKOFF
        .saturating_mul(1 << doublings)
        .min(MAX_BACKOFF);
    ceiling.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

impl Ledger {
    /// Makes a write that may be repeated, again until it is answered: done, or refused for good. The last error
    /// when the deadline comes first; then nobody knows whether it was done.
    pub(super) async fn write(
        &self,
        update: UpdateItemFluentBuilder,
    ) -> Result<UpdateItemOutput, SdkError<UpdateItemError, HttpResponse>> {
        let until = self.until.unwrap_or_else(|| Deadline::after(WRITE_TIMEOUT));
        let mut tries = 0_u32;
        loop {
            let written = until.bound(Duration::MAX, update.clone().send().boxed());
            let error = match written.await {
                Ok(Err(error)) if !is_refusal(&error) => error,
                Ok(answered) => return answered,
                Err(elapsed) => SdkError::timeout_error(format!("{elapsed:?}")),
            };
            tries = tries.saturating_add(1);
            let wait = backoff(tries, jitter());
            if until.remaining() <= wait {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second_and_are_spread() {
        let longest: Vec<_> = (1..8)
            .map(|tries| backoff(tries, 1.0).as_millis())
            .collect();
        assert_eq!(longest, [50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff(u32::MAX, 0.0), MAX_BACKOFF / 2);
    }
}
