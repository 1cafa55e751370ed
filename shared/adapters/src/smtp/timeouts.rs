//! The time limits of the stages.

use std::time::Duration;

use super::failure::{Cause, Failure, Stage};
use crate::deadline::{Deadline, Elapsed};

/// The longest that is waited for a name to be resolved.
pub(super) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest that is waited for a TLS handshake.
pub(super) const TLS_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest that is waited for the reply to one command while a caller waits for the outcome: a server that hangs
/// must leave time for the next provider, and the caller an answer. See [`command_time`].
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest that is waited for a reply that changes nothing any more: to RSET and QUIT.
pub(super) const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the reply to one command is waited for. RFC 5321 section 4.5.3.2 waits 2 to 10 minutes; a queued message
/// waits for as long as its deadline allows, unless another provider is to be tried after this one.
pub(super) const fn command_time(deadline: Deadline) -> Duration {
    if deadline.allows_slow_stages() {
        Duration::MAX
    } else {
        COMMAND_TIMEOUT
    }
}

/// Does `work` within the time of its stage.
pub(super) async fn within<T>(
    stage: Stage,
    limit: Duration,
    deadline: Deadline,
    work: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Failure> {
    match deadline.bound(limit, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(cause)) => Err(Failure::new(stage, cause)),
        Err(Elapsed) => Err(Failure::new(stage, Cause::TimedOut)),
    }
}
