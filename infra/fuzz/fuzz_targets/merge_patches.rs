#![no_main]

use comms_config::fuzz::merge_patches;
use comms_fuzz::mutate;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| merge_patches(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("merge_patches", data, size, max, seed)
});
