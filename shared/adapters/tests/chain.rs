//! What the chain does about every disposition at every position.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "chain/health.rs"]
mod health;
#[path = "chain/paced.rs"]
mod paced;
#[path = "chain/renewal.rs"]
mod renewal;
#[path = "chain/time.rs"]
mod time;

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use comms_adapters::{
    AccountRateLimit, Admission, Capabilities, Chain, ChainEnd, ChainReport, Deadline, Health,
    Message, Provider, RateLimiter, StageReport,
    chain::{AmbiguityPolicy, ChainEntry, RenewAt, Renewal},
    rate_limiter::{MAX_WAIT_DURATION, Unlimited},
    retry::RetryPolicy,
};
use comms_core::{
    AfterRetries, AttemptOutcome, DeliveryId, Disposition, EmailAddress, EntryId, ErrorKind,
    HealthState, Mailbox, Position, ProviderError, ProviderKind, Receipt, SystemClock,
    request::{Content, Target},
};
use comms_testkit::{
    clock::ManualClock,
    logs::{Captured, listen},
};

/// Answers as it is told to, then accepts; remembers what it was asked to send.
#[derive(Debug, Default)]
struct Scripted {
    name: &'static str,
    answers: Mutex<VecDeque<ProviderError>>,
    seen: Mutex<Vec<Option<String>>>,
    takes: Duration,
}

impl Scripted {
    fn new(name: &'static str, answers: &[ProviderError]) -> Arc<Self> {
        let answers = Mutex::new(answers.iter().cloned().collect());
        Arc::new(Self {
            name,
            answers,
            ..Self::default()
        })
    }

    fn default_capabilities() -> &'static Capabilities {
        const NONE: Capabilities = Capabilities {
            html: false,
            attachments: false,
            recipients: 1,
            reply_to: true,
            internationalised_addresses: false,
            templates: false,
            media: false,
            text_chars: None,
            message_bytes: None,
        };
        &NONE
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

#[async_trait]
impl Provider for Scripted {
    fn kind(&self) -> ProviderKind {
        ProviderKind::new("smtp")
    }

    fn capabilities(&self) -> &'static Capabilities {
        Self::default_capabilities()
    }

    async fn send(&self, message: &Message, _: Deadline) -> Result<Receipt, ProviderError> {
        tokio::time::sleep(self.takes).await;
        let reply_to = message
            .reply_to
            .as_ref()
            .map(|address| address.as_str().to_owned());
        self.seen.lock().unwrap().push(reply_to);
        match self.answers.lock().unwrap().pop_front() {
            Some(error) => Err(error),
            None => Ok(Receipt::new(self.name.to_owned())),
        }
    }

    async fn verify(&self, _: Deadline) -> Vec<StageReport> {
        Vec::new()
    }
}

fn error(disposition: Disposition) -> ProviderError {
    ProviderError::new(disposition, ErrorKind::Unavailable, "scripted")
}

fn entry(provider: &Arc<Scripted>, position: Position, retries: u8) -> ChainEntry {
    let id = EntryId::parse(provider.name).unwrap();
    ChainEntry {
        id,
        position,
        provider: provider.clone(),
        retry: RetryPolicy { retries },
        health: Health::new(Arc::new(SystemClock)),
        rate_limit: None,
    }
}

fn chain(providers: &[&Arc<Scripted>], policy: AmbiguityPolicy, retries: u8) -> Arc<Chain> {
    let positions = [
        Position::Primary,
        Position::Fallback(0),
        Position::Fallback(1),
        Position::Global,
    ];
    Arc::new(Chain {
        entries: providers
            .iter()
            .zip(positions)
            .map(|(provider, position)| entry(provider, position, retries))
            .collect(),
        on_ambiguous: policy,
        clinic_reply_to: Some(EmailAddress::parse("desk@clinic.example").unwrap()),
    })
}

fn message() -> Message {
    Message {
        delivery: DeliveryId::parse(&"0".repeat(32)).unwrap(),
        target: Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: None,
        }),
        content: Arc::new(Content::default()),
        reply_to: None,
    }
}

async fn send(chain: &Arc<Chain>) -> ChainReport {
    send_within(chain, Duration::from_mins(1)).await
}

async fn send_within(chain: &Arc<Chain>, time: Duration) -> ChainReport {
    send_paced(chain, time, &Unlimited).await
}

async fn send_paced(
    chain: &Arc<Chain>,
    time: Duration,
    rate_limiter: &dyn RateLimiter,
) -> ChainReport {
    send_by(chain, Deadline::after(time), rate_limiter).await
}

async fn send_by(
    chain: &Arc<Chain>,
    deadline: Deadline,
    rate_limiter: &dyn RateLimiter,
) -> ChainReport {
    let renew = |_| -> Renewed<'_> { Box::pin(async { Renewal::Unchanged }) };
    chain.send(&message(), deadline, &renew, rate_limiter).await
}

type Renewed<'a> = Pin<Box<dyn Future<Output = Renewal> + Send + 'a>>;

/// Gives leave as it is told to, then at once; remembers for which accounts it was asked.
#[derive(Default)]
struct ScriptedLimiter {
    admissions: Mutex<VecDeque<Admission>>,
    asked: Mutex<Vec<String>>,
}

impl ScriptedLimiter {
    fn new(admissions: impl IntoIterator<Item = Admission>) -> Self {
        Self {
            admissions: Mutex::new(admissions.into_iter().collect()),
            asked: Mutex::default(),
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl RateLimiter for ScriptedLimiter {
    async fn acquire(&self, rate_limit: &AccountRateLimit, _: &Message) -> Admission {
        self.asked
            .lock()
            .unwrap()
            .push(rate_limit.account().to_owned());
        self.admissions
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Admission::NOW)
    }
}

/// Does not let the platform's account send.
struct WithoutGlobal(ScriptedLimiter);

#[async_trait]
impl RateLimiter for WithoutGlobal {
    async fn acquire(&self, rate_limit: &AccountRateLimit, message: &Message) -> Admission {
        self.0.acquire(rate_limit, message).await
    }

    async fn may_use_global(&self, _: &Message) -> bool {
        false
    }
}

/// A chain whose every entry is paced, each under its own name.
fn paced(providers: &[&Arc<Scripted>], policy: AmbiguityPolicy, retries: u8) -> Arc<Chain> {
    let mut chain = Chain::clone(&chain(providers, policy, retries));
    for entry in &mut chain.entries {
        entry.rate_limit = Some(AccountRateLimit::new(
            entry.id.as_str(),
            NonZeroU32::MIN,
            None,
        ));
    }
    Arc::new(chain)
}

const NAMES: [&str; 4] = ["primary", "fallback-1", "fallback-2", "global"];

/// What a run through the chain is to look like, worked out from the design and not from the code.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    calls: [usize; 4],
    flagged: Vec<bool>,
    end: &'static str,
    unknown: usize,
}

impl Expected {
    fn of(outcomes: [Option<Disposition>; 4], policy: AmbiguityPolicy, retries: u8) -> Self {
        let mut expected = Self::default();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let tries = match outcome {
                Some(Disposition::Transient) => usize::from(retries) + 1,
                Some(Disposition::ProviderDown | Disposition::Ambiguous | Disposition::Final)
                | None => 1,
            };
            expected.calls[index] = tries;
            let flag = expected.unknown > 0;
            expected.flagged.extend(vec![flag; tries]);
            expected.end = match outcome {
                None => NAMES[index],
                Some(Disposition::Final) => "rejected",
                Some(Disposition::Ambiguous) => {
                    expected.unknown += 1;
                    match policy {
                        AmbiguityPolicy::Failover => "all failed",
                        AmbiguityPolicy::Hold => "held",
                    }
                }
                Some(Disposition::Transient | Disposition::ProviderDown) => "all failed",
            };
            if expected.end != "all failed" {
                break;
            }
        }
        expected
    }

    fn as_seen(report: &ChainReport, providers: &[Arc<Scripted>]) -> Self {
        let flags = report.attempts.iter();
        Self {
            calls: std::array::from_fn(|index| providers[index].calls()),
            flagged: flags.map(|attempt| attempt.possible_duplicate).collect(),
            end: match &report.end {
                ChainEnd::Sent { receipt, .. } => {
                    let is_sender = |name: &&&str| **name == receipt.message_id;
                    NAMES.iter().find(is_sender).unwrap()
                }
                ChainEnd::Rejected => "rejected",
                ChainEnd::AllFailed => "all failed",
                ChainEnd::Held => "held",
                ChainEnd::NoProvider => "no provider",
                ChainEnd::OutOfTime => "out of time",
                ChainEnd::Paced { .. } => "paced",
                ChainEnd::NoConnection { .. } => "no connection",
                ChainEnd::GlobalRefused => "global refused",
                ChainEnd::SettingsUnreadable => "settings unreadable",
            },
            unknown: report.unknown_outcomes,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn global_account_that_may_not_send_is_not_tried_and_takes_no_turn() {
    let own = Scripted::new("primary", &[error(Disposition::ProviderDown)]);
    let global = Scripted::new("global", &[]);
    let mut entries = vec![
        entry(&own, Position::Primary, 0),
        entry(&global, Position::Global, 0),
    ];
    for entry in &mut entries {
        entry.rate_limit = Some(AccountRateLimit::new(
            entry.id.as_str(),
            NonZeroU32::MIN,
            None,
        ));
    }
    let chain = Arc::new(Chain {
        entries,
        ..Chain::empty()
    });
    let rate_limiter = WithoutGlobal(ScriptedLimiter::default());
    let report = send_paced(&chain, Duration::from_mins(1), &rate_limiter).await;
    assert_eq!(report.end, ChainEnd::GlobalRefused);
    assert_eq!((own.calls(), global.calls()), (1, 0));
    assert_eq!(rate_limiter.0.asked(), ["primary"]);
}

/// Three own entries and the global one, each accepting or failing with each disposition, under both
/// policies: 5^4 x 2 runs.
#[tokio::test(start_paused = true)]
async fn every_disposition_at_every_position_does_what_the_design_says() {
    let outcome = |number: usize| match number {
        0 => None,
        number => Some(Disposition::ALL[number - 1]),
    };
    let mut runs = 0;
    for policy in [AmbiguityPolicy::Failover, AmbiguityPolicy::Hold] {
        for run in 0..5_usize.pow(4) {
            let outcomes = [run % 5, run / 5 % 5, run / 25 % 5, run / 125].map(outcome);
            let providers: Vec<_> = NAMES
                .into_iter()
                .zip(outcomes)
                // More failures than retries.
                .map(|(name, outcome)| {
                    let failures = outcome.map(|disposition| vec![error(disposition); 3]);
                    Scripted::new(name, &failures.unwrap_or_default())
                })
                .collect();
            let chain = chain(&providers.iter().collect::<Vec<_>>(), policy, 2);
            let report = send(&chain).await;
            let label = format!("{policy:?} {outcomes:?}");
            let seen = Expected::as_seen(&report, &providers);
            assert_eq!(seen, Expected::of(outcomes, policy, 2), "{label}");
            let entries = report.attempts.iter().map(|tried| tried.entry.as_str());
            let order = entries.map(|name| NAMES.iter().position(|known| *known == name));
            assert!(order.is_sorted(), "{label}");
            runs += 1;
        }
    }
    assert_eq!(runs, 1250);
}

#[tokio::test(start_paused = true)]
async fn what_concerns_this_recipient_or_nobody_knows_whom_goes_to_no_other_provider() {
    for (after_retries, tries, end) in [
        (AfterRetries::Later, 3, ChainEnd::AllFailed),
        // Once more, whatever the clinic has set: here two.
        (AfterRetries::GiveUp, 2, ChainEnd::Rejected),
    ] {
        let failure = error(Disposition::Transient).after_retries(after_retries);
        let (first, second) = (
            Scripted::new("first", &vec![failure; 4]),
            Scripted::new("second", &[]),
        );
        let chain = chain(&[&first, &second], AmbiguityPolicy::Failover, 2);
        let report = send(&chain).await;
        assert_eq!(report.end, end, "{after_retries:?}");
        assert_eq!((first.calls(), second.calls()), (tries, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_say_who_was_tried_where_and_how_it_ended() {
    let (primary, global) = (
        Scripted::new("primary", &[error(Disposition::ProviderDown)]),
        Scripted::new("global", &[]),
    );
    let own = chain(&[&primary], AmbiguityPolicy::Failover, 0);
    let whole = Arc::new(own.then_global(&chain(&[&global], AmbiguityPolicy::Hold, 0)));
    let report = send(&whole).await;
    let summary: Vec<_> = report
        .attempts
        .iter()
        .map(|attempt| {
            (
                attempt.position.to_string(),
                matches!(attempt.outcome, AttemptOutcome::Accepted { .. }),
            )
        })
        .collect();
    assert_eq!(
        summary,
        [("primary".to_owned(), false), ("global".to_owned(), true)]
    );
}

#[tokio::test(start_paused = true)]
async fn answers_to_a_message_that_the_global_account_sent_go_to_the_clinic() {
    let primary = Scripted::new("primary", &[error(Disposition::ProviderDown)]);
    let global = Scripted::new("global", &[]);
    let own = chain(&[&primary], AmbiguityPolicy::Failover, 0);
    let whole = Arc::new(own.then_global(&chain(&[&global], AmbiguityPolicy::Failover, 0)));
    send(&whole).await;
    assert_eq!(*primary.seen.lock().unwrap(), [None]);
    assert_eq!(
        *global.seen.lock().unwrap(),
        [Some("desk@clinic.example".to_owned())]
    );
}

#[tokio::test(start_paused = true)]
async fn later_attempts_after_an_ambiguous_one_are_flagged() {
    let primary = Scripted::new("primary", &[error(Disposition::Ambiguous)]);
    let second = Scripted::new("fallback-1", &[error(Disposition::ProviderDown)]);
    let third = Scripted::new("fallback-2", &[]);
    let report = send(&chain(
        &[&primary, &second, &third],
        AmbiguityPolicy::Failover,
        0,
    ))
    .await;
    let flags: Vec<_> = report
        .attempts
        .iter()
        .map(|attempt| attempt.possible_duplicate)
        .collect();
    assert_eq!(flags, [false, true, true]);
}
