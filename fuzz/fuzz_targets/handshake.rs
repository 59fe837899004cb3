#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::forward::handshake::fuzz_one(data));
