//! The tunnel between a developer and an agent: keys and their names, QUIC with both ends pinned, streams.
//!
//! Owns: key files ([`Identity`]), public keys' names ([`Pin`]).
//! Must not: decide who may intercept what, know HTTP, use an API of one operating system outside a `cfg`.
//! Called by: the agent's worker and the `redir` command.

mod identity;
mod pin;

pub use identity::{Identity, IdentityError};
pub use pin::{Pin, PinError};
