//! What of the ledger each pod holds, and in it each client.
//!
//! Owns the rule: of what is free now a pod may have up to [`POD_BORROWS`] times as much, and a client up to
//! [`CLIENT_BORROWS`] times as much as its pod may still have, as with connections (`shares`). A connection is one
//! task, so whatever it counts is its client's without being told whose it is. Called by `capture` and the ledger.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Alone, a pod may hold three quarters of a budget.
const POD_BORROWS: usize = 3;
/// Alone in a pod that is alone, a client may hold two thirds of a budget: it may be a gateway.
const CLIENT_BORROWS: usize = 2;

tokio::task_local! {
    static PAYER: Arc<ClientAccount>;
}

/// Bytes that are held for a pod, or for a developer's key; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodAccount(Arc<AtomicUsize>);

/// Bytes that are held for a client of a pod, or for a tunnel of a key.
#[derive(Debug)]
pub(crate) struct ClientAccount {
    pod: PodAccount,
    held: AtomicUsize,
}

impl ClientAccount {
    /// Of a client that holds nothing.
    pub(crate) fn new(pod: &PodAccount) -> Self {
        ClientAccount { pod: pod.clone(), held: AtomicUsize::new(0) }
    }

    /// Bytes of the client.
    pub(super) fn held(&self) -> &AtomicUsize {
        &self.held
    }

    /// Bytes of its pod.
    pub(super) fn held_by_pod(&self) -> &AtomicUsize {
        &self.pod.0
    }

    /// Whether the client may hold so many bytes more, if so many are free then.
    pub(super) fn may_have(&self, more: usize, free: usize) -> bool {
        let pod = self.held_by_pod().load(Ordering::Relaxed).saturating_add(more);
        let left = free.saturating_mul(POD_BORROWS).saturating_sub(pod);
        self.held.load(Ordering::Relaxed).saturating_add(more) <= left.saturating_mul(CLIENT_BORROWS)
    }
}

/// The same future; what is held in it is held for this client.
pub(crate) fn paid_by<F: Future>(account: Arc<ClientAccount>, connection: F) -> impl Future<Output = F::Output> {
    PAYER.scope(account, connection)
}

/// Whose the running task's memory is.
pub(super) fn current() -> Option<Arc<ClientAccount>> {
    PAYER.try_with(Arc::clone).ok()
}
