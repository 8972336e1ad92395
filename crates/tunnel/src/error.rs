//! Why a tunnel could not be dialled or was lost, as sentences.

use std::fmt;
use std::net::SocketAddr;

use quinn::ConnectionError;
use redir_wire::{CloseCode, Refused, SessionError};

use redir_identity::Pin;

/// Why a tunnel is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing was heard from the other end for too long.
    Silent,
    /// The other end does not know the connection: its process was replaced.
    Restarted,
    /// The other end closed it on purpose: the code, and what it said, which may hold anything.
    Closed(CloseCode, String),
    /// The other end refused the handshake with this TLS alert.
    Alert(u8),
    /// This end closed it.
    Here,
    /// The other end broke QUIC or TLS, or speaks another version of it.
    Broken,
}

impl From<&ConnectionError> for Lost {
    fn from(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::LocallyClosed => Self::Here,
            ConnectionError::ApplicationClosed(close) => Self::Closed(
                CloseCode::from_number(close.error_code.into_inner()),
                String::from_utf8_lossy(&close.reason).into_owned(),
            ),
            ConnectionError::ConnectionClosed(close) => alert(close.error_code).map_or(Self::Broken, Self::Alert),
            ConnectionError::TransportError(_) | ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
                Self::Broken
            }
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("the other end was silent for too long"),
            Self::Restarted => f.write_str("the other end was restarted"),
            Self::Closed(code, sentence) if sentence.is_empty() => write!(f, "{code}"),
            Self::Closed(_, sentence) => f.write_str(sentence),
            Self::Alert(ACCESS_DENIED) => f.write_str("the key is not known there"),
            Self::Alert(alert) => write!(f, "the handshake was refused with TLS alert {alert}"),
            Self::Here => f.write_str("the tunnel was closed here"),
            Self::Broken => f.write_str("the other end does not speak redir's protocol"),
        }
    }
}

impl std::error::Error for Lost {}

/// Why no tunnel to an agent came up. Ordered: of several addresses' errors the greatest tells most.
#[derive(Debug)]
pub enum DialError {
    /// There was no address to dial.
    NoAddress,
    /// No UDP socket could be opened here.
    Socket(std::io::Error),
    /// Nothing answered.
    Silent(SocketAddr),
    /// Something answered that is not a redir agent, or too old or new a one.
    NotAnAgent(SocketAddr),
    /// The handshake or the greeting ended for this reason.
    Lost(SocketAddr, Lost),
    /// The greeting was wrong.
    Greeting(SocketAddr, SessionError),
    /// The agent refused the greeting.
    Refused(SocketAddr, Refused),
    /// The agent has another key than expected.
    WrongAgent {
        /// The agent's address.
        address: SocketAddr,
        /// The key it has.
        has: Pin,
        /// The key it should have.
        expected: Pin,
    },
    /// The agent does not know the developer's key.
    UnknownKey {
        /// The agent's address.
        address: SocketAddr,
        /// The developer's key.
        key: Pin,
    },
}

impl DialError {
    /// How much the error tells, for choosing among several addresses.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            Self::NoAddress => 0,
            Self::Socket(_) => 1,
            Self::Silent(_) => 2,
            Self::NotAnAgent(_) => 3,
            Self::Lost(..) => 4,
            Self::Greeting(..) => 5,
            Self::WrongAgent { .. } => 6,
            Self::Refused(..) => 7,
            Self::UnknownKey { .. } => 8,
        }
    }

    /// Whether dialling again later may help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Socket(_) | Self::Silent(_) | Self::Lost(..) => true,
            Self::NoAddress
            | Self::NotAnAgent(_)
            | Self::Greeting(..)
            | Self::Refused(..)
            | Self::WrongAgent { .. }
            | Self::UnknownKey { .. } => false,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("the agent's address names no host; check `--agent HOST:PORT`"),
            Self::Socket(error) => write!(f, "cannot open a UDP socket: {error}; check the network of this machine"),
            Self::Silent(address) => write!(
                f,
                "no answer from an agent at {address} over UDP; check that it runs, and that no firewall drops UDP"
            ),
            Self::NotAnAgent(address) => {
                write!(
                    f,
                    "{address} does not speak redir's protocol; check the address, and that both are of one release"
                )
            }
            Self::Lost(address, why) => write!(f, "the agent at {address} ended the greeting: {why}; try again"),
            Self::Greeting(address, why) => write!(f, "the agent at {address} sent a malformed greeting: {why}"),
            Self::Refused(_, refused) => f.write_str(&refused.sentence),
            Self::WrongAgent { address, has, expected } => write!(
                f,
                "the agent at {address} has key {has}, not {expected}; ask its administrator which is right before you trust it"
            ),
            Self::UnknownKey { address, key } => write!(
                f,
                "the agent at {address} does not know this key ({key}): ask its administrator to add it as a [[developer]]"
            ),
        }
    }
}

impl std::error::Error for DialError {}

/// The TLS alert of a `CRYPTO_ERROR` (RFC 9001, section 4.8).
fn alert(code: quinn::TransportErrorCode) -> Option<u8> {
    let code = u64::from(code);
    if code & !0xff == 0x100 { u8::try_from(code & 0xff).ok() } else { None }
}

/// RFC 8446, section 6: what the agent answers to a key it does not know.
pub(crate) const ACCESS_DENIED: u8 = 49;
/// RFC 7301: no application protocol in common.
pub(crate) const NO_APPLICATION_PROTOCOL: u8 = 120;
