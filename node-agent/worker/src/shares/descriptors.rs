//! How many file descriptors of the worker are not connections.
//!
//! Owns the count. Called by whatever keeps descriptors in numbers that grow with pods; what is there once is in
//! [`DESCRIPTORS_ASIDE`]. Read by `limit`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::admin;

/// What is there whatever is intercepted: standard streams, runtime, guardian, reserved slots for links, tunnel and admin
/// sockets, the API server, logs, trials, and what is open for a moment.
pub(super) const DESCRIPTORS_ASIDE: usize = 240 + admin::CONNECTIONS;
/// What a captured pod has beside its pools: listeners, and the links of its devices.
pub(crate) const DESCRIPTORS_OF_POD: usize = 16;

/// Descriptors beside connections; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Descriptors {
    held: Arc<AtomicUsize>,
    most: usize,
}

impl Descriptors {
    /// None yet, of so many that the process may have.
    pub(crate) fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// How many the process may have.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// So many more are open, until the returned value is dropped.
    pub(crate) fn hold(&self, count: usize) -> HeldDescriptors {
        self.held.fetch_add(count, Ordering::Relaxed);
        HeldDescriptors { all: self.clone(), count }
    }

    /// How many are open beside connections.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// Descriptors that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldDescriptors {
    all: Descriptors,
    count: usize,
}

impl Drop for HeldDescriptors {
    fn drop(&mut self) {
        self.all.held.fetch_sub(self.count, Ordering::Relaxed);
    }
}
