#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::ndjson::fuzz_one(data));
