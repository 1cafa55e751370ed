//! Immediate sends in flight against DynamoDB: exact among processes, given back by themselves, and the circuit.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use comms_adapters::Deadline;
use comms_core::{Channel, Tenant};
use comms_delivery::in_flight::{
    Dispatch, HUNG_REQUESTS, InFlight, InFlightPermit, PROBE_INTERVAL, RequestEnd,
};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
};
use futures_util::future::join_all;

const INVOCATION: Duration = Duration::from_secs(29);

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

    fn process(&self) -> InFlight {
        let table = &self.aws.resources().deliveries_table;
        InFlight::new(&self.aws.sdk_config(), table, self.clock.clone())
    }

    fn writes(&self) -> usize {
        let writes = self.aws.count("dynamodb", "UpdateItem");
        self.aws.clear_calls();
        writes
    }
}

fn limit(limit: u32) -> NonZeroU32 {
    NonZeroU32::new(limit).unwrap()
}

async fn ask_on(process: &InFlight, tenant: &str, channel: Channel, most: u32) -> Dispatch {
    let tenant = Tenant::parse(tenant).unwrap();
    let deadline = Deadline::after(INVOCATION);
    let channels = [channel];
    let asked = process.dispatch(&tenant, &channels, limit(most), deadline);
    asked.await.unwrap()
}

async fn ask(process: &InFlight, most: u32) -> Dispatch {
    ask_on(process, "clinic-a", Channel::Email, most).await
}

fn permit(dispatch: Dispatch) -> Option<InFlightPermit> {
    match dispatch {
        Dispatch::Now(permit) => Some(permit),
        Dispatch::TooMany { after, .. } => {
            assert!(after >= Duration::from_secs(1), "a time to wait: {after:?}");
            None
        }
        Dispatch::Queue => panic!("the circuit is open"),
    }
}

async fn end(process: &InFlight, permit: InFlightPermit, end: RequestEnd) {
    permit.end(end);
    process.release(Deadline::after(INVOCATION)).await;
}

/// As many requests hang as it takes to open the circuit.
async fn open(process: &InFlight) {
    for _ in 0..HUNG_REQUESTS {
        let permit = permit(ask(process, 5).await).unwrap();
        end(process, permit, RequestEnd::Hung).await;
    }
}

#[tokio::test]
async fn fifty_concurrent_requests_get_exactly_the_limit() {
    for most in [1, 5, 20] {
        let world = World::new().await;
        let processes: Vec<_> = (0..50).map(|_| world.process()).collect();
        let asked = join_all(processes.iter().map(|process| ask(process, most))).await;
        let permits: Vec<_> = asked.into_iter().filter_map(permit).collect();
        assert_eq!(permits.len(), most as usize);
        assert!(permit(ask(&world.process(), most).await).is_none());
        // Another clinic is not concerned.
        let other = ask_on(&world.process(), "clinic-b", Channel::Email, most).await;
        assert!(permit(other).is_some());
    }
}

#[tokio::test]
async fn released_permit_is_free_and_costs_two_writes() {
    let world = World::new().await;
    let process = world.process();
    for _ in 0..20 {
        let permit = permit(ask(&process, 1).await).unwrap();
        assert_eq!(world.writes(), 1);
        end(&process, permit, RequestEnd::Answered).await;
        assert_eq!(world.writes(), 1);
    }
    // A request that failed before it was sent releases its permit as well.
    drop(permit(ask(&process, 1).await));
    process.release(Deadline::after(INVOCATION)).await;
    assert!(permit(ask(&process, 1).await).is_some());
    world.writes();
    process.release(Deadline::after(INVOCATION)).await;
}

#[tokio::test]
async fn killed_process_gives_its_permits_back_when_they_expire() {
    let world = World::new().await;
    let killed = world.process();
    let lost = permit(ask(&killed, 1).await).unwrap();
    std::mem::forget(lost);
    world.clock.advance(INVOCATION);
    assert!(permit(ask(&world.process(), 1).await).is_none(), "not yet");
    world.clock.advance(Duration::from_secs(6));
    let next = world.process();
    let taken = permit(ask(&next, 1).await);
    assert!(taken.is_some());
    // The release of the expired permit must not free the slot of its successor.
    killed.release(Deadline::after(INVOCATION)).await;
    assert!(permit(ask(&world.process(), 1).await).is_none());
}

#[tokio::test]
async fn late_release_does_not_free_the_slot_of_its_successor() {
    let world = World::new().await;
    let slow = world.process();
    let expired = permit(ask(&slow, 1).await).unwrap();
    world.clock.advance(INVOCATION + Duration::from_secs(6));
    let next = world.process();
    let _taken = permit(ask(&next, 1).await).unwrap();
    end(&slow, expired, RequestEnd::Answered).await;
    assert!(permit(ask(&world.process(), 1).await).is_none());
}

#[tokio::test]
async fn lost_response_takes_one_permit_and_not_two() {
    let world = World::new().await;
    let process = world.process();
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 1, Fault::LoseAnswer);
    let _first = permit(ask(&process, 2).await).unwrap();
    assert!(permit(ask(&world.process(), 2).await).is_some());
    assert!(permit(ask(&world.process(), 2).await).is_none());
}

#[tokio::test]
async fn without_dynamodb_no_immediate_request_is_sent() {
    let world = World::new().await;
    let process = world.process();
    world
        .aws
        .fail_next("dynamodb", "UpdateItem", 100, Fault::ServerError);
    let tenant = Tenant::parse("clinic-a").unwrap();
    let asked = process.dispatch(
        &tenant,
        &[Channel::Email],
        limit(5),
        Deadline::after(INVOCATION),
    );
    assert!(asked.await.is_err());
}

#[tokio::test]
async fn repeated_hangs_open_the_circuit_for_every_process() {
    let world = World::new().await;
    open(&world.process()).await;
    let process = world.process();
    world.writes();
    assert!(matches!(ask(&process, 5).await, Dispatch::Queue));
    assert_eq!(world.writes(), 1);
    let other = ask_on(&process, "clinic-b", Channel::Email, 5).await;
    assert!(permit(other).is_some(), "another clinic's is closed");
    let whatsapp = ask_on(&process, "clinic-a", Channel::Whatsapp, 5).await;
    assert!(permit(whatsapp).is_some(), "so is another channel's");
}

#[tokio::test]
async fn answered_request_between_hangs_keeps_the_circuit_closed() {
    let world = World::new().await;
    let process = world.process();
    for _ in 0..3 * HUNG_REQUESTS {
        let hung = permit(ask(&process, 5).await).unwrap();
        end(&process, hung, RequestEnd::Hung).await;
        let answered = permit(ask(&process, 5).await).unwrap();
        end(&process, answered, RequestEnd::Answered).await;
    }
    assert!(permit(ask(&process, 5).await).is_some());
}

#[tokio::test]
async fn one_probe_at_a_time_closes_the_circuit_or_leaves_it_open() {
    let world = World::new().await;
    open(&world.process()).await;
    let interval = Duration::try_from(PROBE_INTERVAL).unwrap();
    for probe_ends in [RequestEnd::Hung, RequestEnd::Answered] {
        world.clock.advance(interval + Duration::from_secs(1));
        let processes: Vec<_> = (0..20).map(|_| world.process()).collect();
        let asked = join_all(processes.iter().map(|process| ask(process, 5))).await;
        let mut probes: Vec<_> = asked
            .into_iter()
            .filter_map(|dispatch| match dispatch {
                Dispatch::Now(permit) => Some(permit),
                Dispatch::Queue => None,
                Dispatch::TooMany { .. } => panic!("the others are queued"),
            })
            .collect();
        assert_eq!(probes.len(), 1);
        end(&processes[0], probes.remove(0), probe_ends).await;
        let is_open = matches!(ask(&world.process(), 5).await, Dispatch::Queue);
        assert_eq!(is_open, probe_ends == RequestEnd::Hung);
    }
}
