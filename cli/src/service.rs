//! The developer's own service: always 127.0.0.1, always the port from the command line.
//!
//! Owns: connecting to it, and finding out whether it answers. Must not relay. Called by: `link::streams`,
//! `commands::intercept`.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use redir_wire::StreamCode;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A loopback handshake takes microseconds; only a full accept queue takes long.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a service that does not answer yet is tried.
const AGAIN: Duration = Duration::from_millis(50);

/// What the developer's service speaks, below HTTP or whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Nothing.
    Plaintext,
    /// TLS (`--local-tls`).
    Tls,
}

/// The port on 127.0.0.1 that the developer named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service(pub(crate) NonZeroU16);

impl Service {
    /// A connection for one stream, or why there is none.
    pub(crate) async fn connect(self) -> Result<TcpStream, StreamCode> {
        let stream = match timeout(CONNECT, TcpStream::connect(self.address())).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(code(error.kind())),
            Err(_) => return Err(StreamCode::Timeout),
        };
        // Small answers must not wait for Nagle; a socket that refuses the option still works.
        stream.set_nodelay(true).ok();
        Ok(stream)
    }

    /// Whether something accepts there now.
    pub(crate) async fn answers(self) -> bool {
        accepts(self.address()).await
    }

    /// Whether something accepts on the same port of ::1, where redir does not connect to.
    pub(crate) async fn answers_on_ipv6(self) -> bool {
        accepts(SocketAddr::from((Ipv6Addr::LOCALHOST, self.0.get()))).await
    }

    /// Waits until something accepts.
    pub(crate) async fn answering(self) {
        while !self.answers().await {
            sleep(AGAIN).await;
        }
    }

    /// `127.0.0.1:3000`
    pub(crate) fn address(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.0.get()))
    }
}

async fn accepts(address: SocketAddr) -> bool {
    matches!(timeout(CONNECT, TcpStream::connect(address)).await, Ok(Ok(_)))
}

fn code(kind: ErrorKind) -> StreamCode {
    match kind {
        ErrorKind::ConnectionRefused => StreamCode::Refused,
        ErrorKind::TimedOut => StreamCode::Timeout,
        ErrorKind::ConnectionReset => StreamCode::Reset,
        _ => StreamCode::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_when_somebody_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Service(NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap());
        service.answering().await;
        assert!(service.connect().await.unwrap().nodelay().unwrap());
        drop(listener);
        assert_eq!(service.connect().await.err(), Some(StreamCode::Refused));
        assert!(!service.answers().await);
    }
}
