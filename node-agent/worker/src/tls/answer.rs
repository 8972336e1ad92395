//! The handshake with the client, after the app's: the client is answered what the app decided.

use std::sync::Arc;

use rustls::{
    Connection, Error, ServerConfig, ServerConnection,
    server::{Accepted, ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;

use super::{
    app::Agreed,
    offer::Offer,
    session::{Session, shake},
};

/// Answers the client's offer; nothing is sent yet. An error means that nothing can be answered by this: the client
/// offers too little.
pub(crate) fn answer(accepted: Accepted, agreed: &Agreed, given: &CertifiedKey) -> Result<ServerConnection, Error> {
    let provider = Offer::provider(vec![agreed.suite]);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[agreed.suite.version()])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertificate(Arc::new(agreed.shown(given)))));
    config.alpn_protocols = agreed.protocol.clone().into_iter().collect();
    // The app is asked for each connection, so that nothing may be resumed past it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    accepted.into_connection(Arc::new(config)).map_err(|(error, _)| error)
}

/// Completes the handshake with the client. The caller bounds it.
pub(crate) async fn complete(server: ServerConnection, socket: &TcpStream) -> std::io::Result<Box<Session>> {
    let mut rustls = Connection::from(server);
    shake(&mut rustls, socket).await?;
    Ok(Box::new(Session::new(rustls)))
}

/// The one certificate there is.
#[derive(Debug)]
struct SingleCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for SingleCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
