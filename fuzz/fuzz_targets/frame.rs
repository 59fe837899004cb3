#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::buffer::frame::fuzz_one(data));
