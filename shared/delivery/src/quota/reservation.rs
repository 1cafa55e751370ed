//! What one write takes from each window, and what it returns.

use std::cmp::{max, min};

use comms_settings::{Period, RateLimit};
use jiff::Timestamp;

use super::{
    Exhausted,
    account::Lease,
    windows::{Windows, end_of, is_plausible, share_ahead, window_at},
};

/// What a write should take.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// The minimum.
    pub(super) count: u32,
    /// What all waiting deliveries want.
    pub(super) wanted: u32,
    /// What to take ahead.
    pub(super) size: u32,
    /// Whether to take only the minimum.
    pub(super) is_modest: bool,
}

/// The changes of one write.
pub(super) struct Reservation {
    pub(super) count: u32,
    pub(super) changes: Vec<Change>,
}

/// The change of one write to one limit.
pub(super) struct Change {
    pub(super) period: Period,
    pub(super) window: i64,
    /// What is taken, less what is returned.
    pub(super) count: i64,
    pub(super) to: WindowCondition,
}

/// The condition of a write on the window in the item.
#[derive(Clone, Copy)]
pub(super) enum WindowCondition {
    /// The window runs, and at most `most` of it is used.
    Running { most: Option<i64> },
    /// The item has no window, an ended one, or an implausible one (`instead_of`).
    New { instead_of: Option<i64> },
}

/// The state of a limit, if the item is as last seen.
pub(super) struct WindowState {
    pub(super) period: Period,
    pub(super) limit: u32,
    pub(super) window: i64,
    pub(super) used: i64,
    /// What the write would return to it.
    pub(super) returned: i64,
    /// `None` if the window runs.
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

    /// What is available.
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

/// Returns what is left of a lease to the windows that still run.
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

/// What is available to all, and the limit that bounds it; of several, the one with the longest period.
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
