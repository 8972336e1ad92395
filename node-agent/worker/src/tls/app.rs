//! The handshake with the app, in a client's place or to find out whether it speaks TLS.
//!
//! Owns what makes it fail and how it ends then: always in order, for the app's log is read by people. The certificate
//! that the app shows is not trusted here: whoever uses the session asks [`super::Given::signer`] first.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use redir_tunnel::PeerVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, Error, SignatureScheme, SupportedCipherSuite,
    client::{ResolvesClientCert, Resumption},
    pki_types::{CertificateDer, ServerName},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;

use super::{
    offer::Offer,
    session::{Session, send, shake},
};
use crate::relay;

/// A session with the app, and what it decided.
pub(crate) struct Agreed {
    /// Established.
    pub(crate) session: Box<Session>,
    /// The protocol (ALPN).
    pub(crate) protocol: Option<Vec<u8>>,
    /// The cipher suite, and with it the version.
    pub(super) suite: SupportedCipherSuite,
    /// The certificates that it showed, its own first. It has that one's key.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// What it stapled to them.
    pub(super) ocsp: Vec<u8>,
}

/// Why there is no session with the app.
#[derive(Debug)]
pub(crate) enum AppError {
    /// It asks for the client's certificate, which only the client has.
    ClientCertificate,
    /// What it answers is not TLS.
    NotTls,
    /// It does not agree with what is offered, or breaks the handshake off.
    Refused(Error),
    /// The connection failed or ended.
    Failed(io::Error),
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppError::ClientCertificate => f.write_str("the app asks for a client certificate"),
            AppError::NotTls => f.write_str("the app does not speak TLS"),
            AppError::Refused(error) => write!(f, "the handshake with the app failed: {error}"),
            AppError::Failed(error) => write!(f, "the connection to the app failed during the handshake: {error}"),
        }
    }
}

/// Shakes hands with the app. The caller bounds it.
pub(crate) async fn handshake(socket: &TcpStream, offer: &Offer) -> Result<Agreed, AppError> {
    let (stapled, asked) = (Arc::new(Mutex::default()), Arc::new(ClientAuthRequest::default()));
    let config = config(offer, &stapled, &asked).map_err(AppError::Refused)?;
    let client = ClientConnection::new(Arc::new(config), server_name(offer)).map_err(AppError::Refused)?;
    let mut rustls = Connection::from(client);
    let shaken = shake(&mut rustls, socket).await;
    if asked.0.load(Ordering::Relaxed) {
        // Whatever came of it: to the app it is a client without a certificate, which leaves.
        leave(&mut rustls, socket);
        return Err(AppError::ClientCertificate);
    }
    if let Err(error) = shaken {
        // Its alert is sent; an app that is gone need not be told.
        let _ = relay::finish(socket);
        return Err(explain(&rustls, error));
    }
    let (Some(suite), Some(chain)) = (rustls.negotiated_cipher_suite(), rustls.peer_certificates()) else {
        return Err(AppError::Refused(Error::NoCertificatesPresented));
    };
    Ok(Agreed {
        protocol: rustls.alpn_protocol().map(<[u8]>::to_vec),
        suite,
        chain: chain.to_vec(),
        ocsp: std::mem::take(&mut *stapled.lock().unwrap_or_else(PoisonError::into_inner)),
        session: Box::new(Session::new(rustls)),
    })
}

impl Agreed {
    /// Ends the session in order: it is not used.
    pub(crate) fn leave(mut self, socket: &TcpStream) {
        // An app that is gone need not be told.
        let _ = self.session.finish(socket);
    }

    /// What the client is shown: the app's own certificates, with the key that was given for them.
    pub(super) fn shown(&self, given: &CertifiedKey) -> CertifiedKey {
        let mut shown = CertifiedKey::new(self.chain.clone(), given.key.clone());
        shown.ocsp = Some(self.ocsp.clone()).filter(|ocsp| !ocsp.is_empty());
        shown
    }
}

fn config(offer: &Offer, stapled: &Arc<Mutex<Vec<u8>>>, asked: &Arc<ClientAuthRequest>) -> Result<ClientConfig, Error> {
    let provider = Offer::provider(offer.suites.clone());
    let stapled = stapled.clone();
    // Any certificate whose key the app proves to have; which one it is, is looked at before anything is sent.
    let verifier = PeerVerifier::of_certificates(provider.clone(), offer.schemes.clone(), move |shown| {
        *stapled.lock().unwrap_or_else(PoisonError::into_inner) = shown.ocsp_response.to_vec();
        Ok(())
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&offer.versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(asked.clone());
    config.alpn_protocols = offer.protocols.clone();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// With an address in its place rustls sends no name.
fn server_name(offer: &Offer) -> ServerName<'static> {
    let name = offer.server_name.clone().and_then(|name| ServerName::try_from(name).ok());
    name.unwrap_or(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into()))
}

/// What a failed handshake means.
fn explain(rustls: &Connection, error: io::Error) -> AppError {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) if rustls.protocol_version().is_none() => AppError::NotTls,
        Some(error) => AppError::Refused(error.clone()),
        None => AppError::Failed(error),
    }
}

/// Sends what is left and ends, as far as the kernel takes it now.
fn leave(rustls: &mut Connection, socket: &TcpStream) {
    rustls.send_close_notify();
    // An app that is gone need not be told.
    let _ = send(rustls, socket);
    let _ = relay::finish(socket);
}

/// Notes that the app has asked for the client's certificate.
#[derive(Debug, Default)]
struct ClientAuthRequest(AtomicBool);

impl ResolvesClientCert for ClientAuthRequest {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
