//! Certificates of our own, as files for the agent and as rustls wants them, and a TLS client.

use std::{fs, net::TcpStream, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;

use crate::{cleanup, http::Http};

/// The name that the rig's certificates are for.
pub const NAME: &str = "web.test";

/// A client's connection over TLS.
pub type Secure = Http<StreamOwned<ClientConnection, TcpStream>>;

/// A self-signed certificate and its key, in two files.
#[derive(Debug, Clone)]
pub struct Certificate {
    directory: Arc<TempDir>,
    chain: String,
    key: String,
}

impl Certificate {
    /// Makes one for [`NAME`].
    pub fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("make a certificate")?;
        let directory = Arc::new(cleanup::directory("tls")?);
        let certificate = Self { directory, chain: made.cert.pem(), key: made.signing_key.serialize_pem() };
        certificate.write()?;
        Ok(certificate)
    }

    /// Puts another certificate into this one's files, as a renewal does: each file whole, one after the other.
    pub fn renew(&mut self) -> Result<()> {
        let Self { chain, key, .. } = Self::new()?;
        (self.chain, self.key) = (chain, key);
        self.write()
    }

    /// Puts an expired certificate of the same key into the file.
    pub fn expire(&mut self) -> Result<()> {
        let mut params = CertificateParams::new([NAME.to_owned()])?;
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        self.chain = params.self_signed(&KeyPair::from_pem(&self.key)?)?.pem();
        self.write()
    }

    /// The certificate's file.
    pub fn cert_file(&self) -> PathBuf {
        self.directory.path().join("tls.crt")
    }

    /// The key's file, of mode 0600.
    pub fn key_file(&self) -> PathBuf {
        self.directory.path().join("tls.key")
    }

    /// The key's own text.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The certificate in DER.
    pub fn der(&self) -> Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).context("read the certificate")
    }

    /// A server that shows it.
    pub fn server(&self) -> Result<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        Ok(config.with_no_client_auth().with_single_cert(vec![self.der()?], self.private()?)?)
    }

    /// The same, which takes only clients that show it too.
    pub fn mutual_server(&self) -> Result<ServerConfig> {
        let roots = Arc::new(self.roots()?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        Ok(config.with_client_cert_verifier(clients).with_single_cert(vec![self.der()?], self.private()?)?)
    }

    /// A client that trusts it and offers these versions.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Result<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        Ok(config.with_root_certificates(self.roots()?).with_no_client_auth())
    }

    /// A client that trusts it and shows it itself.
    pub fn mutual_client(&self) -> Result<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(self.roots()?);
        Ok(config.with_client_auth_cert(vec![self.der()?], self.private()?)?)
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()?)?;
        Ok(roots)
    }

    fn private(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("read the key")
    }

    fn write(&self) -> Result<()> {
        for (path, text, mode) in [(self.cert_file(), &self.chain, 0o644), (self.key_file(), &self.key, 0o600)] {
            let new = path.with_extension("new");
            fs::write(&new, text).and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))?;
            fs::rename(&new, &path).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

/// A client's connection, as [`NAME`]; the handshake comes with the first request.
pub fn secure(stream: TcpStream, config: ClientConfig) -> Result<Secure> {
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME)?)?;
    Ok(Http::new(StreamOwned::new(client, stream)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
