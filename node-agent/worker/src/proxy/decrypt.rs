//! A TLS connection to a port whose certificate is given: from the client's first bytes to two established sessions.
//!
//! Owns the order: the client's whole offer is read, the app is asked first, and only then is the client answered what
//! the app decided. Until that answer nothing was said to the client, so that whatever does not work out leaves the
//! connection to the app, as it came. Called by `proxy::run` when a connection has met TLS.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redir_http::engine::Origin;
use redir_wire::ClientTls;
use rustls::server::Accepted;
use tokio::{net::TcpStream, time::timeout};

use super::{
    buffer::Buffer,
    leg::{Leg, Socket},
    route::Route,
    secured::{APP, Secured, decide},
    transport::Transport,
};
use crate::{
    memory::Share,
    relay::Tally,
    tls::{Finding, Given, Heard, Hello, Means, Offer, Session, answer, complete},
};

/// A connection whose first bytes are TLS, and the leg to the app that was opened meanwhile.
pub(super) struct Greeting {
    /// What the client has sent so far.
    pub(super) up: Buffer,
    pub(super) app: Leg,
    pub(super) given: Arc<Given>,
}

/// What became of it.
pub(super) enum Handshake {
    /// Both sides are established.
    Decrypted {
        /// With the client.
        client: Box<Session>,
        /// To the app.
        app: Leg,
        /// For further legs.
        secured: Secured,
    },
    /// Nothing was answered: the bytes go to the app, over this leg if nothing was said on it. The finding is why.
    Opaque(Buffer, Option<Leg>, Option<Finding>),
    /// The same: there is no memory to wait for the rest of the client's offer.
    Scarce(Buffer, Leg),
    /// The client has ended the handshake.
    Over(&'static str),
}

/// See the module.
pub(super) async fn decrypt(client: &TcpStream, greeting: Greeting, route: &Route, tally: &Tally) -> Handshake {
    let Greeting { mut up, mut app, given } = greeting;
    if given.asks() {
        return Handshake::Opaque(up, Some(app), Some(Finding::ClientCertificate));
    }
    if given.means() == Means::Unusable {
        return Handshake::Opaque(up, Some(app), Some(Finding::Tls));
    }
    let (accepted, offer) = match timeout(HELLO, hear(client, &mut up, tally)).await {
        Ok(Ok(heard)) => heard,
        Ok(Err(Unheard::Scarce)) => return Handshake::Scarce(up, app),
        Ok(Err(Unheard::Other(finding))) => return Handshake::Opaque(up, Some(app), finding),
        Err(_) => return Handshake::Opaque(up, Some(app), None),
    };
    poll_fn(|cx| app.poll_opened(cx)).await;
    // What it has said, and its failure, mean the same as on any other connection.
    if app.end().is_some() || !app.down.is_empty() {
        return Handshake::Opaque(up, Some(app), None);
    }
    let Some(leg) = app.into_app() else { return Handshake::Opaque(up, None, None) };
    let decided = timeout(APP, decide(&leg, &offer, &given)).await.unwrap_or(Err(Finding::Refused));
    let (agreed, key) = match decided {
        Ok(decided) => decided,
        Err(finding) => return Handshake::Opaque(up, None, Some(finding)),
    };
    let server = match answer(*accepted, &agreed, &key) {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(client = %route.client, %error, "the client cannot be answered what the app decided");
            agreed.leave(&leg.stream);
            return Handshake::Opaque(up, None, Some(Finding::Client));
        }
    };
    match timeout(CLIENT, complete(server, client)).await {
        Ok(Ok(session)) => {
            let secured = Secured {
                offer: offer.narrowed(agreed.protocol.as_deref()),
                given,
                client: ClientTls { server_name: offer.server_name, alpn: agreed.protocol },
            };
            let app = Leg::opened(Origin::App, Socket::App(Transport::new(leg, Some(agreed.session))));
            Handshake::Decrypted { client: session, app, secured }
        }
        Ok(Err(error)) => {
            tracing::debug!(client = %route.client, %error, "the client ended the handshake");
            agreed.leave(&leg.stream);
            Handshake::Over("tls_client_ended")
        }
        Err(_) => {
            agreed.leave(&leg.stream);
            Handshake::Over("tls_client_slow")
        }
    }
}

/// Why an offer is not answered.
enum Unheard {
    /// It is none, or it shows that it cannot be kept.
    Other(Option<Finding>),
    /// There is no memory to wait for its rest.
    Scarce,
}

/// Reads on until the client's offer is whole.
async fn hear(client: &TcpStream, up: &mut Buffer, tally: &Tally) -> Result<(Box<Accepted>, Offer), Unheard> {
    let mut hello = Hello::new();
    let mut copy = Share::default();
    loop {
        match hello.look(up.unread()) {
            Heard::Whole(accepted, versions) => {
                let offer =
                    Offer::of(&accepted.client_hello(), &versions).ok_or(Unheard::Other(Some(Finding::Client)))?;
                return Ok((accepted, offer));
            }
            Heard::Foreign => return Err(Unheard::Other(None)),
            Heard::Partial if !up.try_wait() || !copy.try_wait(up.unread().len(), up.unread().len()) => {
                return Err(Unheard::Scarce);
            }
            Heard::Partial => match poll_fn(|cx| up.poll_fill(cx, client)).await {
                Ok(0) | Err(_) => return Err(Unheard::Other(None)),
                Ok(count) => tally.received.fetch_add(count as u64, Ordering::Relaxed),
            },
        };
    }
}

/// How long a client may take for its first message, before the app judges it.
const HELLO: Duration = Duration::from_secs(10);
/// How long a client may take for the rest of the handshake.
const CLIENT: Duration = Duration::from_secs(60);
