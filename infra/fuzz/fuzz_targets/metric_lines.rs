#![no_main]

use comms_fuzz::mutate;
use comms_runtime::fuzz::metric_lines;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| metric_lines(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("metric_lines", data, size, max, seed)
});
