#![no_main]

#[path = "../forward_rmpv.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    reference::check(data);
});
