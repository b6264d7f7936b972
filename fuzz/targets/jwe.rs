//! [`fuzz::jwe`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::jwe(bytes));
