#![no_main]

use comms_fuzz::{fuzz::json_texts, mutate};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| json_texts(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("json_texts", data, size, max, seed)
});
