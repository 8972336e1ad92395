//! The agent's own look at a port that is intercepted by a filter: does the app speak TLS there, and can it be read?
//!
//! It is traffic that nobody asked for, so it is little: one connection from the pod's own address when the port is
//! armed, to an app that does not speak first, ended by a `close_notify`. What it finds out, a developer would otherwise
//! hear only with the first client's connection. Called by the tunnels' hub; carries no client's bytes.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{
    app::{AppError, handshake},
    finding::Finding,
    given::Given,
    offer::Offer,
};
use crate::upstream::Upstream;

/// How long an app may take that does speak TLS.
const LIMIT: Duration = Duration::from_secs(3);
/// How long an app is listened to that may speak first, as none does that speaks TLS.
const FIRST_WORD: Duration = Duration::from_millis(50);

/// Looks at the port; `None`: nothing to tell.
pub(crate) async fn probe(upstream: &Upstream, port: u16, given: Option<&Given>) -> Option<Finding> {
    let looked = async {
        for pod in upstream.dialled() {
            // An app may listen on one family alone.
            if let Ok(leg) = upstream.connect(SocketAddr::new(pod, 0), SocketAddr::new(pod, port)).await {
                return look(&leg.stream, given).await;
            }
        }
        None
    };
    timeout(LIMIT, looked).await.ok().flatten()
}

async fn look(app: &TcpStream, given: Option<&Given>) -> Option<Finding> {
    if timeout(FIRST_WORD, app.readable()).await.is_ok() {
        // Or it ends at once: then nothing is known.
        let spoke = app.peek(&mut [0]).await.is_ok_and(|count| count > 0);
        return given.filter(|_| spoke).map(|_| Finding::Clear);
    }
    let offer = Offer::ordinary(given.and_then(Given::name));
    match handshake(app, &offer).await {
        Ok(agreed) => {
            let known = given.is_none_or(|given| given.signer(&agreed).is_some());
            agreed.leave(app);
            Some(if known { Finding::Tls } else { Finding::OtherCertificate })
        }
        Err(AppError::ClientCertificate) => {
            given.inspect(|given| given.note_asking(true));
            Some(Finding::ClientCertificate)
        }
        // With an alert at least it is TLS.
        Err(AppError::Refused(_)) => Some(if given.is_some() { Finding::Refused } else { Finding::Tls }),
        Err(AppError::NotTls) => given.map(|_| Finding::Clear),
        Err(AppError::Failed(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::ServerConfig;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::testing::{Certificate, mutual, server, sockets};

    /// What is found, and what the app saw.
    async fn looked<T>(
        app: impl FnOnce(TcpStream) -> JoinHandle<T>,
        given: Option<&Certificate>,
    ) -> (Option<Finding>, T) {
        let (ours, theirs) = sockets().await;
        let app = app(theirs);
        let given = given.map(|certificate| Given::new(std::slice::from_ref(&certificate.pair), None));
        let finding = look(&ours, given.as_ref()).await;
        drop(ours);
        (finding, timeout(LIMIT, app).await.expect("in time").expect("the app"))
    }

    /// An app that reads to the end; its result says whether that came with a close_notify.
    fn secure(config: ServerConfig) -> impl Fn(TcpStream) -> JoinHandle<std::io::Result<Vec<u8>>> {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        move |socket| {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                acceptor.accept(socket).await?.read_to_end(&mut seen).await.map(|_| seen)
            })
        }
    }

    #[tokio::test]
    async fn an_app_that_speaks_tls_is_left_in_order() {
        let (own, other) = (Certificate::new(), Certificate::new());
        for (given, found) in
            [(None, Finding::Tls), (Some(&own), Finding::Tls), (Some(&other), Finding::OtherCertificate)]
        {
            let (finding, seen) = looked(secure(server(&own)), given).await;
            assert_eq!((finding, seen.expect("a close_notify")), (Some(found), vec![]));
        }
        let mut strict = server(&own);
        strict.alpn_protocols = vec![b"mqtt".to_vec()];
        let (finding, refused) = looked(secure(strict.clone()), None).await;
        assert!((finding, refused.is_err()) == (Some(Finding::Tls), true), "an alert is TLS too");
        assert_eq!(looked(secure(strict), Some(&own)).await.0, Some(Finding::Refused));
    }

    #[tokio::test]
    async fn an_app_that_asks_for_client_certificates_is_told() {
        for versions in [[&rustls::version::TLS12], [&rustls::version::TLS13]] {
            let own = Certificate::new();
            let (server, _) = mutual(&own, &versions);
            for given in [None, Some(&own)] {
                let (finding, seen) = looked(secure(server.clone()), given).await;
                assert_eq!(finding, Some(Finding::ClientCertificate));
                assert!(seen.unwrap_err().to_string().contains("peer sent no certificates"));
            }
        }
    }

    #[tokio::test]
    async fn an_app_that_does_not_speak_tls_is_told_only_where_a_certificate_is_given() {
        let own = Certificate::new();
        let http = |mut socket: TcpStream| {
            tokio::spawn(async move {
                let mut block = [0; 4096];
                let count = socket.read(&mut block).await.unwrap();
                socket.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
                count
            })
        };
        let first = |mut socket: TcpStream| {
            tokio::spawn(async move {
                socket.write_all(b"220 ready\r\n").await.unwrap();
                socket.read(&mut [0; 4096]).await.unwrap_or_default()
            })
        };
        let closing = |socket: TcpStream| tokio::spawn(async move { drop(socket) });
        for (given, found) in [(None, None), (Some(&own), Some(Finding::Clear))] {
            let (finding, count) = looked(http, given).await;
            assert_eq!((finding, count > 100), (found, true), "{count} bytes");
            assert_eq!(looked(first, given).await, (found, 0), "an app that speaks first is sent nothing");
        }
        assert_eq!(looked(closing, None).await.0, None);
    }
}
