//! [`fuzz::job`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::job(bytes));
