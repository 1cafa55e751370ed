#![no_main]

use comms_config::fuzz::entity_tags;
use comms_fuzz::mutate;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| entity_tags(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("entity_tags", data, size, max, seed)
});
