//! Sockets that only the guardian may make: the upstream legs in a pod's namespace, and the tunnels' UDP socket.
//!
//! Owns their options. Which ports may be asked for is decided by `pod`.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use redir_ipc::BindAddress;

/// A socket bound to this port, not connected. It has no mark: rules and routes of the pod go by marks, and whose it is, is
/// said by what the datapath puts on it. `SO_REUSEADDR` lets one port serve several peers; a port in LISTEN is
/// refused by `bind` all the same. `SO_LINGER` 0 makes the kernel reset what a killed worker leaves. Called inside the
/// pod's namespace.
pub(super) fn upstream(bind: BindAddress, port: u16) -> io::Result<OwnedFd> {
    let address = bind.with_port(port);
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The tunnels' socket. `[::]` takes IPv4 as well. The error ends with the next step.
pub(super) fn tunnels(listen: SocketAddr) -> Result<OwnedFd, String> {
    let make = || -> io::Result<Socket> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(listen), kind, Some(Protocol::UDP))?;
        if listen.is_ipv6() && listen.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&listen.into())?;
        Ok(socket)
    };
    let socket = make().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("UDP {listen} is in use by another process; end it (`ss -ulnp` names it), or change agent.listen")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is not an address of this machine; correct agent.listen", listen.ip())
        }
        _ => format!("cannot listen on UDP {listen}: {error}; correct agent.listen"),
    })?;
    // Without the privilege the kernel's limit applies: slower under bursts, not wrong.
    if let Err(error) = buffers(&socket) {
        tracing::warn!(%error, "cannot enlarge the UDP buffers; tunnels are slower under bursts");
    }
    Ok(socket.into())
}

fn buffers(socket: &Socket) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &UDP_BUFFER)?;
    setsockopt(socket, sockopt::SndBufForce, &UDP_BUFFER)?;
    Ok(())
}

/// Bytes, each way; DESIGN 2.5.
const UDP_BUFFER: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use nix::sys::socket::getsockopt;

    use super::*;

    fn loopback() -> BindAddress {
        BindAddress { ip: Ipv4Addr::LOCALHOST.into(), scope: 0 }
    }

    #[test]
    fn upstream_sockets_share_ports_and_carry_no_mark() {
        let free = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("bound").port();
        let sockets = [upstream(loopback(), free), upstream(loopback(), free)];
        for socket in sockets.map(|socket| Socket::from(socket.expect("bound"))) {
            assert_eq!(socket.mark().expect("option"), 0);
            assert!(socket.nonblocking().expect("flags") && socket.tcp_nodelay().expect("option"));
        }
    }

    #[test]
    fn a_port_in_listen_and_an_address_elsewhere_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = listener.local_addr().expect("bound").port();
        let kind = |bind, port| upstream(bind, port).expect_err("refused").kind();
        assert_eq!(kind(loopback(), port), io::ErrorKind::AddrInUse);
        let elsewhere = BindAddress { ip: "192.0.2.1".parse().expect("address"), scope: 0 };
        assert_eq!(kind(elsewhere, 700), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn the_tunnels_socket_has_room_and_names_a_used_port() {
        let socket = tunnels("127.0.0.1:0".parse().expect("address")).expect("port");
        // The kernel doubles the value for its own bookkeeping (socket(7)).
        assert_eq!(getsockopt(&socket, sockopt::RcvBuf).expect("option"), 2 * UDP_BUFFER);
        let socket = Socket::from(socket);
        let taken = socket.local_addr().expect("bound").as_socket().expect("IP");
        let sentence = tunnels(taken).expect_err("in use");
        assert!(sentence.contains("in use") && sentence.contains("agent.listen"), "{sentence}");
    }
}
