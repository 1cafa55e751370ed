//! The rate limits of providers, as far as their adapters know them.

use std::num::NonZeroU32;

use jiff::SignedDuration;

/// A token bucket: `burst` at once, then one per `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Messages at once.
    pub burst: u32,
    /// Time between two messages at the sustained rate, in whole microseconds.
    pub interval: SignedDuration,
}

impl Rate {
    /// `messages` in a second, one at a time.
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

/// The provider's own rate limits of an entry.
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

/// Messages in a second that a provider accepts from one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountLimit {
    /// Not known.
    Unknown,
    /// This many.
    Fixed(NonZeroU32),
    /// The rate that the provider reports
    /// ([`Provider::messages_per_second`](crate::Provider::messages_per_second)).
    Asked {
        /// The rate until the provider has answered.
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
