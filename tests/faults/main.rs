//! What fails: processes that die or hang, AWS that refuses, providers that say nothing. Nothing is lost, and nothing is
//! sent twice unsaid.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it should be is the test's failure"
)]
// The futures of whole invocations inside of a spawned task are deep.
#![recursion_limit = "256"]

mod crashes;
mod fault_matrix;
mod hangs;
mod kills;
mod process;
mod stalls;

/// The process that [`comms_tests::Process`] starts.
#[tokio::test]
async fn function_process() {
    comms_tests::process::serve().await;
}
