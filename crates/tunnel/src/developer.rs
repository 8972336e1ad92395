//! The developer's endpoint: dials an agent, and takes the data streams that the agent opens.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{ClientConfig, ConnectionError, EndpointConfig, TokioRuntime, crypto::rustls::QuicClientConfig};
use redir_identity::{Identity, Pin};
use redir_wire::{
    CloseCode, Malformed, SessionError, StreamCode, StreamHeader, ToDeveloper, Welcome, header,
    session::DeveloperSession,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    agent::varint,
    budget::Budget,
    canonical,
    control::{ControlError, DeveloperControl},
    error::{ACCESS_DENIED, DialError, Lost, NO_APPLICATION_PROTOCOL},
    liveness::FrameCounts,
    tls::{SeenPin, developer_config},
    transport::{HANDSHAKE, TunnelEnd, transport},
};

/// A tunnel that the agent has welcomed.
#[derive(Debug)]
pub struct Dialled {
    /// For data streams; cheap to clone.
    pub tunnel: Tunnel,
    /// For questions and answers; one task owns it.
    pub control: DeveloperControl,
    /// The agent's greeting.
    pub welcome: Welcome,
}

/// Dials all of an agent's addresses at once; the first that welcomes wins, the others are closed. Each is bounded.
pub async fn dial(
    addresses: &[SocketAddr],
    identity: &Identity,
    agent: Pin,
    software: &str,
    user: &str,
) -> Result<Dialled, DialError> {
    let mut attempts = JoinSet::new();
    for address in addresses {
        let (address, identity) = (*address, identity.clone());
        let session = DeveloperSession::new(software, user).map_err(|why| DialError::Greeting(address, why.into()))?;
        attempts.spawn(async move { dial_one(address, &identity, agent, session).await });
    }
    let mut worst = DialError::NoAddress;
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(dialled)) => return Ok(dialled),
            Ok(Err(error)) if error.weight() > worst.weight() => worst = error,
            // An attempt that panicked or was aborted tells nothing.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Err(worst)
}

async fn dial_one(
    address: SocketAddr,
    identity: &Identity,
    agent: Pin,
    session: DeveloperSession,
) -> Result<Dialled, DialError> {
    let seen = SeenPin::default();
    let context = DialContext { address, key: identity.pin(), agent, seen: seen.clone() };
    let tls = developer_config(identity, agent, seen).map_err(|_| DialError::NotAnAgent(address))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|_| DialError::NotAnAgent(address))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(TunnelEnd::Developer));
    let endpoint = endpoint(address).map_err(DialError::Socket)?;
    let connecting = endpoint.connect_with(config, address, SERVER_NAME).map_err(|_| DialError::Silent(address))?;
    let greeted = timeout(HANDSHAKE, async {
        let connection = connecting.await.map_err(|error| context.explain(&error))?;
        let control = DeveloperControl::open(&connection, session).await.map_err(|error| context.explain(&error))?;
        welcomed(connection, control, &context).await
    });
    let (connection, control, welcome) = greeted.await.unwrap_or(Err(DialError::Silent(address)))?;
    Ok(Dialled { tunnel: Tunnel { connection, endpoint, budget: Budget::default() }, control, welcome })
}

async fn welcomed(
    connection: quinn::Connection,
    mut control: DeveloperControl,
    context: &DialContext,
) -> Result<(quinn::Connection, DeveloperControl, Welcome), DialError> {
    match control.next().await {
        Ok(Some(first)) => match first.message {
            ToDeveloper::Welcome(welcome) => Ok((connection, control, welcome)),
            ToDeveloper::Refused(refused) => Err(DialError::Refused(context.address, refused)),
            ToDeveloper::Bye(bye) => Err(DialError::Lost(context.address, Lost::Closed(bye.code, bye.sentence))),
            _ => Err(DialError::Greeting(context.address, SessionError::Order("the first message was not a welcome"))),
        },
        Ok(None) | Err(ControlError::Reset | ControlError::Stalled) => match connection.close_reason() {
            Some(error) => Err(context.explain(&error)),
            None => Err(DialError::NotAnAgent(context.address)),
        },
        Err(ControlError::Session(why)) => Err(DialError::Greeting(context.address, why)),
        Err(ControlError::Connection(error)) => Err(context.explain(&error)),
    }
}

/// What a sentence about a failed handshake needs to know.
struct DialContext {
    address: SocketAddr,
    key: Pin,
    agent: Pin,
    seen: SeenPin,
}

impl DialContext {
    fn explain(&self, error: &ConnectionError) -> DialError {
        let address = self.address;
        if let Some(has) = self.seen.value().filter(|has| *has != self.agent) {
            return DialError::WrongAgent { address, has, expected: self.agent };
        }
        match Lost::from(error) {
            Lost::Alert(ACCESS_DENIED) => DialError::UnknownKey { address, key: self.key },
            Lost::Silent => DialError::Silent(address),
            Lost::Alert(NO_APPLICATION_PROTOCOL) | Lost::Broken => DialError::NotAnAgent(address),
            why => DialError::Lost(address, why),
        }
    }
}

/// A tunnel to an agent: its data streams arrive here.
#[derive(Clone, Debug)]
pub struct Tunnel {
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
    budget: Budget,
}

impl Tunnel {
    /// The next data stream that the agent opens; its header is not read yet.
    pub async fn accept(&self) -> Result<Arrival, Lost> {
        let (send, recv) = self.connection.accept_bi().await.map_err(|error| Lost::from(&error))?;
        Ok(Arrival { send, recv })
    }

    /// Resolves when the tunnel is down, with the reason.
    pub async fn lost(&self) -> Lost {
        Lost::from(&self.connection.closed().await)
    }

    /// Closes the tunnel, and waits (bounded) until that is on the wire.
    pub async fn close(&self, code: CloseCode) {
        self.connection.close(varint(code.number()), b"");
        timeout(CLOSE, self.endpoint.wait_idle()).await.ok();
    }

    /// What [`crate::relay()`] counts this tunnel's slow readers with.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What shows whether the agent lives: for [`crate::TunnelLiveness`].
    pub fn frame_counts(&self) -> FrameCounts {
        FrameCounts::of(&self.connection)
    }

    /// The round-trip time.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// The agent's address.
    pub fn address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }
}

/// A data stream whose header is not read yet.
#[derive(Debug)]
pub struct Arrival {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
}

impl Arrival {
    /// Reads the header, bounded. A stream without a good one is reset.
    pub async fn header(mut self) -> Result<DataStream, HeaderError> {
        match timeout(HEADER, read_header(&mut self.recv)).await.unwrap_or(Err(HeaderError::Late)) {
            Ok(header) => Ok(DataStream { header, send: self.send, recv: self.recv }),
            Err(error) => {
                refuse(&mut self.send, &mut self.recv, StreamCode::NotMine);
                Err(error)
            }
        }
    }
}

/// A client's connection, through the tunnel.
#[derive(Debug)]
pub struct DataStream {
    /// Whose it is.
    pub header: StreamHeader,
    /// To the client.
    pub send: quinn::SendStream,
    /// From the client.
    pub recv: quinn::RecvStream,
}

impl DataStream {
    /// Refuses the connection: the agent tells the client why.
    pub fn refuse(mut self, code: StreamCode) {
        refuse(&mut self.send, &mut self.recv, code);
    }
}

/// Why a data stream has no header.
#[derive(Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// It ended or was reset before its header was complete.
    Ended,
    /// It did not come in time.
    Late,
    /// It is no header.
    Malformed(Malformed),
}

impl std::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended => f.write_str("the stream ended before its header"),
            Self::Late => f.write_str("the stream's header did not come in time"),
            Self::Malformed(why) => write!(f, "the stream's header: {why}"),
        }
    }
}

impl std::error::Error for HeaderError {}

async fn read_header(recv: &mut quinn::RecvStream) -> Result<StreamHeader, HeaderError> {
    let mut prefix = [0; header::LENGTH];
    recv.read_exact(&mut prefix).await.map_err(|_| HeaderError::Ended)?;
    let mut bytes = vec![0; StreamHeader::length(prefix).map_err(HeaderError::Malformed)?];
    recv.read_exact(&mut bytes).await.map_err(|_| HeaderError::Ended)?;
    StreamHeader::decode(&bytes).map_err(HeaderError::Malformed)
}

/// Resets both halves; halves that have ended already stay as they are.
pub(crate) fn refuse(send: &mut quinn::SendStream, recv: &mut quinn::RecvStream, code: StreamCode) {
    send.reset(varint(code.number())).ok();
    recv.stop(varint(code.number())).ok();
}

/// A socket of the address's family, with buffers as large as the system lets an ordinary user have.
fn endpoint(address: SocketAddr) -> std::io::Result<quinn::Endpoint> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP))?;
    // A smaller buffer costs speed, nothing else.
    socket.set_recv_buffer_size(SOCKET_BUFFER).ok();
    socket.set_send_buffer_size(SOCKET_BUFFER).ok();
    socket.bind(&any.into())?;
    socket.set_nonblocking(true)?;
    quinn::Endpoint::new(EndpointConfig::default(), None, socket.into(), Arc::new(TokioRuntime))
}

/// Sent to nobody: keys are pinned, not names.
const SERVER_NAME: &str = "redir-agent";
/// The agent writes a header with the stream's first packet.
const HEADER: Duration = Duration::from_secs(5);
/// How long the last packets may take to leave.
const CLOSE: Duration = Duration::from_secs(1);
/// Holds 8 ms of 8 Gbit/s.
const SOCKET_BUFFER: usize = 8 << 20;
