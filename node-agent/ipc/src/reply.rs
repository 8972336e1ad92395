//! What the guardian says to its children, and its encoding.

use std::{net::IpAddr, os::fd::OwnedFd, time::Duration};

use redir_abi::Reason;

use super::{
    AppListening, ArmedReply, HandedSockets, MAX_ADDRESSES, MAX_FDS, MAX_PART_ADDRESSES, MAX_PARTS, MAX_SOCKETS,
    PortDetour, REPLY_LEN, RefusalCode,
    codec::{MalformedMessage, MessageReader, MessageWriter, read_pod, read_yes_or_no},
};
use redir_config::PodName;

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
    /// Answer to [`super::ControllerMessage::Ask`]: with [a pipe that the runtime's answer comes through], or why it was not asked.
    Runtime(Result<(), String>),
    /// Other certificates are those of armed ports now, with [certificates memfd]. Before the answer to an `Arm`.
    Certificates,
    /// End: no new work, connections may go on for `drain`.
    Shutdown { drain: Duration },
    /// The pod's path names another network namespace now: the pod has been replaced.
    PodGone { pod: PodName },
    /// The last process of a pod that is to end has ended; its link is there for some milliseconds more.
    PodEnded { pod: PodName },
    /// Answer to `Arm`, with [listener4, listener6 if there is one, heartbeat, notes of turned SYNs, link duplicates…] if this is the pod's first port.
    Armed(ArmedReply),
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
            Self::Runtime(Ok(())) => w.u8(17),
            Self::Runtime(Err(sentence)) => w.u8(18).text(truncated(sentence)),
            Self::Shutdown { drain } => w.u8(3).u32(u32::try_from(drain.as_millis()).unwrap_or(u32::MAX)),
            Self::PodGone { pod } => w.u8(4).text(pod.key()),
            Self::PodEnded { pod } => w.u8(14).text(pod.key()),
            Self::Armed(armed) => {
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
            4 => Self::PodGone { pod: read_pod(&mut r)? },
            5 => Self::Armed(armed(&mut r)?),
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
            14 => Self::PodEnded { pod: read_pod(&mut r)? },
            16 => Self::Certificates,
            17 => Self::Runtime(Ok(())),
            18 => Self::Runtime(Err(r.text(MAX_SENTENCE)?.to_owned())),
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

fn armed(r: &mut MessageReader<'_>) -> Result<ArmedReply, MalformedMessage> {
    let (earlier, app) = (r.u32()?, listening(r)?);
    let handed = handed(r)?;
    let (pod_addresses, loopback_addresses) = (addresses(r, MAX_ADDRESSES)?, addresses(r, MAX_ADDRESSES)?);
    Ok(ArmedReply { earlier, app, handed, pod_addresses, loopback_addresses })
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
    let (pod, first, last) = (read_pod(r)?, read_yes_or_no(r)?, read_yes_or_no(r)?);
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

/// Bytes; leaves room for the header in a reply.
pub(super) const MAX_SENTENCE: usize = 900;
