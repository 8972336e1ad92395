//! The agent's listeners in a pod's network namespace.
//!
//! Owns their options: `IP_TRANSPARENT`, else a nat table in the pod orphans the assigned packets; `SO_REUSEADDR`, else
//! the app cannot bind its port again after a restart; never `SO_REUSEPORT`, which would let the app join in;
//! And what accepted sockets inherit: `SO_LINGER` 0, so that those of a killed worker end with a reset, not with a FIN that
//! would make half an answer look whole; `TCP_NODELAY`; keep-alive probes.
//! Called inside the pod's namespace by `pod`.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use redir_abi::is_reserved;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// The pair, on one port number.
#[derive(Debug)]
pub(super) struct ListenerPair {
    pub(super) port: u16,
    pub(super) v4: OwnedFd,
    pub(super) v6: Option<OwnedFd>,
}

/// Listens on a free port of 127.0.0.1 and ::1 that `usable` accepts.
pub(super) fn listen(usable: impl Fn(u16) -> bool) -> io::Result<ListenerPair> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let v4 = listener(Domain::IPV4, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let v4 = match v4 {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                last = error;
                continue;
            }
            other => other?,
        };
        let port = v4.local_addr()?.as_socket().map_or(0, |address| address.port());
        if AVOIDED.contains(&port) || is_reserved(port) || !usable(port) {
            continue;
        }
        match listener(Domain::IPV6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
            Ok(v6) => return Ok(ListenerPair { port, v4: v4.into(), v6: Some(v6.into()) }),
            Err(error) if no_ipv6(&error) => return Ok(ListenerPair { port, v4: v4.into(), v6: None }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn listener(domain: Domain, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A kernel without IPv6, or one whose pod has it disabled.
fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// The app's own probes reach the agent and not the client: a client that has vanished is noticed here instead.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
/// Connections that wait for the accept loop; DESIGN 2.1.
const BACKLOG: i32 = 4096;
/// Envoy's and linkerd's ports in a pod: a mesh's rules for them must not meet the agent.
const AVOIDED: [u16; 4] = [15001, 15006, 15008, 4143];
/// Each try takes a new port of the kernel's choice.
const TRIES: usize = 64;

#[cfg(test)]
mod tests {
    use nix::sys::socket::{getsockopt, sockopt};

    use super::*;

    #[test]
    fn both_families_listen_on_one_port_with_the_options() {
        let listeners = listen(|_| true).expect("root");
        let v4 = std::net::TcpListener::from(listeners.v4);
        assert_eq!(v4.local_addr().expect("bound").port(), listeners.port);
        assert!(getsockopt(&v4, sockopt::ReuseAddr).expect("option"));
        assert!(!getsockopt(&v4, sockopt::ReusePort).expect("option"));
        assert!(getsockopt(&v4, sockopt::AcceptConn).expect("option"));
        assert!(Socket::from(v4).ip_transparent_v4().expect("option"));
        let v6 = Socket::from(listeners.v6.expect("IPv6"));
        assert!(v6.ip_transparent_v6().expect("option") && v6.only_v6().expect("option"));
        assert!(v6.nonblocking().expect("flags"));
    }

    #[test]
    fn accepted_sockets_have_what_the_listener_has() {
        let listener = std::net::TcpListener::from(listen(|_| true).expect("root").v4);
        let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let accepted = loop {
            match listener.accept() {
                Ok((stream, _)) => break Socket::from(stream),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert_eq!(accepted.linger().expect("option"), Some(Duration::ZERO));
        assert!(accepted.tcp_nodelay().expect("option") && accepted.keepalive().expect("option"));
        assert_eq!(accepted.tcp_keepalive_time().expect("option"), Duration::from_secs(60));
        assert_eq!(accepted.tcp_keepalive_retries().expect("option"), 4);
    }

    #[test]
    fn refused_ports_are_not_taken() {
        let error = listen(|_| false).expect_err("none is usable");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
