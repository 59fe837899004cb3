#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longshore::codec::forward::ack::fuzz_one(data));
