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

/// At how many places a check splits its input in two, beside byte by byte: all of a short one's ...
pub(crate) const EVERYWHERE: usize = 300;
/// ... or a few that depend on its length, for fuzzers, which come by again.
pub(crate) const SOMEWHERE: usize = 8;

/// Room for the header fields of one head; those with more are not compared.
pub(crate) const ROOM: usize = 256;

/// Up to `places` places of `len` bytes at which they are split in two.
pub(crate) fn splits(places: usize, len: usize) -> impl Iterator<Item = usize> {
    let step = len / places + 1;
    (len % step..len).step_by(step)
}

pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod filter;
pub(crate) mod head;
pub(crate) mod judge;
pub(crate) mod oracle;
