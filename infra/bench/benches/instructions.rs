//! How many instructions it takes the functions to do what they do for every message, which the machine's load does
//! not change.
//!
//! ```text
//! just instructions
//! ```
//!
//! It needs valgrind, and gungraun's runner of the version in `Cargo.lock`. Valgrind's processor has no instructions for
//! SHA-256: what hashes is counted as it would be on a machine without them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a measurement that cannot go on has failed, and the macros' items are public"
)]

#[path = "hot/cases.rs"]
mod cases;

use gungraun::{library_benchmark, library_benchmark_group, main};

use self::cases::{Case, case};

/// The case a second time: the first one is the only one that makes what is made once.
fn warm(name: &str) -> Case {
    let mut case = case(name);
    case();
    case
}

#[library_benchmark(setup = warm)]
#[bench::submission("submission")]
#[bench::submission_500("submission_500")]
#[bench::phone_number("phone_number")]
#[bench::deliveries("deliveries")]
#[bench::settings("settings")]
#[bench::settings_remembered("settings_remembered")]
#[bench::credentials("credentials")]
#[bench::secret("secret")]
#[bench::quota("quota")]
#[bench::chain("chain")]
#[bench::mail("mail")]
#[bench::log_line("log_line")]
#[bench::metrics_line("metrics_line")]
fn hot(mut case: Case) -> Case {
    case();
    // Ended afterwards.
    case
}

library_benchmark_group!(name = each, benchmarks = hot);

main!(library_benchmark_groups = each);
