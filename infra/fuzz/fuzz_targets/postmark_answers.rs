#![no_main]

use comms_adapters::fuzz::postmark_answers;
use comms_fuzz::mutate;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| postmark_answers(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("postmark_answers", data, size, max, seed)
});
