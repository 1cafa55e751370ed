//! What becomes of a message: providers and fallbacks, quotas and waits, health, usage, and what operators see of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it should be is the test's failure"
)]
// The futures of whole invocations inside of a spawned task are deep.
#![recursion_limit = "256"]

mod alarms;
mod ceilings;
mod concurrency;
mod costs;
mod freeze;
mod fresh_settings;
mod health;
mod mailbox;
mod matrix;
mod observability;
mod platform_account;
mod quotas;
mod recording;
mod recording_by_queue;
mod refused_login;
mod replaced_settings;
mod requests;
mod rotation;
mod shares;
mod usage;
mod waiting;
mod worker;

/// The process that [`comms_tests::Process`] starts.
#[tokio::test]
async fn function_process() {
    comms_tests::process::serve().await;
}
