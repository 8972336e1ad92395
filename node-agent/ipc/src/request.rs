//! What the worker asks of the guardian, and its encoding. The guardian trusts none of it: bytes that no worker of ours would
//! send are [`MalformedMessage`].

use std::{net::IpAddr, time::Duration};

use super::{
    BindAddress, LastProcess, ListenerGate, MAX_SOCKETS, REQUEST_LEN,
    codec::{MalformedMessage, MessageReader, MessageWriter, read_pod, read_port, read_yes_or_no},
};
use redir_config::PodName;

/// Worker → guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "a message's line says what its fields are")]
pub enum Request {
    /// The worker serves. No reply.
    Ready,
    /// The worker lives. No reply.
    Alive,
    /// Attach to a pod, and let legs to the port pass; nothing is steered yet. → `Armed`
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
            3 => Self::Arm { pod: read_pod(&mut r)?, port: read_port(&mut r)? },
            4 => Self::Disarm { pod: read_pod(&mut r)?, port: read_port(&mut r)? },
            5 => Self::Release { pod: read_pod(&mut r)? },
            6 => {
                let (pod, bind, for_trial) = (read_pod(&mut r)?, bind(&mut r)?, read_yes_or_no(&mut r)?);
                Self::Sockets { pod, bind, ports: ports(&mut r)?, for_trial }
            }
            7 => Self::Bypass { pod: read_pod(&mut r)?, client: r.ip()?, how_long: bypass_time(&mut r)? },
            8 => Self::Stats { pod: read_pod(&mut r)? },
            9 => Self::Steer { pod: read_pod(&mut r)?, port: read_port(&mut r)?, gate: gate(&mut r)? },
            10 => Self::TrialListeners { pod: read_pod(&mut r)? },
            11 => Self::Flush { pod: read_pod(&mut r)?, port: read_port(&mut r)? },
            12 => Self::Listening { pod: read_pod(&mut r)?, port: read_port(&mut r)? },
            13 => Self::Ending { pod: read_pod(&mut r)?, last: last_process(&mut r)? },
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
        count => (0..count).map(|_| read_port(r)).collect(),
    }
}

fn bypass_time(r: &mut MessageReader<'_>) -> Result<Duration, MalformedMessage> {
    match r.u32()? {
        millis if millis > MAX_BYPASS_MILLIS => Err(MalformedMessage),
        millis => Ok(Duration::from_millis(millis.into())),
    }
}

/// A client is bypassed for seconds, not days: its ports come free as its connections end.
const MAX_BYPASS_MILLIS: u32 = 600_000;
