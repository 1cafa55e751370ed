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
use comms_adapters::Deadline;
use comms_aws::{
    ConditionalWrite, TableError, count_failure, error_code, had_no_effect, is_for_credentials,
    is_refusal,
};
use comms_core::backoff::{Backoff, jitter};
use futures_util::FutureExt as _;

use super::Ledger;

/// How long a write is tried that has no deadline of its own.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(8);
/// The waits between tries, up to a second: DynamoDB counts capacity by the second.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// How often a write is tried whose process has no credentials any more: they cannot change in it, and one answer may
/// be wrong.
const TRIES_WITHOUT_CREDENTIALS: u32 = 3;

type WriteError = SdkError<UpdateItemError, HttpResponse>;

/// What a write is for, which says which answers end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A refusal ends it: nothing was sent.
    Claim,
    /// A message was sent. Only the item's state ends it, and a request that no table takes; a missing permission does not.
    Outcome,
}

impl Purpose {
    fn is_ended_by(self, error: &WriteError) -> bool {
        match self {
            Self::Claim => is_refusal(error),
            Self::Outcome => match error
                .as_service_error()
                .map(|service| service.meta().code())
            {
                Some(code) => matches!(
                    code,
                    Some("ConditionalCheckFailedException" | "ValidationException")
                ),
                None => matches!(error, SdkError::ConstructionFailure(_)),
            },
        }
    }
}

/// The result of a write.
pub(super) struct Written {
    pub(super) result: Result<ConditionalWrite, TableError>,
    /// Whether a try whose result is not known may have had its effect.
    pub(super) is_uncertain: bool,
}

impl Ledger {
    /// Repeats an idempotent write until DynamoDB accepts it or refuses it for good. Returns the last error at the
    /// deadline; the write may have succeeded.
    pub(super) async fn write(&self, update: UpdateItemFluentBuilder, purpose: Purpose) -> Written {
        let mut is_uncertain = false;
        let result = self.write_until(update, purpose, &mut is_uncertain).await;
        if let Err(error) = &result {
            count_failure(&error_code(error));
        }
        Written {
            result: ConditionalWrite::of_update(result),
            is_uncertain,
        }
    }

    async fn write_until(
        &self,
        update: UpdateItemFluentBuilder,
        purpose: Purpose,
        is_uncertain: &mut bool,
    ) -> Result<UpdateItemOutput, WriteError> {
        let until = self.until.unwrap_or_else(|| Deadline::after(WRITE_TIMEOUT));
        let (mut tries, mut without_credentials) = (0_u32, 0_u32);
        loop {
            let written = until.bound(Duration::MAX, update.clone().send().boxed());
            let error = match written.await {
                Ok(Err(error)) if !purpose.is_ended_by(&error) => error,
                Ok(result) => return result,
                Err(elapsed) => SdkError::timeout_error(format!("{elapsed:?}")),
            };
            *is_uncertain |= !had_no_effect(&error);
            let wait = BACKOFF.with_equal_jitter(tries, jitter());
            tries = tries.saturating_add(1);
            without_credentials += u32::from(is_for_credentials(&error));
            if until.remaining() <= wait || without_credentials >= TRIES_WITHOUT_CREDENTIALS {
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
        let longest: Vec<_> = (0..7)
            .map(|tries| BACKOFF.with_equal_jitter(tries, 1.0).as_millis())
            .collect();
        assert_eq!(longest, [50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(
            BACKOFF.with_equal_jitter(u32::MAX, 0.0),
            Duration::from_millis(500)
        );
    }
}
