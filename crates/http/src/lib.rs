//! HTTP/1.x as far as redir looks at it: where a message ends, whom it is for, and when to stop looking.
//!
//! Owns: the prefix parser ([`head`]), message framing ([`framing`]), filters and their compiled table ([`filter`]),
//! and the state of one client connection ([`engine`]).
//! Must not: do I/O, read a clock, spawn, log, panic on any input, or change, copy or invent a byte of a message (but for
//! [`h2c`], which writes a matched request's head again without its offer to go on with HTTP/2).
//! Called by: the agent's HTTP glue (engine), the control plane (table), the CLI and the wire format (filters).
//!
//! The rule behind everything here: what two parsers could read differently is not repaired and not guessed at. It has
//! a name ([`Ambiguity`]) and makes the connection opaque, to the app, which is the only judge of it.

mod bytes;
pub mod engine;
pub mod filter;
pub mod framing;
pub mod h2c;
mod hash;
pub mod head;
mod reason;

pub use bytes::InstructionSet;
pub use reason::{Ambiguity, OpaqueReason};
