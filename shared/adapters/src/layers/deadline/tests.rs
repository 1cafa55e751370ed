//! Tests of how the time of a message is shared among the entries of its chain.

use super::*;

/// The share of an entry, where a message has `left` seconds and `others` entries are tried after it.
fn share(left: f32, others: u32, is_queued: bool, on_ambiguous: AmbiguityPolicy) -> Deadline {
    let deadline = Deadline::after(Duration::from_secs_f32(left));
    let budget = AttemptBudget {
        deadline: if is_queued {
            deadline.queued()
        } else {
            deadline
        },
        others,
        on_ambiguous,
    };
    budget.share()
}

#[tokio::test(start_paused = true)]
async fn an_entrys_share_of_the_time_leaves_the_others_theirs() {
    use AmbiguityPolicy::{Failover, Hold};
    for (left, others, is_queued, policy, expected) in [
        // The last entry has all of it.
        (20.0, 0, false, Failover, 20.0),
        (20.0, 0, true, Failover, 20.0),
        (20.0, 0, true, Hold, 20.0),
        // While a caller waits, half of it, however many follow.
        (20.0, 1, false, Failover, 10.0),
        (20.0, 3, false, Failover, 10.0),
        // From the queue, all but six seconds for each that follows, and at least half.
        (60.0, 1, true, Failover, 54.0),
        (60.0, 3, true, Failover, 42.0),
        (60.0, 9, true, Failover, 30.0),
        (10.0, 1, true, Failover, 5.0),
        // Where an unknown outcome ends the run, one entry has to have its six seconds, whoever waits.
        (60.0, 3, true, Hold, 54.0),
        (60.0, 3, false, Hold, 54.0),
        (10.0, 3, false, Hold, 5.0),
        // Never so little that no attempt is begun.
        (5.0, 1, false, Failover, 3.0),
        (4.0, 1, true, Failover, 3.0),
        (3.0, 1, false, Failover, 3.0),
        (2.0, 1, false, Failover, 2.0),
    ] {
        let remaining = share(left, others, is_queued, policy).remaining();
        assert_eq!(
            remaining,
            Duration::from_secs_f32(expected),
            "{left} s, {others} others, queued: {is_queued}, {policy:?}"
        );
    }
}

/// One that hangs is given up in time for the next.
#[tokio::test(start_paused = true)]
async fn only_the_last_entry_of_a_queued_message_may_be_slow() {
    let allows_slow = |others, is_queued| {
        let share = share(60.0, others, is_queued, AmbiguityPolicy::Failover);
        share.allows_slow_stages()
    };
    assert!(allows_slow(0, true));
    assert!(!allows_slow(1, true));
    assert!(!allows_slow(0, false));
    assert!(!allows_slow(1, false));
}
