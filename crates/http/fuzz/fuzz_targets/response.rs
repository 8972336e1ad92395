//! Response heads: split invariance, and httparse as the other reader.
#![no_main]

#[path = "../../tests/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::head::response(data, check::SOMEWHERE));
