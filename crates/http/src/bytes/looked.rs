//! How many bytes were looked at, for the tests that hold that none is twice.
//!
//! Owns: one counter for each thread. Must not: be in a program. Called by: the scans; tests.

use std::cell::Cell;

thread_local! {
    static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
}

/// `count` more bytes.
pub(super) fn at(count: usize) {
    LOOKED_AT.set(LOOKED_AT.get() + count);
}

/// How many bytes `scans` looks at.
pub(crate) fn by(scans: impl FnOnce()) -> usize {
    let before = LOOKED_AT.get();
    scans();
    LOOKED_AT.get() - before
}
