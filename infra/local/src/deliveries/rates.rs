//! How many deliveries ended, and how, in each of the last seconds.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// How far back is looked, in seconds.
const WINDOW: i64 = 5 * 60;

/// Durations of one second that the percentiles are made of: more than this machine sends.
const MAX_SAMPLES: usize = 1_000;

/// What happened to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    /// A provider took it, so long after it was accepted.
    Sent(SignedDuration),
    /// It ended without having been sent, or it is not known whether it was.
    Failed,
    /// It was deferred.
    Deferred,
}

#[derive(Debug, Default)]
struct Second {
    sent: u32,
    failed: u32,
    deferred: u32,
    /// Milliseconds.
    durations: Vec<u64>,
}

/// The last minutes.
#[derive(Debug, Default)]
pub(super) struct Rates {
    seconds: BTreeMap<i64, Second>,
}

impl Rates {
    /// Counts what happened at `at`.
    pub(super) fn count(&mut self, at: Timestamp, happening: Happening) {
        let newest = self.seconds.last_key_value().map_or(0, |(at, _)| *at);
        self.forget(newest.max(at.as_second()));
        let second = self.seconds.entry(at.as_second()).or_default();
        match happening {
            Happening::Sent(after) => {
                second.sent += 1;
                if second.durations.len() < MAX_SAMPLES {
                    let millis = u64::try_from(after.as_millis()).unwrap_or(0);
                    second.durations.push(millis);
                }
            }
            Happening::Failed => second.failed += 1,
            Happening::Deferred => second.deferred += 1,
        }
    }

    fn forget(&mut self, now: i64) {
        self.seconds = self.seconds.split_off(&(now - WINDOW + 1));
    }

    /// What there is at `now`: the seconds in which something happened, as `[second, sent, failed, deferred]`, and how
    /// long sending took.
    pub(super) fn json(&self, now: Timestamp) -> Value {
        let now = now.as_second();
        let window = self.seconds.range(now - WINDOW + 1..=now);
        let seconds: Vec<_> = window
            .clone()
            .map(|(at, second)| json!([at, second.sent, second.failed, second.deferred]))
            .collect();
        let mut durations: Vec<u64> = window
            .flat_map(|(_, second)| second.durations.iter().copied())
            .collect();
        durations.sort_unstable();
        json!({
            "now": now,
            "window": WINDOW,
            "seconds": seconds,
            "latencyMs": {
                "p50": percentile(&durations, 50),
                "p95": percentile(&durations, 95),
                "p99": percentile(&durations, 99),
            },
        })
    }
}

/// The smallest of the sorted `values` that at least `percent` of them do not exceed.
fn percentile(values: &[u64], percent: usize) -> Option<u64> {
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn what_happened_is_counted_in_its_second_and_forgotten_after_the_window() {
        let mut rates = Rates::default();
        let sent = Happening::Sent(SignedDuration::from_millis(20));
        rates.count(at(0), sent);
        rates.count(at(10), sent);
        rates.count(at(10), Happening::Failed);
        rates.count(at(11), Happening::Deferred);
        let seconds = |now| rates.json(at(now))["seconds"].clone();
        assert_eq!(
            seconds(11),
            json!([
                [1_700_000_000, 1, 0, 0],
                [1_700_000_010, 1, 1, 0],
                [1_700_000_011, 0, 0, 1]
            ])
        );
        assert_eq!(seconds(WINDOW).as_array().unwrap().len(), 2);
        assert_eq!(seconds(WINDOW + 11), json!([]));
        // What is out of every window takes no memory either.
        rates.count(at(2 * WINDOW), sent);
        assert_eq!(rates.seconds.len(), 1);
        rates.count(at(0), sent);
        assert_eq!(rates.json(at(2 * WINDOW))["seconds"][0][1], 1);
    }

    #[test]
    fn percentiles_are_durations_that_occurred() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 50), Some(50));
        assert_eq!(percentile(&values, 99), Some(99));
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile(&[], 50), None);
        let mut rates = Rates::default();
        for millis in [30, 10, 20] {
            rates.count(at(0), Happening::Sent(SignedDuration::from_millis(millis)));
        }
        assert_eq!(
            rates.json(at(0))["latencyMs"],
            json!({"p50": 20, "p95": 30, "p99": 30})
        );
        assert_eq!(rates.json(at(WINDOW))["latencyMs"]["p50"], Value::Null);
    }
}
