//! What one clinic may take of what all clinics share: immediate requests in flight, workers, urgent messages.

mod urgent;
mod workers;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use comms_adapters::Deadline;
use comms_core::{Channel, SystemClock, Tenant};
use comms_delivery::in_flight::{Dispatch, HUNG_REQUESTS, InFlight, InFlightPermit, RequestEnd};
use comms_tests::{
    ApiResponse, CLINIC, World, claims, communication,
    contract::{Contract, operation},
    immediate,
    logs::start_listening,
};
use serde_json::{Value, json};

use self::urgent::hold_the_only_permit;

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
fn documented(answer: &ApiResponse) {
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

fn to(mut communication: Value, recipients: usize) -> Value {
    let patient = |n| json!({"email": format!("patient-{n}@example.com")});
    communication["recipients"] = (0..recipients).map(patient).collect();
    communication
}

// ---- Urgent messages ---------------------------------------------------------------------------------------------

// ---- Workers -----------------------------------------------------------------------------------------------------
