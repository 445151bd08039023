#![no_main]
//! `restic_manager_fuzz::cron`, for the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| restic_manager_fuzz::cron(data));
