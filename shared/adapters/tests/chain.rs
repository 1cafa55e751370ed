//! What the chain does about every disposition at every position.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can not go on has failed"
)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use comms_adapters::{
    Capabilities, Chain, ChainEnd, ChainReport, Deadline, Health, Message, Provider, StageReport,
    chain::{AmbiguityPolicy, ChainEntry},
    retry::RetryPolicy,
};
use comms_core::{
    AfterRetries, AttemptOutcome, DeliveryId, Disposition, EmailAddress, EntryId, ErrorKind,
    Mailbox, Position, ProviderError, ProviderKind, Receipt, SystemClock,
    request::{Content, Target},
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

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

#[async_trait]
impl Provider for Scripted {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Smtp
    }

    fn capabilities(&self) -> &'static Capabilities {
        const NONE: Capabilities = Capabilities {
            html: false,
            attachments: false,
            receivers: 1,
            reply_to: true,
            internationalised_addresses: false,
            templates: false,
            media: false,
            text_chars: None,
            message_bytes: None,
        };
        &NONE
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
    chain
        .send(&message(), Deadline::after(time), &|_| {
            Box::pin(async { None })
        })
        .await
}

const NAMES: [&str; 4] = ["primary", "fallback-1", "fallback-2", "global"];

/// Three own entries and the global one; those before `failing` are down, `failing` fails with each
/// disposition, the rest would accept.
#[tokio::test(start_paused = true)]
async fn every_disposition_at_every_position_does_what_the_design_says() {
    for policy in [AmbiguityPolicy::Failover, AmbiguityPolicy::Hold] {
        for failing in 0..4 {
            for disposition in Disposition::ALL {
                let providers: Vec<_> = (0..4)
                    .map(|index| match index {
                        _ if index < failing => {
                            Scripted::new(NAMES[index], &[error(Disposition::ProviderDown)])
                        }
                        // More failures than retries.
                        _ if index == failing => {
                            Scripted::new(NAMES[index], &vec![error(disposition); 3])
                        }
                        _ => Scripted::new(NAMES[index], &[]),
                    })
                    .collect();
                let chain = chain(&providers.iter().collect::<Vec<_>>(), policy, 2);
                let report = send(&chain).await;
                let label = format!("{policy:?} {failing} {disposition:?}");

                let goes_on = match disposition {
                    Disposition::Transient | Disposition::ProviderDown => true,
                    Disposition::Ambiguous => policy == AmbiguityPolicy::Failover,
                    Disposition::Final => false,
                };
                let next = (goes_on && failing < 3).then(|| NAMES[failing + 1]);
                match (&report.end, next) {
                    (ChainEnd::Sent { receipt, .. }, Some(next)) => {
                        assert_eq!(receipt.message_id, next, "{label}");
                    }
                    (ChainEnd::Rejected, None) => {
                        assert_eq!(disposition, Disposition::Final, "{label}");
                    }
                    (ChainEnd::Held, None) => assert!(!goes_on, "{label}"),
                    (ChainEnd::AllFailed, None) => assert!(goes_on, "{label}"),
                    (end, _) => panic!("{label}: {end:?}"),
                }
                let unknown = usize::from(disposition == Disposition::Ambiguous);
                assert_eq!(report.unknown_outcomes, unknown, "{label}");
                let tries = if disposition == Disposition::Transient {
                    3
                } else {
                    1
                };
                let calls: Vec<_> = providers.iter().map(|provider| provider.calls()).collect();
                let expected: Vec<_> = (0..4)
                    .map(|index| match index {
                        _ if index < failing => 1,
                        _ if index == failing => tries,
                        _ if index == failing + 1 => usize::from(next.is_some()),
                        _ => 0,
                    })
                    .collect();
                assert_eq!(calls, expected, "{label}");
                assert_eq!(
                    report.attempts.len(),
                    expected.iter().sum::<usize>(),
                    "{label}"
                );
            }
        }
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
    let report = running
        .send(&message(), Deadline::after(Duration::from_mins(1)), &|_| {
            let newer = newer.clone();
            Box::pin(async move { Some(newer) })
        })
        .await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((old.calls(), rotated.calls(), fallback.calls()), (1, 1, 0));

    // Newer settings that are refused too are not read a second time.
    let still_wrong = Scripted::new("primary", &vec![refused; 3]);
    let newer = chain(&[&still_wrong, &fallback], AmbiguityPolicy::Failover, 0);
    let report = chain(&[&still_wrong, &fallback], AmbiguityPolicy::Failover, 0)
        .send(&message(), Deadline::after(Duration::from_mins(1)), &|_| {
            let newer = newer.clone();
            Box::pin(async move { Some(newer) })
        })
        .await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((still_wrong.calls(), fallback.calls()), (2, 1));
}
