//! One socket of the app as sock_diag(7) shows it: whose it is, whether it is idle, and its end.

use std::{io, ops::ControlFlow};

use nix::sys::socket::SockProtocol;
use redir_abi::is_reserved;

use crate::netlink::{NetlinkSocket, attribute, u32_at, u64_at};

/// What tells a socket from every other that the machine ever has.
pub(super) type SocketCookie = [u8; 8];

/// An established socket on the port.
#[derive(Debug, Clone)]
pub(super) struct AppSocket {
    family: u8,
    /// `struct inet_diag_sockid`
    id: [u8; ID],
    uid: u32,
    inode: u32,
    received: u32,
    unsent: u32,
    traffic: SocketTraffic,
}

/// What `struct tcp_info` tells of it. Times are how long ago, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct SocketTraffic {
    data_sent: u32,
    data_received: u32,
    acknowledgement_received: u32,
    segments_received: u32,
    segments_sent: u32,
    bytes_acknowledged: u64,
    bytes_received: u64,
    bytes_sent: u64,
    bytes_repeated: u64,
}

/// The connections on `port` that the app has accepted from clients, as far as can be told; at most `most`.
pub(super) fn accepted_by_app(port: u16, agent_user: u32, most: usize) -> io::Result<Vec<AppSocket>> {
    let listeners = list(port, LISTEN, most)?;
    let listens_at = |address: &[u8]| {
        listeners.iter().any(|listener| listener.source() == address || listener.source().iter().all(|byte| *byte == 0))
    };
    let mut sockets = list(port, ESTABLISHED, most)?;
    sockets.retain(|socket| {
        // The app's ends of the agent's legs have a reserved port on the other side.
        let the_agents = socket.uid == agent_user || is_reserved(socket.peer_port());
        let accepted = socket.inode != 0 && !socket.opened_by_app() && listens_at(socket.source());
        accepted && !the_agents
    });
    Ok(sockets)
}

fn list(port: u16, states: u32, most: usize) -> io::Result<Vec<AppSocket>> {
    let mut sockets = Vec::new();
    // A dual-stack app's connections are in the IPv6 table, also those of IPv4 clients.
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut question = question(family.to_ne_bytes()[0], states);
        question[8..10].copy_from_slice(&port.to_be_bytes());
        let mut netlink = NetlinkSocket::open(SockProtocol::NetlinkSockDiag)?;
        netlink.dump_until(SOCK_DIAG_BY_FAMILY, &question, |body| {
            sockets.extend(AppSocket::read(body));
            if sockets.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    Ok(sockets)
}

impl AppSocket {
    pub(super) fn cookie(&self) -> SocketCookie {
        let [.., a, b, c, d, e, f, g, h] = self.id;
        [a, b, c, d, e, f, g, h]
    }

    /// As it is now.
    pub(super) fn again(&self, netlink: &mut NetlinkSocket) -> io::Result<Self> {
        netlink.one(SOCK_DIAG_BY_FAMILY, &self.question(), Self::read)
    }

    /// Resets the connection; both ends learn of it at once.
    pub(super) fn destroy(&self, netlink: &mut NetlinkSocket) -> io::Result<()> {
        netlink.order(SOCK_DESTROY, &self.question())
    }

    /// Nothing is queued either way, no byte came or went for a while, and the app owes no answer.
    pub(super) fn is_idle(&self) -> bool {
        self.received == 0 && self.unsent == 0 && self.traffic.is_quiet() && self.traffic.is_answered()
    }

    /// The kernel counts the SYN of whoever opened a connection as an acknowledged byte.
    fn opened_by_app(&self) -> bool {
        let SocketTraffic { bytes_acknowledged, bytes_repeated, bytes_sent, .. } = self.traffic;
        self.unsent == 0 && bytes_acknowledged + bytes_repeated > bytes_sent
    }

    fn source(&self) -> &[u8] {
        &self.id[4..20]
    }

    fn peer_port(&self) -> u16 {
        u16::from_be_bytes([self.id[2], self.id[3]])
    }

    fn question(&self) -> [u8; QUESTION] {
        let mut question = question(self.family, u32::MAX);
        question[8..].copy_from_slice(&self.id);
        question
    }

    /// `struct inet_diag_msg` and its attributes.
    fn read(message: &[u8]) -> Option<Self> {
        let info = attribute(message.get(MESSAGE..)?, INET_DIAG_INFO).unwrap_or_default();
        Some(Self {
            family: *message.first()?,
            id: message.get(4..4 + ID)?.try_into().ok()?,
            received: u32_at(message, 56)?,
            unsent: u32_at(message, 60)?,
            uid: u32_at(message, 64)?,
            inode: u32_at(message, 68)?,
            traffic: SocketTraffic::read(info).unwrap_or_default(),
        })
    }
}

impl SocketTraffic {
    /// `struct tcp_info` up to its 216th byte, which Linux 4.19 and newer have.
    fn read(info: &[u8]) -> Option<Self> {
        Some(Self {
            data_sent: u32_at(info, 44)?,
            data_received: u32_at(info, 52)?,
            acknowledgement_received: u32_at(info, 56)?,
            segments_received: u32_at(info, 152)?,
            segments_sent: u32_at(info, 156)?,
            bytes_acknowledged: u64_at(info, 120)?,
            bytes_received: u64_at(info, 128)?,
            bytes_sent: u64_at(info, 200)?,
            bytes_repeated: u64_at(info, 208)?,
        })
    }

    fn is_quiet(&self) -> bool {
        self.data_sent >= QUIET_MILLIS && self.data_received >= QUIET_MILLIS
    }

    /// Whether what came last was the app's answer. A request that the app works on leaves no byte in any queue; but its
    /// bytes came after the app's last ones. Where the next request followed an answer within one tick of the kernel's
    /// clock (1 to 10 ms), the two look alike, unless a bare acknowledgement of the answer came later; a connection that
    /// cannot be told counts as in use until it has been quiet for longer than requests take.
    fn is_answered(&self) -> bool {
        let asked_nothing = self.bytes_received == 0;
        let sent_last = self.data_sent < self.data_received;
        let same_tick = self.data_sent == self.data_received;
        let asked_once = self.segments_received == 1 && self.segments_sent > 0;
        // Acknowledgements of keep-alive probes come much later.
        let acknowledged = self.data_received.checked_sub(self.acknowledgement_received);
        let acknowledged = acknowledged.is_some_and(|after| (1..=ACKNOWLEDGED_MILLIS).contains(&after));
        asked_nothing
            || sent_last
            || same_tick && (asked_once || acknowledged || self.data_received >= LONG_QUIET_MILLIS)
    }
}

/// `struct inet_diag_req_v2` with `INET_DIAG_INFO` asked for.
fn question(family: u8, states: u32) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    bytes[0] = family;
    bytes[1] = libc::IPPROTO_TCP.to_ne_bytes()[0];
    bytes[2] = 1 << (INET_DIAG_INFO - 1);
    bytes[4..8].copy_from_slice(&states.to_ne_bytes());
    // No cookie (INET_DIAG_NOCOOKIE), until one is filled in.
    bytes[QUESTION - 8..].fill(0xff);
    bytes
}

/// No byte for so long: what a client that still sends would not leave out.
const QUIET_MILLIS: u32 = 200;
/// Where it cannot be told that the app has answered: a request that takes longer, sent in the very millisecond of the
/// answer before it, is taken for none.
const LONG_QUIET_MILLIS: u32 = 5_000;
/// Clients acknowledge within 40 ms, at most 200; keep-alive probes come after seconds.
const ACKNOWLEDGED_MILLIS: u32 = 1000;
/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// linux/inet_diag.h
const INET_DIAG_INFO: u16 = 2;
/// net/tcp_states.h
const ESTABLISHED: u32 = 1 << 1;
const LISTEN: u32 = 1 << 10;
/// Bytes of `struct inet_diag_sockid`.
const ID: usize = 48;
/// Bytes of `struct inet_diag_req_v2`.
const QUESTION: usize = 8 + ID;
/// Bytes of `struct inet_diag_msg`.
const MESSAGE: usize = 72;

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds since: the app sent, the client sent, the client's last acknowledgement.
    fn traffic(data_sent: u32, data_received: u32, acknowledgement_received: u32) -> SocketTraffic {
        SocketTraffic {
            data_sent,
            data_received,
            acknowledgement_received,
            segments_received: 5,
            segments_sent: 5,
            bytes_received: 100,
            ..SocketTraffic::default()
        }
    }

    #[test]
    fn a_connection_whose_app_owes_an_answer_is_in_use() {
        assert!(traffic(500, 510, 460).is_answered());
        assert!(!traffic(900, 300, 300).is_answered(), "the app works on a request");
        // Answered and asked again within one tick of the clock, or answered: the acknowledgement tells.
        assert!(!traffic(500, 500, 500).is_answered());
        assert!(traffic(500, 500, 460).is_answered());
        assert!(!traffic(4_900, 4_900, 900).is_answered(), "a slow answer whose server sends keep-alive probes");
        assert!(traffic(5_000, 5_000, 5_000).is_answered(), "it cannot be told, and takes longer than requests do");
        assert!(!traffic(9_000, 8_990, 8_990).is_answered(), "it can be told");
        let once = SocketTraffic { segments_received: 1, ..traffic(500, 500, 500) };
        assert!(once.is_answered() && !SocketTraffic { segments_sent: 0, ..once }.is_answered());
        assert!(!SocketTraffic { data_sent: 900, ..once }.is_answered(), "a server that greets first");
        assert!(SocketTraffic { bytes_received: 0, ..traffic(500, 500, 500) }.is_answered());
        assert!(traffic(200, 210, 200).is_quiet() && !traffic(199, 210, 200).is_quiet());
    }
}
