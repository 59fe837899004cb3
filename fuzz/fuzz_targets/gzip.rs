#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::gzip::fuzz_one(data));
