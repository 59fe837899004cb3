#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::buffer::cursor::fuzz_one(data));
