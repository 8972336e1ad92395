//! The network of the local cluster: a namespace for each machine of it, on a bridge in the control plane's, so that nothing
//! is forwarded or filtered by the machine itself, whose firewall stays as it is. The machine gets one link into it, with
//! routes to pods and Services; it goes with the namespace at its other end.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use redir_rig::cleanup::NETNS_DIR;
use redir_rig::namespace::checked;

use super::plan::{HOST_ADDRESS, Machine, NAME, NODE_NETWORK, Network, POD_NETWORK, SERVICE_NETWORK};

/// Makes all of it.
pub(super) fn make(nodes: u8) -> Result<()> {
    load_modules();
    refuse_overlaps()?;
    for machine in Machine::all(nodes) {
        checked(Command::new("ip").args(["netns", "add", &machine.namespace()]), None)?;
        ip(Some(machine), "link set lo up\n")?;
        set(machine, "ipv4/ip_forward")?;
    }
    ip(Some(Machine::Control), &control_links(nodes)?)?;
    ip(None, &host_link(nodes)?)?;
    ip(Some(Machine::Control), "link set host master br0 up\n")?;
    Machine::nodes(nodes).try_for_each(|node| make_node(node, nodes))
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
    let routes = checked(Command::new("ip").args(["-json", "-4", "route", "show", "table", "all"]), None)?;
    let routes: serde_json::Value = serde_json::from_str(&routes).context("cannot read the machine's routes")?;
    let routes = routes.as_array().into_iter().flatten();
    for (destination, device) in routes.filter_map(|route| Some((route["dst"].as_str()?, route["dev"].as_str()))) {
        let taken = |network: &Network| Network::parse(destination).is_some_and(|route| network.holds(route));
        if let Some(network) = [NODE_NETWORK, POD_NETWORK, SERVICE_NETWORK].iter().find(|network| taken(network)) {
            bail!(
                "the cluster's network {network} is taken: this machine has a route to {destination} ({}); \
                 end what uses it, then try again",
                device.unwrap_or("no device")
            );
        }
    }
    Ok(())
}

fn control_links(nodes: u8) -> Result<String> {
    let address = Machine::Control.address();
    let mut batch = format!(
        "link add br0 type bridge forward_delay 0 mcast_snooping 0\n\
         address add {address}/{} dev br0\n\
         link set br0 up\n",
        NODE_NETWORK.bits
    );
    for node in Machine::nodes(nodes) {
        let namespace = node.namespace();
        writeln!(batch, "link add {node} type veth peer name eth0 netns {namespace}")?;
        writeln!(batch, "link set {node} master br0 up")?;
    }
    batch += &routes(nodes, None)?;
    Ok(batch)
}

fn host_link(nodes: u8) -> Result<String> {
    let control = Machine::Control.namespace();
    Ok(format!(
        "link add {NAME} type veth peer name host netns {control}\n\
         address add {HOST_ADDRESS}/{} dev {NAME}\n\
         link set {NAME} up\n{}",
        NODE_NETWORK.bits,
        routes(nodes, None)?
    ))
}

fn make_node(node: Machine, nodes: u8) -> Result<()> {
    // Only for Services of whoever is on the node itself: the control plane's machine leads nowhere, and says so.
    let default = Machine::Control.address();
    let batch = format!(
        "address add {}/{} dev eth0\nlink set eth0 up\nroute add default via {default}\n{}",
        node.address(),
        NODE_NETWORK.bits,
        routes(nodes, Some(node))?
    );
    ip(Some(node), &batch)?;
    // What pods of one node say to each other passes the bridge, and must meet the rules for Services all the same.
    set(node, "bridge/bridge-nf-call-iptables")
}

/// Switches a setting of a machine's network on.
fn set(machine: Machine, setting: &str) -> Result<()> {
    let namespace = format!("--net={NETNS_DIR}/{}", machine.namespace());
    let write = format!("echo 1 >/proc/sys/net/{setting}");
    checked(Command::new("nsenter").args([&namespace, "sh", "-ec", &write]), None).map(drop)
}

/// To the pods of every node but the one that asks; who is no node reaches Services through the first.
fn routes(nodes: u8, of: Option<Machine>) -> Result<String> {
    let mut batch = String::new();
    for (number, node) in (1..=nodes).zip(Machine::nodes(nodes)).filter(|(_, node)| Some(*node) != of) {
        writeln!(batch, "route add {} via {}", Machine::pods(number), node.address())?;
    }
    if of.is_none() {
        writeln!(batch, "route add {SERVICE_NETWORK} via {}", Machine::Node(1).address())?;
    }
    Ok(batch)
}

/// `ip -batch` on the machine itself or in a machine of the cluster.
fn ip(machine: Option<Machine>, batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(machine) = machine {
        command.args(["-netns", &machine.namespace()]);
    }
    checked(command.args(["-batch", "-"]), Some(batch)).map(drop)
}
