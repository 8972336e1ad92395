//! What the guardian and the worker say to each other: fixed-size datagrams over a SEQPACKET socket pair.
//!
//! Owns the messages and their one encoding. The guardian does not trust the worker: whatever bytes arrive,
//! `Request::decode` returns a request within its limits or `MalformedMessage`. Neither side's decisions are made here.

mod channel;
mod codec;
mod permission;

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::OwnedFd,
    time::Duration,
};

use redir_abi::{POD_IP_ENTRIES, Reason};
use serde::{Deserialize, Serialize};

use redir_config::PodName;

pub use channel::{MAX_FDS, pair, receive, receive_plain, send, stream_pair};
pub use codec::MalformedMessage;
use codec::{MessageReader, MessageWriter};
pub use permission::{ControllerMessage, PERMISSION_LEN, PERMITTED_PORTS, PodPermission};

/// Bytes of every message of the worker.
pub const REQUEST_LEN: usize = 384;
/// Bytes of every message of the guardian.
pub const REPLY_LEN: usize = 2048;
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

/// Worker → guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "a message's line says what its fields are")]
pub enum Request {
    /// The worker serves. No reply.
    Ready,
    /// The worker lives. No reply.
    Alive,
    /// Attach to a pod, and let legs to the port pass; nothing is steered yet. → `ArmedReply`
    Arm { pod: PodName, port: u16 },
    /// Stop that. → `Done`
    Disarm { pod: PodName, port: u16 },
    /// The pod's last connection has ended: detach what is left. → `Done`
    Release { pod: PodName },
    /// Sockets for legs, bound to these ports of a pod's address. Those `for_trial` only try the way to the app, and are
    /// taken by the listeners that `TrialListeners` gave. → `Sockets`
    Sockets { pod: PodName, bind: BindAddress, ports: Vec<u16>, for_trial: bool },
    /// Leave new connections of a client to the app for a while. → `Done`
    Bypass { pod: PodName, client: IpAddr, how_long: Duration },
    /// The counters of a pod's programs. → `Stats`
    Stats { pod: PodName },
    /// The way to the app was tried: steer new connections of an armed port. → `Done`
    Steer { pod: PodName, port: u16, gate: ListenerGate },
    /// New listeners for legs that only try the way. → `TrialListeners`
    TrialListeners { pod: PodName },
    /// Close the connections that the app had on an armed port before, once they are idle. → `Flushed`, up to half a
    /// minute later
    Flush { pod: PodName, port: u16 },
    /// Whether the app listens on this port. → `Listening`
    Listening { pod: PodName, port: u16 },
    /// The pod is to end: say when its last process has; or, without one, it is not to end any more. → `Done`, and later
    /// `PodEnded`
    Ending { pod: PodName, last: Option<LastProcess> },
}

/// Guardian → worker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "a message's line says what its fields are")]
pub enum Reply {
    /// First of all, with [UDP socket, key memfd, config memfd, certificates memfd]; to the controller with
    /// [memfd of the agent's public key, config memfd].
    Bootstrap,
    /// The configuration or a certificate has changed, with [config memfd, certificates memfd].
    Config,
    /// Between the controller and the worker, to both, with [one end of a stream socket pair]: it takes the place of what was
    /// there before.
    Peer,
    /// Other certificates are those of armed ports now, with [certificates memfd]. Before the answer to an `Arm`.
    Certificates,
    /// End: no new work, connections may go on for `drain`.
    Shutdown { drain: Duration },
    /// The pod's path names another network namespace now: the pod has been replaced.
    PodGone { pod: PodName },
    /// The last process of a pod that is to end has ended; its link is there for some milliseconds more.
    PodEnded { pod: PodName },
    /// Answer to `Arm`, with [listener4, listener6 if there is one, heartbeat, notes of turned SYNs, link duplicates…] if this is the pod's first port.
    ArmedReply(Armed),
    /// Answer to `Disarm`, `Release`, `Bypass`, `Steer`.
    Done,
    /// Answer to `Sockets`: for each port 0 (its descriptor is beside the message, in order) or an errno. The first of the
    /// descriptors is the leg with the number `first`, and so on.
    Sockets { errnos: Vec<i32>, first: u64 },
    /// Answer to `Stats`, in the order of `redir_abi::Reason::ALL`.
    Stats { counters: Vec<u64> },
    /// Answer to `TrialListeners`, with [listener4, listener6 if there is one]; or nothing, where the kernel has no companion
    /// that could give them connections.
    TrialListeners(HandedSockets),
    /// Answer to `Listening`; `app` is `None` where the kernel does not tell.
    Listening { app: Option<AppListening>, detour: Option<PortDetour> },
    /// Answer to anything: no, and why.
    Refused { code: RefusalCode, sentence: String },
    /// Answer to `Flush`: how many connections were closed, and how many were in use all the time.
    Flushed { closed: u32, left: u32 },
    /// An armed pod's devices or addresses have changed: with [link duplicates…].
    Network(PodNetwork),
}

/// A part of an armed pod's addresses and links, which together replace what was told before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// Which pod.
    pub pod: PodName,
    /// The first part: what was told before is void.
    pub first: bool,
    /// The last one.
    pub last: bool,
    /// As in [`ArmedReply`].
    pub pod_addresses: Vec<IpAddr>,
    /// As in [`ArmedReply`].
    pub loopback_addresses: Vec<IpAddr>,
}

impl PodNetwork {
    /// Everything, in as many messages as it needs.
    pub fn parts(
        pod: &PodName,
        pod_addresses: &[IpAddr],
        loopback_addresses: &[IpAddr],
        links: Vec<OwnedFd>,
    ) -> Vec<(Reply, Vec<OwnedFd>)> {
        let count = |length: usize, each: usize| length.div_ceil(each);
        let most = pod_addresses.len().max(loopback_addresses.len());
        let parts = count(most, MAX_PART_ADDRESSES).min(MAX_PARTS).max(count(links.len(), MAX_FDS)).max(1);
        let mut links = links.into_iter();
        let part = |at: usize| {
            let some = |all: &[IpAddr]| all.chunks(MAX_PART_ADDRESSES).nth(at).unwrap_or_default().to_vec();
            let network = Self {
                pod: pod.clone(),
                first: at == 0,
                last: at + 1 == parts,
                pod_addresses: some(pod_addresses),
                loopback_addresses: some(loopback_addresses),
            };
            (Reply::Network(network), links.by_ref().take(MAX_FDS).collect())
        };
        (0..parts).map(part).collect()
    }
}

/// What the worker learns about an armed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Armed {
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

const CODES: [RefusalCode; 8] = [
    RefusalCode::Malformed,
    RefusalCode::UnknownPod,
    RefusalCode::PortNotAllowed,
    RefusalCode::Namespace,
    RefusalCode::Datapath,
    RefusalCode::Busy,
    RefusalCode::NotArmed,
    RefusalCode::PortNotReserved,
];

impl Request {
    /// The datagram.
    pub fn encode(&self, seq: u32) -> [u8; REQUEST_LEN] {
        let mut w = MessageWriter::new();
        w.u32(seq);
        match self {
            Self::Ready => w.u8(1),
            Self::Alive => w.u8(2),
            Self::Arm { pod, port } => w.u8(3).text(pod.key()).u16(*port),
            Self::Disarm { pod, port } => w.u8(4).text(pod.key()).u16(*port),
            Self::Release { pod } => w.u8(5).text(pod.key()),
            Self::Sockets { pod, bind, ports, for_trial } => {
                w.u8(6).text(pod.key()).ip(bind.ip).u32(bind.scope).u8(u8::from(*for_trial)).count(ports.len());
                ports.iter().fold(&mut w, |w, port| w.u16(*port))
            }
            Self::Bypass { pod, client, how_long } => {
                let millis = u32::try_from(how_long.as_millis()).unwrap_or(u32::MAX).min(MAX_BYPASS_MILLIS);
                w.u8(7).text(pod.key()).ip(*client).u32(millis)
            }
            Self::Stats { pod } => w.u8(8).text(pod.key()),
            Self::Steer { pod, port, gate } => {
                let gate = match gate {
                    ListenerGate::AppListening => 0,
                    ListenerGate::Always => 1,
                };
                w.u8(9).text(pod.key()).u16(*port).u8(gate)
            }
            Self::TrialListeners { pod } => w.u8(10).text(pod.key()),
            Self::Flush { pod, port } => w.u8(11).text(pod.key()).u16(*port),
            Self::Listening { pod, port } => w.u8(12).text(pod.key()).u16(*port),
            Self::Ending { pod, last } => {
                let last = match last {
                    Some(LastProcess::OfContainers) => 0,
                    Some(LastProcess::OfSandbox) => 1,
                    None => 2,
                };
                w.u8(13).text(pod.key()).u8(last)
            }
        };
        w.finish()
    }

    /// Reads a datagram of an untrusted worker.
    pub fn decode(datagram: &[u8]) -> Result<(u32, Self), MalformedMessage> {
        if datagram.len() != REQUEST_LEN {
            return Err(MalformedMessage);
        }
        let mut r = MessageReader::new(datagram);
        let seq = r.u32()?;
        let request = match r.u8()? {
            1 => Self::Ready,
            2 => Self::Alive,
            3 => Self::Arm { pod: pod(&mut r)?, port: port(&mut r)? },
            4 => Self::Disarm { pod: pod(&mut r)?, port: port(&mut r)? },
            5 => Self::Release { pod: pod(&mut r)? },
            6 => {
                let (pod, bind, for_trial) = (pod(&mut r)?, bind(&mut r)?, yes_or_no(&mut r)?);
                Self::Sockets { pod, bind, ports: ports(&mut r)?, for_trial }
            }
            7 => Self::Bypass { pod: pod(&mut r)?, client: r.ip()?, how_long: bypass_time(&mut r)? },
            8 => Self::Stats { pod: pod(&mut r)? },
            9 => Self::Steer { pod: pod(&mut r)?, port: port(&mut r)?, gate: gate(&mut r)? },
            10 => Self::TrialListeners { pod: pod(&mut r)? },
            11 => Self::Flush { pod: pod(&mut r)?, port: port(&mut r)? },
            12 => Self::Listening { pod: pod(&mut r)?, port: port(&mut r)? },
            13 => Self::Ending { pod: pod(&mut r)?, last: last_process(&mut r)? },
            _ => return Err(MalformedMessage),
        };
        r.finish()?;
        Ok((seq, request))
    }

    /// Whether it changes what is attached, which takes the kernel milliseconds, in the worst case many; or begins what does.
    pub fn is_slow(&self) -> bool {
        match self {
            Self::Arm { .. }
            | Self::Disarm { .. }
            | Self::Release { .. }
            | Self::Flush { .. }
            | Self::Ending { .. } => true,
            Self::Ready
            | Self::Alive
            | Self::Sockets { .. }
            | Self::Bypass { .. }
            | Self::Stats { .. }
            | Self::Listening { .. }
            | Self::Steer { .. }
            | Self::TrialListeners { .. } => false,
        }
    }

    /// The pod that it is about.
    pub fn pod(&self) -> Option<&PodName> {
        match self {
            Self::Ready | Self::Alive => None,
            Self::Arm { pod, .. }
            | Self::Disarm { pod, .. }
            | Self::Release { pod }
            | Self::Sockets { pod, .. }
            | Self::Bypass { pod, .. }
            | Self::Flush { pod, .. }
            | Self::Stats { pod }
            | Self::Listening { pod, .. }
            | Self::Steer { pod, .. }
            | Self::Ending { pod, .. }
            | Self::TrialListeners { pod } => Some(pod),
        }
    }

    /// The sequence number of a datagram that is otherwise malformed, to answer it.
    pub fn seq(datagram: &[u8]) -> Option<u32> {
        MessageReader::new(datagram).u32().ok()
    }
}

fn pod(r: &mut MessageReader<'_>) -> Result<PodName, MalformedMessage> {
    PodName::new(r.text(PodName::MAX)?).map_err(|_| MalformedMessage)
}

fn port(r: &mut MessageReader<'_>) -> Result<u16, MalformedMessage> {
    match r.u16()? {
        0 => Err(MalformedMessage),
        port => Ok(port),
    }
}

fn yes_or_no(r: &mut MessageReader<'_>) -> Result<bool, MalformedMessage> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(MalformedMessage),
    }
}

fn gate(r: &mut MessageReader<'_>) -> Result<ListenerGate, MalformedMessage> {
    match r.u8()? {
        0 => Ok(ListenerGate::AppListening),
        1 => Ok(ListenerGate::Always),
        _ => Err(MalformedMessage),
    }
}

fn last_process(r: &mut MessageReader<'_>) -> Result<Option<LastProcess>, MalformedMessage> {
    match r.u8()? {
        0 => Ok(Some(LastProcess::OfContainers)),
        1 => Ok(Some(LastProcess::OfSandbox)),
        2 => Ok(None),
        _ => Err(MalformedMessage),
    }
}

fn bind(r: &mut MessageReader<'_>) -> Result<BindAddress, MalformedMessage> {
    let (ip, scope) = (r.ip()?, r.u32()?);
    let scoped = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mapped = ip.to_canonical() != ip;
    if mapped || ip.is_unspecified() || ip.is_multicast() || (scope != 0 && !scoped) {
        return Err(MalformedMessage);
    }
    Ok(BindAddress { ip, scope })
}

fn ports(r: &mut MessageReader<'_>) -> Result<Vec<u16>, MalformedMessage> {
    match r.count(MAX_SOCKETS)? {
        0 => Err(MalformedMessage),
        count => (0..count).map(|_| port(r)).collect(),
    }
}

fn bypass_time(r: &mut MessageReader<'_>) -> Result<Duration, MalformedMessage> {
    match r.u32()? {
        millis if millis > MAX_BYPASS_MILLIS => Err(MalformedMessage),
        millis => Ok(Duration::from_millis(millis.into())),
    }
}

impl Reply {
    /// The datagram.
    pub fn encode(&self, seq: u32) -> [u8; REPLY_LEN] {
        let mut w = MessageWriter::new();
        w.u32(seq);
        match self {
            Self::Bootstrap => w.u8(1),
            Self::Config => w.u8(2),
            Self::Peer => w.u8(15),
            Self::Certificates => w.u8(16),
            Self::Shutdown { drain } => w.u8(3).u32(u32::try_from(drain.as_millis()).unwrap_or(u32::MAX)),
            Self::PodGone { pod } => w.u8(4).text(pod.key()),
            Self::PodEnded { pod } => w.u8(14).text(pod.key()),
            Self::ArmedReply(armed) => {
                w.u8(5).u32(armed.earlier).u8(listening_number(armed.app)).u8(handed_to(armed.handed));
                addresses_to(&mut w, &armed.pod_addresses, MAX_ADDRESSES);
                addresses_to(&mut w, &armed.loopback_addresses, MAX_ADDRESSES)
            }
            Self::Done => w.u8(6),
            Self::Sockets { errnos, first } => {
                w.u8(7).u64(*first).count(errnos.len());
                errnos.iter().fold(&mut w, |w, errno| w.u32(errno.unsigned_abs()))
            }
            Self::Stats { counters } => {
                w.u8(8).count(counters.len());
                counters.iter().fold(&mut w, |w, counter| w.u64(*counter))
            }
            Self::Listening { app, detour } => w.u8(13).u8(listening_number(*app)).u8(detour_number(*detour)),
            Self::Refused { code, sentence } => {
                let code = CODES.iter().position(|known| known == code).expect("every code is in the table");
                w.u8(9).count(code).text(truncated(sentence))
            }
            Self::TrialListeners(handed) => w.u8(10).u8(handed_to(*handed)),
            Self::Flushed { closed, left } => w.u8(12).u32(*closed).u32(*left),
            Self::Network(network) => {
                w.u8(11).text(network.pod.key()).u8(network.first.into()).u8(network.last.into());
                addresses_to(&mut w, &network.pod_addresses, MAX_PART_ADDRESSES);
                addresses_to(&mut w, &network.loopback_addresses, MAX_PART_ADDRESSES)
            }
        };
        w.finish()
    }

    /// Reads a datagram of the guardian.
    pub fn decode(datagram: &[u8]) -> Result<(u32, Self), MalformedMessage> {
        if datagram.len() != REPLY_LEN {
            return Err(MalformedMessage);
        }
        let mut r = MessageReader::new(datagram);
        let seq = r.u32()?;
        let reply = match r.u8()? {
            1 => Self::Bootstrap,
            2 => Self::Config,
            15 => Self::Peer,
            3 => Self::Shutdown { drain: Duration::from_millis(r.u32()?.into()) },
            4 => Self::PodGone { pod: pod(&mut r)? },
            5 => Self::ArmedReply(armed(&mut r)?),
            6 => Self::Done,
            7 => {
                let first = r.u64()?;
                Self::Sockets { errnos: errnos(&mut r)?, first }
            }
            8 => {
                let count = r.count(Reason::ALL.len())?;
                Self::Stats { counters: (0..count).map(|_| r.u64()).collect::<Result<_, _>>()? }
            }
            9 => {
                let code = *CODES.get(r.count(CODES.len())?).ok_or(MalformedMessage)?;
                Self::Refused { code, sentence: r.text(MAX_SENTENCE)?.to_owned() }
            }
            10 => Self::TrialListeners(handed(&mut r)?),
            11 => Self::Network(network(&mut r)?),
            12 => Self::Flushed { closed: r.u32()?, left: r.u32()? },
            13 => Self::Listening { app: listening(&mut r)?, detour: detour(&mut r)? },
            14 => Self::PodEnded { pod: pod(&mut r)? },
            16 => Self::Certificates,
            _ => return Err(MalformedMessage),
        };
        r.finish()?;
        Ok((seq, reply))
    }
}

fn addresses_to<'a>(
    w: &'a mut MessageWriter<REPLY_LEN>,
    addresses: &[IpAddr],
    most: usize,
) -> &'a mut MessageWriter<REPLY_LEN> {
    let addresses = &addresses[..addresses.len().min(most)];
    w.count(addresses.len());
    addresses.iter().fold(w, |w, ip| w.ip(*ip))
}

fn armed(r: &mut MessageReader<'_>) -> Result<Armed, MalformedMessage> {
    let (earlier, app) = (r.u32()?, listening(r)?);
    let handed = handed(r)?;
    let (pod_addresses, loopback_addresses) = (addresses(r, MAX_ADDRESSES)?, addresses(r, MAX_ADDRESSES)?);
    Ok(Armed { earlier, app, handed, pod_addresses, loopback_addresses })
}

fn handed_to(handed: HandedSockets) -> u8 {
    match handed {
        HandedSockets::Nothing => 0,
        HandedSockets::Ipv4 => 1,
        HandedSockets::Both => 2,
    }
}

fn handed(r: &mut MessageReader<'_>) -> Result<HandedSockets, MalformedMessage> {
    match r.u8()? {
        0 => Ok(HandedSockets::Nothing),
        1 => Ok(HandedSockets::Ipv4),
        2 => Ok(HandedSockets::Both),
        _ => Err(MalformedMessage),
    }
}

fn network(r: &mut MessageReader<'_>) -> Result<PodNetwork, MalformedMessage> {
    let (pod, first, last) = (pod(r)?, yes_or_no(r)?, yes_or_no(r)?);
    let most = MAX_PART_ADDRESSES;
    Ok(PodNetwork { pod, first, last, pod_addresses: addresses(r, most)?, loopback_addresses: addresses(r, most)? })
}

const fn listening_number(app: Option<AppListening>) -> u8 {
    match app {
        None => 0,
        Some(AppListening::Yes) => 1,
        Some(AppListening::Nobody) => 2,
        Some(AppListening::LoopbackOnly) => 3,
    }
}

const fn detour_number(detour: Option<PortDetour>) -> u8 {
    match detour {
        None => 0,
        Some(PortDetour::Redirected) => 1,
        Some(PortDetour::Unseen) => 2,
    }
}

fn detour(r: &mut MessageReader<'_>) -> Result<Option<PortDetour>, MalformedMessage> {
    Ok(match r.u8()? {
        0 => None,
        1 => Some(PortDetour::Redirected),
        2 => Some(PortDetour::Unseen),
        _ => return Err(MalformedMessage),
    })
}

fn listening(r: &mut MessageReader<'_>) -> Result<Option<AppListening>, MalformedMessage> {
    Ok(match r.u8()? {
        0 => None,
        1 => Some(AppListening::Yes),
        2 => Some(AppListening::Nobody),
        3 => Some(AppListening::LoopbackOnly),
        _ => return Err(MalformedMessage),
    })
}

fn addresses(r: &mut MessageReader<'_>, most: usize) -> Result<Vec<IpAddr>, MalformedMessage> {
    let count = r.count(most)?;
    (0..count).map(|_| r.ip()).collect()
}

fn errnos(r: &mut MessageReader<'_>) -> Result<Vec<i32>, MalformedMessage> {
    let count = r.count(MAX_SOCKETS)?;
    (0..count).map(|_| i32::try_from(r.u32()?).map_err(|_| MalformedMessage)).collect()
}

/// The longest beginning of a sentence that fits a reply.
fn truncated(sentence: &str) -> &str {
    &sentence[..sentence.floor_char_boundary(MAX_SENTENCE)]
}

/// Bytes; leaves room for the header in a reply.
const MAX_SENTENCE: usize = 900;
/// A client is bypassed for seconds, not days: its ports come free as its connections end.
const MAX_BYPASS_MILLIS: u32 = 600_000;

// A reply holds every counter, and a request the longest name with the longest list.
const _: () = assert!(4 + 1 + 2 + 8 * Reason::ALL.len() <= REPLY_LEN);
const _: () = assert!(4 + 1 + 2 + PodName::MAX + 17 + 4 + 1 + 2 + 2 * MAX_SOCKETS <= REQUEST_LEN);
const _: () = assert!(4 + 1 + 4 + 1 + 2 * (2 + 17 * MAX_ADDRESSES) <= REPLY_LEN);
const _: () = assert!(4 + 1 + 2 + PodName::MAX + 2 + 2 * (2 + 17 * MAX_PART_ADDRESSES) <= REPLY_LEN);
const _: () = assert!(MAX_SOCKETS <= MAX_FDS);

#[cfg(test)]
mod tests;
