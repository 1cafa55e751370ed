//! Pacing: how fast a provider takes messages, and who is asked for leave before one is given to it.
//!
//! A provider limits an *account*: a phone number, a login, an AWS account in a region. Several entries, and
//! several clinics, may stand for one, and so may several processes. Here is what the limits are; that
//! they are kept among all processes is [`Pacing`]'s concern, of which the chain knows no more than that it
//! may ask.
//!
//! Being paced says nothing of the provider's health: it was not asked.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use comms_core::{Clock, EmailAddress, HashKey};
use jiff::{SignedDuration, Timestamp};

use crate::{
    chain::ChainEntry,
    deadline::Deadline,
    factory::ProviderSettings,
    message::Message,
    meta,
    provider::Provider,
    ses::{self, SesAccount},
    smtp::ConnectionLimit,
    twilio::TwilioSender,
};

/// The longest that a message waits in its process for its turn. What would wait for longer goes back to
/// where it came from, and does not hold up others.
pub const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long what a provider said of its rate is good for, whether it said something or not.
const ASKED_AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(1);
/// The longest that is waited for what a provider says of its rate.
const ASKING_TIME: Duration = Duration::from_secs(1);

/// Gives leave to send.
#[async_trait]
pub trait Pacing: Send + Sync {
    /// When `message` may be given to an entry that is paced so. A turn is kept for it where it comes within
    /// [`LONGEST_WAIT`].
    async fn ask(&self, pace: &Pace, message: &Message) -> Leave;

    /// Reserves a connection of a login that all processes share. Otherwise: the time after which asking again makes
    /// sense.
    async fn connect(&self, _limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        Ok(())
    }

    /// The same after the server refused one for their number.
    async fn connect_again(&self, _limit: &Arc<ConnectionLimit>) -> Result<(), Duration> {
        Err(LONGEST_WAIT)
    }

    /// Whether a message for which there is no connection waits for one, rather than going by the next provider.
    fn waits_for_connection(&self) -> bool {
        false
    }

    /// Whether `message` may go out by the platform's account. Asked before the first attempt at one of its
    /// entries; the answer holds for all of them.
    async fn may_use_global(&self, _message: &Message) -> bool {
        true
    }

    /// Whether a message that goes out by the platform's account may name this address for replies.
    async fn may_reply_to(&self, _address: &EmailAddress) -> bool {
        true
    }

    /// Whether a message may be the probe of an entry that refuses its credentials. Asked directly before the attempt.
    async fn may_probe(&self, _entry: &ChainEntry) -> ProbePermit {
        ProbePermit::Granted
    }
}

/// Whether a process may probe an entry that refuses its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbePermit {
    /// It may, and no other process for [`LONGEST_COOL_DOWN`](crate::health::LONGEST_COOL_DOWN).
    Granted,
    /// Another process has.
    Taken {
        /// When the next permit can be had.
        until: Timestamp,
    },
}

/// When a message may be given to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// After so long, which may be nothing: its turn is kept.
    After(Duration),
    /// Not soon; asking again makes sense after so long.
    NotBefore(Duration),
}

impl Leave {
    /// At once.
    pub const NOW: Self = Self::After(Duration::ZERO);
}

/// Lets everything pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unpaced;

#[async_trait]
impl Pacing for Unpaced {
    async fn ask(&self, _: &Pace, _: &Message) -> Leave {
        Leave::NOW
    }
}

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

/// How fast an entry may be used, and what it shares that with.
#[derive(Clone)]
pub struct Pace {
    account: Arc<str>,
    rate: AccountRate,
    per_recipient: Option<Rate>,
}

#[derive(Clone)]
enum AccountRate {
    Known(NonZeroU32),
    Asked(Arc<AskedRate>),
}

impl Pace {
    /// The pace of an entry that has these settings; `max_per_second` where it has a rate of its own, which
    /// stands in place of the provider's. `None` where nothing is known that would limit it.
    pub(crate) fn of(
        settings: &ProviderSettings,
        max_per_second: Option<NonZeroU32>,
        asked: &AskedRates,
    ) -> Option<Self> {
        let account = account(settings);
        let (default, per_recipient) = match settings {
            ProviderSettings::MetaBusiness(_) => (
                Some(AccountRate::Known(meta::MESSAGES_PER_SECOND)),
                Some(meta::PAIR_RATE),
            ),
            ProviderSettings::AwsSes(_) if max_per_second.is_none() => {
                (Some(AccountRate::Asked(asked.of(&account))), None)
            }
            ProviderSettings::AwsSes(_)
            | ProviderSettings::Smtp(_)
            | ProviderSettings::Sendgrid(_)
            | ProviderSettings::Twilio(_) => (None, None),
        };
        Some(Self {
            account: account.into(),
            rate: max_per_second.map(AccountRate::Known).or(default)?,
            per_recipient,
        })
    }

    /// A pace of so many messages in a second for what is called `account`.
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

    /// Asks the provider for its rate where the entry was used and that has not been asked for an hour. Not
    /// for the way of a message: it may take as long as any request.
    pub(crate) async fn learn(&self, provider: &dyn Provider, deadline: Deadline) {
        let AccountRate::Asked(asked) = &self.rate else {
            return;
        };
        if asked.is_due() {
            let question = provider.messages_per_second(deadline);
            let answer = deadline.bound(ASKING_TIME, question).await;
            asked.learn(answer.ok().flatten());
        }
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pace(…)")
    }
}

/// What the provider limits: not who the clinic is, but which login, account or number is used. The parts
/// are separated by what none of them has.
fn account(settings: &ProviderSettings) -> String {
    let kind = settings.kind().as_str();
    match settings {
        ProviderSettings::Smtp(smtp) => {
            format!("{kind}\n{}\n{}\n{}", smtp.host, smtp.port, smtp.user)
        }
        ProviderSettings::AwsSes(ses) => {
            let account = match &ses.account {
                // Which account a key is of, nobody says; two keys of one account are rare.
                SesAccount::Keys { access_key_id, .. } => format!("key\n{access_key_id}"),
                SesAccount::Role { role_arn, .. } => format!("account\n{}", role_arn.account()),
                SesAccount::Platform { .. } => "platform".to_owned(),
            };
            format!("{kind}\n{account}\n{}", ses.region)
        }
        ProviderSettings::Sendgrid(sendgrid) => {
            // The key is the account, as far as can be seen, and is too long to be guessed from its hash.
            let key = sendgrid.api_key.expose();
            let key = key.as_ref().map_or("", |key| key.as_str());
            let hash = HashKey::from_bytes(&[0; HashKey::LENGTH]).digest("pace", &[key.as_bytes()]);
            format!("{kind}\n{}", hash.hex128())
        }
        ProviderSettings::MetaBusiness(meta) => format!("{kind}\n{}", meta.phone_number_id),
        ProviderSettings::Twilio(twilio) => {
            let sender = match &twilio.sender {
                TwilioSender::Number(number) => number.as_str().to_owned(),
                TwilioSender::Service(service) | TwilioSender::NumberOfService(_, service) => {
                    service.to_string()
                }
            };
            format!("{kind}\n{}\n{sender}", twilio.account_sid)
        }
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

    /// Whether it is time to ask; said to one caller.
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

    /// What was said; nothing changes where nothing was.
    fn learn(&self, rate: Option<NonZeroU32>) {
        if let Some(rate) = rate {
            self.state().rate = rate;
        }
    }
}

/// The rates that were asked for, by account: an account is asked once, however many entries use it.
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

    fn of(&self, account: &str) -> Arc<AskedRate> {
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
                    rate: ses::UNKNOWN_MESSAGES_PER_SECOND,
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
    use comms_core::{
        Mailbox, Secret,
        account::{AwsAccessKeyId, AwsRegion, ExternalId, RoleArn, SesName},
    };
    use comms_testkit::clock::ManualClock;

    use super::*;
    use crate::{sendgrid::SendgridSettings, ses::SesSettings};

    fn ses(account: SesAccount, region: &str) -> ProviderSettings {
        ProviderSettings::AwsSes(SesSettings {
            region: AwsRegion::parse(region).unwrap(),
            account,
            sender: sender(),
            configuration_set: None,
        })
    }

    fn sender() -> Mailbox {
        Mailbox {
            address: EmailAddress::parse("desk@clinic.example").unwrap(),
            name: None,
        }
    }

    fn role(account: &str, name: &str) -> SesAccount {
        SesAccount::Role {
            role_arn: RoleArn::parse(&format!("arn:aws:iam::{account}:role/{name}")).unwrap(),
            external_id: ExternalId::parse("clinic-1").unwrap(),
        }
    }

    fn platform(tenant: &str) -> SesAccount {
        SesAccount::Platform {
            tenant_name: SesName::parse(tenant).unwrap(),
        }
    }

    #[test]
    fn what_a_provider_limits_together_has_one_name_and_what_it_limits_apart_has_two() {
        let key = |id: &str| SesAccount::Keys {
            access_key_id: AwsAccessKeyId::parse(id).unwrap(),
            secret_access_key: Secret::new("planted-secret".to_owned()),
        };
        let (here, there) = ("eu-central-1", "us-east-1");
        for (one, other, is_same) in [
            (
                ses(platform("clinic-1"), here),
                ses(platform("clinic-2"), here),
                true,
            ),
            (
                ses(platform("clinic-1"), here),
                ses(platform("clinic-1"), there),
                false,
            ),
            (
                ses(role("123456789012", "a"), here),
                ses(role("123456789012", "path/b"), here),
                true,
            ),
            (
                ses(role("123456789012", "a"), here),
                ses(role("210987654321", "a"), here),
                false,
            ),
            (
                ses(key("AKIACLINIC0000000000"), here),
                ses(key("AKIACLINIC0000000001"), here),
                false,
            ),
        ] {
            assert_eq!(
                account(&one) == account(&other),
                is_same,
                "{}",
                account(&one)
            );
        }
        let sendgrid = ProviderSettings::Sendgrid(SendgridSettings {
            api_key: Secret::new("planted-key".to_owned()),
            sender: sender(),
            api_url: comms_core::BaseUrl::parse(SendgridSettings::GLOBAL_URL).unwrap(),
            sandbox: false,
        });
        assert!(!account(&sendgrid).contains("planted"));
        let pace = Pace::of(
            &sendgrid,
            NonZeroU32::new(5),
            &AskedRates::new(Arc::new(ManualClock::new())),
        );
        assert_eq!(format!("{pace:?}"), "Some(Pace(…))");
    }

    #[test]
    fn a_rate_is_asked_for_once_an_hour_and_only_where_it_was_needed() {
        let clock = Arc::new(ManualClock::new());
        let rates = AskedRates::new(clock.clone());
        let (rate, same) = (rates.of("a"), rates.of("a"));
        assert!(!rate.is_due(), "nobody needed it");
        assert_eq!(rate.use_now(), ses::UNKNOWN_MESSAGES_PER_SECOND);
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
