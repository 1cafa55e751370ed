//! How the time until the deadline is divided.
//!
//! A delivery starts, is claimed and attempted, and its outcome is recorded. Each margin is the time that the step before
//! leaves to the steps after it.

use std::time::Duration;

/// The minimum time until the deadline for a delivery to start.
pub(super) const MIN_START_DURATION: Duration = Duration::from_secs(4);
/// The time that attempts leave for recording the outcome.
pub(super) const RECORDING_MARGIN: Duration = Duration::from_millis(1_500);
/// The time that recording leaves for the response. A write that the deadline cuts off would be taken for one that was
/// never made.
pub(super) const ANSWER_MARGIN: Duration = Duration::from_millis(250);
/// The time that the worker's recording leaves for putting the outcome on the queue. `send` reserves more for its queue.
pub(super) const QUEUE_MARGIN: Duration = Duration::from_secs(1);
/// How long a lease outlasts the deadline: clocks differ, and a late write must meet its own lease.
pub(super) const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// The longest that a claim is tried.
pub(super) const CLAIM_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest that a request waits for settings that only improve its response.
pub(super) const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
