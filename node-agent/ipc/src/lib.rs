//! What the guardian and the worker say to each other: fixed-size datagrams over a SEQPACKET socket pair.
//!
//! Owns the messages and their one encoding. The guardian does not trust the worker: whatever bytes arrive,
//! `Request::decode` returns a request within its limits or `MalformedMessage`. Neither side's decisions are made here.

mod channel;
mod codec;
mod containers;
mod permission;
mod reply;
mod request;

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use redir_abi::{POD_IP_ENTRIES, Reason};
use serde::{Deserialize, Serialize};

use redir_config::PodName;

pub use channel::{MAX_FDS, pair, receive, receive_plain, send, stream_pair};
pub use codec::MalformedMessage;
pub use containers::{ContainerId, ContainerReport, ContainerState, MAX_REASON, RunningContainer, RuntimeQuestion};
pub use permission::{ControllerMessage, PERMITTED_PORTS, PodPermission};
pub use reply::{PodNetwork, Reply};
pub use request::Request;

/// Bytes of every message of the worker.
pub const REQUEST_LEN: usize = 384;
/// Bytes of every message of the guardian.
pub const REPLY_LEN: usize = 2048;
/// Bytes of every message of the controller.
pub const PERMISSION_LEN: usize = 1024;
/// Most sockets in one request.
pub const MAX_SOCKETS: usize = 32;
/// Most addresses that a pod may have at the API server; today it is one of each family.
pub const MAX_POD_IPS: usize = 4;
/// Most addresses in each of the two lists of [`ArmedReply`]; 2 × 56 × 17 bytes fit the reply. A pod with more of them is told
/// in parts, by [`PodNetwork`].
pub const MAX_ADDRESSES: usize = 56;
/// Most addresses in each of the two lists of one [`PodNetwork`].
const MAX_PART_ADDRESSES: usize = 40;
/// Most parts of one whole: as many addresses as a pod's map holds.
const MAX_PARTS: usize = POD_IP_ENTRIES as usize / MAX_PART_ADDRESSES + 1;

/// Whether the app must be in LISTEN for a connection to be steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerGate {
    /// The app's own listener must be there: TCP probes stay truthful.
    AppListening,
    /// Steer in any case.
    Always,
}

/// How the guardian finds a pod that no configuration names, and what it must know of it: the controller says it, never
/// the worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodLocation {
    /// The pod's addresses as the API server has them; its namespace must hold one. At most [`MAX_POD_IPS`].
    pub ips: Vec<IpAddr>,
    /// Who takes the pod's connections first.
    pub first: FirstHand,
}

/// Who takes a pod's connections first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FirstHand {
    /// The app.
    #[default]
    App,
    /// A mesh's proxy in the pod, to which netfilter redirects them: what it passes on comes over `lo`.
    Proxy,
}

/// An address of a pod to bind to; `scope` is the interface of a link-local one, else 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindAddress {
    /// The address.
    pub ip: IpAddr,
    /// `sin6_scope_id`.
    pub scope: u32,
}

impl BindAddress {
    /// The address with a port.
    pub fn with_port(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => SocketAddr::from((ip, port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }
}

impl From<SocketAddr> for BindAddress {
    fn from(address: SocketAddr) -> Self {
        let scope = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(address) => address.scope_id(),
        };
        Self { ip: address.ip(), scope }
    }
}

/// Which processes of a pod must have ended before its connections have nobody left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastProcess {
    /// Those of its containers: its deletion was asked for, so none of them is started again.
    OfContainers,
    /// The sandbox's as well: it is what shows that none is started again.
    OfSandbox,
}

/// What the worker learns about an armed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArmedReply {
    /// The app's connections on the armed port, which stay with the app.
    pub earlier: u32,
    /// Whether the app listens on it; `None`: the kernel does not tell.
    pub app: Option<AppListening>,
    /// The addresses on the pod's devices; at most [`MAX_ADDRESSES`].
    pub pod_addresses: Vec<IpAddr>,
    /// The addresses on `lo`; at most [`MAX_ADDRESSES`].
    pub loopback_addresses: Vec<IpAddr>,
    /// Which descriptors come with it.
    pub handed: HandedSockets,
}

/// How clients have reached the app on an armed port past the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortDetour {
    /// They dialled another port or address.
    Redirected,
    /// The programs have not seen a packet of theirs.
    Unseen,
}

/// Where the app listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppListening {
    /// On an address that clients can reach.
    Yes,
    /// Nowhere.
    Nobody,
    /// On a loopback address alone.
    LoopbackOnly,
}

/// Which descriptors come with an armed port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedSockets {
    /// None: the worker has them.
    Nothing,
    /// One listener, and the rest.
    Ipv4,
    /// Two listeners, and the rest.
    Both,
}

/// Why the guardian said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// The request was not understood.
    Malformed,
    /// The configuration has no such pod.
    UnknownPod,
    /// The configuration does not let this port be intercepted.
    PortNotAllowed,
    /// The pod's network namespace cannot be used.
    Namespace,
    /// The programs could not be loaded or attached.
    Datapath,
    /// The pod still has an armed port.
    Busy,
    /// The pod is not armed.
    NotArmed,
    /// A source port outside the reserved ranges.
    PortNotReserved,
}

// A reply holds every counter, and a request the longest name with the longest list.
const _: () = assert!(4 + 1 + 2 + 8 * Reason::ALL.len() <= REPLY_LEN);
const _: () = assert!(4 + 1 + 2 + PodName::MAX + 17 + 4 + 1 + 2 + 2 * MAX_SOCKETS <= REQUEST_LEN);
const _: () = assert!(4 + 1 + 4 + 1 + 2 * (2 + 17 * MAX_ADDRESSES) <= REPLY_LEN);
const _: () = assert!(4 + 1 + 2 + PodName::MAX + 2 + 2 * (2 + 17 * MAX_PART_ADDRESSES) <= REPLY_LEN);
const _: () = assert!(MAX_SOCKETS <= MAX_FDS);

#[cfg(test)]
mod tests;
