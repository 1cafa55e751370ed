//! How many messages a server lets one connection carry, found out from how it ends connections.
//!
//! Servers with such a limit answer the MAIL after the last with 421, as Exim does
//! (`smtp_accept_max_per_connection`), or close behind the last message. A connection that is replaced in
//! time saves the message that would have met that a round trip and a new connection.

use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::{failure::Cause, memory::is_remembered};

/// A connection that ends within this time of its last message may have ended for the number of its
/// messages. Later than that, it was more likely for having been idle.
const AT_ONCE: SignedDuration = SignedDuration::from_secs(5);

/// What was found out of one server's limit.
#[derive(Default)]
pub(super) struct SessionLimit {
    state: Mutex<LearnedLimit>,
}

#[derive(Default)]
struct LearnedLimit {
    learned: Option<(u32, Timestamp)>,
    /// After how many messages a connection ended once.
    suspected: Option<(u32, Timestamp)>,
}

/// How a kept connection ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionEnd {
    /// The messages that it had carried.
    pub(super) messages: u32,
    /// How long the last of them was over.
    pub(super) idle: SignedDuration,
    /// What the server did.
    pub(super) cause: Cause,
    /// Whether it did so in answer to MAIL.
    pub(super) at_mail: bool,
}

impl SessionLimit {
    /// The most messages of one connection, where it is known.
    pub(super) fn get(&self, now: Timestamp) -> Option<u32> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        current(state.learned, now)
    }

    /// Learns from the end of a connection. A refusal of MAIL by policy (RFC 3463: X.7.X) is proof; any
    /// other end, if it came at once, is when it happens again after as many messages.
    pub(super) fn learn(&self, end: SessionEnd, now: Timestamp) {
        if end.messages == 0 {
            return;
        }
        let by_policy = match end.cause {
            Cause::Reply(reply) if reply.code == 421 => {
                matches!(reply.enhanced, Some((_, 7, _)))
            }
            Cause::Closed => false,
            Cause::Reply(_)
            | Cause::TimedOut
            | Cause::Certificate(_)
            | Cause::TlsHandshake
            | Cause::Malformed
            | Cause::NotOffered
            | Cause::TooLarge
            | Cause::TooSlow
            | Cause::Egress(_)
            | Cause::Local => return,
        };
        let is_proof = end.at_mail && by_policy;
        let came_at_once = (SignedDuration::ZERO..AT_ONCE).contains(&end.idle);
        if !is_proof && !came_at_once {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The same end twice, and not two that were found at the same time.
        let last_used = now.saturating_sub(end.idle).unwrap_or(now);
        let suspected = state.suspected.filter(|(_, since)| *since <= last_used);
        if is_proof || current(suspected, now) == Some(end.messages) {
            let known = current(state.learned, now).unwrap_or(u32::MAX);
            state.learned = Some((known.min(end.messages), now));
            state.suspected = None;
        } else {
            state.suspected = Some((end.messages, now));
        }
    }
}

fn current(finding: Option<(u32, Timestamp)>, now: Timestamp) -> Option<u32> {
    let (messages, since) = finding?;
    is_remembered(since, now).then_some(messages)
}

#[cfg(test)]
mod tests {
    use super::{super::reply::Reply, *};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn end(messages: u32, idle: i64, cause: Cause) -> SessionEnd {
        SessionEnd {
            messages,
            idle: SignedDuration::from_secs(idle),
            cause,
            at_mail: true,
        }
    }

    /// What is known after these ends, one every ten seconds.
    fn after(ends: &[SessionEnd]) -> Option<u32> {
        let limit = SessionLimit::default();
        let mut now = NOW;
        for end in ends {
            now += SignedDuration::from_secs(10);
            limit.learn(*end, now);
        }
        limit.get(now)
    }

    fn reply(text: &str) -> Cause {
        let (code, text) = text.split_once(' ').unwrap();
        Cause::Reply(Reply::new(code.parse().unwrap(), text))
    }

    #[test]
    fn a_refusal_of_mail_by_policy_is_proof_however_long_the_connection_was_idle() {
        let refused = end(3, 60, reply("421 4.7.0 too many messages"));
        assert_eq!(after(&[refused]), Some(3));
        let unasked = SessionEnd {
            at_mail: false,
            ..refused
        };
        assert_eq!(after(&[unasked, unasked]), None);
    }

    #[test]
    fn an_end_at_once_counts_when_it_comes_twice_after_as_many_messages() {
        for cause in [
            Cause::Closed,
            reply("421 too many messages"),
            reply("421 4.3.2 x"),
        ] {
            assert_eq!(after(&[end(5, 1, cause)]), None);
            assert_eq!(after(&[end(5, 1, cause), end(5, 4, cause)]), Some(5));
            assert_eq!(after(&[end(5, 1, cause), end(6, 1, cause)]), None);
            assert_eq!(after(&[end(5, 5, cause), end(5, 5, cause)]), None);
            assert_eq!(after(&[end(0, 0, cause), end(0, 0, cause)]), None);
        }
    }

    #[test]
    fn two_that_were_found_ended_at_the_same_time_are_one_end() {
        let limit = SessionLimit::default();
        limit.learn(end(1, 2, Cause::Closed), NOW);
        limit.learn(end(1, 1, Cause::Closed), NOW);
        assert_eq!(limit.get(NOW), None);
        let later = NOW + SignedDuration::from_secs(3);
        limit.learn(end(1, 2, Cause::Closed), later);
        assert_eq!(limit.get(later), Some(1));
    }

    #[test]
    fn what_says_nothing_of_a_limit_teaches_nothing() {
        for cause in [
            Cause::TimedOut,
            Cause::Malformed,
            reply("451 4.7.0 later"),
            reply("550 5.7.1 no"),
        ] {
            assert_eq!(after(&[end(5, 0, cause), end(5, 0, cause)]), None);
        }
    }

    #[test]
    fn the_smallest_number_counts_and_is_forgotten_after_ten_minutes() {
        let limit = SessionLimit::default();
        limit.learn(end(7, 0, reply("421 4.7.0 x")), NOW);
        limit.learn(end(4, 0, reply("421 4.7.0 x")), NOW);
        limit.learn(end(9, 0, reply("421 4.7.0 x")), NOW);
        let at = |seconds| NOW + SignedDuration::from_secs(seconds);
        assert_eq!(limit.get(at(599)), Some(4));
        assert_eq!(limit.get(at(600)), None);
        // A clock that was put back does not make it last without end.
        assert_eq!(limit.get(at(-1)), None);
    }
}
