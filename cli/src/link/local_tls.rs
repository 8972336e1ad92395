//! TLS to the developer's own service (`--local-tls`): what the agent has decrypted is encrypted again, on this machine.
//!
//! Owns: the handshake and the copy. The certificate is not checked: it is the developer's own service, on this machine or
//! where --to says, and its certificate is as a rule self-signed. Must not know HTTP. Called by: `link::streams`.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redir_tunnel::{Budget, DataStream, PeerVerifier, relay_halves};
use redir_wire::{ClientTls, StreamCode};
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A handshake on one machine takes milliseconds; a debugger may be in between.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A service that speaks TLS, with a session on it.
pub(crate) struct TlsService(TlsStream<TcpStream>);

/// Shakes hands as the client did: the same name, and the protocol that was agreed with it.
pub(crate) async fn secure(tcp: TcpStream, client: &ClientTls) -> Result<TlsService, StreamCode> {
    let provider = Arc::new(ring::default_provider());
    // Any certificate whose key the service proves to have.
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let verifier = Arc::new(PeerVerifier::of_certificates(provider.clone(), schemes, |_| Ok(())));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config
        .map_err(|_| StreamCode::NoTls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = client.alpn.clone().into_iter().collect();
    let name = client.server_name.clone().and_then(|name| ServerName::try_from(name).ok());
    // With an address in its place no name is sent.
    let name = name.unwrap_or(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into()));
    let shaken = timeout(HANDSHAKE, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await;
    match shaken {
        Ok(Ok(stream)) => Ok(TlsService(stream)),
        Ok(Err(_)) | Err(_) => Err(StreamCode::NoTls),
    }
}

impl TlsService {
    /// Sends the bytes that were looked at already.
    pub(crate) async fn begin(mut self, first: &[u8]) -> Result<Self, StreamCode> {
        let written = timeout(HANDSHAKE, async {
            self.0.write_all(first).await?;
            self.0.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(self),
            Ok(Err(_)) | Err(_) => Err(StreamCode::Reset),
        }
    }

    /// Copies both ways, as [`redir_tunnel::relay()`] does.
    pub(crate) async fn relay(self, stream: DataStream, budget: &Budget) {
        // The connection must be reset, not finished, if this future is dropped at an await.
        let linger = |tls: &TlsStream<TcpStream>, time| socket2::SockRef::from(tls.get_ref().0).set_linger(time);
        let lingers = linger(&self.0, Some(Duration::ZERO)).is_ok();
        let (read, write) = split(self.0);
        let (mut read, mut write) = (LenientReader(read), WriteThrough { inner: write, accepted: None });
        let relayed = relay_halves(&mut read, &mut write, stream.send, stream.recv, budget).await;
        if relayed.reset.is_none() && lingers {
            linger(&read.0.unsplit(write.inner), None).ok();
        }
    }
}

/// A reader that takes a FIN without `close_notify` for an end: many a server leaves it out, and nobody but the
/// developer's own machine could have cut the connection.
struct LenientReader<R>(R);

impl<R: AsyncRead + Unpin> AsyncRead for LenientReader<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(cx, into)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => Poll::Ready(read),
        }
    }
}

/// A writer whose bytes are with the kernel when a write is done, and not in the session.
struct WriteThrough<W> {
    inner: W,
    /// Taken by the session, not yet by the kernel.
    accepted: Option<usize>,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for WriteThrough<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = match self.accepted {
            Some(count) => count,
            None => ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?,
        };
        self.accepted = Some(count);
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.accepted = None;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
