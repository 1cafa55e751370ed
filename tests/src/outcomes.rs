//! Writes of outcomes, which a test lets fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use comms_testkit::aws::{Fault, LocalAws, Moment, PassingCall};

/// An invocation of the worker with little time beyond what a delivery must have left to be started.
pub const SHORT_BATCH: Duration = Duration::from_secs(9);

/// Whether a call has arrived that says how a delivery ended.
pub fn is_outcome(call: &PassingCall) -> bool {
    let update = call.request["UpdateExpression"].as_str();
    let key = call.request["Key"]["sk"]["S"].as_str();
    call.moment == Moment::Arrived
        && key.is_some_and(|key| key.starts_with("delivery#"))
        && update.is_some_and(|update| update.starts_with("SET #status = :status,"))
}

/// Fails the next `times` writes of an outcome, and says how many it has failed.
pub fn fail_outcomes(aws: &LocalAws, times: usize, fault: Fault) -> Arc<AtomicUsize> {
    let failed = Arc::new(AtomicUsize::new(0));
    let counter = failed.clone();
    aws.watch(move |call| {
        let fails = is_outcome(&call) && counter.load(Ordering::Relaxed) < times;
        if fails {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Box::pin(async move { fails.then_some(fault) })
    });
    failed
}
