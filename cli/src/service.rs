//! The developer's own service: on this machine at the port from the command line, or where `--to` says.
//!
//! Owns: connecting to it, and finding out whether it answers. Must not relay. Called by: `link::streams`,
//! `commands::intercept`.

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use redir_wire::StreamCode;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout_at};

use crate::model::values::ServiceAddress;

/// A loopback handshake takes microseconds; only a full accept queue takes long.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// How long one of several addresses of a name may take, unless it is the last: a network that swallows packets must not
/// use up the time of the others.
const ONE_OF_SEVERAL: Duration = Duration::from_millis(1500);
/// How often a service that does not answer yet is tried.
const AGAIN: Duration = Duration::from_millis(50);

/// What the developer's service speaks, below HTTP or whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceProtocol {
    /// Nothing.
    Plaintext,
    /// TLS (`--local-tls`).
    Tls,
}

/// Where matched requests end up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Service {
    /// This port of 127.0.0.1, or of ::1 where nobody listens on 127.0.0.1: some development servers listen there alone.
    Loopback(NonZeroU16),
    /// Where `--to` says. A name is looked up for each connection: what it leads to may change meanwhile.
    Named(ServiceAddress),
}

impl Service {
    /// A connection for one stream, or why there is none.
    pub(crate) async fn connect(&self) -> Result<TcpStream, StreamCode> {
        let stream = self.dial().await?;
        // Small answers must not wait for Nagle; a socket that refuses the option still works.
        stream.set_nodelay(true).ok();
        Ok(stream)
    }

    /// Where something accepts now, if anywhere.
    pub(crate) async fn answers(&self) -> Option<SocketAddr> {
        self.dial().await.ok()?.peer_addr().ok()
    }

    /// Waits until something accepts, and tells where.
    pub(crate) async fn answering(&self) -> SocketAddr {
        loop {
            match self.answers().await {
                Some(address) => return address,
                None => sleep(AGAIN).await,
            }
        }
    }

    /// What to show of it once something accepts at `address`: a name stays a name.
    pub(crate) fn shown(&self, address: Option<SocketAddr>) -> String {
        match (self, address) {
            (Self::Loopback(_), Some(address)) => address.to_string(),
            (Self::Loopback(port), None) => SocketAddr::from((Ipv4Addr::LOCALHOST, port.get())).to_string(),
            (Self::Named(named), _) => named.to_string(),
        }
    }

    /// The first of its addresses that accepts. If none does, the reason that says most.
    async fn dial(&self) -> Result<TcpStream, StreamCode> {
        let deadline = Instant::now() + CONNECT;
        let addresses = timeout_at(deadline, self.addresses()).await.map_err(|_| StreamCode::Unreachable)?;
        let mut why = StreamCode::Unreachable;
        for (index, address) in addresses.iter().enumerate() {
            let is_last = index + 1 == addresses.len();
            // Whoever is slow on 127.0.0.1 is there: another service on ::1 must not be taken for it.
            let limit = match self {
                Self::Named(_) if !is_last => deadline.min(Instant::now() + ONE_OF_SEVERAL),
                Self::Named(_) | Self::Loopback(_) => deadline,
            };
            let failed = match timeout_at(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => code(error.kind()),
                Err(_) => StreamCode::Timeout,
            };
            if why == StreamCode::Unreachable {
                why = failed;
            }
        }
        Err(why)
    }

    async fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Loopback(port) => {
                vec![(Ipv4Addr::LOCALHOST, port.get()).into(), (Ipv6Addr::LOCALHOST, port.get()).into()]
            }
            Self::Named(ServiceAddress { host, port }) => {
                // Numbers need no resolver. A name without an address is a service that cannot be reached.
                lookup_host((host.as_str(), port.get())).await.map(Iterator::collect).unwrap_or_default()
            }
        }
    }
}

/// Where it is looked for, for people.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(port) => write!(f, "127.0.0.1:{port} or [::1]:{port}"),
            Self::Named(named) => named.fmt(f),
        }
    }
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
    use tokio::net::TcpListener;

    use super::*;

    fn port(listener: &TcpListener) -> NonZeroU16 {
        NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap()
    }

    #[tokio::test]
    async fn answers_when_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Service::Loopback(port(&listener));
        assert_eq!(service.answering().await, listener.local_addr().unwrap());
        assert!(service.connect().await.unwrap().nodelay().unwrap());
        drop(listener);
        assert_eq!(service.connect().await.err(), Some(StreamCode::Refused));
        assert_eq!(service.answers().await, None);
    }

    #[tokio::test]
    async fn a_service_on_the_ipv6_loopback_alone_is_found() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let service = Service::Loopback(port(&listener));
        assert_eq!(service.answering().await, listener.local_addr().unwrap());
        assert_eq!(service.shown(service.answers().await), listener.local_addr().unwrap().to_string());
        let named = Service::Named(format!("[::1]:{}", port(&listener)).parse().unwrap());
        assert_eq!(named.answers().await, Some(listener.local_addr().unwrap()));
        let elsewhere = Service::Named(format!("127.0.0.1:{}", port(&listener)).parse().unwrap());
        assert_eq!(elsewhere.connect().await.err(), Some(StreamCode::Refused), "no other than the one that was named");
    }

    #[tokio::test]
    async fn ipv4_comes_first() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind(("::1", port(&first).get())).await;
        let service = Service::Loopback(port(&first));
        assert_eq!(service.answering().await, first.local_addr().unwrap(), "{other:?}");
        let named = Service::Named(format!("localhost:{}", port(&first)).parse().unwrap());
        assert!(named.shown(Some(named.answering().await)).starts_with("localhost:"), "a name stays a name");
    }

    #[tokio::test]
    async fn a_name_without_an_address_cannot_be_reached() {
        let service = Service::Named("no-such-host.invalid:80".parse().unwrap());
        assert_eq!(service.connect().await.err(), Some(StreamCode::Unreachable));
    }
}
