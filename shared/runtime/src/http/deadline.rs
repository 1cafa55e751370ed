//! How long an invocation may still run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lambda_http::{Request, RequestExt as _};

/// Time limit of an HTTP answer: API Gateway gives up after 30 seconds (HTTP API quotas, maximum integration timeout).
const MAX_HANDLER_DURATION: Duration = Duration::from_secs(28);

/// Time limit of an invocation (Lambda quotas, function timeout).
const MAX_INVOCATION_DURATION: Duration = Duration::from_mins(15);

/// The time left for an answer: the rest of the invocation, and no more than API Gateway waits.
pub fn time_left(request: &Request) -> Duration {
    request
        .lambda_context_ref()
        .map_or(MAX_HANDLER_DURATION, |context| {
            remaining(context).min(MAX_HANDLER_DURATION)
        })
}

/// The time left of the invocation.
pub fn remaining(context: &lambda_runtime::Context) -> Duration {
    let deadline = Duration::from_millis(context.deadline);
    if deadline <= MAX_INVOCATION_DURATION {
        // A duration rather than a time of day: `cargo lambda watch` (1.9) gives 600 000.
        return deadline;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    deadline.saturating_sub(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_time_of_day_or_the_span_that_a_development_server_gives() {
        let remaining = |deadline: Duration| {
            let mut context = lambda_runtime::Context::default();
            context.deadline = u64::try_from(deadline.as_millis()).unwrap();
            remaining(&context)
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let minute = Duration::from_mins(1);
        assert!(remaining(now + minute) <= minute);
        assert!(remaining(now + 2 * minute) > minute);
        assert_eq!(remaining(now.checked_sub(minute).unwrap()), Duration::ZERO);
        assert_eq!(remaining(10 * minute), 10 * minute);
    }
}
