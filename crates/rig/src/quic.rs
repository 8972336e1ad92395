//! QUIC handshakes that somebody begins and does not go on with.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use quinn_proto::{ClientConfig, Connection, DatagramEvent, Endpoint, crypto::rustls::QuicClientConfig};

/// How long a server's answer is waited for; under a flood packets are lost.
const ANSWER: Duration = Duration::from_millis(100);

/// Sends a server the first packet of a ClientHello that needs several, from a new port of `source`. The server can neither go
/// on with it nor refuse it. Where the address must prove itself, it does.
pub fn half_handshake(server: SocketAddr, source: IpAddr) -> Result<()> {
    let socket = UdpSocket::bind((source, 0)).with_context(|| format!("bind a socket to {source}"))?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut hello = HalfHello::new(server)?;
    socket.send_to(&hello.packet().context("no first packet")?, server)?;
    let mut answer = [0; 2048];
    let length = match socket.recv(&mut answer) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(()),
        received => received.context("receive the server's answer")?,
    };
    if hello.must_prove(&answer[..length]) {
        socket.send_to(&hello.packet().context("no packet after a Retry")?, server)?;
    }
    Ok(())
}

struct HalfHello {
    server: SocketAddr,
    endpoint: Endpoint,
    connection: Connection,
}

impl HalfHello {
    fn new(server: SocketAddr) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        tls.alpn_protocols = (0..100).map(|number| format!("as long as it takes {number}").into_bytes()).collect();
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let mut endpoint = Endpoint::new(Arc::default(), None, false, None);
        let (_, connection) = endpoint.connect(Instant::now(), config, server, "server")?;
        Ok(Self { server, endpoint, connection })
    }

    fn packet(&mut self) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        let transmit = self.connection.poll_transmit(Instant::now(), 1, &mut packet)?;
        packet.truncate(transmit.size);
        Some(packet)
    }

    /// Takes the server's answer; whether it was a Retry.
    fn must_prove(&mut self, answer: &[u8]) -> bool {
        let mut said = Vec::new();
        let event = self.endpoint.handle(Instant::now(), self.server, None, None, answer.into(), &mut said);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
        // A long header of type 3 (RFC 9000, 17.2.5).
        answer.first().is_some_and(|first| first & 0xf0 == 0xf0)
    }
}
