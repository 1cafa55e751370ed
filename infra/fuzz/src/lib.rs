//! What the fuzz targets share: how libFuzzer changes an input. What a target checks stands in the crate that it is about,
//! in `fuzz.rs`; see [`comms_testkit::fuzz`].

// The targets of what may be reached from outside of its crate: tests of `tests/` as well, whose other code is not for here.
#[path = "../../../tests/src/fuzz/mod.rs"]
pub mod fuzz;

use std::sync::OnceLock;

use comms_testkit::fuzz::{mutate_in_place, seeds};
use libfuzzer_sys::fuzzer_mutate;

/// Changes `data[..size]`, and gives its new size: from `target`'s seeds, JSON as JSON, or as libFuzzer does.
pub fn mutate(target: &str, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let seeds = SEEDS.get_or_init(|| seeds(target));
    let own = mutate_in_place(seeds, data, size, max_size, seed);
    own.unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
}
