//! Which connections a port of the pod has: those from before an intercept stay with the app, and people want to know.
//!
//! Owns one netlink question (sock_diag(7)). Changes nothing. Called inside the pod's namespace by `pod`.

use std::io;

use nix::sys::socket::SockProtocol;

use super::netlink::{NetlinkSocket, u32_at};

/// One connection of the port, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    /// The other end's port.
    pub(super) peer_port: u16,
    /// Who holds the socket.
    pub(super) uid: u32,
}

/// The connections on `port` that are established or that the client has half closed.
pub(super) fn on_port(port: u16) -> io::Result<Vec<Connection>> {
    let mut netlink = NetlinkSocket::open(SockProtocol::NetlinkSockDiag)?;
    let mut connections = Vec::new();
    // A dual-stack app's connections are in the IPv6 table, also those of IPv4 clients.
    for family in [libc::AF_INET, libc::AF_INET6] {
        let question = question(family.to_ne_bytes()[0], port);
        netlink.dump(SOCK_DIAG_BY_FAMILY, &question, |body| connections.extend(connection(body)))?;
    }
    Ok(connections)
}

/// `struct inet_diag_req_v2` (linux/inet_diag.h).
fn question(family: u8, port: u16) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    bytes[0] = family;
    bytes[1] = libc::IPPROTO_TCP.to_ne_bytes()[0];
    bytes[4..8].copy_from_slice(&STATES.to_ne_bytes());
    bytes[8..10].copy_from_slice(&port.to_be_bytes());
    bytes
}

/// `struct inet_diag_msg`: the peer's port at 6, the uid at 64.
fn connection(message: &[u8]) -> Option<Connection> {
    let peer_port = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let uid = u32_at(message, 64)?;
    Some(Connection { peer_port, uid })
}

/// Bytes of `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// ESTABLISHED (1) and CLOSE_WAIT (8) of net/tcp_states.h.
const STATES: u32 = 1 << 1 | 1 << 8;

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
        let accepted: Vec<_> = clients.iter().map(|_| listener.accept().expect("accepted")).collect();
        let mut found: Vec<_> = on_port(port).expect("answered").iter().map(|found| found.peer_port).collect();
        let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().expect("bound").port()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let uid = nix::unistd::getuid().as_raw();
        assert!(on_port(port).expect("answered").iter().all(|found| found.uid == uid));
        // The client's half close leaves the app's end in CLOSE_WAIT: it is still a connection.
        clients[0].shutdown(std::net::Shutdown::Write).expect("shut down");
        assert_eq!(on_port(port).expect("answered").len(), 2);
        drop(accepted);
    }

    #[test]
    fn a_short_answer_is_none() {
        assert_eq!(connection(&[0; 20]), None);
    }
}
