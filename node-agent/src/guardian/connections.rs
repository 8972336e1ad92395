//! Which connections a port of the pod has: those from before an intercept stay with the app, and people want to know.
//!
//! Owns one netlink question (sock_diag(7)). Changes nothing. Called inside the pod's namespace by `pod`.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

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
    let socket = ask()?;
    let mut connections = Vec::new();
    // A dual-stack app's connections are in the IPv6 table, also those of IPv4 clients.
    for family in [libc::AF_INET, libc::AF_INET6] {
        let question = question(family.to_ne_bytes()[0], port);
        sendto(socket.as_raw_fd(), &question, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        read_dump(&socket, &mut connections)?;
    }
    Ok(connections)
}

fn ask() -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkSockDiag;
    let socket = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    Ok(socket)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` (linux/inet_diag.h).
fn question(family: u8, port: u16) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    bytes[0..4].copy_from_slice(&72_u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes[16] = family;
    bytes[17] = libc::IPPROTO_TCP.to_ne_bytes()[0];
    bytes[20..24].copy_from_slice(&STATES.to_ne_bytes());
    bytes[24..26].copy_from_slice(&port.to_be_bytes());
    bytes
}

fn read_dump(socket: &OwnedFd, connections: &mut Vec<Connection>) -> io::Result<()> {
    // The kernel fills up to 32 KiB at once where the reader has room for it.
    let mut buffer = vec![0; 32 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let Some(message) = rest.get(HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
            match i32::from(u16::from_ne_bytes([header[4], header[5]])) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return Err(error(message)),
                _ => connections.extend(connection(message)),
            }
            // Messages begin at multiples of four (NLMSG_ALIGN).
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// `struct inet_diag_msg`: the peer's port at 6, the uid at 64.
fn connection(message: &[u8]) -> Option<Connection> {
    let peer_port = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let uid = u32::from_ne_bytes(message.get(64..68)?.try_into().ok()?);
    Some(Connection { peer_port, uid })
}

/// `struct nlmsgerr` begins with a negative errno.
fn error(message: &[u8]) -> io::Error {
    let errno = message.first_chunk::<4>().map_or(libc::EIO, |bytes| i32::from_ne_bytes(*bytes).saturating_neg());
    io::Error::from_raw_os_error(errno)
}

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct nlmsghdr` and `struct inet_diag_req_v2`.
const QUESTION: usize = 72;
/// NLM_F_REQUEST and NLM_F_DUMP of linux/netlink.h.
const REQUEST_DUMP: u16 = 0x1 | 0x300;
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
    fn an_error_is_told() {
        assert_eq!(error(&(-libc::ENOENT).to_ne_bytes()).raw_os_error(), Some(libc::ENOENT));
        assert_eq!(connection(&[0; 20]), None);
    }
}
