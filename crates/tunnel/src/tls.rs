//! TLS with both ends pinned: raw public keys (RFC 7250), Ed25519, TLS 1.3 only, no certificate authority, no clock.
//!
//! Each verifier checks two things: that the key's pin is one it expects, and the handshake's signature, which proves
//! that the other end has the private key. Sessions are never resumed: a key that was removed must not come back by ticket.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use redir_identity::{Identity, Pin};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
    client::AlwaysResolvesClientRawPublicKeys,
    client::Resumption,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage},
};

/// The keys that may complete a handshake with an agent. Shared: a change counts from the next handshake on.
#[derive(Clone, Debug, Default)]
pub struct Authorised(Arc<RwLock<HashSet<Pin>>>);

impl Authorised {
    /// Puts these keys in the place of all.
    pub fn replace(&self, pins: impl IntoIterator<Item = Pin>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = pins.into_iter().collect();
    }

    /// Whether the key is one of them.
    pub fn contains(&self, pin: &Pin) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(pin)
    }
}

/// The agent's end.
pub(crate) fn agent_config(identity: &Identity, authorised: Authorised) -> Result<ServerConfig, Error> {
    let provider = provider();
    let verifier = Arc::new(DeveloperVerifier { authorised, provider: provider.clone() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The developer's end. `seen` learns the agent's pin, also one that is refused.
pub(crate) fn developer_config(identity: &Identity, agent: Pin, seen: SeenPin) -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier = Arc::new(AgentVerifier { agent, seen, provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// Where the developer's end leaves the pin that the agent showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenPin(Arc<Mutex<Option<Pin>>>);

impl SeenPin {
    pub(crate) fn value(&self) -> Option<Pin> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, pin: Pin) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
    }
}

#[derive(Debug)]
struct DeveloperVerifier {
    authorised: Authorised,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for DeveloperVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.authorised.contains(&Pin::of_spki(end_entity)) {
            Ok(ClientCertVerified::assertion())
        } else {
            // Becomes the alert `access_denied`, which the developer's end turns into a sentence.
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct AgentVerifier {
    agent: Pin,
    seen: SeenPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AgentVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = Pin::of_spki(end_entity);
        self.seen.set(pin);
        if pin == self.agent {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn verify_signature(
    provider: &CryptoProvider,
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
    verify_tls13_signature_with_raw_key(message, &spki, dss, &provider.signature_verification_algorithms)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Both ends must name it.
pub(crate) const ALPN: &[u8] = b"redir/1";
