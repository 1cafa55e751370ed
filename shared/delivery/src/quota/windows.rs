//! The windows of UTC that limits are counted in, and their attributes.

use comms_aws::{Item, TableError, item::required_number};
use std::collections::BTreeMap;

use comms_settings::Period;
use jiff::{SignedDuration, Timestamp};

/// By how much two processes' clocks may differ. AWS refuses requests from clocks that are further off (Signature
/// Version 4, five minutes); a window that is further ahead is nobody's.
pub(super) const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);

/// The window of each period, and what is used of it. Windows are numbered from 1970.
pub(super) type Windows = BTreeMap<Period, Window>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) number: i64,
    pub(super) used: i64,
}

/// Whether the period is long enough for lost quota to matter.
pub(super) const fn lasts(period: Period) -> bool {
    match period {
        Period::Second | Period::Minute => false,
        Period::Hour | Period::Day => true,
    }
}

/// The divisor of what is left: a lease takes at most that part ahead.
pub(super) const fn share_ahead(period: Period) -> u32 {
    if lasts(period) { 100 } else { 10 }
}

pub(super) fn window_at(period: Period, now: Timestamp) -> i64 {
    now.as_second().div_euclid(period.seconds())
}

pub(super) fn end_of(period: Period, window: i64) -> Timestamp {
    let end = window.saturating_add(1).saturating_mul(period.seconds());
    Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
}

/// Whether another clock may have the window as the current one, and it has not ended by this clock.
pub(super) fn is_plausible(period: Period, window: i64, now: Timestamp) -> bool {
    let latest = now.saturating_add(CLOCKS_DIFFER).unwrap_or(now);
    (window_at(period, now)..=window_at(period, latest)).contains(&window)
}

pub(super) const fn window_attribute(period: Period) -> &'static str {
    match period {
        Period::Second => "secondWindow",
        Period::Minute => "minuteWindow",
        Period::Hour => "hourWindow",
        Period::Day => "dayWindow",
    }
}

pub(super) const fn used_attribute(period: Period) -> &'static str {
    match period {
        Period::Second => "secondUsed",
        Period::Minute => "minuteUsed",
        Period::Hour => "hourUsed",
        Period::Day => "dayUsed",
    }
}

pub(super) fn windows(item: &Item) -> Result<Windows, TableError> {
    let mut windows = Windows::new();
    for period in Period::ALL {
        let (window, used) = (window_attribute(period), used_attribute(period));
        if !item.contains_key(window) {
            continue;
        }
        windows.insert(
            period,
            Window {
                number: required_number(item, window)?,
                used: required_number(item, used)?,
            },
        );
    }
    Ok(windows)
}
