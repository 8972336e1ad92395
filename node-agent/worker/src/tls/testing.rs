//! What the tests of TLS use: made-up certificates, and both ends of an established connection over a real socket.

use std::{future::poll_fn, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};

use super::session::{Session, shake};
use redir_config::certificates::{Pair, testing::pair};

/// A self-signed certificate for `web.test`, and its key.
pub(crate) struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pair: Pair,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let pair = pair("web.test");
        Certificate { der: CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap(), pair }
    }

    pub(crate) fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.pair.key.as_bytes()).unwrap()
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A server as an app has one.
pub(crate) fn server(certificate: &Certificate) -> ServerConfig {
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der.clone()], certificate.private())
        .unwrap()
}

/// A client that trusts this certificate and offers these versions.
pub(crate) fn client(certificate: &Certificate, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der.clone()).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A server that takes only clients with this certificate, and a client that has it.
pub(crate) fn mutual(
    certificate: &Certificate,
    versions: &[&'static SupportedProtocolVersion],
) -> (ServerConfig, ClientConfig) {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider()).build().unwrap();
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der.clone()], certificate.private())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate.der.clone()], certificate.private())
        .unwrap();
    (server, client)
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("web.test").unwrap()
}

/// Both ends of a TCP connection.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (ours.unwrap(), accepted.unwrap().0)
}

/// One established end.
pub(crate) struct EstablishedTls {
    pub(crate) socket: TcpStream,
    pub(crate) session: Session,
}

impl EstablishedTls {
    async fn new(socket: TcpStream, mut rustls: Connection) -> Self {
        shake(&mut rustls, &socket).await.unwrap();
        EstablishedTls { socket, session: Session::new(rustls) }
    }

    pub(crate) async fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        poll_fn(|cx| self.session.poll_read(cx, &self.socket, into)).await
    }

    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| self.session.poll_write(cx, &self.socket, bytes)).await?;
            bytes = &bytes[count..];
        }
        poll_fn(|cx| self.session.poll_flush(cx, &self.socket)).await
    }

    /// Reads to the end.
    pub(crate) async fn read_to_end(&mut self) -> std::io::Result<Vec<u8>> {
        let (mut all, mut block) = (Vec::new(), vec![0; 20_000]);
        loop {
            match self.read(&mut block).await? {
                0 => return Ok(all),
                count => all.extend_from_slice(&block[..count]),
            }
        }
    }

    /// Reads so many bytes.
    pub(crate) async fn read_exactly(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut all = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.read(&mut all[filled..]).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(all)
    }
}

/// A client and a server that have shaken hands.
pub(crate) async fn connected(client: ClientConfig, server: ServerConfig) -> (EstablishedTls, EstablishedTls) {
    let (ours, theirs) = sockets().await;
    let client = ClientConnection::new(Arc::new(client), name()).unwrap();
    let server = ServerConnection::new(Arc::new(server)).unwrap();
    tokio::join!(EstablishedTls::new(ours, client.into()), EstablishedTls::new(theirs, server.into()))
}
