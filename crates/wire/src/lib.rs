//! What a developer's `redir` and an agent say to each other: messages, their bytes, and the order they may come in.
//!
//! Owns: the control stream's messages and limits ([`message`]), their length-prefixed protobuf form ([`codec`]),
//! the header of a data stream ([`StreamHeader`]), the application codes of resets and closes ([`StreamCode`],
//! [`CloseCode`]) and both ends' session state machines ([`session`]). What a filter's conditions are is
//! `redir_http::filter`'s. Must not: open a socket, read a clock, log.
//! Called by: `redir-tunnel`, the agent's registry, the `redir` command.
//!
//! **Versions.** Each end names its version in its greeting; they talk if the two differ by at most one, in the lower
//! of both. A new message is a new variant of the oneof (the older end answers [`RefusedCode::Unsupported`]); a new
//! condition of a filter, its negation too, is a new variant and never a field, so that an older agent refuses it
//! instead of matching other requests than were asked for.

pub mod code;
pub mod codec;
mod convert;
pub mod error;
pub mod header;
pub mod limits;
pub mod message;
mod proto;
pub mod session;

pub use code::{CloseCode, StreamCode};
pub use error::{Malformed, SessionError};
pub use header::{ClientTls, StreamHeader};
pub use message::*;

/// The version of the protocol that this build speaks.
pub const VERSION: u32 = 1;

/// The version both ends speak, or `None` if they are more than one apart.
pub const fn common_version(ours: u32, theirs: u32) -> Option<u32> {
    if theirs == 0 || ours.abs_diff(theirs) > 1 {
        return None;
    }
    Some(if ours < theirs { ours } else { theirs })
}
