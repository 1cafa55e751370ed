//! How long it takes the functions to do what they do for every message, or every batch, without waiting for anybody.
//!
//! ```text
//! cargo bench -p comms-bench --bench hot
//! cargo bench -p comms-bench --bench hot -- chain
//! ```
//!
//! [`instructions`](../instructions.rs) counts what of them the machine's load does not change.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]

mod cases;

use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = [
    "submission", "submission_500", "phone_number", "deliveries", "settings", "settings_remembered", "credentials", "secret",
    "quota", "chain", "mail", "log_line", "metrics_line",
])]
fn hot(bencher: Bencher<'_, '_>, name: &str) {
    let case = cases::case(name);
    bencher.bench_local(case);
}
