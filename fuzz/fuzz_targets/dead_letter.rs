#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::dead_letter::fuzz_one(data));
