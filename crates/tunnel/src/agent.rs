//! The agent's endpoint. It lives on the runtime of those who use it: on a thread of its own each byte that goes in or out
//! of a tunnel would wake another thread, twice for a request, and that costs more than all of the encryption.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{
    AsyncTimer, AsyncUdpSocket, ConnectionError, EndpointConfig, Runtime, ServerConfig, TokioRuntime, VarInt,
    crypto::rustls::QuicServerConfig,
};
use quinn_proto::HashedConnectionIdGenerator;
use redir_identity::{Identity, Pin};
use redir_wire::CloseCode;
use rustls::pki_types::CertificateDer;
use tokio::{runtime::Handle, task::JoinSet, time::timeout};

use crate::{
    canonical,
    handshakes::{self, HandshakeAdmission, HandshakePlace, Handshakes},
    hints::UnreachableHints,
    source::ClientKey,
    tls::{self, Authorised},
    transport::{HANDSHAKE, TunnelEnd, transport},
};

/// Where developers' tunnels arrive.
#[derive(Debug)]
pub struct AgentEndpoint {
    endpoint: quinn::Endpoint,
    handshakes: Handshakes,
    hints: UnreachableHints,
    /// What reads the socket's errors.
    _errors: JoinSet<()>,
}

impl AgentEndpoint {
    /// Serves on a bound socket, on the runtime in which it is called. Reset tokens are derived from the key: a new process on the same socket tells the old
    /// one's developers at once that their tunnels are gone.
    pub fn start(socket: UdpSocket, identity: &Identity, authorised: Authorised) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let tls = tls::agent_config(identity, authorised).map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(transport(TunnelEnd::Agent)).max_incoming(handshakes::MOST);
        server.incoming_buffer_size(INCOMING_BUFFER).incoming_buffer_size_total(INCOMING_BUFFERS);
        let runtime = Arc::new(PinnedRuntime { handle: Handle::current() });
        let (hints, mut errors) = (UnreachableHints::default(), JoinSet::new());
        let socket = hearing(socket, &runtime, &hints, &mut errors)?;
        let config = endpoint_config(identity);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)?;
        Ok(Self { endpoint, handshakes: Handshakes::default(), hints, _errors: errors })
    }

    /// Hints that nobody listens at a developer's address any more.
    pub fn unreachable_hints(&self) -> &UnreachableHints {
        &self.hints
    }

    /// The next handshake that begins; `None` once the endpoint is closed. Under a flood addresses must prove themselves
    /// first (Retry, RFC 9000, 8.1.2), and a newcomer takes the place of the oldest.
    pub async fn accept(&self) -> Option<Handshake> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let client = ClientKey::of(incoming.remote_address().ip());
            match self.handshakes.admit(client, incoming.remote_address_validated()) {
                HandshakeAdmission::Admitted(place) => return Some(Handshake { incoming, place }),
                // Fails only if the address is validated already.
                HandshakeAdmission::Prove => incoming.retry().ok(),
            };
        }
    }

    /// The socket's address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Takes no further handshakes; tunnels go on.
    pub fn refuse_new(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Closes all tunnels with this code, and waits (bounded) until that is on the wire.
    pub async fn close(self, code: CloseCode) {
        self.endpoint.close(varint(code.number()), code.to_string().as_bytes());
        timeout(CLOSE, self.endpoint.wait_idle()).await.ok();
    }
}

/// The socket; what it hears of packets that could not be delivered goes to `hints`.
#[cfg(target_os = "linux")]
fn hearing(
    socket: UdpSocket,
    _: &PinnedRuntime,
    hints: &UnreachableHints,
    errors: &mut JoinSet<()>,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let socket = crate::socket::AgentSocket::new(socket)?;
    errors.spawn(socket.clone().read_errors(hints.clone()));
    Ok(socket)
}

/// Elsewhere an unconnected socket hears nothing of that.
#[cfg(not(target_os = "linux"))]
fn hearing(
    socket: UdpSocket,
    runtime: &PinnedRuntime,
    _: &UnreachableHints,
    _: &mut JoinSet<()>,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    runtime.wrap_udp_socket(socket)
}

/// A handshake that has begun.
#[derive(Debug)]
pub struct Handshake {
    incoming: quinn::Incoming,
    place: HandshakePlace,
}

impl Handshake {
    /// Who begins it.
    pub fn address(&self) -> SocketAddr {
        canonical(self.incoming.remote_address())
    }

    /// Whether its address has proven that it is not forged.
    #[cfg(test)]
    pub(crate) fn is_validated(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Completes it, and tells whose key it was: the first flight whole within `CLIENT_HELLO`, all of it within
    /// [`HANDSHAKE`], unless others need its place before.
    pub async fn finish(self) -> Result<(quinn::Connection, Pin), ConnectionError> {
        let Self { incoming, mut place } = self;
        let connection = tokio::select! {
            biased;
            () = place.displaced() => return Err(ConnectionError::TimedOut),
            connection = shake_hands(incoming) => connection?,
        };
        drop(place);
        let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        match identity.as_deref().and_then(|keys| keys.first()) {
            Some(key) => {
                let pin = Pin::of_spki(key);
                Ok((connection, pin))
            }
            None => {
                // The verifier demands a key; without one nothing may be trusted.
                connection.close(varint(CloseCode::Protocol.number()), b"");
                Err(ConnectionError::LocallyClosed)
            }
        }
    }
}

async fn shake_hands(incoming: quinn::Incoming) -> Result<quinn::Connection, ConnectionError> {
    let mut connecting = incoming.accept()?;
    match timeout(CLIENT_HELLO, connecting.handshake_data()).await {
        Ok(hello) => drop(hello?),
        Err(_) => return Err(ConnectionError::TimedOut),
    }
    timeout(HANDSHAKE, connecting).await.unwrap_or(Err(ConnectionError::TimedOut))
}

/// A QUIC number from one of our own codes, which are small or came from the wire.
pub(crate) fn varint(number: u64) -> VarInt {
    VarInt::from_u64(number).unwrap_or(VarInt::MAX)
}

fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let secret = identity.derived_secret("redir quic stateless reset");
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret)));
    // Connection IDs carry a mark of this key; those of the process before must still be recognised.
    let mark = identity.derived_secret("redir quic connection id");
    let mark = u64::from_be_bytes(mark.first_chunk().copied().unwrap_or_default());
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(mark)));
    config
}

/// Tokio, on one given runtime whoever calls.
#[derive(Debug)]
struct PinnedRuntime {
    handle: Handle,
}

impl Runtime for PinnedRuntime {
    fn new_timer(&self, at: std::time::Instant) -> std::pin::Pin<Box<dyn AsyncTimer>> {
        let _inside = self.handle.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.handle.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _inside = self.handle.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}

/// How long a ClientHello may take to be whole. It is one packet, or few, of which one may have to be sent again.
const CLIENT_HELLO: Duration = Duration::from_secs(2);
/// Bytes that wait of a handshake that is not looked at yet, and of all of them: each is looked at when it arrives.
const INCOMING_BUFFER: u64 = 64 << 10;
const INCOMING_BUFFERS: u64 = 4 << 20;
/// How long the last packets may take to leave.
const CLOSE: Duration = Duration::from_secs(1);
