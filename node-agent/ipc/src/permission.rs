//! What the controller says to the guardian: which pods and ports of this node may be armed.
//!
//! Owns these messages and their encoding. The list is always said whole, between `Begin` and `Commit`: whatever was lost
//! with an earlier controller is right again with the first one of the next.

use std::net::IpAddr;

use super::{
    ContainerReport, FirstHand, MAX_POD_IPS, PERMISSION_LEN, PodLocation, RuntimeQuestion,
    codec::{MalformedMessage, MessageReader, MessageWriter, read_port},
};
use redir_config::PodName;

/// Most ports in one message; a pod with more of them has several.
pub const PERMITTED_PORTS: usize = 128;

/// Controller → guardian. None has a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerMessage {
    /// The controller has what it needs to ask the API server.
    Ready,
    /// The controller lives.
    Alive,
    /// The whole list follows.
    Begin,
    /// One pod of it.
    Allow(PodPermission),
    /// That was all: it takes the place of the earlier list.
    Commit,
    /// Without Kubernetes: a container runtime is to be asked this; answered by [`super::Reply::Runtime`] with this number.
    Ask(u32, RuntimeQuestion),
    /// Without Kubernetes: what a runtime says of a pod's container.
    Container(ContainerReport),
}

/// A pod that live Intercepts mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPermission {
    /// Which, by UID.
    pub pod: PodName,
    /// Its namespace.
    pub namespace: String,
    /// Its addresses, as the API server has them, and who takes its connections first.
    pub at: PodLocation,
    /// The ports, at most [`PERMITTED_PORTS`].
    pub ports: Vec<u16>,
}

impl ControllerMessage {
    /// The datagram.
    pub fn encode(&self) -> [u8; PERMISSION_LEN] {
        let mut w = MessageWriter::new();
        match self {
            Self::Ready => w.u8(1),
            Self::Alive => w.u8(2),
            Self::Begin => w.u8(3),
            Self::Allow(PodPermission { pod, namespace, at, ports }) => {
                let first = match at.first {
                    FirstHand::App => 0,
                    FirstHand::Proxy => 1,
                };
                w.u8(4).text(pod.key()).text(namespace).text(pod.bare()).u8(first);
                let ips = &at.ips[..at.ips.len().min(MAX_POD_IPS)];
                w.count(ips.len());
                ips.iter().fold(&mut w, |w, ip| w.ip(*ip));
                w.count(ports.len());
                ports.iter().fold(&mut w, |w, port| w.u16(*port))
            }
            Self::Commit => w.u8(5),
            Self::Ask(number, question) => question.write(w.u8(6).u32(*number)),
            Self::Container(report) => report.write(w.u8(7)),
        };
        w.finish()
    }

    /// Reads a datagram.
    pub fn decode(datagram: &[u8]) -> Result<Self, MalformedMessage> {
        if datagram.len() != PERMISSION_LEN {
            return Err(MalformedMessage);
        }
        let mut r = MessageReader::new(datagram);
        let message = match r.u8()? {
            1 => Self::Ready,
            2 => Self::Alive,
            3 => Self::Begin,
            4 => Self::Allow(permission(&mut r)?),
            5 => Self::Commit,
            6 => Self::Ask(r.u32()?, RuntimeQuestion::read(&mut r)?),
            7 => Self::Container(ContainerReport::read(&mut r)?),
            _ => return Err(MalformedMessage),
        };
        r.finish()?;
        Ok(message)
    }
}

fn permission(r: &mut MessageReader<'_>) -> Result<PodPermission, MalformedMessage> {
    let (uid, namespace, name) = (r.text(PodName::MAX)?, r.text(MAX_NAMESPACE)?, r.text(PodName::MAX)?);
    let pod = PodName::of_uid(uid, namespace, name).map_err(|_| MalformedMessage)?;
    let first = match r.u8()? {
        0 => FirstHand::App,
        1 => FirstHand::Proxy,
        _ => return Err(MalformedMessage),
    };
    let count = r.count(MAX_POD_IPS)?;
    let ips: Vec<IpAddr> = (0..count).map(|_| r.ip()).collect::<Result<_, _>>()?;
    let count = r.count(PERMITTED_PORTS)?;
    let ports = (0..count).map(|_| read_port(r)).collect::<Result<_, _>>()?;
    Ok(PodPermission { pod, namespace: namespace.to_owned(), at: PodLocation { ips, first }, ports })
}

/// A namespace's name is a label (RFC 1123).
const MAX_NAMESPACE: usize = 63;

const _: () = assert!(
    1 + 2 + PodName::MAX + 2 + MAX_NAMESPACE + 2 + PodName::MAX + 1 + 2 + 17 * MAX_POD_IPS + 2 + 2 * PERMITTED_PORTS
        <= PERMISSION_LEN
);

#[cfg(test)]
mod tests {
    use super::*;

    fn longest() -> PodPermission {
        let long = "x".repeat(PodName::MAX);
        let ip: IpAddr = "fd00:1:2:3:4:5:6:7".parse().expect("an address");
        PodPermission {
            pod: PodName::of_uid(&long, &"n".repeat(MAX_NAMESPACE), &long).expect("a name"),
            namespace: "n".repeat(MAX_NAMESPACE),
            at: PodLocation { ips: vec![ip; MAX_POD_IPS], first: FirstHand::Proxy },
            ports: vec![u16::MAX; PERMITTED_PORTS],
        }
    }

    #[test]
    fn what_was_written_is_read_also_at_the_limits() {
        let allow = ControllerMessage::Allow(longest());
        let all = [ControllerMessage::Ready, ControllerMessage::Alive, ControllerMessage::Begin, allow];
        for message in all.into_iter().chain([ControllerMessage::Commit]) {
            assert_eq!(ControllerMessage::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(ControllerMessage::decode(&[1; PERMISSION_LEN]), Err(MalformedMessage));
        assert_eq!(ControllerMessage::decode(&[1]), Err(MalformedMessage));
        let mut port_0 = PodPermission { ports: vec![0], ..longest() };
        assert_eq!(
            ControllerMessage::decode(&ControllerMessage::Allow(port_0.clone()).encode()),
            Err(MalformedMessage)
        );
        port_0.ports = vec![80];
        let mut bytes = ControllerMessage::Allow(port_0).encode();
        bytes[PERMISSION_LEN - 1] = 1;
        assert_eq!(ControllerMessage::decode(&bytes), Err(MalformedMessage));
    }
}
