//! What one write takes from each window, and what it returns.

use std::cmp::{max, min};

use comms_settings::{Period, RateLimit};
use jiff::Timestamp;

use super::{
    Exhausted,
    account::Lease,
    windows::{Windows, end_of, is_plausible, share_ahead, window_at},
};

/// What is asked of a write.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// What there has to be.
    pub(super) count: u32,
    /// What all who wait want.
    pub(super) wanted: u32,
    /// What would be taken ahead.
    pub(super) size: u32,
    /// Whether to take no more than there has to be.
    pub(super) is_modest: bool,
}

/// What one write takes.
pub(super) struct Reservation {
    pub(super) count: u32,
    pub(super) changes: Vec<Change>,
}

/// What one write does about one limit.
pub(super) struct Change {
    pub(super) period: Period,
    pub(super) window: i64,
    /// What is taken, less what is given back.
    pub(super) count: i64,
    pub(super) to: WindowCondition,
}

/// How the window stands in the item.
#[derive(Clone, Copy)]
pub(super) enum WindowCondition {
    /// It is the one that runs; `most` is the most that may be used before.
    Running { most: Option<i64> },
    /// Another one is there, which is over, or one that can be nobody's, or none.
    New { instead_of: Option<i64> },
}

/// A limit as it is at a time, if the item is as it was seen.
pub(super) struct WindowState {
    pub(super) period: Period,
    pub(super) limit: u32,
    pub(super) window: i64,
    pub(super) used: i64,
    /// What would be given back to it.
    pub(super) returned: i64,
    /// `None` where the window runs.
    pub(super) new: Option<WindowCondition>,
}

impl WindowState {
    pub(super) fn of(
        (period, limit): (Period, u32),
        seen: &Windows,
        before: Option<&Lease>,
        now: Timestamp,
    ) -> Self {
        let present = window_at(period, now);
        let new = |instead_of| Self {
            period,
            limit,
            window: present,
            used: 0,
            returned: 0,
            new: Some(WindowCondition::New { instead_of }),
        };
        match seen.get(&period) {
            Some(window) if is_plausible(period, window.number, now) => Self {
                period,
                limit,
                // Where another clock is ahead, its window counts.
                window: window.number,
                used: window.used,
                returned: before
                    .filter(|lease| lease.windows.get(&period) == Some(&window.number))
                    .map_or(0, |lease| i64::from(lease.left)),
                new: None,
            },
            Some(window) if window.number > present => new(Some(window.number)),
            Some(_) | None => new(None),
        }
    }

    /// What there is to be taken.
    pub(super) fn room(&self) -> i64 {
        max(i64::from(self.limit) - self.used + self.returned, 0)
    }
}

impl Reservation {
    pub(super) fn plan(
        limits: &RateLimit,
        seen: &Windows,
        before: Option<&Lease>,
        asked: Asked,
        now: Timestamp,
    ) -> Self {
        let windows: Vec<_> = limits
            .limits()
            .map(|limit| WindowState::of(limit, seen, before, now))
            .collect();
        let count = if asked.is_modest {
            asked.count
        } else {
            let ahead = |window: &WindowState| {
                max(window.room() / i64::from(share_ahead(window.period)), 1)
            };
            let ahead = windows.iter().map(ahead).min().unwrap_or(1);
            let ahead = min(i64::from(asked.size), ahead);
            let room = windows.iter().map(WindowState::room).min().unwrap_or(0);
            let count = min(max(i64::from(asked.wanted), ahead), room);
            max(u32::try_from(count).unwrap_or(u32::MAX), asked.count)
        };
        let changes = windows.into_iter().map(|window| {
            let net = i64::from(count) - window.returned;
            Change {
                period: window.period,
                window: window.window,
                count: net,
                to: window.new.unwrap_or(WindowCondition::Running {
                    most: Some(i64::from(window.limit) - net),
                }),
            }
        });
        Self {
            count,
            changes: changes.collect(),
        }
    }
}

/// Giving back what is left of a lease to the windows that still run.
pub(super) struct Release(pub(super) Vec<Change>);

impl Release {
    pub(super) fn of(lease: &Lease, now: Timestamp) -> Self {
        let running = lease
            .windows
            .iter()
            .filter(|(period, window)| is_plausible(**period, **window, now));
        Self(
            running
                .map(|(period, window)| Change {
                    period: *period,
                    window: *window,
                    count: -i64::from(lease.left),
                    to: WindowCondition::Running { most: None },
                })
                .collect(),
        )
    }
}

/// What is left for everybody together, and which limit that is: where several leave as little, the one that
/// lasts longest.
pub(super) fn room(
    limits: &RateLimit,
    seen: &Windows,
    before: Option<&Lease>,
    now: Timestamp,
) -> (u32, Option<Exhausted>) {
    let mut least = (i64::MAX, None);
    for limit in limits.limits() {
        let window = WindowState::of(limit, seen, before, now);
        if window.room() <= least.0 {
            let exhausted = Exhausted {
                period: window.period,
                limit: window.limit,
                until: end_of(window.period, window.window),
            };
            least = (window.room(), Some(exhausted));
        }
    }
    (u32::try_from(least.0).unwrap_or(u32::MAX), least.1)
}
