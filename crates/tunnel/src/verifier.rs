//! The one verifier of rustls that redir has: whom it takes is said by a function, that the other end has the key is proven
//! by the handshake's signature.
//!
//! No certificate authority and no clock are asked: redir pins keys, or compares certificates with one that it was given.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};

/// What the other end shows.
#[derive(Clone, Copy, Debug)]
pub struct ShownKey<'a> {
    /// The SubjectPublicKeyInfo where keys are raw, else the end entity's certificate; DER.
    pub der: &'a CertificateDer<'a>,
    /// The OCSP response that a server has stapled; empty without one.
    pub ocsp_response: &'a [u8],
}

/// Decides about what the other end shows; `Err` ends the handshake.
type Decide = dyn Fn(ShownKey<'_>) -> Result<(), Error> + Send + Sync;

/// See the module.
pub struct PeerVerifier {
    decide: Box<Decide>,
    form: KeyForm,
    schemes: Vec<SignatureScheme>,
    provider: Arc<CryptoProvider>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyForm {
    /// RFC 7250, with Ed25519 and TLS 1.3 alone.
    RawPublicKey,
    Certificate,
}

impl PeerVerifier {
    /// For ends that show a raw public key.
    pub(crate) fn of_raw_keys(
        provider: Arc<CryptoProvider>,
        decide: impl Fn(ShownKey<'_>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        let schemes = vec![SignatureScheme::ED25519];
        Self { decide: Box::new(decide), form: KeyForm::RawPublicKey, schemes, provider }
    }

    /// For servers that show certificates, and sign with one of these schemes.
    pub fn of_certificates(
        provider: Arc<CryptoProvider>,
        schemes: Vec<SignatureScheme>,
        decide: impl Fn(ShownKey<'_>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        Self { decide: Box::new(decide), form: KeyForm::Certificate, schemes, provider }
    }

    fn tls12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.form {
            KeyForm::RawPublicKey => Err(PeerIncompatible::Tls13RequiredForQuic.into()),
            KeyForm::Certificate => {
                verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
            }
        }
    }

    fn tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match self.form {
            KeyForm::RawPublicKey => {
                let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
                verify_tls13_signature_with_raw_key(message, &spki, dss, algorithms)
            }
            KeyForm::Certificate => verify_tls13_signature(message, cert, dss, algorithms),
        }
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("form", &self.form).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        (self.decide)(ShownKey { der: end_entity, ocsp_response }).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.form == KeyForm::RawPublicKey
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        (self.decide)(ShownKey { der: end_entity, ocsp_response: &[] }).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.form == KeyForm::RawPublicKey
    }
}
