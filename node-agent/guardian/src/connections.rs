//! Which connections a port of the pod has, and whether anybody listens there: those from before an intercept stay with
//! the app, and people want to know.
//!
//! Owns one netlink question (sock_diag(7)). Changes nothing. Called inside the pod's namespace by `pod`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::sys::socket::SockProtocol;

use super::netlink::{NetlinkSocket, u32_at};
use redir_ipc::AppListening;

/// One connection of the port, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortConnection {
    /// The other end's address; `None` of a family that is not IP.
    pub(super) peer: Option<IpAddr>,
    /// The other end's port.
    pub(super) peer_port: u16,
    /// Who holds the socket.
    pub(super) uid: u32,
    /// Somebody holds it: until it is accepted it is root's, whoever listens.
    pub(super) is_accepted: bool,
}

/// The connections on `port` that are established or that the client has half closed.
pub(super) fn on_port(port: u16) -> io::Result<Vec<PortConnection>> {
    let mut connections = Vec::new();
    dump(port, CONNECTED, |message| connections.extend(connection(message)))?;
    Ok(connections)
}

/// Where anybody listens on `port`.
pub(super) fn listening(port: u16) -> io::Result<AppListening> {
    let mut found = AppListening::Nobody;
    dump(port, LISTENING, |message| match local_address(message) {
        Some(address) if !address.to_canonical().is_loopback() => found = AppListening::Yes,
        Some(_) if found == AppListening::Nobody => found = AppListening::LoopbackOnly,
        Some(_) | None => {}
    })?;
    Ok(found)
}

/// Every socket of `port` in one of these states, as `struct inet_diag_msg`.
fn dump(port: u16, states: u32, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut netlink = NetlinkSocket::open(SockProtocol::NetlinkSockDiag)?;
    // A dual-stack app's sockets are in the IPv6 table, also those of IPv4 clients.
    for family in [libc::AF_INET, libc::AF_INET6] {
        let question = question(family.to_ne_bytes()[0], port, states);
        netlink.dump(SOCK_DIAG_BY_FAMILY, &question, &mut each)?;
    }
    Ok(())
}

/// `struct inet_diag_req_v2` (linux/inet_diag.h).
fn question(family: u8, port: u16, states: u32) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    bytes[0] = family;
    bytes[1] = libc::IPPROTO_TCP.to_ne_bytes()[0];
    bytes[4..8].copy_from_slice(&states.to_ne_bytes());
    bytes[8..10].copy_from_slice(&port.to_be_bytes());
    bytes
}

/// `struct inet_diag_msg`: the peer's port at 6, its address at 24, the uid at 64, the inode at 68.
fn connection(message: &[u8]) -> Option<PortConnection> {
    let peer_port = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let uid = u32_at(message, 64)?;
    let is_accepted = u32_at(message, 68).is_some_and(|inode| inode != 0);
    Some(PortConnection { peer: address(message, 24), peer_port, uid, is_accepted })
}

/// `struct inet_diag_msg`: the family at 0, the socket's own address at 8.
fn local_address(message: &[u8]) -> Option<IpAddr> {
    address(message, 8)
}

fn address(message: &[u8], at: usize) -> Option<IpAddr> {
    match i32::from(*message.first()?) {
        libc::AF_INET => Some(Ipv4Addr::from(*message.get(at..)?.first_chunk::<4>()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(*message.get(at..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// Bytes of `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// ESTABLISHED (1) and CLOSE_WAIT (8) of net/tcp_states.h.
const CONNECTED: u32 = 1 << 1 | 1 << 8;
/// LISTEN (10).
const LISTENING: u32 = 1 << 10;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_of_both_families_are_found_with_their_owner() {
        let listener = TcpListener::bind("[::]:0").expect("port");
        let port = listener.local_addr().expect("bound").port();
        assert_eq!(on_port(port).expect("answered"), []);
        let clients: Vec<_> =
            ["127.0.0.1", "::1"].map(|host| TcpStream::connect((host, port)).expect("connected")).into();
        assert!(on_port(port).expect("answered").iter().all(|found| !found.is_accepted));
        let accepted: Vec<_> = clients.iter().map(|_| listener.accept().expect("accepted")).collect();
        let mut found: Vec<_> = on_port(port).expect("answered").iter().map(|found| found.peer_port).collect();
        let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().expect("bound").port()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let uid = nix::unistd::getuid().as_raw();
        assert!(on_port(port).expect("answered").iter().all(|found| found.uid == uid && found.is_accepted));
        // The client's half close leaves the app's end in CLOSE_WAIT: it is still a connection.
        clients[0].shutdown(std::net::Shutdown::Write).expect("shut down");
        assert_eq!(on_port(port).expect("answered").len(), 2);
        drop(accepted);
    }

    #[test]
    fn listeners_are_found_wherever_they_are_bound() {
        for (at, expected) in [
            ("0.0.0.0:0", AppListening::Yes),
            ("[::]:0", AppListening::Yes),
            ("127.0.0.1:0", AppListening::LoopbackOnly),
            ("[::1]:0", AppListening::LoopbackOnly),
            ("[::ffff:127.0.0.1]:0", AppListening::LoopbackOnly),
        ] {
            let listener = TcpListener::bind(at).expect("port");
            let port = listener.local_addr().expect("bound").port();
            assert_eq!(listening(port).expect("answered"), expected, "{at}");
            let client = TcpStream::connect(("localhost", port));
            drop(listener);
            assert_eq!(
                listening(port).expect("answered"),
                AppListening::Nobody,
                "a connection is no listener: {client:?}"
            );
        }
    }

    #[test]
    fn a_short_answer_is_none() {
        assert_eq!(connection(&[0; 20]), None);
    }
}
