//! What one clinic may take of what all clinics share: immediate requests in flight, workers, urgent messages.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use comms_adapters::Deadline;
use comms_core::{Channel, SystemClock, Tenant};
use comms_delivery::{
    ShareLimits, WorkQueue,
    in_flight::{Dispatch, HUNG_REQUESTS, InFlight, InFlightPermit, RequestEnd},
    slow_workers::{SLOW_AFTER, SlowWorkers},
};
use comms_testkit::clock::ManualClock;
use comms_tests::{
    Answer, CLINIC, FROM, World, claims, communication,
    contract::{Contract, operation},
    email, handle_records, immediate,
    logs::start_listening,
    service, super_admin,
};
use futures_util::future::join_all;
use serde_json::{Value, json};

const INVOCATION: Duration = Duration::from_secs(29);
const OTHER: &str = "clinic-456";

fn deadline() -> Deadline {
    Deadline::after(INVOCATION)
}

/// Immediate sends as another process of `send` counts them.
fn in_flight(world: &World) -> InFlight {
    let table = &world.aws.resources().deliveries_table;
    InFlight::new(&world.sdk_of("send"), table, Arc::new(SystemClock))
}

async fn take(process: &InFlight, count: u32) -> Vec<InFlightPermit> {
    let clinic = Tenant::parse(CLINIC).unwrap();
    let mut permits = Vec::new();
    for _ in 0..count {
        let limit = NonZeroU32::MIN.saturating_add(99);
        let asked = process.dispatch(&clinic, &[Channel::Email], limit, deadline());
        match asked.await.unwrap() {
            Dispatch::Now(permit) => permits.push(permit),
            other @ (Dispatch::Queue | Dispatch::TooMany { .. }) => panic!("{other:?}"),
        }
    }
    permits
}

async fn items(world: &World) -> usize {
    world.aws.dump_tables().await.lines().count()
}

/// Fails if the answer is not one that the API's document has.
#[track_caller]
fn documented(answer: &Answer) {
    let contract = Contract::read();
    let post = operation(&contract, "postCommunication");
    contract.check(&post, answer).unwrap();
}

fn clinic_admin() -> Value {
    claims("CLINIC_ADMIN", Some(CLINIC))
}

fn critical() -> Value {
    let mut communication = communication();
    communication["priority"] = json!("critical");
    communication
}

async fn set_ceilings(world: &World, tenant: &str, ceilings: Value) {
    let patch = json!({"ceilings": ceilings});
    Box::pin(world.patch_settings(tenant, patch))
        .await
        .expect(200);
}

// ---- Immediate requests in flight --------------------------------------------------------------------------------

#[tokio::test]
async fn immediate_request_over_the_limit_is_refused_and_recorded_nowhere() {
    let world = Box::pin(World::saved()).await;
    set_ceilings(&world, CLINIC, json!({"immediateInFlight": 2})).await;
    world
        .post_with_key(&immediate(), "before")
        .await
        .expect(200);
    let other = in_flight(&world);
    // Slots are numbered: those of the other process are to be among the clinic's two.
    let clinic = Tenant::parse(CLINIC).unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        let two = NonZeroU32::MIN.saturating_add(1);
        let asked = other.dispatch(&clinic, &[Channel::Email], two, deadline());
        held.push(asked.await.unwrap());
    }
    let before = items(&world).await;
    let refused = world.post_with_key(&immediate(), "k").await.expect(429);
    assert_eq!(refused.body["code"], "too_many_in_flight");
    documented(&refused);
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=10).contains(&seconds), "{seconds}");
    assert_eq!(items(&world).await, before);
    // What has ended needs no permit, and neither does another strategy or clinic.
    world
        .post_with_key(&immediate(), "before")
        .await
        .expect(200);
    world.post(&communication()).await.expect(202);
    drop(held);
    other.release(deadline()).await;
    world.post_with_key(&immediate(), "k").await.expect(200);
}

#[tokio::test]
async fn immediate_request_goes_to_the_queue_while_the_circuit_is_open() {
    let world = Box::pin(World::saved()).await;
    let other = in_flight(&world);
    for permit in take(&other, HUNG_REQUESTS).await {
        permit.end(RequestEnd::Hung);
    }
    other.release(deadline()).await;
    let queued = world.post_with_key(&immediate(), "k").await.expect(202);
    assert_eq!(queued.body["status"], "queued");
    assert!(world.smtp.messages().is_empty());
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_eq!(world.smtp.messages().len(), 1);
    // What has ended is answered as ever.
    world.post_with_key(&immediate(), "k").await.expect(200);
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn answers_of_no_provider_do_not_close_the_circuit() {
    let world = Box::pin(World::saved()).await;
    world.post_with_key(&immediate(), "ended").await.expect(200);
    let other = in_flight(&world);
    let hang = async |count| {
        for permit in take(&other, count).await {
            permit.end(RequestEnd::Hung);
        }
        other.release(deadline()).await;
    };
    hang(HUNG_REQUESTS - 1).await;
    world.post_with_key(&immediate(), "ended").await.expect(200);
    let mut nowhere = immediate();
    nowhere["recipients"] = json!([{"phoneNumber": "+15551234567"}]);
    let failed = world.post(&nowhere).await.expect(207);
    assert_eq!(failed.body["deliveries"][0]["reason"]["code"], "NO_ADDRESS");
    hang(1).await;
    world.post(&immediate()).await.expect(202);
}

#[tokio::test]
async fn operators_see_the_circuit_and_who_is_refused_or_diverted() {
    let world = Box::pin(World::saved()).await;
    set_ceilings(&world, CLINIC, json!({"immediateInFlight": 1})).await;
    let other = in_flight(&world);
    let held = hold_the_only_permit(&other).await;
    let listening = start_listening();
    world.post(&immediate()).await.expect(429);
    assert_eq!(listening.sum("ImmediateRefused"), 1);
    let refused = listening.said("too many immediate requests in flight");
    assert_eq!(refused[0]["clinicId"], CLINIC);
    drop(held);
    other.release(deadline()).await;
    for permit in take(&other, HUNG_REQUESTS).await {
        permit.end(RequestEnd::Hung);
    }
    other.release(deadline()).await;
    let opened = listening.said("circuit opened");
    assert_eq!(opened.len(), 1);
    assert_eq!(
        (&opened[0]["clinicId"], &opened[0]["channels"]),
        (&json!(CLINIC), &json!("email"))
    );
    world.post(&immediate()).await.expect(202);
    assert_eq!(listening.sum("ImmediateDiverted"), 1);
    let diverted = listening.said("immediate request diverted to the queue");
    assert_eq!(
        (diverted.len(), &diverted[0]["clinicId"]),
        (1, &json!(CLINIC))
    );
    assert_eq!(listening.said("circuit closed").len(), 0);
}

/// The only permit of the clinic, held by another process.
async fn hold_the_only_permit(process: &InFlight) -> Dispatch {
    let clinic = Tenant::parse(CLINIC).unwrap();
    let asked = process.dispatch(&clinic, &[Channel::Email], NonZeroU32::MIN, deadline());
    asked.await.unwrap()
}

fn to(mut communication: Value, recipients: usize) -> Value {
    let patient = |n| json!({"email": format!("patient-{n}@example.com")});
    communication["recipients"] = (0..recipients).map(patient).collect();
    communication
}

fn normal(mut communication: Value) -> Value {
    communication["priority"] = json!("normal");
    communication
}

/// A clinic with these ceilings and this hourly limit, and `send` as a process that has counted nothing.
async fn limited(ceilings: Value, max_per_hour: u32) -> World {
    let mut world = Box::pin(World::saved()).await;
    let patch = json!({"ceilings": ceilings, "email": {"rateLimit": {"maxPerHour": max_per_hour}}});
    Box::pin(world.patch_settings(CLINIC, patch))
        .await
        .expect(200);
    world.restart();
    world
}

#[tokio::test]
async fn refused_requests_leave_their_quota_to_other_processes() {
    let ceilings = json!({"immediateInFlight": 1, "urgentPerHour": 40});
    let mut world = Box::pin(limited(ceilings, 40)).await;
    let other = in_flight(&world);
    let held = hold_the_only_permit(&other).await;
    for _ in 0..3 {
        let refused = world.post(&to(immediate(), 12)).await.expect(429);
        assert_eq!(refused.body["code"], "too_many_in_flight");
    }
    drop(held);
    other.release(deadline()).await;
    world.restart();
    world.post(&to(immediate(), 40)).await.expect(200);
    assert_eq!(world.smtp.messages().len(), 40);
}

#[tokio::test]
async fn diverted_requests_leave_their_quota_to_the_workers() {
    let world = Box::pin(limited(json!({}), 20)).await;
    let other = in_flight(&world);
    for permit in take(&other, HUNG_REQUESTS).await {
        permit.end(RequestEnd::Hung);
    }
    other.release(deadline()).await;
    world.post(&to(normal(immediate()), 20)).await.expect(202);
    let batch = world.run_worker().await;
    assert_eq!(batch.failed, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 20);
}

#[tokio::test]
async fn request_without_urgent_quota_leaves_the_other_quota_to_all() {
    let mut world = Box::pin(limited(json!({"urgentPerHour": 12}), 30)).await;
    world.post(&to(immediate(), 10)).await.expect(200);
    for _ in 0..2 {
        world.post(&to(immediate(), 10)).await.expect(429);
    }
    world.restart();
    world.post(&to(normal(immediate()), 20)).await.expect(200);
}

// ---- Urgent messages ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn critical_is_for_the_platform_and_for_clinics_that_it_allowed() {
    let world = Box::pin(World::saved()).await;
    let before = items(&world).await;
    for mut refused in [critical(), critical()] {
        refused["strategy"] = json!("immediate");
        let answer = world.post_as(&refused, clinic_admin(), &[]).await;
        let answer = answer.expect(403);
        assert_eq!(answer.pointers(), ["/priority"]);
        documented(&answer);
    }
    assert_eq!(items(&world).await, before);
    for caller in [service(), super_admin()] {
        world.post_as(&critical(), caller, &[]).await.expect(202);
    }
    let allowed = async |status: u16| {
        let mut world = Box::pin(World::saved()).await;
        let own = (status == 403).then(|| json!({"critical": false}));
        Box::pin(world.save_global()).await;
        set_ceilings(&world, "_global", json!({"critical": true})).await;
        if let Some(own) = own {
            set_ceilings(&world, CLINIC, own).await;
        }
        world.restart();
        let posted = critical();
        let posted = world.post_as(&posted, clinic_admin(), &[]).await;
        posted.expect(status);
    };
    allowed(202).await;
    allowed(403).await;
}

#[tokio::test]
async fn urgent_messages_over_the_quota_are_refused_and_counted_once() {
    let world = Box::pin(World::saved()).await;
    set_ceilings(&world, CLINIC, json!({"urgentPerHour": 2})).await;
    world.post_with_key(&communication(), "1").await.expect(202);
    world.post_with_key(&immediate(), "2").await.expect(200);
    let before = items(&world).await;
    let refused = world.post_with_key(&communication(), "3").await;
    let refused = refused.expect(429);
    assert_eq!(refused.body["code"], "rate_limited");
    documented(&refused);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(items(&world).await, before);
    // The worker takes no quota for what was accepted, and what was accepted is accepted again.
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_eq!(world.smtp.messages().len(), 2);
    let again = world.post_with_key(&communication(), "1").await;
    again.expect(202);
    assert_eq!(world.run_worker().await.failed, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 2);
    let mut normal = communication();
    normal["priority"] = json!("normal");
    world.post(&normal).await.expect(202);
}

/// A producer's message on the urgent queue.
fn urgent_record(world: &World, communication: &Value) -> Value {
    let mut record = comms_tests::record("m-1", &communication.to_string());
    let name = world.aws.resources().urgent_queue_url.clone();
    let name = name.rsplit('/').next().unwrap();
    record["eventSourceARN"] = json!(format!("arn:aws:sqs:us-east-1:123456789012:{name}"));
    record
}

#[tokio::test]
async fn producers_urgent_message_over_the_quota_waits() {
    let world = Box::pin(World::saved()).await;
    set_ceilings(&world, CLINIC, json!({"urgentPerHour": 1})).await;
    world.post(&immediate()).await.expect(200);
    let record = urgent_record(&world, &communication());
    assert_eq!(world.work_on(std::slice::from_ref(&record)).await, ["m-1"]);
    assert_eq!(world.smtp.messages().len(), 1);
    set_ceilings(&world, CLINIC, json!({"urgentPerHour": 10})).await;
    let mut world = world;
    world.restart();
    assert_eq!(world.work_on(&[record]).await, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn repeat_of_an_urgent_request_takes_no_urgent_quota() {
    let mut world = Box::pin(limited(json!({"urgentPerHour": 10}), 100)).await;
    for strategy in [immediate(), communication()] {
        let request = to(strategy, 4);
        let key = request["strategy"].as_str().unwrap();
        let first = world.post_with_key(&request, key).await;
        for _ in 0..2 {
            world.restart();
            let again = world.post_with_key(&request, key).await;
            assert_eq!(again.status, first.status, "{}", again.text);
        }
    }
    world.restart();
    world.post(&to(immediate(), 2)).await.expect(200);
    world.post(&to(immediate(), 2)).await.expect(429);
}

#[tokio::test]
async fn producers_urgent_message_over_an_hours_quota_ends_in_the_next() {
    let world = Box::pin(World::saved()).await;
    set_ceilings(&world, CLINIC, json!({"urgentPerHour": 5})).await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let record = urgent_record(&world, &to(communication(), 10));
    let time = Duration::from_secs(30);
    let work = async || handle_records(&worker, std::slice::from_ref(&record), time).await;
    assert_eq!(work().await, ["m-1"]);
    assert_eq!(world.smtp.messages().len(), 5);
    clock.advance(Duration::from_hours(1));
    assert_eq!(work().await, [""; 0]);
    assert_eq!(world.smtp.messages().len(), 10);
}

// ---- Workers -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn slow_clinic_gets_no_worker_beyond_its_share_and_others_do() {
    let mut world = Box::pin(World::saved()).await;
    let other = email(&world.entry(), FROM);
    world.put_settings(OTHER, other).await.expect(201);
    let limits = ShareLimits::default().workers;
    let table = &world.aws.resources().deliveries_table;
    let process = || {
        SlowWorkers::new(
            &world.sdk_of("worker"),
            table,
            Arc::new(SystemClock),
            limits,
        )
    };
    let processes: Vec<_> = (0..limits.urgent.get()).map(|_| process()).collect();
    let clinic = Tenant::parse(CLINIC).unwrap();
    let slow = join_all(processes.iter().map(async |process| {
        let begun = process.begin(WorkQueue::Urgent, &clinic, Channel::Email, deadline());
        let mut working = begun.await.unwrap();
        let silent = tokio::time::sleep(SLOW_AFTER + Duration::from_millis(100));
        process
            .watch(&mut working, deadline(), || Duration::ZERO, silent)
            .await;
        working
    }));
    let slow = slow.await;

    world.post(&communication()).await.expect(202);
    let mut neighbor = communication();
    neighbor["metadata"]["clinicId"] = json!(OTHER);
    world.post(&neighbor).await.expect(202);
    let before = items(&world).await;
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (2, 1));
    assert_eq!(world.smtp.messages().len(), 1, "the neighbor's");
    // Its delivery, what became of it, the health of its provider, which has sent for the first time, and the permits of
    // its mail server's login.
    let neighbors_items = 4;
    assert_eq!(items(&world).await, before + neighbors_items);

    drop(slow);
    for process in &processes {
        process.release(deadline()).await;
    }
    world.restart();
    let batch = world.run_worker().await;
    assert_eq!((batch.records.len(), batch.failed.len()), (1, 0));
    assert_eq!(world.smtp.messages().len(), 2);
}

#[tokio::test]
async fn ten_slow_deliveries_of_one_process_take_one_worker_of_the_share() {
    let world = Box::pin(World::saved()).await;
    let table = &world.aws.resources().deliveries_table;
    let limits = ShareLimits::default().workers;
    let process = SlowWorkers::new(
        &world.sdk_of("worker"),
        table,
        Arc::new(SystemClock),
        limits,
    );
    let clinic = Tenant::parse(CLINIC).unwrap();
    let begin = async || {
        let begun = process.begin(WorkQueue::Normal, &clinic, Channel::Email, deadline());
        begun.await.unwrap()
    };
    let ten = || (0..10).map(|_| begin());
    let slots = async || {
        let item = world
            .aws
            .item(table, &format!("slow#normal#{CLINIC}"), "permits")
            .await
            .unwrap()
            .unwrap_or_default();
        let names = item.as_object().into_iter().flatten();
        names.filter(|(name, _)| name.starts_with("slot")).count()
    };
    // All become slow at the same time.
    let slow = join_all(ten().map(async |begun| {
        let mut working = begun.await;
        let silent = tokio::time::sleep(SLOW_AFTER + Duration::from_millis(100));
        process
            .watch(&mut working, deadline(), || Duration::ZERO, silent)
            .await;
        working
    }));
    let slow = slow.await;
    assert_eq!((slots().await, process.take_writes()), (1, 1));
    drop(slow);
    process.release(deadline()).await;
    assert_eq!(slots().await, 0);
    process.take_writes();
    // And all take the permit first from now on.
    let all_at_once = join_all(ten()).await;
    assert_eq!((slots().await, process.take_writes()), (1, 1));
    drop(all_at_once);
    process.release(deadline()).await;
    assert_eq!(slots().await, 0);
}

#[tokio::test]
async fn wait_for_a_connection_makes_no_delivery_slow() {
    let world = Box::pin(World::saved()).await;
    let table = &world.aws.resources().deliveries_table;
    let limits = ShareLimits::default().workers;
    let sdk = world.sdk_of("worker");
    let process = SlowWorkers::new(&sdk, table, Arc::new(SystemClock), limits);
    let clinic = Tenant::parse(CLINIC).unwrap();
    let begun = process.begin(WorkQueue::Normal, &clinic, Channel::Email, deadline());
    let mut working = begun.await.unwrap();
    let work = tokio::time::sleep(SLOW_AFTER + Duration::from_millis(100));
    let waited = || Duration::from_secs(1);
    process.watch(&mut working, deadline(), waited, work).await;
    drop(working);
    process.release(deadline()).await;
    assert_eq!(process.take_writes(), 0);
}

#[tokio::test]
async fn delivery_that_is_cancelled_leaves_its_worker_to_others() {
    let world = Box::pin(World::saved()).await;
    let table = &world.aws.resources().deliveries_table;
    let limits = ShareLimits::default().workers;
    let process = SlowWorkers::new(
        &world.sdk_of("worker"),
        table,
        Arc::new(SystemClock),
        limits,
    );
    let clinic = Tenant::parse(CLINIC).unwrap();
    let begun = process.begin(WorkQueue::Normal, &clinic, Channel::Email, deadline());
    let mut working = begun.await.unwrap();
    let silent = std::future::pending::<()>();
    let watched = process.watch(&mut working, deadline(), || Duration::ZERO, silent);
    let cancelled = tokio::time::timeout(SLOW_AFTER + Duration::from_secs(1), watched).await;
    assert!(cancelled.is_err());
    drop(working);
    process.release(deadline()).await;
    assert_eq!(process.take_writes(), 2, "it was taken and released");
}
