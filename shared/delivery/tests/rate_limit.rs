//! Turns at provider accounts against DynamoDB: how far apart they are among processes, and what they cost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use comms_adapters::{
    AccountRateLimit, Admission, Message, RateLimiter, rate::Rate, rate_limiter::MAX_WAIT_DURATION,
};
use comms_core::{
    Clock, EmailAddress, HashKey, Mailbox, PhoneNumber,
    request::{Content, Target},
};
use comms_delivery::{SharedRateLimiter, rate_limit::UNTOLD};
use comms_testkit::{
    aws::{Fault, LocalAws},
    builders::delivery_id,
    clock::ManualClock,
};
use futures_util::future::join_all;
use jiff::SignedDuration;

const ACCOUNT: &str = "meta_business\n106540352242922";
const NUMBER: &str = "+15550100";

struct World {
    aws: LocalAws,
    clock: Arc<ManualClock>,
    key: HashKey,
}

impl World {
    async fn new() -> Self {
        Self {
            aws: LocalAws::start().await,
            clock: Arc::new(ManualClock::new()),
            key: HashKey::from_bytes(&[7; HashKey::LENGTH]),
        }
    }

    /// As another process has it.
    fn process(&self) -> SharedRateLimiter {
        self.process_with(self.clock.clone())
    }

    fn process_with(&self, clock: Arc<dyn Clock>) -> SharedRateLimiter {
        let table = &self.aws.resources().deliveries_table;
        // However slow the machine is.
        SharedRateLimiter::new(&self.aws.sdk_config(), table, clock)
            .with_timeout(Duration::from_mins(1))
    }

    async fn acquire(
        &self,
        process: &SharedRateLimiter,
        rate_limit: &AccountRateLimit,
        number: &str,
    ) -> Admission {
        process
            .with_key(&self.key)
            .acquire(rate_limit, &message(number))
            .await
    }

    fn requests(&self) -> usize {
        let requests = self.aws.calls().len();
        self.aws.clear_calls();
        requests
    }
}

fn message(number: &str) -> Message {
    Message {
        delivery: delivery_id(0),
        target: Target::Whatsapp(PhoneNumber::parse(number).unwrap()),
        content: Arc::new(Content::default()),
        reply_to: None,
    }
}

fn per_second(rate: u32) -> AccountRateLimit {
    AccountRateLimit::new(ACCOUNT, NonZeroU32::new(rate).unwrap(), None)
}

/// Fast for the account, slow for one recipient: two at once and one in six seconds.
fn per_recipient() -> AccountRateLimit {
    let rate = Rate {
        burst: 2,
        interval: SignedDuration::from_secs(6),
    };
    AccountRateLimit::new(ACCOUNT, NonZeroU32::new(1_000_000).unwrap(), Some(rate))
}

/// At once, but for the interval of a millionth of a second of [`per_recipient`].
fn is_now(admission: Admission) -> bool {
    matches!(admission, Admission::After(wait) if wait < Duration::from_millis(1))
}

fn after(admission: Admission) -> Duration {
    match admission {
        Admission::After(wait) => wait,
        Admission::NotBefore(wait) => panic!("not before {wait:?}"),
    }
}

#[tokio::test]
async fn turns_of_all_processes_are_one_interval_apart_and_none_is_kept_for_longer_than_is_waited()
{
    let world = World::new().await;
    let rate_limit = per_second(80);
    let processes: Vec<_> = (0..20).map(|_| world.process()).collect();
    let asks = processes
        .iter()
        .flat_map(|process| (0..10).map(|_| world.acquire(process, &rate_limit, NUMBER)));
    let admissions = join_all(asks).await;
    let mut turns: Vec<_> = admissions
        .iter()
        .filter_map(|admission| match admission {
            Admission::After(wait) => Some(wait.as_micros()),
            Admission::NotBefore(_) => None,
        })
        .collect();
    turns.sort_unstable();
    // Two seconds of 80, and the one that begins the third.
    let expected: Vec<_> = (0..=160).map(|turn| turn * 12_500).collect();
    assert_eq!(turns, expected);
    for admission in admissions {
        if let Admission::NotBefore(wait) = admission {
            assert!(wait > MAX_WAIT_DURATION, "{wait:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_costs_one_write_and_a_queue_that_is_full_none() {
    let world = World::new().await;
    let rate_limit = per_second(14);
    let process = world.process();
    let ten = || join_all((0..10).map(|_| world.acquire(&process, &rate_limit, NUMBER)));
    let waits: Vec<_> = ten().await.into_iter().map(after).collect();
    assert_eq!(world.requests(), 1);
    assert!(waits.is_sorted() && waits[0].is_zero(), "{waits:?}");
    ten().await;
    ten().await;
    world.requests();
    ten().await;
    assert_eq!(
        world.requests(),
        0,
        "there is no turn soon, and that is known"
    );
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(ten().await[0], Admission::After(_)));
    assert!(world.requests() > 0);
}

#[tokio::test]
async fn in_no_second_are_there_more_turns_than_the_rate_and_one() {
    let world = World::new().await;
    let rate_limit = per_second(14);
    let processes: Vec<_> = (0..5).map(|_| world.process()).collect();
    let mut turns = Vec::new();
    let mut passed = Duration::ZERO;
    for step in 0..40_u32 {
        for process in &processes {
            let asked =
                join_all((0..step % 4).map(|_| world.acquire(process, &rate_limit, NUMBER))).await;
            turns.extend(asked.into_iter().filter_map(|admission| match admission {
                Admission::After(wait) => Some(passed + wait),
                Admission::NotBefore(_) => None,
            }));
        }
        let by = Duration::from_millis(u64::from(step) * 7);
        world.clock.advance(by);
        passed += by;
    }
    turns.sort_unstable();
    assert!(turns.len() > 70, "{}", turns.len());
    for (place, turn) in turns.iter().enumerate() {
        let second = turns[place..]
            .iter()
            .take_while(|other| **other < *turn + Duration::from_secs(1));
        assert!(second.count() <= 15);
    }
}

#[tokio::test]
async fn the_first_message_of_a_process_to_a_recipient_is_not_counted_and_all_others_are() {
    let world = World::new().await;
    let rate_limit = per_recipient();
    let (one, two) = (world.process(), world.process());
    for process in [&one, &two] {
        assert!(is_now(world.acquire(process, &rate_limit, NUMBER).await));
    }
    let of_account = "for the account; the second process did not know how far the first had come";
    assert_eq!(world.requests(), 3, "{of_account}");
    for process in [&one, &two] {
        assert!(is_now(world.acquire(process, &rate_limit, NUMBER).await));
    }
    assert_eq!(
        world.requests(),
        5,
        "two for the account, one for the recipient, and two where that is known already"
    );
    let wait = Duration::from_secs(6);
    for process in [&one, &two] {
        assert_eq!(
            world.acquire(process, &rate_limit, NUMBER).await,
            Admission::NotBefore(wait)
        );
        assert!(
            is_now(world.acquire(process, &rate_limit, "+15550101").await),
            "somebody else"
        );
    }
    world.clock.advance(wait.saturating_sub(MAX_WAIT_DURATION));
    assert_eq!(
        world.acquire(&two, &rate_limit, NUMBER).await,
        Admission::After(MAX_WAIT_DURATION)
    );
    // Not counted again after a while.
    world.clock.advance(UNTOLD.unsigned_abs());
    world.acquire(&one, &rate_limit, "+15550101").await;
    world.requests();
    assert!(is_now(world.acquire(&one, &rate_limit, NUMBER).await));
    assert_eq!(world.requests(), 1);
}

#[tokio::test]
async fn accounts_and_recipients_are_in_no_item() {
    let world = World::new().await;
    let process = world.process();
    for _ in 0..3 {
        world.acquire(&process, &per_recipient(), NUMBER).await;
    }
    let dump = world.aws.dump_tables().await;
    assert_eq!(dump.matches("pace#").count(), 1, "{dump}");
    assert_eq!(dump.matches("pace-pair#").count(), 1, "{dump}");
    for secret in ["106540352242922", "15550100", "meta"] {
        assert!(!dump.contains(secret), "{dump}");
    }
}

#[tokio::test]
async fn without_an_answer_of_the_database_the_message_goes_out() {
    let world = World::new().await;
    let process = world.process();
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 100, Fault::AccessDenied);
    assert_eq!(
        world.acquire(&process, &per_second(1), NUMBER).await,
        Admission::NOW
    );
}

#[tokio::test]
async fn a_clock_that_was_wrong_holds_nobody_up() {
    let world = World::new().await;
    let wrong = Arc::new(ManualClock::new());
    wrong.advance(Duration::from_hours(24 * 365));
    let rate_limit = per_second(1);
    world
        .acquire(&world.process_with(wrong), &rate_limit, NUMBER)
        .await;
    let process = world.process();
    assert_eq!(
        world.acquire(&process, &rate_limit, NUMBER).await,
        Admission::NOW
    );
    assert_eq!(
        world.acquire(&process, &rate_limit, NUMBER).await,
        Admission::After(Duration::from_secs(1))
    );
}

#[tokio::test]
async fn a_turn_kept_for_somebody_who_went_away_is_used_by_the_next_unless_it_is_long_past() {
    let world = World::new().await;
    let process = world.process();
    let rate_limit = per_second(10);
    let keyed = process.with_key(&world.key);
    let message = message(NUMBER);
    let mut one = keyed.acquire(&rate_limit, &message);
    let mut two = keyed.acquire(&rate_limit, &message);
    // Both are counted; then the first gets its answer and the second goes away.
    let admission = {
        let polled = tokio::join!(async { (&mut one).await }, async {
            tokio::select! {
                biased;
                admission = &mut two => panic!("{admission:?} before its permit"),
                () = tokio::task::yield_now() => {}
            }
        });
        polled.0
    };
    drop(two);
    assert_eq!(admission, Admission::NOW);
    assert_eq!(world.requests(), 1);
    let next = world.acquire(&process, &rate_limit, NUMBER).await;
    assert_eq!(
        (next, world.requests()),
        (Admission::After(Duration::from_millis(100)), 0)
    );
}

#[tokio::test]
async fn a_message_with_copies_keeps_a_turn_for_each_recipient() {
    let world = World::new().await;
    let rate_limit = per_second(10);
    let (process, other) = (world.process(), world.process());
    let mailbox = Mailbox {
        address: EmailAddress::parse("patient@example.com").unwrap(),
        name: None,
    };
    let copy = EmailAddress::parse("copy@example.com").unwrap();
    let with_copies = Message {
        target: Target::Email(mailbox),
        content: Arc::new(Content {
            bcc: vec![copy; 49],
            ..Content::default()
        }),
        ..message(NUMBER)
    };
    let first = process
        .with_key(&world.key)
        .acquire(&rate_limit, &with_copies)
        .await;
    assert!(is_now(first), "it goes out at its first turn: {first:?}");
    // Fifty turns of a tenth of a second each are taken, for every process.
    for process in [&process, &other] {
        match world.acquire(process, &rate_limit, NUMBER).await {
            Admission::NotBefore(wait) => assert_eq!(wait, Duration::from_secs(5)),
            Admission::After(wait) => panic!("after {wait:?}"),
        }
    }
    world.clock.advance(Duration::from_millis(3_500));
    assert_eq!(
        after(world.acquire(&other, &rate_limit, NUMBER).await),
        Duration::from_millis(1_500)
    );
}
