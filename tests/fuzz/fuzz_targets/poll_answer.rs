#![no_main]
//! `restic_manager_fuzz::poll_answer`, for the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| restic_manager_fuzz::poll_answer(data));
