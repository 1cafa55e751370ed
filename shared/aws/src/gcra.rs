//! Rate limits in a table: the generic cell rate algorithm in its virtual scheduling form (ITU-T I.371, annex A).
//!
//! One number per limit: the time at which everything granted so far is due at the sustained rate (TAT, the theoretical
//! arrival time of I.371). A request moves it on, and is granted as long as that time does not run further ahead of the
//! clock than the limit tolerates. There are no windows, at the edges of which twice as much would pass.
//!
//! DynamoDB has no maximum of two numbers, so moving the time on is one of two updates: from the present, where nothing
//! granted is due later, or from the due time. Which of them applies, the failed condition of the other one says.

/// The attribute of the due time.
pub const DUE: &str = "due";

/// A limit, in any one unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The time that one takes at the sustained rate.
    pub interval: i64,
    /// How far ahead of the clock the due time may be after a grant: `burst` intervals, and the time that a request may
    /// wait.
    pub tolerance: i64,
}

/// What is known of the due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It is past, or there is none.
    Past,
    /// It lies ahead.
    Ahead,
    /// It has this value, which no clock could have given it: it is replaced.
    Implausible(i64),
}

/// A conditional update that moves the due time on, with the names `#due` and `#expiresAt` and the value `:expiresAt`.
#[derive(Debug, PartialEq, Eq)]
pub struct Expression {
    /// The condition.
    pub condition: &'static str,
    /// The update.
    pub update: &'static str,
    /// The values of both but `:expiresAt`.
    pub values: Vec<(&'static str, i64)>,
}

impl Limit {
    /// The time that `count` take at the sustained rate.
    pub const fn time_of(self, count: u32) -> i64 {
        // `From` is not const.
        self.interval.saturating_mul(count as i64)
    }

    /// The latest due time at which `count` are granted at `now`.
    pub const fn latest(self, now: i64, count: u32) -> i64 {
        now.saturating_add(self.tolerance)
            .saturating_sub(self.time_of(count))
    }

    /// How long after `now` the due time allows `count`: zero if it does now.
    pub fn wait(self, due: i64, now: i64, count: u32) -> i64 {
        due.saturating_sub(self.latest(now, count)).max(0)
    }
}

/// The update that grants what takes `time` at the sustained rate, where the due time is `latest` at the latest.
pub fn advance(due: Due, now: i64, time: i64, latest: i64) -> Expression {
    const FROM_NOW: &str = "SET #due = :due, #expiresAt = :expiresAt";
    let from_now = (":due", now.saturating_add(time));
    match due {
        Due::Past => Expression {
            condition: "attribute_not_exists(#due) OR #due <= :now",
            update: FROM_NOW,
            values: vec![(":now", now), from_now],
        },
        Due::Ahead => Expression {
            condition: "#due > :now AND #due <= :latest",
            update: "SET #due = #due + :time, #expiresAt = :expiresAt",
            values: vec![(":now", now), (":latest", latest), (":time", time)],
        },
        Due::Implausible(found) => Expression {
            condition: "#due = :found",
            update: FROM_NOW,
            values: vec![(":found", found), from_now],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        interval: 30,
        tolerance: 30 * 30,
    };

    #[test]
    fn wait_ends_when_the_burst_has_room_again() {
        // Thirty at once: with twenty of them taken there is room for ten more.
        for (ahead, wait) in [(0, 0), (600, 0), (601, 1), (900, 300)] {
            assert_eq!(LIMIT.wait(1_000 + ahead, 1_000, 10), wait, "{ahead}");
        }
        assert_eq!(LIMIT.wait(i64::MIN, 1_000, 10), 0);
    }

    #[test]
    fn a_due_time_ahead_is_moved_on_and_a_past_one_starts_now() {
        let ahead = advance(Due::Ahead, 10, 5, 20);
        assert_eq!(ahead.values, [(":now", 10), (":latest", 20), (":time", 5)]);
        let past = advance(Due::Past, 10, 5, 20);
        assert_eq!(past.values, [(":now", 10), (":due", 15)]);
        let implausible = advance(Due::Implausible(99), 10, 5, 20);
        assert_eq!(implausible.values, [(":found", 99), (":due", 15)]);
    }
}
