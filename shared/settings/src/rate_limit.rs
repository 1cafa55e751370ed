//! How many messages may be sent in a time: of a clinic on a channel, and through a provider entry.

use std::{fmt, num::NonZeroU32};

use comms_core::json::{Object, read};
use serde_json::{Map, Value};

/// The most that a limit may be set to. Whoever wants more wants none.
pub const MAX_RATE: u32 = 999_999_999;

/// The lengths of time that messages are counted in. Each is a multiple of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// One second.
    Second,
    /// One minute.
    Minute,
    /// One hour.
    Hour,
    /// One day of 24 hours, UTC.
    Day,
}

impl Period {
    /// Every period, the shortest first.
    pub const ALL: [Self; 4] = [Self::Second, Self::Minute, Self::Hour, Self::Day];

    /// The name in texts, logs and stored items.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// The field of `rateLimit` that limits it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Second => "maxPerSecond",
            Self::Minute => "maxPerMinute",
            Self::Hour => "maxPerHour",
            Self::Day => "maxPerDay",
        }
    }

    /// Its length.
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The limits of one channel of a clinic: one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit([Option<NonZeroU32>; 4]);

impl RateLimit {
    /// These limits; `None` where there is not one among them.
    pub fn new(limits: impl IntoIterator<Item = (Period, NonZeroU32)>) -> Option<Self> {
        let mut set = [None; 4];
        for (period, limit) in limits {
            for (place, known) in set.iter_mut().zip(Period::ALL) {
                if known == period {
                    *place = Some(limit);
                }
            }
        }
        set.iter().any(Option::is_some).then_some(Self(set))
    }

    /// The limits that are set, the one for the shortest period first.
    pub fn limits(&self) -> impl Iterator<Item = (Period, u32)> {
        Period::ALL
            .into_iter()
            .zip(self.0)
            .filter_map(|(period, limit)| Some((period, limit?.get())))
    }

    /// The limits of `own`, and those of `defaults` for the periods that `own` says nothing about.
    pub(crate) fn or(own: Option<Self>, defaults: Option<Self>) -> Option<Self> {
        Self::merge(own, defaults, Option::or)
    }

    /// The lower limit of both for each period.
    pub fn lower(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        Self::merge(one, other, |one, other| one.into_iter().chain(other).min())
    }

    fn merge(
        one: Option<Self>,
        other: Option<Self>,
        pick: impl Fn(Option<NonZeroU32>, Option<NonZeroU32>) -> Option<NonZeroU32>,
    ) -> Option<Self> {
        let (Some(mut limits), Some(others)) = (one, other) else {
            return one.or(other);
        };
        for (limit, other) in limits.0.iter_mut().zip(others.0) {
            *limit = pick(*limit, other);
        }
        Some(limits)
    }

    /// Reads a `rateLimit` of a channel.
    pub(crate) fn read(mut object: Object<'_>) -> Option<Self> {
        let mut were_named = false;
        let limits = Period::ALL.map(|period| {
            were_named |= !object.is_missing(period.field());
            Some((period, read_rate(&mut object, period)?))
        });
        if !were_named {
            let names = Period::ALL.map(Period::field).join(", ");
            object.problem_here(format!(
                "must have at least one of {names}; leave it out for no limit"
            ));
        }
        object.finish();
        Self::new(limits.into_iter().flatten())
    }

    pub(crate) fn to_json(self) -> Value {
        let limits = self.limits();
        let fields: Map<_, _> = limits
            .map(|(period, limit)| (period.field().to_owned(), limit.into()))
            .collect();
        fields.into()
    }
}

/// Reads the `rateLimit` of a provider entry: messages in a second, in place of what its provider takes
/// by default.
pub(crate) fn read_of_entry(mut object: Object<'_>) -> Option<NonZeroU32> {
    if object.is_missing(Period::Second.field()) {
        object.problem(Period::Second.field(), "is required");
    }
    let rate = read_rate(&mut object, Period::Second);
    object.finish();
    rate
}

fn read_rate(object: &mut Object<'_>, period: Period) -> Option<NonZeroU32> {
    object
        .optional(period.field(), read::number(1, MAX_RATE))
        .and_then(NonZeroU32::new)
}

#[cfg(test)]
mod tests {
    use comms_core::Problems;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<RateLimit, Problems> {
        let mut problems = Problems::default();
        let object = Object::new(value, "/r", &mut problems);
        let limit = object.and_then(RateLimit::read);
        problems.or(limit)
    }

    #[test]
    fn any_of_the_four_may_be_set_as_numbers_or_strings_in_whatever_proportion() {
        let limit = read(json!({"maxPerDay": "10", "maxPerSecond": 80})).unwrap();
        let limits: Vec<_> = limit.limits().collect();
        assert_eq!(limits, [(Period::Second, 80), (Period::Day, 10)]);
        assert_eq!(
            limit.to_json(),
            json!({"maxPerSecond": 80, "maxPerDay": 10})
        );
        assert_eq!(read(limit.to_json()), Ok(limit));
    }

    #[test]
    fn each_thing_wrong_is_said_once_and_where_it_is() {
        let number = "must be a whole number from 1 to 999999999";
        let one = "must have at least one of maxPerSecond, maxPerMinute, maxPerHour, maxPerDay; leave it out for no \
                   limit";
        for (value, said) in [
            (json!({}), format!("/r {one}")),
            (json!({"maxPerDay": null}), format!("/r {one}")),
            (json!({"maxPerDay": 0}), format!("/r/maxPerDay {number}")),
            (json!({"maxPerDay": 1.5}), format!("/r/maxPerDay {number}")),
            (
                json!({"maxPerDay": "1e3"}),
                format!("/r/maxPerDay {number}"),
            ),
            (
                json!({"maxPerHour": -1, "maxPerMinute": 1_000_000_000}),
                format!("/r/maxPerMinute {number}; /r/maxPerHour {number}"),
            ),
            (
                json!({"maxPerDay": 1, "maxPerWeek": 1}),
                "/r/maxPerWeek is not a known field; remove it".to_owned(),
            ),
        ] {
            assert_eq!(
                read(value.clone()).unwrap_err().to_string(),
                said,
                "{value}"
            );
        }
    }

    #[test]
    fn the_lower_limit_of_each_period_counts() {
        let one = read(json!({"maxPerMinute": 5, "maxPerDay": 100})).ok();
        let other = read(json!({"maxPerHour": 50, "maxPerDay": 90})).ok();
        let lower = RateLimit::lower(one, other).map(RateLimit::to_json);
        assert_eq!(
            lower,
            Some(json!({"maxPerMinute": 5, "maxPerHour": 50, "maxPerDay": 90}))
        );
        assert_eq!(RateLimit::lower(one, None), one);
        assert_eq!(RateLimit::lower(None, other), other);
        assert_eq!(RateLimit::lower(None, None), None);
    }

    #[test]
    fn periods_nest() {
        assert!(Period::ALL.is_sorted());
        for pair in Period::ALL.windows(2) {
            assert_eq!(pair[1].seconds() % pair[0].seconds(), 0);
        }
    }
}
