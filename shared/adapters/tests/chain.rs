//! What the chain does about every disposition at every position.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

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

/// A chain whose health has a clock that the test moves.
fn watched(providers: &[&Arc<Scripted>], clock: &Arc<ManualClock>) -> Arc<Chain> {
    let mut chain = Chain::clone(&chain(providers, AmbiguityPolicy::Failover, 1));
    for entry in &mut chain.entries {
        entry.health = Health::new(clock.clone());
    }
    Arc::new(chain)
}

#[tokio::test(start_paused = true)]
async fn who_is_down_goes_last_and_comes_back_by_one_probe_that_is_not_retried() {
    let clock = Arc::new(ManualClock::new());
    let failures = vec![error(Disposition::Transient); 10];
    let primary = Scripted::new("primary", &failures);
    let fallback = Scripted::new("fallback-1", &[]);
    let chain = watched(&[&primary, &fallback], &clock);
    for sent in 1..=5 {
        send(&chain).await;
        assert_eq!((primary.calls(), fallback.calls()), (2 * sent, sent));
    }
    assert_eq!(chain.entries[0].health.state(), HealthState::Down);
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (10, 6), "not asked");

    clock.advance(Duration::from_secs(30));
    primary
        .answers
        .lock()
        .unwrap()
        .push_back(error(Disposition::Transient));
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (11, 7), "one probe");
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (11, 8), "not again");

    clock.advance(Duration::from_mins(1));
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (12, 8), "it works");
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (13, 8), "in its place");
}

/// What is logged while `work` is done, metrics among it.
async fn logged(work: impl Future<Output = ()>) -> String {
    let lines = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_ansi(false)
        .with_writer(lines.clone())
        .finish();
    let guard = listen(subscriber);
    work.await;
    drop(guard);
    lines.text()
}

#[tokio::test(start_paused = true)]
async fn that_a_clinic_runs_on_its_fallback_is_said_for_every_message() {
    let clock = Arc::new(ManualClock::new());
    let suspended = ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::AccountSuspended,
        "scripted",
    );
    let primary = Scripted::new("primary", &[suspended]);
    let fallback = Scripted::new("fallback-1", &[]);
    let chain = watched(&[&primary, &fallback], &clock);
    // The first tries the primary, the others know that it is down: told of all the same.
    let log = logged(async {
        for _ in 0..3 {
            send(&chain).await;
        }
    })
    .await;
    let count = |text: &str| log.matches(text).count();
    assert_eq!(count("sent by a fallback"), 3, "{log}");
    assert_eq!(
        count("comms_metrics: sent_by_fallback=1 channel=\"email\" provider=smtp"),
        3
    );
    assert_eq!(count("out_health=\"down\""), 3);
    assert_eq!(count("provider health changed"), 1);
    assert_eq!(count("comms_metrics: provider_down=1"), 1);

    clock.advance(Duration::from_mins(5));
    let log = logged(async { drop(send(&chain).await) }).await;
    assert!(!log.contains("sent by a fallback"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn who_is_down_is_tried_all_the_same_when_all_others_fail() {
    let clock = Arc::new(ManualClock::new());
    let refused = ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::AccountSuspended,
        "scripted",
    );
    let primary = Scripted::new("primary", std::slice::from_ref(&refused));
    let fallback = Scripted::new("fallback-1", &[refused.clone(), refused]);
    let chain = watched(&[&primary, &fallback], &clock);
    assert_eq!(send(&chain).await.end, ChainEnd::AllFailed);
    // Both are down, after one answer each; the first works again.
    let report = send(&chain).await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((primary.calls(), fallback.calls()), (2, 1));
    assert_eq!(chain.entries[0].health.state(), HealthState::Healthy);
    // And is in its place, the other one is not.
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_provider_refuses_for_itself_does_not_take_the_provider_down() {
    let clock = Arc::new(ManualClock::new());
    let refused = ProviderError::new(Disposition::Final, ErrorKind::InvalidRecipient, "scripted");
    let primary = Scripted::new("primary", &vec![refused; 20]);
    let chain = watched(&[&primary], &clock);
    for _ in 0..20 {
        assert_eq!(send(&chain).await.end, ChainEnd::Rejected);
    }
    assert_eq!(chain.entries[0].health.state(), HealthState::Healthy);
}

/// Never answers; ends when its time does.
#[derive(Debug)]
struct Hanging;

#[async_trait]
impl Provider for Hanging {
    fn kind(&self) -> ProviderKind {
        ProviderKind::new("smtp")
    }

    fn capabilities(&self) -> &'static Capabilities {
        Scripted::default_capabilities()
    }

    async fn send(&self, _: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        tokio::time::sleep(deadline.remaining()).await;
        let timeout = ErrorKind::Timeout;
        Err(ProviderError::new(
            Disposition::Transient,
            timeout,
            "scripted",
        ))
    }

    async fn verify(&self, _: Deadline) -> Vec<StageReport> {
        Vec::new()
    }
}

/// Second by second: with 24 s, 12 for the primary, 6 for the next, 3 for the one after it, and the
/// rest for the last.
#[tokio::test(start_paused = true)]
async fn who_hangs_leaves_those_after_it_as_much_time_as_it_had() {
    let last = Scripted::new("global", &[]);
    let mut chain = Chain::clone(&chain(&[&last; 4], AmbiguityPolicy::Failover, 2));
    for entry in &mut chain.entries[..3] {
        entry.provider = Arc::new(Hanging);
    }
    let chain = Arc::new(chain);
    let report = send_within(&chain, Duration::from_secs(24)).await;
    let seconds: Vec<_> = report
        .attempts
        .iter()
        .map(|attempt| attempt.duration.as_secs())
        .collect();
    assert_eq!(seconds, [12, 6, 3, 0]);
    assert!(matches!(report.end, ChainEnd::Sent { .. }));

    // Where a doubt would end everything, the first leaves no more than a provider needs that works.
    let mut holding = Chain::clone(&chain);
    holding.on_ambiguous = AmbiguityPolicy::Hold;
    let report = send_within(&Arc::new(holding), Duration::from_secs(24)).await;
    let seconds: Vec<_> = report
        .attempts
        .iter()
        .map(|attempt| attempt.duration.as_secs())
        .collect();
    assert_eq!(seconds, [18, 3, 3]);

    // Alone, it has all the time there is.
    let mut alone = Chain::empty();
    alone.entries.push(entry(&last, Position::Primary, 2));
    alone.entries[0].provider = Arc::new(Hanging);
    let report = send_within(&Arc::new(alone), Duration::from_secs(24)).await;
    assert_eq!(report.attempts[0].duration.as_secs(), 24);
}

/// From the queue nobody waits for the outcome: those that follow have what is enough for providers that work.
#[tokio::test(start_paused = true)]
async fn a_slow_provider_has_all_but_six_seconds_from_the_queue() {
    let last = Scripted::new("global", &[]);
    for (others, expected) in [(1, 18), (2, 12), (3, 12)] {
        let all = vec![&last; others + 1];
        let mut chain = Chain::clone(&chain(&all, AmbiguityPolicy::Failover, 2));
        chain.entries[0].provider = Arc::new(Hanging);
        let deadline = Deadline::after(Duration::from_secs(24)).queued();
        let report = send_by(&Arc::new(chain), deadline, &Unlimited).await;
        assert_eq!(report.attempts[0].duration.as_secs(), expected, "{others}");
        assert!(matches!(report.end, ChainEnd::Sent { .. }), "{others}");
    }
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

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_is_not_tried_again_while_another_is_left() {
    let timeout = ProviderError::new(Disposition::Transient, ErrorKind::Timeout, "scripted");
    let hung = Scripted::new("primary", &vec![timeout; 9]);
    let fallback = Scripted::new("fallback-1", &[]);
    send(&chain(&[&hung, &fallback], AmbiguityPolicy::Failover, 2)).await;
    assert_eq!((hung.calls(), fallback.calls()), (1, 1));
    // Alone, it is what there is.
    send(&chain(&[&hung], AmbiguityPolicy::Failover, 2)).await;
    assert_eq!(hung.calls(), 1 + 3);
}

#[tokio::test(start_paused = true)]
async fn an_empty_chain_and_one_that_runs_out_of_time_say_so() {
    assert_eq!(
        send(&Arc::new(Chain::empty())).await.end,
        ChainEnd::NoProvider
    );
    let slow = Arc::new(Scripted {
        name: "primary",
        answers: Mutex::new([error(Disposition::ProviderDown)].into()),
        takes: Duration::from_secs(9),
        ..Scripted::default()
    });
    let next = Scripted::new("fallback-1", &[]);
    let chain = chain(&[&slow, &next], AmbiguityPolicy::Failover, 0);
    let report = send_within(&chain, Duration::from_millis(9_500)).await;
    assert_eq!((report.end, next.calls()), (ChainEnd::OutOfTime, 0));
}

#[tokio::test(start_paused = true)]
async fn after_a_refused_login_the_same_entry_is_tried_again_with_newer_settings() {
    let refused = ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::Unauthenticated,
        "scripted",
    );
    let old = Scripted::new("primary", &vec![refused.clone(); 3]);
    let fallback = Scripted::new("fallback-1", &[]);
    let rotated = Scripted::new("primary", &[]);
    let newer = chain(&[&rotated, &fallback], AmbiguityPolicy::Failover, 0);
    let running = chain(&[&old, &fallback], AmbiguityPolicy::Failover, 0);
    let deadline = Deadline::after(Duration::from_mins(1));
    let renew = |_| -> Renewed<'_> {
        let newer = newer.clone();
        Box::pin(async move { Renewal::Newer(newer) })
    };
    let report = running.send(&message(), deadline, &renew, &Unlimited).await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((old.calls(), rotated.calls(), fallback.calls()), (1, 1, 0));

    // Newer settings that are refused too are followed by the next entry.
    let still_wrong = Scripted::new("primary", &vec![refused.clone(); 3]);
    let newer = chain(&[&still_wrong, &fallback], AmbiguityPolicy::Failover, 0);
    let report = chain(&[&still_wrong, &fallback], AmbiguityPolicy::Failover, 0)
        .send(&message(), deadline, &once(&newer), &Unlimited)
        .await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((still_wrong.calls(), fallback.calls()), (2, 1));

    // Settings that are newer each time do not keep a message without end, and none goes by those before.
    let always_refused = Scripted::new("primary", &vec![refused; 99]);
    let newer = chain(&[&always_refused, &fallback], AmbiguityPolicy::Failover, 0);
    let renew = |_| -> Renewed<'_> {
        let newer = newer.clone();
        Box::pin(async move { Renewal::Newer(newer) })
    };
    let report = newer.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!(report.end, ChainEnd::SettingsUnreadable);
    assert_eq!((always_refused.calls(), fallback.calls()), (9, 1));
}

/// Newer settings for the first who asks.
fn once(newer: &Arc<Chain>) -> impl Fn(RenewAt) -> Renewed<'static> + Send + Sync + use<> {
    let newer = Mutex::new(Some(newer.clone()));
    move |_| {
        let newer = newer.lock().unwrap().take();
        Box::pin(async move { newer.map_or(Renewal::Unchanged, Renewal::Newer) })
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_failure_goes_by_newer_settings_whatever_the_error() {
    let refused_login = ProviderError::new(
        Disposition::Transient,
        ErrorKind::Unauthenticated,
        "scripted",
    );
    for (answer, retries) in [
        (error(Disposition::ProviderDown), 0),
        (error(Disposition::Transient), 0),
        (error(Disposition::Transient), 2),
        (refused_login, 2),
        (error(Disposition::Ambiguous), 0),
    ] {
        let is_doubtful = answer.disposition == Disposition::Ambiguous;
        let label = format!("{answer:?} {retries}");
        let old = Scripted::new("primary", &[answer]);
        let (removed, kept) = (
            Scripted::new("fallback-1", &[]),
            Scripted::new("fallback-2", &[]),
        );
        let corrected = Scripted::new("primary", &[]);
        let newer = chain(&[&corrected], AmbiguityPolicy::Failover, 0);
        let mut newer = Chain::clone(&newer);
        newer.entries.push(entry(&kept, Position::Fallback(0), 0));
        let newer = Arc::new(newer);
        let running = chain(&[&old, &removed], AmbiguityPolicy::Failover, retries);
        let deadline = Deadline::after(Duration::from_mins(1));
        let report = running
            .send(&message(), deadline, &once(&newer), &Unlimited)
            .await;
        assert!(matches!(report.end, ChainEnd::Sent { .. }), "{label}");
        assert_eq!((old.calls(), removed.calls()), (1, 0), "{label}");
        // Where a message may be already, it does not go to the same entry again.
        let calls = (corrected.calls(), kept.calls());
        let expected = if is_doubtful { (0, 1) } else { (1, 0) };
        assert_eq!(calls, expected, "{label}");
    }
}

#[tokio::test(start_paused = true)]
async fn newer_settings_are_asked_for_before_each_attempt_but_the_first() {
    let asked = Mutex::new(Vec::new());
    let renew = |at| -> Renewed<'_> {
        asked.lock().unwrap().push(at);
        Box::pin(async { Renewal::Unchanged })
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    let works = Scripted::new("primary", &[]);
    let alone = chain(&[&works], AmbiguityPolicy::Failover, 2);
    alone.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!(*asked.lock().unwrap(), []);

    let failures = vec![error(Disposition::Transient); 2];
    let (own, global) = (
        Scripted::new("primary", &failures),
        Scripted::new("global", &failures),
    );
    let own = chain(&[&own], AmbiguityPolicy::Failover, 1);
    let chain = own.then_global(&chain(&[&global], AmbiguityPolicy::Failover, 1));
    let chain = Arc::new(chain);
    chain.send(&message(), deadline, &renew, &Unlimited).await;
    let next = |is_global| RenewAt::NextAttempt { is_global };
    let expected = [
        next(false),
        next(false),
        RenewAt::PlatformReached,
        next(true),
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_by_settings_that_are_replaced_and_cannot_be_read() {
    let deadline = Deadline::after(Duration::from_mins(1));
    let renew = |_| -> Renewed<'_> { Box::pin(async { Renewal::Unreadable }) };
    let (down, fallback) = (
        Scripted::new("primary", &[error(Disposition::ProviderDown)]),
        Scripted::new("fallback-1", &[]),
    );
    let running = chain(&[&down, &fallback], AmbiguityPolicy::Failover, 0);
    let report = running.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!(report.end, ChainEnd::SettingsUnreadable);
    assert_eq!((report.attempts.len(), fallback.calls()), (1, 0));

    let global = Scripted::new("global", &[]);
    let running = Arc::new(chain(&[&global], AmbiguityPolicy::Failover, 0).as_global());
    let report = running.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!(report.end, ChainEnd::SettingsUnreadable);
    assert_eq!(global.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_platforms_settings_are_asked_for_once_before_its_first_attempt() {
    let (down, old, new) = (
        Scripted::new("primary", &[error(Disposition::Transient)]),
        Scripted::new("global", &[]),
        Scripted::new("global", &[]),
    );
    let own = chain(&[&down], AmbiguityPolicy::Failover, 0);
    let with = |global| Arc::new(own.then_global(&chain(&[global], AmbiguityPolicy::Failover, 0)));
    let newer = with(&new);
    let asked = Mutex::new(Vec::new());
    let renew = |at| -> Renewed<'_> {
        asked.lock().unwrap().push(at);
        let newer = newer.clone();
        Box::pin(async move {
            match at {
                RenewAt::PlatformReached => Renewal::Newer(newer),
                RenewAt::NextAttempt { .. } | RenewAt::Refused { .. } => Renewal::Unchanged,
            }
        })
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    let report = with(&old)
        .send(&message(), deadline, &renew, &Unlimited)
        .await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((down.calls(), old.calls(), new.calls()), (1, 0, 1));
    assert_eq!(
        *asked.lock().unwrap(),
        [
            RenewAt::NextAttempt { is_global: false },
            RenewAt::PlatformReached,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn newer_settings_that_hold_end_what_may_have_been_sent() {
    let (doubtful, down, spare) = (
        Scripted::new("primary", &[error(Disposition::Ambiguous)]),
        Scripted::new("fallback-1", &[error(Disposition::ProviderDown)]),
        Scripted::new("fallback-2", &[]),
    );
    let newer = chain(&[&spare], AmbiguityPolicy::Hold, 0);
    let renew = |_| -> Renewed<'_> {
        let newer = newer.clone();
        Box::pin(async move { Renewal::Newer(newer) })
    };
    let running = chain(&[&doubtful, &down], AmbiguityPolicy::Failover, 0);
    let deadline = Deadline::after(Duration::from_mins(1));
    let report = running.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!((report.end, spare.calls()), (ChainEnd::Held, 0));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_soon_is_waited_for_and_one_turn_is_for_all_retries() {
    let primary = Scripted::new("primary", &vec![error(Disposition::Transient); 2]);
    let chain = paced(&[&primary], AmbiguityPolicy::Failover, 2);
    let limiter = ScriptedLimiter::new([Admission::After(MAX_WAIT_DURATION)]);
    let started = tokio::time::Instant::now();
    let report = send_paced(&chain, Duration::from_mins(1), &limiter).await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert!(started.elapsed() >= MAX_WAIT_DURATION);
    assert_eq!((limiter.asked().len(), primary.calls()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn what_is_paced_goes_back_and_to_no_other_provider_and_nobody_is_blamed() {
    let long = MAX_WAIT_DURATION + Duration::from_millis(1);
    for admission in [
        Admission::After(long),
        Admission::NotBefore(long),
        Admission::NotBefore(Duration::from_millis(1)),
    ] {
        let (primary, fallback) = (
            Scripted::new("primary", &[]),
            Scripted::new("fallback-1", &[]),
        );
        let chain = paced(&[&primary, &fallback], AmbiguityPolicy::Failover, 0);
        let limiter = ScriptedLimiter::new([admission]);
        let started = tokio::time::Instant::now();
        let report = send_paced(&chain, Duration::from_mins(1), &limiter).await;
        let (Admission::After(after) | Admission::NotBefore(after)) = admission;
        assert_eq!(report.end, ChainEnd::Paced { after });
        assert_eq!(report.attempts, []);
        assert_eq!((primary.calls(), fallback.calls()), (0, 0), "{admission:?}");
        assert_eq!(limiter.asked(), ["primary"]);
        assert!(started.elapsed().is_zero(), "nobody waits in vain");
        let states: Vec<_> = chain
            .entries
            .iter()
            .map(|entry| entry.health.state())
            .collect();
        assert_eq!(states, [HealthState::Healthy; 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_leaves_no_time_for_the_attempt_is_not_waited_for() {
    let (primary, fallback) = (
        Scripted::new("primary", &[]),
        Scripted::new("fallback-1", &[]),
    );
    let after = Duration::from_millis(1_500);
    // Of eight seconds the first of two has four, of which an attempt needs three.
    let chain = paced(&[&primary, &fallback], AmbiguityPolicy::Failover, 0);
    let limiter = ScriptedLimiter::new([Admission::After(after)]);
    let report = send_paced(&chain, Duration::from_secs(8), &limiter).await;
    assert_eq!(report.end, ChainEnd::Paced { after });
    let alone = paced(&[&primary], AmbiguityPolicy::Failover, 0);
    let limiter = ScriptedLimiter::new([Admission::After(after)]);
    let report = send_paced(&alone, Duration::from_secs(8), &limiter).await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
}

#[tokio::test(start_paused = true)]
async fn attempts_that_were_made_before_a_paced_entry_are_reported_with_it() {
    let primary = Scripted::new("primary", &[error(Disposition::Ambiguous)]);
    let fallback = Scripted::new("fallback-1", &[]);
    let chain = paced(&[&primary, &fallback], AmbiguityPolicy::Failover, 0);
    let after = Duration::from_secs(30);
    let limiter = ScriptedLimiter::new([Admission::NOW, Admission::NotBefore(after)]);
    let report = send_paced(&chain, Duration::from_mins(1), &limiter).await;
    assert_eq!(report.end, ChainEnd::Paced { after });
    assert_eq!((report.attempts.len(), report.unknown_outcomes), (1, 1));
    assert_eq!(limiter.asked(), ["primary", "fallback-1"]);
    assert_eq!(fallback.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_entry_without_a_limit_asks_nobody() {
    let primary = Scripted::new("primary", &[]);
    let limiter = ScriptedLimiter::default();
    let chain = chain(&[&primary], AmbiguityPolicy::Failover, 0);
    send_paced(&chain, Duration::from_mins(1), &limiter).await;
    assert_eq!((limiter.asked().len(), primary.calls()), (0, 1));
}
