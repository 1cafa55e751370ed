//! What callers of the HTTP API are told, and that code, contract, template and documents say the same of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it should be is the test's failure"
)]
// The futures of whole invocations inside of a spawned task are deep.
#![recursion_limit = "256"]

mod callers;
mod categories;
mod config;
mod config_test;
mod default_country;
mod destinations;
mod events;
mod functions;
mod idempotency;
mod large;
mod limits;
mod openapi;
mod operator;
mod patch;
mod providers;
mod purge;
mod required_clinic;
mod send;
mod true_texts;
mod versions;
mod via;

/// The process that [`comms_tests::Process`] starts.
#[tokio::test]
async fn function_process() {
    comms_tests::process::serve().await;
}
