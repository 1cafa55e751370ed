//! `expiresAt`: a time of RFC 3339 (section 5.6), which has years of four digits.

use jiff::{Timestamp, fmt::temporal::Pieces};

/// The last year that RFC 3339 can write.
const LAST_YEAR: i16 = 9999;

/// Reads a time with its offset. [`Timestamp::MAX`] is 26 hours before the end of the year 9999, so that every offset of
/// it is in that year; what is later stands for it.
pub(super) fn parse_expiry(text: &str) -> Result<Timestamp, String> {
    if !has_hours_of_an_offset(text) {
        return Err("must have an offset of at most 23:59 hours (RFC 3339 section 5.6)".to_owned());
    }
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let is_in_last_year = Pieces::parse(text).is_ok_and(|pieces| {
        pieces.date().year() == LAST_YEAR
            && pieces.time().is_some()
            && pieces.to_numeric_offset().is_some()
    });
    if is_in_last_year {
        return Ok(Timestamp::MAX);
    }
    Err(format!(
        "must be a time with its offset, such as 2026-12-01T10:00:00Z, in the year {LAST_YEAR} at the latest"
    ))
}

/// Whether the offset, where there is one of digits, has at most 23 hours: others are read as well.
fn has_hours_of_an_offset(text: &str) -> bool {
    let offset = text.rsplit_once(['T', 't', ' ']).and_then(|(_, time)| {
        let at = time.find(['+', '-'])?;
        time.get(at + 1..at + 3)
    });
    offset
        .and_then(|hours| hours.parse::<u8>().ok())
        .is_none_or(|hours| hours <= 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_may_be_any_time_of_the_last_year() {
        for text in [
            "9999-12-30T22:00:00Z",
            "9999-12-31T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999999999Z",
            "9999-12-31T23:59:59-12:00",
            "9999-12-31T23:59:59+14:00",
        ] {
            assert!(
                parse_expiry(text).is_ok_and(|at| at > Timestamp::UNIX_EPOCH),
                "{text}"
            );
        }
        assert_eq!(
            parse_expiry("2026-12-01T10:00:00+02:00"),
            Ok("2026-12-01T08:00:00Z".parse().unwrap())
        );
    }

    #[test]
    fn what_is_no_time_says_what_is_wrong_with_it() {
        for text in [
            "",
            "tomorrow",
            "9999-12-31",
            "9999-12-31T23:59:59",
            "9999-13-31T23:59:59Z",
            "10000-01-01T00:00:00Z",
            "+010000-01-01T00:00:00Z",
            "2026-12-01T10:00:00",
        ] {
            let error = parse_expiry(text).unwrap_err();
            assert!(
                error.contains("offset") && error.contains("9999"),
                "{text}: {error}"
            );
        }
    }
}
