#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::stored_batch::fuzz_one(data));
