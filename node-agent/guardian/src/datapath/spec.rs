//! What the guardian says about a pod when it wants it intercepted.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// One network device of the pod that carries a pod address (never `lo`: that one is steered by itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodDevice {
    /// Index in the pod's network namespace.
    pub(crate) index: u32,
    /// Name in the pod's network namespace, for messages.
    pub(crate) name: String,
    /// What its frames begin with.
    pub(crate) framing: LinkLayer,
}

/// What the frames of a device begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkLayer {
    /// A 14-byte Ethernet header (`ARPHRD_ETHER`): veth, bridge ports, netkit, ipvlan.
    Ethernet,
    /// The IP header itself (`ARPHRD_NONE` and the like): tun, wireguard, ipip.
    Bare,
}

/// How the programs are attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachMode {
    /// TCX where the kernel has it, else clsact.
    Auto,
    /// TCX or nothing.
    Tcx,
    /// A clsact filter, as on kernels without TCX.
    Clsact,
}

/// When a port's new connections are given to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SteerGate {
    /// Only while the app listens, so that TCP probes stay truthful.
    AppListening,
    /// Also while it does not.
    Always,
}

/// A pod to load the datapath for. Nothing in it is kept beyond the call but copies.
#[derive(Debug)]
pub(crate) struct PodSpec<'a> {
    /// The pod's network namespace.
    pub(crate) netns: BorrowedFd<'a>,
    /// The devices that carry the pod's addresses.
    pub(crate) devices: &'a [PodDevice],
    /// The addresses on these devices, link-local ones included; others are not steered.
    pub(crate) addresses: &'a [IpAddr],
    /// The port of the agent's listeners on 127.0.0.1 and `::1` in the pod's network namespace.
    pub(crate) agent_port: u16,
    /// The listener on 127.0.0.1.
    pub(crate) listener_v4: BorrowedFd<'a>,
    /// The listener on `::1`, where the pod has IPv6.
    pub(crate) listener_v6: Option<BorrowedFd<'a>>,
    /// How to attach.
    pub(crate) attach: AttachMode,
}
