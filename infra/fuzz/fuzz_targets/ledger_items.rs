#![no_main]

use comms_delivery::fuzz::ledger_items;
use comms_fuzz::mutate;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| ledger_items(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("ledger_items", data, size, max, seed)
});
