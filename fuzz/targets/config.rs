#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    msi_tokend::fuzz::config(input);
});
