//! Times and durations as they are shown: UTC, as the logs have it.

use jiff::{SignedDuration, Timestamp, fmt::strtime, tz::TimeZone};

/// `2026-12-01 09:00:00Z`.
pub(crate) fn moment(time: Timestamp) -> String {
    formatted(time, "%Y-%m-%d %H:%M:%SZ")
}

/// `2026-12-01`.
pub(crate) fn day(time: Timestamp) -> String {
    formatted(time, "%Y-%m-%d")
}

/// `09:00:00.123`.
pub(crate) fn clock(time: Timestamp) -> String {
    formatted(time, "%H:%M:%S.%3f")
}

fn formatted(time: Timestamp, format: &str) -> String {
    let zoned = time.to_zoned(TimeZone::UTC);
    // The formats are fixed; should one ever not be one, RFC 3339 says as much.
    strtime::format(format, &zoned).unwrap_or_else(|_| time.to_string())
}

/// A duration in one or two units: `210 ms`, `1.4 s`, `31 s`, `4 min 12 s`, `2 h 5 min`, `3 d 4 h`. What is negative is 0.
pub(crate) fn duration(length: SignedDuration) -> String {
    let milliseconds = length.as_millis().max(0);
    let seconds = milliseconds / 1_000;
    let two = |large: i128, unit, small: i128, rest| {
        if small == 0 {
            format!("{large} {unit}")
        } else {
            format!("{large} {unit} {small} {rest}")
        }
    };
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..10 => format!("{seconds}.{} s", milliseconds % 1_000 / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// The time from `earlier` to `later`.
pub(crate) fn between(earlier: Timestamp, later: Timestamp) -> String {
    duration(later.duration_since(earlier))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_in_their_largest_units() {
        for (milliseconds, shown) in [
            (-5, "0 ms"),
            (999, "999 ms"),
            (1_449, "1.4 s"),
            (31_900, "31 s"),
            (252_000, "4 min 12 s"),
            (7_200_000, "2 h"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            let length = SignedDuration::from_millis(milliseconds);
            assert_eq!(duration(length), shown);
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        let time: Timestamp = "2026-12-01T09:00:00.123456+01:00".parse().unwrap();
        assert_eq!(moment(time), "2026-12-01 08:00:00Z");
        assert_eq!(clock(time), "08:00:00.123");
        assert_eq!(day(time), "2026-12-01");
    }
}
