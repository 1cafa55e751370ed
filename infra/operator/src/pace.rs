//! The rate of a command's requests.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Evenly spaced permits. A late caller does not catch up, so no second has more permits than the rate.
#[derive(Debug)]
pub(crate) struct Pace(Interval);

impl Pace {
    /// At most `rate` permits a second; 0 counts as 1.
    pub(crate) fn per_second(rate: u32) -> Self {
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(ticks)
    }

    /// Waits for the next permit. The first comes at once.
    pub(crate) async fn wait(&mut self) {
        self.0.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_permits_than_the_rate_even_after_a_pause() {
        let mut pace = Pace::per_second(5);
        let start = Instant::now();
        let mut permits = Vec::new();
        for n in 0..30 {
            if n == 10 {
                advance(Duration::from_mins(1)).await;
            }
            pace.wait().await;
            permits.push(Instant::now());
        }
        for (n, begin) in permits.iter().enumerate() {
            let in_a_second = permits[n..]
                .iter()
                .filter(|permit| permit.duration_since(*begin) < Duration::from_secs(1))
                .count();
            assert!(in_a_second <= 5, "{in_a_second} from permit {n} on");
        }
        assert_eq!(
            permits[9].duration_since(start),
            Duration::from_millis(1_800)
        );
    }
}
