//! Errors of the settings store and of the limits of tests, as they are answered.

use comms_core::Tenant;
use comms_runtime::HttpProblem;
use comms_settings::{LimitHolder, Limited, StoreError, TestLimitError};
use lambda_http::http::StatusCode;
use tracing::{error, warn};

/// 429 for a limit of tests that is reached; without the store of the limits, nothing is tested.
pub(crate) fn limit_problem(error: &TestLimitError, tenant: &Tenant) -> HttpProblem {
    match error {
        TestLimitError::Reached {
            holder,
            limited,
            retry_after,
        } => {
            warn!(clinic_id = %tenant, ?holder, ?limited, "settings are tested too often");
            let detail = match (holder, limited) {
                (LimitHolder::Clinic, Limited::Entries) => {
                    "The settings of this clinic were tested too often, and nothing was tried now. Wait as long as \
                     Retry-After says, or test one entry at a time."
                }
                (LimitHolder::Author, Limited::Entries) => {
                    "You have tested settings too often, and nothing was tried now. Wait as long as Retry-After says, \
                     or test one entry at a time."
                }
                (LimitHolder::Address, Limited::Entries | Limited::Messages) => {
                    "Too many links were asked for to this address, and none was sent now. Use one of those, or wait as \
                     long as Retry-After says."
                }
                (LimitHolder::Clinic, Limited::Messages) => {
                    "Too many test messages were asked for by this clinic, and nothing was tried now. Set verifyOnly, \
                     which sends none, or wait as long as Retry-After says."
                }
                (LimitHolder::Author, Limited::Messages) => {
                    "You have asked for too many test messages, and nothing was tried now. Set verifyOnly, which sends \
                     none, or wait as long as Retry-After says."
                }
            };
            HttpProblem::too_many_requests(detail, *retry_after)
        }
        TestLimitError::Store(error) => store_problem(error),
    }
}

/// 503 if the store cannot be reached, else 500.
pub(crate) fn store_problem(error: &StoreError) -> HttpProblem {
    if error.is_worth_a_retry() {
        warn!(%error, "the settings store cannot be reached");
        HttpProblem::unavailable()
    } else {
        error!(%error, "the settings cannot be used");
        HttpProblem::unreadable_settings(StatusCode::INTERNAL_SERVER_ERROR)
    }
}
