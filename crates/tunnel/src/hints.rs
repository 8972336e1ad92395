//! Hints that nobody listens at a developer's address any more, and who wants to hear of them.
//!
//! A hint is not a proof: whoever knows a tunnel's addresses and ports can forge one. It is a reason to ask.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::canonical;

/// All addresses that are watched. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct UnreachableHints(Arc<Mutex<HashMap<SocketAddr, Arc<Notify>>>>);

impl UnreachableHints {
    /// Watches an address until the watch is dropped. A later watch takes an earlier one's place: one socket has it.
    pub fn watch(&self, address: SocketAddr) -> UnreachableWatch {
        let (address, hinted) = (canonical(address), Arc::new(Notify::new()));
        self.watched().insert(address, hinted.clone());
        UnreachableWatch { hints: self.clone(), address, hinted }
    }

    /// Nobody listens at this address, somebody says. Unless it is watched, nothing happens.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux tells an unconnected socket"))]
    pub(crate) fn hint(&self, address: SocketAddr) {
        if let Some(hinted) = self.watched().get(&canonical(address)) {
            hinted.notify_one();
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Notify>>> {
        // Whoever panicked has left a whole map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of one address.
#[derive(Debug)]
pub struct UnreachableWatch {
    hints: UnreachableHints,
    address: SocketAddr,
    hinted: Arc<Notify>,
}

impl UnreachableWatch {
    /// Resolves at the next hint; hints that nobody waited for are one. Dropping the future loses nothing.
    pub async fn hinted(&self) {
        self.hinted.notified().await;
    }

    /// Whether it is this address that is watched.
    pub fn is_of(&self, address: SocketAddr) -> bool {
        self.address == canonical(address)
    }
}

impl Drop for UnreachableWatch {
    fn drop(&mut self) {
        let mut watched = self.hints.watched();
        if watched.get(&self.address).is_some_and(|current| Arc::ptr_eq(current, &self.hinted)) {
            watched.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_watched_address_is_told_of() {
        let hints = UnreachableHints::default();
        let watch = hints.watch("[::ffff:192.0.2.1]:4000".parse().unwrap());
        assert!(watch.is_of("192.0.2.1:4000".parse().unwrap()));
        for other in ["192.0.2.1:4001", "192.0.2.2:4000", "[::1]:4000"] {
            hints.hint(other.parse().unwrap());
        }
        assert!(tokio::time::timeout(std::time::Duration::ZERO, watch.hinted()).await.is_err());
        hints.hint("192.0.2.1:4000".parse().unwrap());
        watch.hinted().await;
    }

    #[test]
    fn a_watch_that_was_replaced_takes_nothing_away() {
        let hints = UnreachableHints::default();
        let address = "192.0.2.1:4000".parse().unwrap();
        let (old, new) = (hints.watch(address), hints.watch(address));
        drop(old);
        assert_eq!(hints.watched().len(), 1);
        drop(new);
        assert!(hints.watched().is_empty());
    }
}
