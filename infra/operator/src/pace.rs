//! How often something is done.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Turns, evenly spaced: whoever was late does not catch up, so no second has more of them than the rate.
#[derive(Debug)]
pub(crate) struct Pace(Interval);

impl Pace {
    /// At most `rate` turns a second; 0 is taken as 1.
    pub(crate) fn per_second(rate: u32) -> Self {
        let mut turns = interval(Duration::from_secs(1) / rate.max(1));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(turns)
    }

    /// Waits for the next turn. The first comes at once.
    pub(crate) async fn turn(&mut self) {
        self.0.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_turns_than_the_rate_even_after_a_pause() {
        let mut pace = Pace::per_second(5);
        let start = Instant::now();
        let mut turns = Vec::new();
        for n in 0..30 {
            if n == 10 {
                advance(Duration::from_mins(1)).await;
            }
            pace.turn().await;
            turns.push(Instant::now());
        }
        for (n, begin) in turns.iter().enumerate() {
            let in_a_second = turns[n..]
                .iter()
                .filter(|turn| turn.duration_since(*begin) < Duration::from_secs(1))
                .count();
            assert!(in_a_second <= 5, "{in_a_second} from turn {n} on");
        }
        assert_eq!(turns[9].duration_since(start), Duration::from_millis(1_800));
    }
}
