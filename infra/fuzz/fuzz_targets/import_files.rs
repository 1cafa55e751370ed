#![no_main]

use comms_fuzz::{fuzz::import_files, mutate};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| import_files(input));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate("import_files", data, size, max, seed)
});
