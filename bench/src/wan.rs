//! The link between the developer's machine and the node: none, or as long, narrow and lossy as a profile says.
//!
//! netem and fq are not in every kernel. Delay and loss are a program's that holds packets in netfilter's queues, on the
//! gateway; the rate is a token bucket's behind it. Both ends of every tunnel have it between them, and nobody else.

use anyhow::Result;
use redir_rig::{Namespace, Process, Topology};

use crate::{
    cost::{self, ENDS},
    programs,
};

/// A link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkProfile {
    /// Its name in results.
    pub name: &'static str,
    /// Milliseconds there and back.
    pub round_trip: u32,
    /// Megabits a second, each way.
    pub rate: u32,
    /// Packets lost of a hundred, each way.
    pub loss: u32,
}

const fn profile(name: &'static str, round_trip: u32, rate: u32, loss: u32) -> LinkProfile {
    LinkProfile { name, round_trip, rate, loss }
}

/// A good link.
pub const W1: LinkProfile = profile("W1", 5, 1000, 0);
/// Across a country.
pub const W2: LinkProfile = profile("W2", 20, 200, 0);
/// Across an ocean.
pub const W3: LinkProfile = profile("W3", 80, 50, 0);
/// As W2, and bad.
pub const W2L: LinkProfile = profile("W2L", 20, 200, 1);
/// As W3, and bad.
pub const W3L: LinkProfile = profile("W3L", 80, 50, 3);

impl LinkProfile {
    /// In words.
    pub fn spelled(self) -> String {
        let loss = if self.loss == 0 { String::new() } else { format!(", {} % lost each way", self.loss) };
        format!("{}: {} ms there and back, {} Mbit/s{loss}", self.name, self.round_trip, self.rate)
    }
}

/// A link that is up.
#[derive(Debug)]
pub struct EmulatedLink {
    _holds: Process,
}

/// The gateway's device towards the developer.
const DEVICE: &str = "vdev";
/// Up and down.
const QUEUES: [&str; 2] = ["0", "1"];
/// A token bucket's room: what a queue at the narrow end holds.
const BURST: &str = "64kb";

impl EmulatedLink {
    /// Puts the link in its place. The seed decides which packets are lost.
    pub fn up(topology: &Topology, profile: LinkProfile, seed: u64) -> Result<Self> {
        let delay = (profile.round_trip * 500).to_string();
        let (loss, seed) = ((profile.loss * 10_000).to_string(), seed.to_string());
        let mut arguments = vec!["wan", "--delay", &delay, "--loss", &loss, "--seed", &seed];
        arguments.extend(QUEUES.iter().flat_map(|queue| ["--queue", queue]));
        let gateway = &topology.gateway.namespace;
        let holds = programs::start(gateway, &arguments)?;
        cost::pin(&[holds.pid()], ENDS)?;
        for (side, queue) in ["-i", "-o"].into_iter().zip(QUEUES) {
            let rule = [side, DEVICE, "-j", "NFQUEUE", "--queue-num", queue];
            gateway.output(&[&["iptables-legacy", "-t", "mangle", "-A", "FORWARD"][..], &rule].concat())?;
        }
        let rate = format!("{}mbit", profile.rate);
        // A queue of one round trip at the narrow end, as a good router has.
        let latency = format!("{}ms", profile.round_trip.max(5));
        for (namespace, device) in narrow(topology) {
            let bucket = ["tc", "qdisc", "add", "dev", device, "root", "tbf"];
            namespace.output(&[&bucket[..], &["rate", &rate, "burst", BURST, "latency", &latency]].concat())?;
        }
        Ok(Self { _holds: holds })
    }

    /// Takes it away.
    pub fn down(self, topology: &Topology) -> Result<()> {
        topology.gateway.namespace.output(&["iptables-legacy", "-t", "mangle", "-F", "FORWARD"])?;
        for (namespace, device) in narrow(topology) {
            namespace.output(&["tc", "qdisc", "del", "dev", device, "root"])?;
        }
        Ok(())
    }
}

/// Where the rate is: the developer's own device on the way up, the gateway's on the way down.
fn narrow(topology: &Topology) -> [(&Namespace, &'static str); 2] {
    [(&topology.developer.namespace, "eth0"), (&topology.gateway.namespace, DEVICE)]
}
