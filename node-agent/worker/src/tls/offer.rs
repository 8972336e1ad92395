//! What a client offers in its ClientHello, as the agent offers it to the app in the client's place.
//!
//! Owns the choice of what is passed on: whatever the app may decide by and rustls knows, so that the app decides as it
//! would have for the client. What the app decided is then answered to the client (`answer`).

use std::sync::Arc;

use rustls::{
    SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    server::ClientHello,
};

/// An offer to the app.
#[derive(Clone)]
pub(crate) struct Offer {
    /// The name asked for (SNI).
    pub(crate) server_name: Option<String>,
    /// Protocols, the client's favourite first (ALPN).
    pub(super) protocols: Vec<Vec<u8>>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) suites: Vec<SupportedCipherSuite>,
    pub(super) schemes: Vec<SignatureScheme>,
}

impl Offer {
    /// The client's offer, as far as rustls can keep it; `None` if nothing is left.
    pub(crate) fn of(hello: &ClientHello<'_>, versions: &[&'static SupportedProtocolVersion]) -> Option<Self> {
        let everything = ring::default_provider();
        let known = everything.signature_verification_algorithms.supported_schemes();
        let usable = |suite: &SupportedCipherSuite| {
            hello.cipher_suites().contains(&suite.suite())
                && versions.iter().any(|version| version.version == suite.version().version)
        };
        let suites: Vec<_> = everything.cipher_suites.into_iter().filter(usable).collect();
        let versions: Vec<_> = versions
            .iter()
            .copied()
            .filter(|version| suites.iter().any(|suite| suite.version().version == version.version))
            .collect();
        let schemes: Vec<_> = known.into_iter().filter(|scheme| hello.signature_schemes().contains(scheme)).collect();
        let something = !versions.is_empty() && !schemes.is_empty();
        something.then(|| Offer {
            server_name: hello.server_name().map(str::to_owned),
            protocols: hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect()).unwrap_or_default(),
            versions,
            suites,
            schemes,
        })
    }

    /// What an ordinary client offers that asks for this name.
    pub(crate) fn ordinary(server_name: Option<String>) -> Self {
        let everything = ring::default_provider();
        Offer {
            server_name,
            protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            versions: rustls::ALL_VERSIONS.to_vec(),
            schemes: everything.signature_verification_algorithms.supported_schemes(),
            suites: everything.cipher_suites,
        }
    }

    /// The same, with the one protocol that was agreed on, or none.
    pub(crate) fn narrowed(&self, protocol: Option<&[u8]>) -> Self {
        Offer { protocols: protocol.map(<[u8]>::to_vec).into_iter().collect(), ..self.clone() }
    }

    /// rustls' cryptography with these cipher suites alone.
    pub(super) fn provider(suites: Vec<SupportedCipherSuite>) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider { cipher_suites: suites, ..ring::default_provider() })
    }
}
