#![no_main]

use comms_adapters::fuzz::ses_answers;
use comms_fuzz::mutate;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| ses_answers(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("ses_answers", data, size, max, seed)
});
