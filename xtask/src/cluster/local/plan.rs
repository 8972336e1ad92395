//! Names, addresses and places of the local cluster. They are fixed, so that whatever a killed run left can be found by
//! them alone, and one cluster fits on a machine.
//!
//! ```text
//!   the machine ── redir-cluster ─┐
//!   control (API server, etcd) ── br0 ── eth0 of node-1, node-2 … ── cni0 ── pods
//! ```

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The machine's own link into the cluster, the cgroup of everything, and what namespaces' names begin with.
pub(super) const NAME: &str = "redir-cluster";
/// All that the cluster stores. On disk, and not in `/run`, which is often mounted `noexec`.
pub(super) const STATE: &str = "/var/lib/redir-cluster";
/// Held by `up` and `down` while they work.
pub(super) const LOCK: &str = "/run/lock/redir-cluster.lock";

/// Nodes, control plane and the machine itself. Each network has both families.
pub(super) const NODE_NETWORKS: [IpNet; 2] = networks(211, 24, 64);
/// A /24 and a /64 of it for each node.
pub(super) const POD_NETWORKS: [IpNet; 2] = networks(212, 16, 48);
pub(super) const SERVICE_NETWORKS: [IpNet; 2] = networks(213, 16, 112);
/// Where the machine itself is in the cluster's network.
pub(super) const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 211, 0, 254);
pub(super) const HOST_ADDRESS6: Ipv6Addr = node_address6(0xfe);
/// The Service `kubernetes`, the first address of the network by Kubernetes' own rule.
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// The Service of the cluster's DNS.
pub(super) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 10);
pub(super) const DNS_DOMAIN: &str = "cluster.local";
pub(super) const API_PORT: u16 = 6443;
pub(super) const PROXY_HEALTH_PORT: u16 = 10256;
pub(super) const KUBE_ROUTER_HEALTH_PORT: u16 = 20244;
pub(super) const FLANNEL_HEALTH_PORT: u16 = 10261;
/// As whom the addons' programs come to the API server; where theirs would be RBAC and accounts of their own, they may
/// everything here.
pub(super) const ADDON_USER: &str = "addons";
/// The same, in a node.
pub(super) const ADDON_KUBECONFIG: &str = "/var/lib/redir/addons.kubeconfig";

/// Where containerd is reached, in its node.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// Where the addons' programs are, in the node.
pub(super) const ADDONS_IN_NODE: &str = "/var/opt/addons";
/// What a node's components read, in the node.
pub(super) const FILES_IN_NODE: &str = "/var/lib/redir";

/// How everything in and around the cluster reaches the API server.
pub(super) fn api_url() -> String {
    format!("https://{}:{API_PORT}", ClusterMachine::Control.address())
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
    ClusterMachine::Control.folder().join("audit-policy.json")
}

/// What a node's first process runs.
pub(super) fn node_script() -> PathBuf {
    Path::new(STATE).join("node.sh")
}

/// `10.SECOND.0.0` and `fd00:10:SECOND::`, with so many bits.
const fn networks(second: u8, bits: u8, bits6: u8) -> [IpNet; 2] {
    let (address, address6) = (Ipv4Addr::new(10, second, 0, 0), address6(second, [0; 4], 0));
    [IpNet::V4(Ipv4Net::new_assert(address, bits)), IpNet::V6(Ipv6Net::new_assert(address6, bits6))]
}

/// As in `fd00:10:211::1`; the second part is written as in the IPv4 address, which makes it hexadecimal here.
const fn address6(second: u8, [a, b, c, d]: [u16; 4], last: u16) -> Ipv6Addr {
    let second = (second / 100) as u16 * 0x100 + (second / 10 % 10) as u16 * 0x10 + (second % 10) as u16;
    Ipv6Addr::new(0xfd00, 0x10, second, a, b, c, d, last)
}

const fn node_address6(last: u16) -> Ipv6Addr {
    address6(211, [0; 4], last)
}

/// As the components take them: `10.212.0.0/16,fd00:10:212::/48`.
pub(super) fn both([v4, v6]: [IpNet; 2]) -> String {
    format!("{v4},{v6}")
}

/// A network namespace with its processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClusterMachine {
    /// The control plane.
    Control,
    /// `node-N`, from 1.
    Node(u8),
}

impl ClusterMachine {
    /// The control plane, then the nodes.
    pub(super) fn all(nodes: u8) -> Vec<ClusterMachine> {
        [ClusterMachine::Control].into_iter().chain(ClusterMachine::nodes(nodes)).collect()
    }

    pub(super) fn nodes(nodes: u8) -> impl Iterator<Item = ClusterMachine> {
        (1..=nodes).map(ClusterMachine::Node)
    }

    /// Its network namespace, as `ip netns` names it.
    pub(super) fn namespace(self) -> String {
        format!("{NAME}-{self}")
    }

    pub(super) fn address(self) -> Ipv4Addr {
        match self {
            ClusterMachine::Control => Ipv4Addr::new(10, 211, 0, 1),
            ClusterMachine::Node(number) => Ipv4Addr::new(10, 211, 0, 10 + number),
        }
    }

    pub(super) fn address6(self) -> Ipv6Addr {
        match self {
            ClusterMachine::Control => node_address6(1),
            ClusterMachine::Node(number) => node_address6(0x10 + u16::from(number)),
        }
    }

    /// The addresses of a node's pods, in both families.
    pub(super) fn pods(number: u8) -> [IpNet; 2] {
        let (address, address6) = (Ipv4Addr::new(10, 212, number, 0), address6(212, [number.into(), 0, 0, 0], 0));
        [Ipv4Net::new_assert(address, 24).into(), Ipv6Net::new_assert(address6, 64).into()]
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

impl fmt::Display for ClusterMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterMachine::Control => write!(f, "control"),
            ClusterMachine::Node(number) => write!(f, "node-{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_part_of_both_families() {
        let written = |networks: [IpNet; 2]| both(networks);
        assert_eq!(written(NODE_NETWORKS), "10.211.0.0/24,fd00:10:211::/64");
        assert_eq!(written(POD_NETWORKS), "10.212.0.0/16,fd00:10:212::/48");
        assert_eq!(written(SERVICE_NETWORKS), "10.213.0.0/16,fd00:10:213::/112");
        assert_eq!(written(ClusterMachine::pods(3)), "10.212.3.0/24,fd00:10:212:3::/64");
        assert_eq!(ClusterMachine::Node(2).address6().to_string(), "fd00:10:211::12");
        for (whole, part) in POD_NETWORKS.iter().zip(ClusterMachine::pods(9)) {
            assert!(whole.contains(&part), "{whole} {part}");
        }
    }
}
