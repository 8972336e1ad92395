//! The network of the local cluster: a namespace for each machine of it, on a bridge in the control plane's, so that nothing
//! is forwarded or filtered by the machine itself, whose firewall stays as it is. The machine gets one link into it, with
//! routes to pods and Services; it goes with the namespace at its other end.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use redir_rig::cleanup::NETNS_DIR;
use redir_rig::namespace::checked;

use super::plan::{ClusterMachine, HOST_ADDRESS, HOST_ADDRESS6, NAME, NODE_NETWORKS, POD_NETWORKS, SERVICE_NETWORKS};
use crate::cluster::Cni;

/// Makes all of it.
pub(super) fn make(nodes: u8, cni: Cni) -> Result<()> {
    load_modules();
    refuse_overlaps()?;
    for machine in ClusterMachine::all(nodes) {
        checked(Command::new("ip").args(["netns", "add", &machine.namespace()]), None)?;
        ip(Some(machine), "link set lo up\n")?;
        set(machine, "ipv4/ip_forward")?;
        set(machine, "ipv6/conf/all/forwarding")?;
    }
    ip(Some(ClusterMachine::Control), &control_links(nodes)?)?;
    make_host_link(nodes)?;
    ip(Some(ClusterMachine::Control), "link set host master br0 up\n")?;
    ClusterMachine::nodes(nodes).try_for_each(|node| make_node(node, nodes, cni))
}

/// Removes whatever is there of it.
pub(super) fn remove() -> Result<()> {
    for namespace in namespaces() {
        checked(Command::new("ip").args(["netns", "delete", &namespace]), None)?;
    }
    if link_exists() {
        // A namespace goes a moment after its name, and the link with it: then it is gone by itself.
        let deleted = checked(Command::new("ip").args(["link", "delete", NAME]), None);
        ensure!(deleted.is_ok() || !link_exists(), "cannot remove the link {NAME}: `ip link delete {NAME}` does");
    }
    Ok(())
}

/// Whether anything of it is there.
pub(super) fn exists() -> bool {
    link_exists() || !namespaces().is_empty()
}

fn link_exists() -> bool {
    Path::new("/sys/class/net").join(NAME).exists()
}

fn namespaces() -> Vec<String> {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("{NAME}-"))).collect()
}

/// Where these are modules they must be there before the namespaces: a new one takes its settings from them.
fn load_modules() {
    for module in ["overlay", "br_netfilter"] {
        // No modprobe, or no such module: then it is built in, or what needs it says so.
        let _ = Command::new("modprobe").arg(module).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A route to a part of the cluster's addresses would be taken from whoever has it now; a wider one, a VPN's `10.0.0.0/8`
/// say, only lends them.
fn refuse_overlaps() -> Result<()> {
    for family in ["-4", "-6"] {
        let routes = checked(Command::new("ip").args(["-json", family, "route", "show", "table", "all"]), None)?;
        let routes: serde_json::Value = serde_json::from_str(&routes).context("cannot read the machine's routes")?;
        for route in routes.as_array().into_iter().flatten() {
            let destination = route["dst"].as_str().unwrap_or_default();
            if let Some(network) = taken_by(destination) {
                bail!(
                    "the cluster's network {network} is taken: this machine has a route to {destination} ({}); \
                     end what uses it, then try again",
                    route["dev"].as_str().unwrap_or("no device")
                );
            }
        }
    }
    Ok(())
}

/// The network that a route's destination (`10.0.0.0/8`, an address, `default`) is a part of, or the whole.
fn taken_by(destination: &str) -> Option<IpNet> {
    let route = destination.parse().or_else(|_| destination.parse::<IpAddr>().map(IpNet::from)).ok()?;
    [NODE_NETWORKS, POD_NETWORKS, SERVICE_NETWORKS].into_iter().flatten().find(|network| network.contains(&route))
}

fn control_links(nodes: u8) -> Result<String> {
    let mut batch = String::from("link add br0 type bridge forward_delay 0 mcast_snooping 0\n");
    batch += &addresses(ClusterMachine::Control.address(), ClusterMachine::Control.address6(), "br0");
    batch += "link set br0 up\n";
    for node in ClusterMachine::nodes(nodes) {
        let namespace = node.namespace();
        writeln!(batch, "link add {node} type veth peer name eth0 netns {namespace}")?;
        writeln!(batch, "link set {node} master br0 up")?;
    }
    batch += &routes(nodes, None)?;
    Ok(batch)
}

fn make_host_link(nodes: u8) -> Result<()> {
    let control = ClusterMachine::Control.namespace();
    ip(None, &format!("link add {NAME} type veth peer name host netns {control}\n"))?;
    // The machine may have no IPv6 of its own, as a container often has none.
    let switch = format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6");
    fs::write(&switch, "0").with_context(|| format!("cannot switch IPv6 on by {switch}"))?;
    let addresses = addresses(HOST_ADDRESS, HOST_ADDRESS6, NAME);
    ip(None, &format!("{addresses}link set {NAME} up\n{}", routes(nodes, None)?))
}

/// Both addresses on a link of the nodes' network; IPv6 without a second's wait for somebody who has the same.
fn addresses(v4: Ipv4Addr, v6: Ipv6Addr, link: &str) -> String {
    let [bits, bits6] = NODE_NETWORKS.map(|network| network.prefix_len());
    format!("address add {v4}/{bits} dev {link}\naddress add {v6}/{bits6} dev {link} nodad\n")
}

fn make_node(node: ClusterMachine, nodes: u8, cni: Cni) -> Result<()> {
    let addresses = addresses(node.address(), node.address6(), "eth0");
    // Only for Services of whoever is on the node itself: the control plane's machine leads nowhere, and says so.
    let (default, default6) = (ClusterMachine::Control.address(), ClusterMachine::Control.address6());
    let defaults = format!("route add default via {default}\nroute add default via {default6}\n");
    // Everything else makes its own way to the pods of other nodes.
    let to_others = if cni == Cni::Bridge { routes(nodes, Some(node))? } else { String::new() };
    ip(Some(node), &format!("{addresses}link set eth0 up\n{defaults}{to_others}"))?;
    // What pods of one node say to each other passes the bridge, and must meet the rules for Services all the same.
    set(node, "bridge/bridge-nf-call-iptables")?;
    set(node, "bridge/bridge-nf-call-ip6tables")
}

/// Switches a setting of a machine's network on.
fn set(machine: ClusterMachine, setting: &str) -> Result<()> {
    let namespace = format!("--net={NETNS_DIR}/{}", machine.namespace());
    let write = format!("echo 1 >/proc/sys/net/{setting}");
    checked(Command::new("nsenter").args([&namespace, "sh", "-ec", &write]), None).map(drop)
}

/// To the pods of every node but the one that asks; who is no node reaches Services through the first.
fn routes(nodes: u8, of: Option<ClusterMachine>) -> Result<String> {
    let mut batch = String::new();
    let mut add = |networks: [IpNet; 2], via: ClusterMachine| {
        let [v4, v6] = networks;
        writeln!(batch, "route add {v4} via {}\nroute add {v6} via {}", via.address(), via.address6())
    };
    for (number, node) in (1..=nodes).zip(ClusterMachine::nodes(nodes)).filter(|(_, node)| Some(*node) != of) {
        add(ClusterMachine::pods(number), node)?;
    }
    if of.is_none() {
        add(SERVICE_NETWORKS, ClusterMachine::Node(1))?;
    }
    Ok(batch)
}

/// `ip -batch` on the machine itself or in a machine of the cluster.
fn ip(machine: Option<ClusterMachine>, batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(machine) = machine {
        command.args(["-netns", &machine.namespace()]);
    }
    checked(command.args(["-batch", "-"]), Some(batch)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_route_to_a_part_of_the_cluster_takes_it() {
        for part in ["10.212.0.0/16", "10.212.3.0/24", "10.213.255.255", "fd00:10:212:3::/64", "fd00:10:211::12"] {
            assert!(taken_by(part).is_some(), "{part}");
        }
        for other in ["default", "10.0.0.0/8", "0.0.0.0/0", "10.214.0.0/16", "fd00::/16", "fe80::/64", ""] {
            assert_eq!(taken_by(other), None, "{other}");
        }
    }
}
