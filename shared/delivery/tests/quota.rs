//! Quotas against DynamoDB: exact among processes, at the edges of windows, after faults; and what they cost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::Deadline;
use comms_aws::TableError;
use comms_core::{Channel, Clock, Tenant};
use comms_delivery::{
    Quota, Quotas,
    quota::{Exhausted, Grant, MAX_LEASE_DURATION},
};
use comms_settings::{Period, RateLimit};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
};
use futures_util::future::join_all;
use jiff::Timestamp;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

struct World {
    aws: LocalAws,
    clock: Arc<ManualClock>,
}

impl World {
    async fn new() -> Self {
        Self {
            aws: LocalAws::start().await,
            clock: Arc::new(ManualClock::new()),
        }
    }

    /// As another process has them.
    fn process(&self) -> Quotas {
        self.process_with(self.clock.clone())
    }

    fn process_with(&self, clock: Arc<dyn Clock>) -> Quotas {
        let table = &self.aws.resources().deliveries_table;
        Quotas::new(&self.aws.sdk_config(), table, clock)
    }

    /// Writes since the last time.
    fn requests(&self) -> usize {
        let requests = self.aws.count("dynamodb", "UpdateItem");
        self.aws.clear_calls();
        requests
    }

    /// What the item says is used of the present, or last, window.
    async fn used(&self, period: Period) -> u32 {
        let item = aws_sdk_dynamodb::Client::new(&self.aws.sdk_config())
            .get_item()
            .table_name(&self.aws.resources().deliveries_table)
            .key("pk", AttributeValue::S("quota#clinic-1#email".to_owned()))
            .key("sk", AttributeValue::S("windows".to_owned()))
            .send()
            .await
            .unwrap()
            .item
            .unwrap();
        let used = item[&format!("{period}Used")].as_n().unwrap();
        used.parse().unwrap()
    }
}

fn clinic() -> Tenant {
    Tenant::parse("clinic-1").unwrap()
}

fn limits(limits: &[(Period, u32)]) -> RateLimit {
    let limit = |(period, limit): &(Period, u32)| (*period, NonZeroU32::new(*limit).unwrap());
    RateLimit::new(limits.iter().map(limit)).unwrap()
}

async fn ask(quotas: &Quotas, limits: &RateLimit, count: u32) -> Result<Quota, TableError> {
    quotas
        .take(&clinic(), Channel::Email.into(), limits, count)
        .await
}

async fn take(quotas: &Quotas, limits: &RateLimit, count: u32) -> Option<Grant> {
    match ask(quotas, limits, count).await.unwrap() {
        Quota::Granted(grant) => Some(grant),
        Quota::Exhausted(_) => None,
        Quota::TooMany { .. } => panic!("too many"),
    }
}

/// How many of so many get one, all at the same time.
async fn granted_at_once(quotas: &Quotas, limits: &RateLimit, count: usize) -> usize {
    let takes = (0..count).map(|_| take(quotas, limits, 1));
    join_all(takes).await.iter().flatten().count()
}

async fn exhausted(quotas: &Quotas, limits: &RateLimit, count: u32) -> Exhausted {
    match ask(quotas, limits, count).await.unwrap() {
        Quota::Exhausted(exhausted) => exhausted,
        other @ (Quota::Granted(_) | Quota::TooMany { .. }) => panic!("{other:?}"),
    }
}

// ---- Exactly -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn fifty_processes_that_take_at_the_same_time_get_what_there_is_and_not_one_more() {
    for (set, least) in [
        (&[(Period::Minute, 37)][..], 37),
        (&[(Period::Second, 120), (Period::Minute, 101)], 101),
        (
            &[(Period::Second, 90), (Period::Hour, 200), (Period::Day, 80)],
            80,
        ),
        (&[(Period::Day, 10_000)], 250),
    ] {
        let world = World::new().await;
        let limits = limits(set);
        let processes: Vec<_> = (0..50).map(|_| world.process()).collect();
        let takes = processes
            .iter()
            .map(|process| granted_at_once(process, &limits, 5));
        let granted: usize = join_all(takes).await.into_iter().sum();
        assert_eq!(granted, least, "{set:?}");
        for (period, limit) in set {
            let used = world.used(*period).await;
            assert_eq!(used as usize, granted, "no update was lost: {period}");
            assert!(used <= *limit);
        }
    }
}

#[tokio::test]
async fn a_window_never_gives_more_than_its_limit_however_many_lease_ahead() {
    let world = World::new().await;
    let limits = limits(&[(Period::Minute, 100), (Period::Day, 350)]);
    let processes: Vec<_> = (0..8).map(|_| world.process()).collect();
    let mut all = 0;
    for _ in 0..6 {
        let mut in_minute = 0;
        // Twice in each minute, with leases from the first half.
        for _ in 0..2 {
            for process in &processes {
                for count in [1, 2, 3, 9] {
                    in_minute += granted_at_once(process, &limits, count).await;
                }
            }
            world.clock.advance(MINUTE / 2);
        }
        assert!(in_minute <= 100, "{in_minute}");
        all += in_minute;
    }
    // What was leased and not spent before a window ended is given back to the day.
    assert_eq!(all, 350);
}

#[tokio::test]
async fn all_are_given_or_none_and_what_is_missing_is_told() {
    let world = World::new().await;
    let (process, other) = (world.process(), world.process());
    let limits = limits(&[(Period::Minute, 8), (Period::Hour, 10), (Period::Day, 10)]);
    assert!(take(&process, &limits, 5).await.is_some());
    let start = world.clock.now();
    let minute = Exhausted {
        period: Period::Minute,
        limit: 8,
        until: start + MINUTE,
    };
    for quotas in [&process, &other] {
        assert_eq!(exhausted(quotas, &limits, 4).await, minute);
    }
    assert!(take(&other, &limits, 3).await.is_some());
    // Of two limits that leave as little, the one that lasts longer: waiting for the other is in vain.
    world.clock.advance(MINUTE);
    assert!(take(&process, &limits, 2).await.is_some());
    let day = Exhausted {
        period: Period::Day,
        limit: 10,
        until: start + Duration::from_hours(24),
    };
    assert_eq!(exhausted(&process, &limits, 1).await, day);
    let many = ask(&process, &limits, 9).await.unwrap();
    assert!(
        matches!(
            many,
            Quota::TooMany {
                period: Period::Minute,
                limit: 8
            }
        ),
        "{many:?}"
    );
}

#[tokio::test]
async fn windows_begin_with_whole_seconds_minutes_hours_and_days_of_utc() {
    for (period, before_midnight) in [
        (Period::Second, Duration::from_millis(1)),
        (Period::Minute, SECOND),
        (Period::Hour, MINUTE),
        (Period::Day, Duration::from_hours(1)),
    ] {
        let world = World::new().await;
        let (process, other) = (world.process(), world.process());
        let limits = limits(&[(period, 3)]);
        world
            .clock
            .advance(Duration::from_hours(24).saturating_sub(before_midnight));
        assert!(take(&process, &limits, 3).await.is_some());
        let full = exhausted(&other, &limits, 1).await;
        let midnight: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(full.until, midnight, "{period}");
        world.clock.advance(before_midnight);
        for quotas in [&other, &process, &other] {
            assert!(take(quotas, &limits, 1).await.is_some(), "{period}");
        }
        assert!(take(&process, &limits, 1).await.is_none(), "{period}");
    }
}

#[tokio::test]
async fn channels_and_clinics_have_their_own() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 1)]);
    for tenant in ["clinic-1", "clinic-2", "_global"] {
        for channel in Channel::ALL {
            let tenant = Tenant::parse(tenant).unwrap();
            let ask = || process.take(&tenant, channel.into(), &limits, 1);
            assert!(matches!(ask().await, Ok(Quota::Granted(_))));
            assert!(matches!(ask().await, Ok(Quota::Exhausted(_))));
        }
    }
}

#[tokio::test]
async fn what_was_leased_under_other_limits_is_not_spent() {
    let world = World::new().await;
    let process = world.process();
    let before = limits(&[(Period::Day, 100_000)]);
    for _ in 0..20 {
        assert!(take(&process, &before, 1).await.is_some());
    }
    let lowered = limits(&[(Period::Day, 21)]);
    assert!(take(&process, &lowered, 1).await.is_some());
    assert!(take(&process, &lowered, 1).await.is_none());
    let raised = limits(&[(Period::Day, 22)]);
    assert!(take(&process, &raised, 1).await.is_some(), "at once");
}

#[tokio::test]
async fn a_clock_that_is_ahead_takes_from_the_window_that_others_come_to() {
    let world = World::new().await;
    let ahead = Arc::new(ManualClock::new());
    ahead.advance(MINUTE);
    let (early, late) = (world.process_with(ahead), world.process());
    let limits = limits(&[(Period::Minute, 10)]);
    assert!(take(&early, &limits, 4).await.is_some());
    assert!(take(&late, &limits, 4).await.is_some());
    world.clock.advance(MINUTE);
    assert!(take(&late, &limits, 2).await.is_some());
    assert!(take(&late, &limits, 1).await.is_none());
    assert!(take(&early, &limits, 1).await.is_none());
}

#[tokio::test]
async fn nobody_waits_for_a_window_that_can_be_nobodys() {
    let world = World::new().await;
    let wrong = Arc::new(ManualClock::new());
    wrong.advance(Duration::from_hours(24 * 365));
    let limits = limits(&[(Period::Minute, 10)]);
    assert!(
        take(&world.process_with(wrong), &limits, 10)
            .await
            .is_some()
    );
    let processes: Vec<_> = (0..20).map(|_| world.process()).collect();
    let takes = processes.iter().map(|process| take(process, &limits, 1));
    assert_eq!(join_all(takes).await.iter().flatten().count(), 10);
}

#[tokio::test]
async fn quota_of_a_refused_request_is_given_back_before_its_lease_ends() {
    for period in [Period::Minute, Period::Hour] {
        let world = World::new().await;
        let limits = limits(&[(period, 200)]);
        let process = world.process();
        let refused = take(&process, &limits, 150).await.unwrap();
        let sent = take(&process, &limits, 10).await.unwrap();
        refused.return_unused(150);
        process.release_leases(Deadline::after(MINUTE)).await;
        assert_eq!(world.used(period).await, 10);
        assert!(take(&world.process(), &limits, 190).await.is_some());
        // More of the same lease can be put back, and is given back as well.
        world.requests();
        process.release_leases(Deadline::after(MINUTE)).await;
        assert_eq!(world.requests(), 0);
        sent.return_unused(10);
        // As much as may be taken ahead stays.
        process.release_leases(Deadline::after(MINUTE)).await;
        let (left, writes) = if period == Period::Minute {
            (200, 0)
        } else {
            (190, 1)
        };
        assert_eq!((world.used(period).await, world.requests()), (left, writes));
        assert!(take(&process, &limits, 10).await.is_some());
    }
}

// ---- Faults ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_process_that_dies_with_its_lease_takes_little_with_it_and_gives_nobody_more() {
    let world = World::new().await;
    let limits = limits(&[(Period::Minute, 5_000), (Period::Day, 1_000)]);
    let dying = world.process();
    let mut spent = 0;
    for _ in 0..200 {
        spent += granted_at_once(&dying, &limits, 1).await;
    }
    drop(dying);
    let process = world.process();
    let mut others = 0;
    loop {
        let granted = granted_at_once(&process, &limits, 10).await;
        others += granted;
        if granted == 0 {
            break;
        }
    }
    let lost = 1_000 - spent - others;
    assert!(lost <= 10, "at most a hundredth: {lost}");
}

#[tokio::test]
async fn an_answer_that_is_lost_costs_quota_and_grants_none() {
    for times in [1, 2, 3] {
        let world = World::new().await;
        let process = world.process();
        let limits = limits(&[(Period::Day, 1_000)]);
        world
            .aws
            .fail_next("dynamodb", "UpdateItem", times, Fault::LoseAnswer);
        assert!(take(&process, &limits, 1).await.is_some());
        let used = world.used(Period::Day).await;
        // Of those that were lost, one at least has taken something.
        assert!(
            (2..=1 + times).contains(&(used as usize)),
            "{times}: {used}"
        );
    }
}

#[tokio::test]
async fn what_is_left_of_a_lease_is_not_given_back_twice_when_the_answer_to_that_is_lost() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 1_000)]);
    // 1 + 2 + 4 + 8: one of the last eight is spent.
    for _ in 0..8 {
        assert!(take(&process, &limits, 1).await.is_some());
    }
    assert_eq!(world.used(Period::Day).await, 15);
    world.clock.advance(MINUTE);
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 1, Fault::LoseAnswer);
    assert!(take(&process, &limits, 1).await.is_some());
    // Nine were spent, and one was taken by the write whose response was lost.
    assert_eq!(world.used(Period::Day).await, 10);
}

#[tokio::test]
async fn an_answer_lost_for_good_leaves_nothing_to_be_spent() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 1_000)]);
    for _ in 0..8 {
        assert!(take(&process, &limits, 1).await.is_some());
    }
    world.clock.advance(MINUTE);
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 100, Fault::LoseAnswer);
    assert!(ask(&process, &limits, 1).await.is_err());
    world.aws.clear_faults();
    let before = world.used(Period::Day).await;
    assert!(before >= 8);
    assert!(take(&process, &limits, 1).await.is_some());
    assert_eq!(world.used(Period::Day).await, before + 1);
}

#[tokio::test]
async fn who_goes_away_while_it_writes_leaves_the_others_what_there_is() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 10)]);
    // Polled until the request is under way.
    let gone = take(&process, &limits, 5);
    tokio::select! {
        biased;
        _ = gone => panic!("no answer can have come yet"),
        () = async { tokio::task::yield_now().await; tokio::task::yield_now().await } => {}
    }
    let mut granted = 0;
    while take(&process, &limits, 1).await.is_some() {
        granted += 1;
    }
    assert!((5..=10).contains(&granted), "{granted}");
}

#[tokio::test]
async fn throttling_is_waited_out_and_an_outage_grants_nothing_and_says_so() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 100)]);
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 3, Fault::Throttle);
    assert!(take(&process, &limits, 1).await.is_some());
    assert_eq!(world.used(Period::Day).await, 1);
    world.clock.advance(MINUTE);
    for (fault, code, calls) in [
        (Fault::Throttle, "ProvisionedThroughputExceededException", 6),
        (Fault::ServerError, "InternalServerError", 6),
        (Fault::Drop, "DispatchFailure", 6),
        (Fault::AccessDenied, "AccessDeniedException", 1),
    ] {
        world.requests();
        world.aws.fail_next("dynamodb", "UpdateItem", 100, fault);
        let error = ask(&process, &limits, 1).await.unwrap_err();
        assert_eq!(error.code(), Some(code));
        assert_eq!(world.requests(), calls, "{fault:?}");
        world.aws.clear_faults();
    }
    assert!(take(&process, &limits, 1).await.is_some());
    assert_eq!(world.used(Period::Day).await, 2);
}

#[tokio::test]
async fn what_is_left_of_a_lease_survives_throttling() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 1_000)]);
    for _ in 0..8 {
        assert!(take(&process, &limits, 1).await.is_some());
    }
    world.clock.advance(MINUTE);
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 100, Fault::Throttle);
    assert!(ask(&process, &limits, 1).await.is_err());
    world.aws.clear_faults();
    assert!(take(&process, &limits, 1).await.is_some());
    assert_eq!(
        world.used(Period::Day).await,
        9,
        "it was given back after all"
    );
}

// ---- Leases ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_is_put_back_is_spent_by_the_next_without_a_request_while_its_lease_lasts() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 5)]);
    let grant = take(&process, &limits, 5).await.unwrap();
    assert!(take(&process, &limits, 1).await.is_none());
    grant.return_unused(2);
    world.requests();
    assert!(take(&process, &limits, 2).await.is_some());
    assert!(take(&process, &limits, 1).await.is_none());
    assert_eq!(world.requests(), 0);
    // More than there was is nothing; and of another window too.
    grant.return_unused(100);
    for time in [MINUTE, Duration::from_hours(24)] {
        world.clock.advance(time);
        for _ in 0..5 {
            assert!(take(&process, &limits, 1).await.is_some());
        }
        assert!(take(&process, &limits, 1).await.is_none());
    }
    grant.return_unused(1);
    assert!(take(&process, &limits, 1).await.is_none());
}

#[tokio::test]
async fn what_is_put_back_while_more_is_asked_for_is_there_afterwards_whatever_the_answer() {
    for limit in [7, 1_000] {
        let world = World::new().await;
        let (process, limits) = (world.process(), limits(&[(Period::Minute, limit)]));
        let grant = take(&process, &limits, 7).await.unwrap();
        let grant = Arc::new(Mutex::new(Some(grant)));
        world.aws.watch(move |call| {
            if let Some(grant) = grant.lock().unwrap().take() {
                assert_eq!(call.call.operation, "UpdateItem");
                grant.return_unused(7);
            }
            Box::pin(async { None })
        });
        // More than was put back: there is none of it where the limit is 7.
        let more = take(&process, &limits, 7).await;
        assert_eq!(more.is_some(), limit > 7);
        world.requests();
        assert!(take(&process, &limits, 7).await.is_some(), "{limit}");
        assert_eq!(world.requests(), 0, "{limit}");
        assert!(take(&process, &limits, 1).await.is_none() || limit > 7);
    }
}

#[tokio::test]
async fn what_an_earlier_lease_of_the_window_gave_can_be_put_back_to_the_next_and_no_more_than_that()
 {
    let world = World::new().await;
    let (process, limits) = (world.process(), limits(&[(Period::Minute, 10)]));
    let first = take(&process, &limits, 4).await.unwrap();
    assert!(take(&process, &limits, 6).await.is_some());
    assert!(take(&process, &limits, 1).await.is_none());
    first.return_unused(4);
    assert!(take(&process, &limits, 4).await.is_some());
    assert!(take(&process, &limits, 1).await.is_none());
    first.return_unused(1_000);
    world.clock.advance(SECOND);
    assert_eq!(granted_at_once(&process, &limits, 30).await, 10);
}

#[tokio::test]
async fn a_lease_is_spent_until_its_window_ends_and_for_a_minute_at_most() {
    for (period, lasts) in [
        (Period::Second, SECOND),
        (Period::Day, MAX_LEASE_DURATION.unsigned_abs()),
    ] {
        let world = World::new().await;
        let process = world.process();
        let limits = limits(&[(period, 1_000)]);
        for _ in 0..8 {
            assert!(take(&process, &limits, 1).await.is_some());
        }
        world.requests();
        world
            .clock
            .advance(lasts.saturating_sub(Duration::from_millis(1)));
        assert!(take(&process, &limits, 1).await.is_some());
        assert_eq!(world.requests(), 0, "{period}");
        world.clock.advance(Duration::from_millis(1));
        assert!(take(&process, &limits, 1).await.is_some());
        assert_eq!(world.requests(), 1, "{period}");
        assert!(take(&process, &limits, 1).await.is_some());
        assert_eq!(
            world.requests(),
            1,
            "no more than is needed after one was not used up"
        );
    }
}

#[tokio::test]
async fn at_the_end_of_an_invocation_what_is_left_of_an_ended_lease_goes_back_where_it_is_missed() {
    let deadline = || Deadline::after(Duration::from_secs(20));
    let world = World::new().await;
    let process = world.process();
    let day = limits(&[(Period::Minute, 1_000), (Period::Day, 1_000)]);
    for _ in 0..8 {
        assert!(take(&process, &day, 1).await.is_some());
    }
    world.requests();
    process.release_leases(deadline()).await;
    assert_eq!(world.requests(), 0, "it may still be spent");
    world.clock.advance(MINUTE);
    process.release_leases(deadline()).await;
    assert_eq!((world.requests(), world.used(Period::Day).await), (1, 8));
    process.release_leases(deadline()).await;
    assert_eq!(world.requests(), 0, "once");

    // Nobody misses what is left of a minute that is over.
    let minute = limits(&[(Period::Minute, 1_000)]);
    for _ in 0..8 {
        assert!(take(&process, &minute, 1).await.is_some());
    }
    world.requests();
    world.clock.advance(MINUTE);
    process.release_leases(deadline()).await;
    assert_eq!(world.requests(), 0);
}

// ---- What it costs -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_thousand_messages_cost_a_few_writes() {
    let limits = limits(&[(Period::Day, 10_000)]);

    // A campaign through one process, in batches of ten: 10, 20, 40, 80 and then about a hundredth of what is left.
    let world = World::new().await;
    let process = world.process();
    for _ in 0..100 {
        assert_eq!(granted_at_once(&process, &limits, 10).await, 10);
    }
    assert_eq!(world.requests(), 14);

    // The same through twenty.
    let world = World::new().await;
    let processes: Vec<_> = (0..20).map(|_| world.process()).collect();
    for _ in 0..5 {
        let takes = processes
            .iter()
            .map(|process| granted_at_once(process, &limits, 10));
        assert_eq!(join_all(takes).await.into_iter().sum::<usize>(), 200);
    }
    // Three leases each, and for all but one a first write that does not know of the item yet.
    let requests = world.requests();
    assert!((60..=79).contains(&requests), "{requests}");

    // Single messages, one after the other.
    let world = World::new().await;
    let process = world.process();
    for _ in 0..1_000 {
        assert!(take(&process, &limits, 1).await.is_some());
    }
    assert_eq!(world.requests(), 17);
}

#[tokio::test]
async fn a_small_quota_is_not_leased_away_from_the_others() {
    let world = World::new().await;
    let (process, other) = (world.process(), world.process());
    let limits = limits(&[(Period::Day, 50)]);
    for _ in 0..25 {
        assert!(take(&process, &limits, 1).await.is_some());
        assert!(take(&other, &limits, 1).await.is_some());
    }
    assert!(take(&process, &limits, 1).await.is_none());
    assert_eq!(world.used(Period::Day).await, 50);
}

#[tokio::test]
async fn a_campaign_over_quota_costs_one_request_for_all_that_is_refused_in_five_seconds() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 10)]);
    assert_eq!(granted_at_once(&process, &limits, 1_000).await, 10);
    assert_eq!(world.requests(), 2);
    assert_eq!(granted_at_once(&process, &limits, 1_000).await, 0);
    assert_eq!(world.requests(), 0);
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(granted_at_once(&process, &limits, 1_000).await, 0);
    assert_eq!(world.requests(), 1);
}

#[tokio::test]
async fn who_waits_for_one_clinics_quota_holds_up_no_other() {
    let world = World::new().await;
    let process = world.process();
    let limits = limits(&[(Period::Day, 100)]);
    let other = Tenant::parse("clinic-2").unwrap();
    assert!(matches!(
        process
            .take(&other, Channel::Email.into(), &limits, 1)
            .await,
        Ok(Quota::Granted(_))
    ));
    let waiting = take(&process, &limits, 1);
    tokio::pin!(waiting);
    // The first has not even been sent when the second has its answer: two, as the first lease was used up.
    let second = process.take(&other, Channel::Email.into(), &limits, 1);
    tokio::pin!(second);
    let (one, two) = tokio::join!(&mut waiting, &mut second);
    assert!(one.is_some() && matches!(two, Ok(Quota::Granted(_))));
}
