//! A listener whose connections the test holds by hand: the app's side of a connection, for what no HTTP app shows
//! (resets, half-close, silence).

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::os::fd::AsFd;

use crate::{
    namespace::{Namespace, PATIENCE},
    wait,
};

/// A listening socket in a namespace, accepted from by hand.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
}

impl Listener {
    /// Listens on `address` as an ordinary server does (`SO_REUSEADDR`; IPv6 only for an IPv6 address).
    pub fn new(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let bind = || -> std::io::Result<TcpListener> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        };
        let inner = namespace.run(bind)?.with_context(|| format!("listen on {address} in {}", namespace.name()))?;
        Ok(Self { inner })
    }

    /// The next connection and its client, within `limit`.
    pub fn accept_within(&self, limit: Duration) -> Result<(TcpStream, SocketAddr)> {
        let timeout = PollTimeout::try_from(limit).context("too long a limit")?;
        let mut fds = [PollFd::new(self.inner.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, timeout) == Err(Errno::EINTR) {}
        let (stream, peer) = self.inner.accept().with_context(|| format!("no connection within {limit:?}"))?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait::scaled(PATIENCE)))?;
        stream.set_write_timeout(Some(wait::scaled(PATIENCE)))?;
        Ok((stream, peer))
    }

    /// The next connection and its client.
    pub fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        self.accept_within(wait::scaled(PATIENCE))
    }
}

/// Closes a connection with a reset instead of a FIN.
pub fn reset(stream: TcpStream) -> Result<()> {
    Socket::from(stream).set_linger(Some(Duration::ZERO)).context("SO_LINGER")
}
