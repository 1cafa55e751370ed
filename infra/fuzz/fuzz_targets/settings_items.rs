#![no_main]

use comms_fuzz::mutate;
use comms_settings::fuzz::settings_items;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| settings_items(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("settings_items", data, size, max, seed)
});
