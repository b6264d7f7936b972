//! [`fuzz::jwe_header`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::jwe_header(bytes));
