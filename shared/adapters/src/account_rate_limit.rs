//! The rate limit of one entry of a chain: from its settings, else from its provider, which may have to be asked.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use comms_core::Clock;
use jiff::{SignedDuration, Timestamp};

use crate::{
    config::ProviderConfig,
    deadline::Deadline,
    provider::Provider,
    rate::{AccountLimit, Rate},
};

/// How long an answer of a provider about its rate is used, an error included.
const ASKED_AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(1);
/// The longest wait for a provider's answer about its rate.
const ASKING_TIMEOUT: Duration = Duration::from_secs(1);

/// The rate limit of an entry, and the account that it belongs to.
#[derive(Clone)]
pub struct AccountRateLimit {
    account: Arc<str>,
    rate: AccountRate,
    per_recipient: Option<Rate>,
}

#[derive(Clone)]
enum AccountRate {
    Known(NonZeroU32),
    Asked(Arc<AskedRate>),
}

impl AccountRateLimit {
    /// The rate limit of an entry with this configuration. `max_per_second` replaces the provider's rate. `None` if no limit
    /// is known.
    pub(crate) fn of(
        config: &dyn ProviderConfig,
        max_per_second: Option<NonZeroU32>,
        asked: &AskedRates,
    ) -> Option<Self> {
        let limits = config.rate_limits();
        let account = || config.account_key();
        let (account, rate) = match (max_per_second, limits.per_second) {
            (Some(rate), _) | (None, AccountLimit::Fixed(rate)) => {
                (account(), AccountRate::Known(rate))
            }
            (None, AccountLimit::Asked { until_known }) => {
                let account = account();
                let rate = asked.of(&account, until_known);
                (account, AccountRate::Asked(rate))
            }
            (None, AccountLimit::Unknown) => return None,
        };
        Some(Self {
            account: account.into(),
            rate,
            per_recipient: limits.per_recipient,
        })
    }

    /// A rate limit of `per_second` messages for `account`.
    pub fn new(account: &str, per_second: NonZeroU32, per_recipient: Option<Rate>) -> Self {
        Self {
            account: account.into(),
            rate: AccountRate::Known(per_second),
            per_recipient,
        }
    }

    /// What the provider limits. It may have the id of a credential in it: to be hashed, not to be shown.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// How fast the account may be used.
    pub fn rate(&self) -> Rate {
        Rate::per_second(match &self.rate {
            AccountRate::Known(rate) => *rate,
            AccountRate::Asked(asked) => asked.use_now(),
        })
    }

    /// How fast the account may be used for one recipient.
    pub const fn per_recipient(&self) -> Option<Rate> {
        self.per_recipient
    }

    /// Asks the provider for its rate if the entry was used since the last answer and that is an hour old. Call it after a
    /// message, not before: it may take as long as any request.
    pub(crate) async fn learn(&self, provider: &dyn Provider, deadline: Deadline) {
        let AccountRate::Asked(asked) = &self.rate else {
            return;
        };
        if asked.is_due() {
            let question = provider.messages_per_second(deadline);
            let answer = deadline.bound(ASKING_TIMEOUT, question).await;
            asked.learn(answer.ok().flatten());
        }
    }
}

impl fmt::Debug for AccountRateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountRateLimit(…)")
    }
}

/// A rate that the provider is asked for.
pub(crate) struct AskedRate {
    clock: Arc<dyn Clock>,
    state: Mutex<Asked>,
}

struct Asked {
    rate: NonZeroU32,
    at: Option<Timestamp>,
    /// Whether it was needed since.
    was_used: bool,
}

impl AskedRate {
    fn state(&self) -> MutexGuard<'_, Asked> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn use_now(&self) -> NonZeroU32 {
        let mut state = self.state();
        state.was_used = true;
        state.rate
    }

    /// True for one caller when it is time to ask.
    fn is_due(&self) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        let is_known = state.at.is_some_and(|at| {
            let age = now.duration_since(at);
            // A clock that went backwards proves nothing about age.
            age >= SignedDuration::ZERO && age < ASKED_AGAIN_AFTER
        });
        let is_due = state.was_used && !is_known;
        if is_due {
            state.at = Some(now);
            state.was_used = false;
        }
        is_due
    }

    /// Takes over the provider's answer, if there was one.
    fn learn(&self, rate: Option<NonZeroU32>) {
        if let Some(rate) = rate {
            self.state().rate = rate;
        }
    }
}

/// The rates that providers reported, by account: an account is asked once, however many entries use it.
pub(crate) struct AskedRates {
    clock: Arc<dyn Clock>,
    by_account: Mutex<HashMap<String, Arc<AskedRate>>>,
}

impl AskedRates {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            by_account: Mutex::default(),
        }
    }

    fn of(&self, account: &str, until_known: NonZeroU32) -> Arc<AskedRate> {
        let mut by_account = self
            .by_account
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Only those that a chain has: their number is bounded by that of the chains.
        by_account.retain(|_, rate| Arc::strong_count(rate) > 1);
        let known = by_account.entry(account.to_owned()).or_insert_with(|| {
            Arc::new(AskedRate {
                clock: self.clock.clone(),
                state: Mutex::new(Asked {
                    rate: until_known,
                    at: None,
                    was_used: false,
                }),
            })
        });
        known.clone()
    }
}

#[cfg(test)]
mod tests {
    use comms_testkit::clock::ManualClock;

    use super::*;

    #[test]
    fn a_rate_is_asked_for_once_an_hour_and_only_where_it_was_needed() {
        let clock = Arc::new(ManualClock::new());
        let rates = AskedRates::new(clock.clone());
        let until_known = NonZeroU32::MIN;
        let (rate, same) = (rates.of("a", until_known), rates.of("a", until_known));
        assert!(!rate.is_due(), "nobody needed it");
        assert_eq!(rate.use_now(), until_known);
        assert!(rate.is_due());
        assert!(!same.is_due(), "one asks for all");
        rate.learn(NonZeroU32::new(50));
        assert_eq!(same.use_now().get(), 50);
        clock.advance(Duration::from_mins(59));
        assert!(!same.is_due());
        clock.advance(Duration::from_mins(1));
        assert!(same.is_due());
        // Refused this time: what was known stays, and is not asked for at every message.
        same.learn(None);
        assert_eq!(rate.use_now().get(), 50);
        assert!(!rate.is_due());
    }

    #[test]
    fn pace_shows_nothing_of_the_account() {
        let rate_limit = AccountRateLimit::new("planted-key", NonZeroU32::MIN, None);
        assert_eq!(format!("{rate_limit:?}"), "AccountRateLimit(…)");
    }
}
