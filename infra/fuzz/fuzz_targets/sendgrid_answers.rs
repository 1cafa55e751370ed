#![no_main]

use comms_adapters::fuzz::sendgrid_answers;
use comms_fuzz::mutate;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| sendgrid_answers(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("sendgrid_answers", data, size, max, seed)
});
