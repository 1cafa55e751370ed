#![no_main]

use comms_fuzz::mutate;
use comms_runtime::fuzz::claims;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| claims(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("claims", data, size, max, seed)
});
