#![no_main]
//! `restic_manager_fuzz::journal`, for the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| restic_manager_fuzz::journal(data));
