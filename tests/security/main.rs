//! Who may do what, what stays secret, and that no clinic reaches another.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it should be is the test's failure"
)]
// The futures of whole invocations inside of a spawned task are deep.
#![recursion_limit = "256"]

mod attribution;
mod authorization;
mod isolation;
mod people;
mod permissions;
mod privacy;
mod producers;
mod tampering;
mod threat_model;
