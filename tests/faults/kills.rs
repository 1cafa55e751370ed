//! The fault suite: workers are killed at chosen points, and everything they work with fails, while nothing may be lost
//! and nothing sent twice unsaid.
//!
//! Each *run* has a seed, and everything in it is drawn from that: the messages, by which way they come and what their
//! accounts answer to them; which calls of AWS fail, before they have their effect or after it; where the worker, a
//! process of its own under Lambda's Runtime API, gets its SIGKILL; when two processes are given the same messages at
//! once, when one stands still until its lease is over and another has taken over from it, and when SQS brings again
//! what is done. Points are events, not times: a call arriving at AWS, its effect, a message in a provider's hands. So a
//! seed means the same point on every machine, although what happens at the same time may still come in another order.
//!
//! The test is SQS and Lambda's event source mapping in one: it takes every message off the queues of the local AWS
//! once and hands it out until it is done, in time of its own ([`clock`]) in which waits and leases end when it says so.
//! What the worker asks of SQS itself it asks the local AWS. At the end of a run only what can be seen from outside
//! counts: what the providers took, what `GET /api/v1/communications/{requestId}` says, what lies in the dead-letter
//! queue, and the items of the table ([`expectation`]).
//!
//! | variable | what |
//! | --- | --- |
//! | `FAULT_RUNS` | how many runs (default 200) |
//! | `FAULT_SEED` | the seed of the first; without `FAULT_RUNS` it is the only one |
//!
//! `FAULT_SEED=20261317 cargo test --workspace --test faults kills:: -- --nocapture` plays one run again, and shows what
//! its worker processes logged if it fails. A kill is `std::process::Child::kill`, which is SIGKILL on every Unix.

mod clock;
mod expectation;
mod plan;
mod process;
mod queue;
mod scenario;
mod series;

use std::{io::Write, sync::Arc, time::Instant};

use futures_util::future::join_all;

use self::{
    expectation::Expectation,
    plan::{Plan, Point, has_whatsapp},
    series::Series,
};

/// Runs without `FAULT_RUNS`. Each has a kill at least.
const RUNS: u64 = 200;
/// The seed of the first without `FAULT_SEED`.
const SEED: u64 = 20_261_123;
/// Runs at once, each with an AWS, a mail server and an API that it shares with nobody.
const SERIES: usize = 6;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_workers_and_failing_services_lose_and_duplicate_nothing() {
    let first = number("FAULT_SEED");
    let runs = number("FAULT_RUNS").unwrap_or(if first.is_some() { 1 } else { RUNS });
    let (first, began) = (first.unwrap_or(SEED), Instant::now());
    let (with_whatsapp, without): (Vec<_>, Vec<_>) =
        (first..first + runs).partition(|seed| has_whatsapp(*seed));
    let every = |series| without.iter().copied().skip(series).step_by(SERIES - 1);
    let mut all: Vec<Vec<u64>> = (0..SERIES - 1)
        .map(|series| every(series).collect())
        .collect();
    all.push(with_whatsapp);
    all.retain(|seeds| !seeds.is_empty());
    let all = all.into_iter().map(|seeds| {
        tokio::spawn(async move {
            let mut series = Series::start(has_whatsapp(seeds[0])).await;
            let mut expectation = Expectation::default();
            for seed in seeds {
                let plan = Arc::new(Plan::draw(seed));
                series.play(&plan, &mut expectation).await;
            }
            expectation
        })
    });
    let mut expectation = Expectation::default();
    for of_series in join_all(all).await {
        expectation.add(of_series.unwrap());
    }
    // Past the test harness, which keeps to itself what a test that succeeds prints.
    let _ = writeln!(
        std::io::stderr(),
        "fault suite: {expectation}; {} s",
        began.elapsed().as_secs()
    );
    expectation.check();
    if runs >= RUNS {
        for point in Point::ALL {
            assert!(
                expectation.kills_at(point) > 0,
                "nobody was killed at {point:?}"
            );
        }
    }
}
