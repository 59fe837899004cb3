#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::time::fuzz_one(data));
