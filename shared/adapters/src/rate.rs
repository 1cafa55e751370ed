//! How fast a provider takes messages: what its adapter knows of that.

use std::num::NonZeroU32;

use jiff::SignedDuration;

/// So much at once, and then one more in each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How much at once.
    pub burst: u32,
    /// The time between two at the sustained rate, in whole microseconds.
    pub interval: SignedDuration,
}

impl Rate {
    /// So many in a second, one after the other.
    pub fn per_second(messages: NonZeroU32) -> Self {
        Self {
            burst: 1,
            // Rounded up: never faster.
            interval: SignedDuration::from_micros(i64::from(
                1_000_000_u32.div_ceil(messages.get()),
            )),
        }
    }
}

/// How fast an entry may be used, as its provider has it by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Messages of the account in a second.
    pub per_second: AccountLimit,
    /// Messages of the account to one recipient.
    pub per_recipient: Option<Rate>,
}

impl RateLimits {
    /// No limit that is known.
    pub const UNKNOWN: Self = Self {
        per_second: AccountLimit::Unknown,
        per_recipient: None,
    };
}

/// How many messages of an account a provider takes in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountLimit {
    /// Not known.
    Unknown,
    /// This many.
    Fixed(NonZeroU32),
    /// As many as the provider says
    /// ([`Provider::messages_per_second`](crate::Provider::messages_per_second)).
    Asked {
        /// Until it has said so.
        until_known: NonZeroU32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_never_too_short() {
        for (rate, micros) in [
            (1, 1_000_000),
            (3, 333_334),
            (14, 71_429),
            (80, 12_500),
            (1_000, 1_000),
            (999_999_999, 1),
        ] {
            let rate = Rate::per_second(NonZeroU32::new(rate).unwrap());
            assert_eq!((rate.burst, rate.interval.as_micros()), (1, micros));
        }
    }
}
