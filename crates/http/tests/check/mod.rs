//! Checks that hold for any input: shared by the tests (which replay the fuzzers' corpus) and the fuzz targets.
//!
//! Owns: one function for each fuzz target. Must not: use anything but the crate's public items.
//! Called by: `tests/*.rs`, and `fuzz/fuzz_targets/*.rs`, which include this file by its path.
#![allow(dead_code, clippy::allow_attributes, reason = "each includer uses a part of it")]

/// Ends a check that failed where there is nothing to compare.
macro_rules! broken {
    ($($message:tt)+) => {{
        let message = format!($($message)+);
        assert!(message.is_empty(), "{message}");
    }};
}

pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod filter;
pub(crate) mod head;
pub(crate) mod judge;
pub(crate) mod oracle;
