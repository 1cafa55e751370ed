#![no_main]

use comms_fuzz::mutate;
use comms_settings::fuzz::settings_documents;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| settings_documents(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("settings_documents", data, size, max, seed)
});
