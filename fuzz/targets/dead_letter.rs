//! [`fuzz::dead_letter`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::dead_letter(bytes));
