#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::x509::fuzz_one(data));
