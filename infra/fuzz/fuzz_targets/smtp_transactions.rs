#![no_main]

use comms_adapters::fuzz::smtp_transactions;
use comms_fuzz::mutate;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| smtp_transactions(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("smtp_transactions", data, size, max, seed)
});
