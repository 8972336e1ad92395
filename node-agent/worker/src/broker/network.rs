//! What the guardian has told of a pod's addresses, which may change while the pod is armed.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;

use redir_ipc::PodNetwork;

/// All addresses of a pod's namespace, loopback included, as they are now. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodAddresses(Arc<ArcSwap<Vec<IpAddr>>>);

impl PodAddresses {
    /// Whether a peer with this address is inside the pod.
    pub(crate) fn contains(&self, address: &IpAddr) -> bool {
        self.0.load().contains(address)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Arc<Vec<IpAddr>> {
        self.0.load_full()
    }
}

impl From<Vec<IpAddr>> for PodAddresses {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(addresses)))
    }
}

/// What was told of one pod.
#[derive(Debug, Default)]
pub(super) struct PartialNetwork {
    shared: PodAddresses,
    /// A change was told: what the first arm said is older.
    changed: bool,
    pod_addresses: Vec<IpAddr>,
    loopback_addresses: Vec<IpAddr>,
}

impl PartialNetwork {
    /// With the pod's first armed port.
    pub(super) fn armed(&mut self, mut pod_addresses: Vec<IpAddr>, loopback_addresses: Vec<IpAddr>) -> PodAddresses {
        if !self.changed {
            pod_addresses.extend(loopback_addresses);
            self.shared.0.store(Arc::new(pod_addresses));
        }
        self.shared.clone()
    }

    /// A part of a change; with the last one the pod's own addresses, without those on `lo`.
    pub(super) fn part(&mut self, part: PodNetwork) -> Option<Vec<IpAddr>> {
        if part.first {
            self.pod_addresses.clear();
            self.loopback_addresses.clear();
        }
        self.pod_addresses.extend(part.pod_addresses);
        self.loopback_addresses.extend(part.loopback_addresses);
        if !part.last {
            return None;
        }
        self.changed = true;
        let own = std::mem::take(&mut self.pod_addresses);
        let mut all = own.clone();
        all.append(&mut self.loopback_addresses);
        self.shared.0.store(Arc::new(all));
        Some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redir_config::PodName;
    use redir_ipc::Reply;

    fn address(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[test]
    fn a_change_takes_the_place_of_what_was_told_whole() {
        let pod = PodName::new("web-1").expect("good");
        let mut told = PartialNetwork::default();
        let shared = told.armed(vec![address(1)], vec![[127, 0, 0, 1].into()]);
        assert!(shared.contains(&address(1)) && shared.all().len() == 2);
        let addresses: Vec<_> = (2..102).map(address).collect();
        let parts = PodNetwork::parts(&pod, &addresses, &[[127, 0, 0, 1].into()], Vec::new());
        assert_eq!(parts.len(), 3);
        for (at, (part, _)) in parts.into_iter().enumerate() {
            let Reply::Network(part) = part else { panic!("{part:?}") };
            assert_eq!(told.part(part), (at == 2).then(|| addresses.clone()));
            assert_eq!(shared.contains(&address(1)), at < 2, "until the last part the old ones count");
        }
        assert_eq!(shared.all().len(), 101);
        // An arm whose answer is read late is older.
        assert_eq!(told.armed(vec![address(1)], Vec::new()).all().len(), 101);
    }
}
