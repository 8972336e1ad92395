//! The networks that the tests and the demo run in: a node with a bridge and pods, and behind a gateway a client and a
//! developer's machine, all with IPv4 and IPv6.
//!
//! ```text
//!   web-1 … web-n, peer          client   developer
//!        │ veth                       │       │
//!   ─────┴── bridge ── node ── link ── gateway ┘
//! ```

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{cleanup, namespace::Namespace, wait};

/// A namespace with the addresses it is reached at.
#[derive(Debug)]
pub struct Host {
    /// The namespace; its device is `eth0`.
    pub namespace: Namespace,
    /// Its name in the topology: `web-1`, `client`, …
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// Which IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// Both families, to go through.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// The unspecified address.
    pub fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// 127.0.0.1 or ::1
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

impl Host {
    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Its address of a family with a port.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        (self.ip(family), port).into()
    }
}

/// The whole of it. Dropped, everything is gone.
#[derive(Debug)]
pub struct Topology {
    /// What all namespaces' names begin with.
    pub prefix: String,
    /// `web-1` …, 10.210.1.11 …; the device's other end in the node is `vweb-1` ….
    pub pods: Vec<Host>,
    /// One more pod on the node: a client on the same bridge, 10.210.1.3.
    pub peer: Host,
    /// The node: the bridge's address 10.210.1.1.
    pub node: Host,
    /// A router of its own: 10.210.2.2 towards the node.
    pub gateway: Host,
    /// A client behind the gateway, 10.210.3.2.
    pub client: Host,
    /// The developer's machine behind the gateway, 10.210.4.2.
    pub developer: Host,
}

/// `redir-<letters><pid>-<n>-`: unique in this machine for the life of this process. `letters` are lower-case: `t` for
/// tests, `demo`, …
pub fn unique_prefix(letters: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("redir-{letters}{}-{}-", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Tests hold thousands of sockets, and many systems start a process with room for 1024.
fn raise_file_limit() -> Result<()> {
    const ENOUGH: u64 = 65_536;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(ENOUGH);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}

impl Topology {
    /// Builds it with `pods` pods, names beginning with `prefix` (see [`unique_prefix`]).
    pub fn new(prefix: &str, pods: usize) -> Result<Self> {
        cleanup::on_signals();
        raise_file_limit()?;
        let host = |name: &str, net: u8, number: u8| -> Result<Host> {
            let (v4, v6) = address(net, number);
            Ok(Host { namespace: Namespace::new(format!("{prefix}{name}"))?, name: name.to_owned(), v4, v6 })
        };
        let node = host("node", 1, 1)?;
        let gateway = host("gateway", 2, 2)?;
        let peer = host("peer", 1, 3)?;
        let client = host("client", 3, 2)?;
        let developer = host("developer", 4, 2)?;
        let pods =
            (1..=u8::try_from(pods)?).map(|n| host(&format!("web-{n}"), 1, 10 + n)).collect::<Result<Vec<_>>>()?;
        let topology = Self { prefix: prefix.to_owned(), pods, peer, node, gateway, client, developer };
        topology.wire()?;
        Ok(topology)
    }

    /// The first pod.
    pub fn pod(&self) -> &Host {
        &self.pods[0]
    }

    /// Makes a pod anew, as a restarted one is: the same name and addresses, another namespace and other devices.
    pub fn recreate_pod(&mut self, number: usize) -> Result<()> {
        let (node, pod) = (&self.node.namespace, &mut self.pods[number]);
        node.ip(&format!("link del v{}\n", pod.name))?;
        pod.namespace.recreate()?;
        node.ip(&pod_link(pod)?)?;
        pod.namespace.ip(&plain_v6(&leaf(pod)?))?;
        // The neighbours know the old device's address.
        node.ip("neigh flush dev br0\n")?;
        self.peer.namespace.ip("neigh flush dev eth0\n")?;
        settled(pod)
    }

    fn wire(&self) -> Result<()> {
        for router in [&self.node, &self.gateway] {
            router.namespace.sysctl("net.ipv4.ip_forward", "1")?;
            router.namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        let mut node = String::from("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
        addresses(&mut node, "br0", 1, 1)?;
        for pod in self.pods.iter().chain([&self.peer]) {
            node += &pod_link(pod)?;
        }
        writeln!(
            node,
            "link add vgw type veth peer name vnode netns {}\nlink set vgw up",
            self.gateway.namespace.name()
        )?;
        addresses(&mut node, "vgw", 2, 1)?;
        for net in [3, 4] {
            writeln!(node, "route add 10.210.{net}.0/24 via 10.210.2.2\n-6 route add fd10:{net}::/64 via fd10:2::2")?;
        }
        let mut gateway = String::new();
        for (end, net, host) in [("vclient", 3, &self.client), ("vdev", 4, &self.developer)] {
            writeln!(
                gateway,
                "link add {end} type veth peer name eth0 netns {}\nlink set {end} up",
                host.namespace.name()
            )?;
            addresses(&mut gateway, end, net, 1)?;
        }
        addresses(&mut gateway, "vnode", 2, 2)?;
        writeln!(gateway, "link set vnode up\nroute add default via 10.210.2.1\n-6 route add default via fd10:2::1")?;
        self.node.namespace.ip(&plain_v6(&node))?;
        self.gateway.namespace.ip(&plain_v6(&gateway))?;
        for host in self.pods.iter().chain([&self.peer, &self.client, &self.developer]) {
            host.namespace.ip(&plain_v6(&leaf(host)?))?;
        }
        self.pods.iter().try_for_each(settled)
    }
}

/// Waits until the kernel has done what it does later for IPv6: a link-local address, and a local route to each address.
fn settled(host: &Host) -> Result<()> {
    wait::until_true(format!("{} to have its IPv6 routes", host.name), Duration::from_secs(10), || {
        let read = || -> std::io::Result<_> {
            let addresses = fs::read_to_string("/proc/thread-self/net/if_inet6")?;
            Ok((addresses, fs::read_to_string("/proc/thread-self/net/ipv6_route")?))
        };
        let (addresses, routes) = host.namespace.run(read)??;
        let own: Vec<&str> =
            addresses.lines().filter(|l| l.ends_with("eth0")).filter_map(|l| l.split(' ').next()).collect();
        let routed = |address: &&str| routes.lines().any(|l| l.starts_with(*address) && l.contains(" 80 "));
        Ok(own.len() == 2 && own.iter().all(routed))
    })
}

/// A pod's link to the bridge, for the node.
fn pod_link(pod: &Host) -> Result<String> {
    let (mut batch, end, name) = (String::new(), format!("v{}", pod.name), pod.namespace.name());
    writeln!(
        batch,
        "link add {end} type veth peer name eth0 netns {name}\nlink set {end} master br0\nlink set {end} up"
    )?;
    Ok(batch)
}

fn leaf(host: &Host) -> Result<String> {
    let mut batch = String::new();
    let net = host.v4.octets()[2];
    addresses(&mut batch, "eth0", net, host.v4.octets()[3])?;
    writeln!(batch, "link set eth0 up\nroute add default via 10.210.{net}.1\n-6 route add default via fd10:{net}::1")?;
    Ok(batch)
}

/// The addresses of host `number` in network `net`: `10.210.net.number` and `fd10:net::number`, the digits as they are.
fn address(net: u8, number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let digits = u16::from_str_radix(&number.to_string(), 16).expect("decimal digits are hexadecimal ones");
    (Ipv4Addr::new(10, 210, net, number), Ipv6Addr::new(0xfd10, net.into(), 0, 0, 0, 0, 0, digits))
}

fn addresses(batch: &mut String, device: &str, net: u8, number: u8) -> Result<()> {
    let (v4, v6) = address(net, number);
    Ok(writeln!(batch, "addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad")?)
}

/// A batch takes no options: `-6 route add default …` is `route add …` with the family in the addresses.
fn plain_v6(batch: &str) -> String {
    batch.lines().map(|line| line.strip_prefix("-6 ").unwrap_or(line).to_owned() + "\n").collect()
}
