//! Time limits that several parts of the pipeline share.

use std::time::Duration;

/// What is left of the deadline for the answer when an outcome is given up: a write that the deadline cuts off would
/// be taken for one that was never made.
pub(super) const ANSWER_MARGIN: Duration = Duration::from_millis(250);
/// The longest that a claim is tried.
pub(super) const CLAIM_TIMEOUT: Duration = Duration::from_secs(8);
