//! TLS with both ends pinned: raw public keys (RFC 7250), Ed25519, TLS 1.3 only, no certificate authority, no clock.
//!
//! Each end checks two things: that the key's pin is one it expects, and the handshake's signature, which proves that the
//! other end has the private key ([`PeerVerifier`]). Sessions are never resumed: a key that was removed must not come back by ticket.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use redir_identity::{Identity, Pin};
use rustls::{
    CertificateError, ClientConfig, Error, ServerConfig,
    client::{AlwaysResolvesClientRawPublicKeys, Resumption},
    crypto::CryptoProvider,
    server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage},
};

use crate::verifier::PeerVerifier;

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
    let verifier = PeerVerifier::of_raw_keys(provider.clone(), move |shown| {
        let is_authorised = authorised.contains(&Pin::of_spki(shown.der));
        // Becomes the alert `access_denied`, which the developer's end turns into a sentence.
        if is_authorised { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
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
    let verifier = PeerVerifier::of_raw_keys(provider.clone(), move |shown| {
        let pin = Pin::of_spki(shown.der);
        seen.set(pin);
        if pin == agent { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Both ends must name it.
pub(crate) const ALPN: &[u8] = b"redir/1";
