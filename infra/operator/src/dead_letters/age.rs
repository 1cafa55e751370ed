//! Ages in reports and options.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The ages by which dead letters are counted, each with the seconds below which it ends.
const CLASSES: [(&str, u64); 4] = [
    ("< 1 h", HOUR),
    ("< 1 d", DAY),
    ("< 7 d", 7 * DAY),
    (">= 7 d", u64::MAX),
];

/// The number of the class of an age, from the youngest, and what it is called.
pub(super) fn class(age: Duration) -> (usize, &'static str) {
    let seconds = age.as_secs();
    let classes = CLASSES.iter().enumerate();
    let mut classes = classes.filter(|(_, (_, end))| seconds < *end);
    let (number, (name, _)) = classes.next().unwrap_or((3, &CLASSES[3]));
    (number, name)
}

/// An age in its largest whole unit: `45 s`, `12 min`, `3 h`, `6 d`.
pub(super) fn text(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => format!("{} h", seconds / HOUR),
        DAY.. => format!("{} d", seconds / DAY),
    }
}

/// Reads an age such as `90s`, `30m`, `12h` or `7d`.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number with its unit: 90s, 30m, 12h or 7d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => MINUTE,
        'h' => HOUR,
        'd' => DAY,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_asked_for_with_its_unit() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("30m", 1_800),
            ("12h", 43_200),
            ("7d", 604_800),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "7",
            "d",
            "-1h",
            "1.5h",
            "1 h",
            "1w",
            "99999999999s",
            "5é",
        ] {
            assert!(parse(text).unwrap_err().contains("12h"), "{text}");
        }
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit_and_counted_in_its_class() {
        for (seconds, told, counted) in [
            (0, "0 s", "< 1 h"),
            (59, "59 s", "< 1 h"),
            (3_599, "59 min", "< 1 h"),
            (3_600, "1 h", "< 1 d"),
            (86_399, "23 h", "< 1 d"),
            (86_400, "1 d", "< 7 d"),
            (604_800, "7 d", ">= 7 d"),
        ] {
            let age = Duration::from_secs(seconds);
            assert_eq!(
                (text(age).as_str(), class(age).1),
                (told, counted),
                "{seconds}"
            );
        }
    }
}
