//! Names, addresses and places of the local cluster. They are fixed, so that whatever a killed run left can be found by
//! them alone, and one cluster fits on a machine.
//!
//! ```text
//!   the machine ── redir-cluster ─┐
//!   control (API server, etcd) ── br0 ── eth0 of node-1, node-2 … ── cni0 ── pods
//! ```

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The machine's own link into the cluster, the cgroup of everything, and what namespaces' names begin with.
pub(super) const NAME: &str = "redir-cluster";
/// All that the cluster stores. On disk, and not in `/run`, which is often mounted `noexec`.
pub(super) const STATE: &str = "/var/lib/redir-cluster";
/// Held by `up` and `down` while they work.
pub(super) const LOCK: &str = "/run/lock/redir-cluster.lock";

/// Nodes, control plane and the machine itself.
pub(super) const NODE_NETWORK: Network = Network { address: Ipv4Addr::new(10, 211, 0, 0), bits: 24 };
/// A /24 of it for each node.
pub(super) const POD_NETWORK: Network = Network { address: Ipv4Addr::new(10, 212, 0, 0), bits: 16 };
pub(super) const SERVICE_NETWORK: Network = Network { address: Ipv4Addr::new(10, 213, 0, 0), bits: 16 };
/// Where the machine itself is in the cluster's network.
pub(super) const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 211, 0, 254);
/// The Service `kubernetes`, the first address of the network by Kubernetes' own rule.
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
pub(super) const API_PORT: u16 = 6443;
pub(super) const PROXY_HEALTH_PORT: u16 = 10256;

/// Where containerd is reached, in its node.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// What a node's components read, in the node.
pub(super) const FILES_IN_NODE: &str = "/var/lib/redir";

/// How everything in and around the cluster reaches the API server.
pub(super) fn api_url() -> String {
    format!("https://{}:{API_PORT}", Machine::Control.address())
}

pub(super) fn logs() -> PathBuf {
    Path::new(STATE).join("log")
}

/// Every request but those of the cluster's own components, one JSON object a line.
pub(super) fn audit_log() -> PathBuf {
    logs().join("audit.log")
}

/// What the audit log leaves out.
pub(super) fn audit_policy() -> PathBuf {
    Machine::Control.folder().join("audit-policy.json")
}

/// What a node's first process runs.
pub(super) fn node_script() -> PathBuf {
    Path::new(STATE).join("node.sh")
}

/// An IPv4 network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Network {
    pub(super) address: Ipv4Addr,
    pub(super) bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, or a single address.
    pub(super) fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let network = Network { address: address.parse().ok()?, bits: bits.parse().ok()? };
        (network.bits <= 32).then_some(network)
    }

    /// Whether the other is a part of it, or the whole.
    pub(super) fn holds(self, other: Network) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
        other.bits >= self.bits && u32::from(self.address) & mask == u32::from(other.address) & mask
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A network namespace with its processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Machine {
    /// The control plane.
    Control,
    /// `node-N`, from 1.
    Node(u8),
}

impl Machine {
    /// The control plane, then the nodes.
    pub(super) fn all(nodes: u8) -> Vec<Machine> {
        [Machine::Control].into_iter().chain(Machine::nodes(nodes)).collect()
    }

    pub(super) fn nodes(nodes: u8) -> impl Iterator<Item = Machine> {
        (1..=nodes).map(Machine::Node)
    }

    /// Its network namespace, as `ip netns` names it.
    pub(super) fn namespace(self) -> String {
        format!("{NAME}-{self}")
    }

    pub(super) fn address(self) -> Ipv4Addr {
        match self {
            Machine::Control => Ipv4Addr::new(10, 211, 0, 1),
            Machine::Node(number) => Ipv4Addr::new(10, 211, 0, 10 + number),
        }
    }

    /// The addresses of a node's pods.
    pub(super) fn pods(number: u8) -> Network {
        Network { address: Ipv4Addr::new(10, 212, number, 0), bits: 24 }
    }

    /// What it stores.
    pub(super) fn folder(self) -> PathBuf {
        Path::new(STATE).join(self.to_string())
    }

    /// What is `/var` in a node.
    pub(super) fn var(self) -> PathBuf {
        self.folder().join("var")
    }

    /// A component's kubeconfig, where the control plane reads it.
    pub(super) fn kubeconfig(self, component: &str) -> PathBuf {
        self.folder().join(format!("{component}.kubeconfig"))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Machine::Control => write!(f, "control"),
            Machine::Node(number) => write!(f, "node-{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_parts() {
        let holds = |text| POD_NETWORK.holds(Network::parse(text).unwrap());
        assert!(holds("10.212.0.0/16"));
        assert!(holds("10.212.3.0/24"));
        assert!(holds("10.212.255.255"));
        assert!(!holds("10.0.0.0/8"));
        assert!(!holds("0.0.0.0/0"));
        assert!(!holds("10.213.0.0/16"));
    }

    #[test]
    fn what_is_no_network_is_not_read_as_one() {
        for text in ["default", "10.0.0.0/33", "fd00::/64", ""] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
