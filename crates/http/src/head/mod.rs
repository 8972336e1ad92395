//! The prefix parser: finds the end of an HTTP/1.x head, in place, in one pass.
//!
//! Owns: request heads ([`RequestHead`]), response heads ([`ResponseHead`]) and the field lines both share.
//! Must not: allocate on the path, keep or copy bytes, or read a byte twice: the caller keeps the buffer and calls
//! again with more of it, the head's own state says where the reading stopped.
//! Called by: `engine`, and by `filter` for the headers that a table asks for.
//!
//! It validates as strictly as httparse, and more strictly wherever two readers could disagree (see [`Ambiguity`]).
//! What it says does not depend on how the bytes arrived: a prefix is `Partial` exactly until the verdict is certain.

mod facts;
mod fields;
mod found;
mod request;
mod response;

pub use facts::Facts;
pub(crate) use fields::{Field, Fields};
pub(crate) use found::Found;
pub use request::RequestHead;
pub use response::ResponseHead;

use crate::Ambiguity;

/// The longest head that is looked at, in bytes: four times what common servers take. Above, the app decides.
pub const MAX_HEAD: usize = 256 * 1024;

/// How far a head is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed; call again with the same bytes and more.
    Partial,
    /// The head is whole.
    Complete,
}

/// The part of `buf` in which a head may lie.
fn clip(buf: &[u8]) -> &[u8] {
    buf.get(..MAX_HEAD).unwrap_or(buf)
}

/// `Partial`, unless the head can no longer end within the limit.
fn partial(buf: &[u8]) -> Result<Progress, Ambiguity> {
    if buf.len() >= MAX_HEAD { Err(Ambiguity::HeadTooLong) } else { Ok(Progress::Partial) }
}

/// A position in a head as it is stored.
fn stored(at: usize) -> u32 {
    debug_assert!(at <= MAX_HEAD);
    u32::try_from(at).unwrap_or(u32::MAX)
}
