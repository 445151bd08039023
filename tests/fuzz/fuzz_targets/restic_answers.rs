#![no_main]
//! `restic_manager_fuzz::restic_answers`, for the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| restic_manager_fuzz::restic_answers(data));
