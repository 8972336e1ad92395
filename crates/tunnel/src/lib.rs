//! The tunnel between a developer and an agent: keys and their names, QUIC with both ends pinned, streams.
//!
//! Owns: key files ([`Identity`]), public keys' names ([`Pin`]), TLS with pinned raw keys, QUIC's settings, both
//! endpoints ([`AgentEndpoint`], [`dial`]), the control stream over QUIC ([`Control`]), the copy between TCP and a data
//! stream ([`relay()`]). Must not: decide who may intercept what, know HTTP, log, use an API of one operating system
//! outside a `cfg`. Called by: the agent's worker and the `redir` command.

mod agent;
mod budget;
mod control;
mod developer;
mod error;
mod handshakes;
mod hints;
mod liveness;
mod pool;
mod relay;
#[cfg(target_os = "linux")]
mod socket;
mod source;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod verifier;

use std::net::SocketAddr;

pub use agent::{AgentEndpoint, Handshake};
pub use budget::{Budget, BudgetError, StallTimer};
pub use control::{AgentControl, Control, ControlError, DeveloperControl, FLUSH, Hearing, Session, Turn};
pub use developer::{Arrival, DataStream, Dialled, HeaderError, Tunnel, dial};
pub use error::{DialError, Lost};
pub use hints::{UnreachableHints, UnreachableWatch};
pub use liveness::{FrameCounts, LivenessLimits, LivenessReport, TunnelLiveness, TunnelState};
pub use pool::{PART_MIN, UnreadPool};
pub use redir_identity::{Identity, IdentityError, Pin, PinError};
pub use relay::{Relayed, relay, relay_halves, stream_to_tcp, tcp_to_stream};
pub use source::ClientKey;
pub use tls::Authorised;
pub use transport::{DEVELOPER_KEEP_ALIVE, HANDSHAKE, IDLE, KEEP_ALIVE, STALLED_STREAMS, STREAM_WINDOW, STREAMS};
pub use verifier::{PeerVerifier, ShownKey};

/// An address as people write it: a socket of both families has IPv4 addresses as `::ffff:192.0.2.1`.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A fresh token for an intercept.
pub fn random_token() -> Result<redir_wire::Token, IdentityError> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::NoRandom)?;
    Ok(redir_wire::Token(bytes))
}
