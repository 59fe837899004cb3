#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::docker_json::fuzz_one(data));
