//! Chunked bodies against a plain reader, however split.
#![no_main]

#[path = "../../tests/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::chunked::body(data, check::SOMEWHERE));
