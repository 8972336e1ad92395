//! Whole connections: exactly once, in order, however split.
#![no_main]

#[path = "../../tests/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::connection::connection(data, check::SOMEWHERE));
