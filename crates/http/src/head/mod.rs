//! The prefix parser: finds the end of an HTTP/1.x head, in place, in one pass.
//!
//! Owns: request heads ([`RequestHead`]), response heads ([`ResponseHead`]) and the field lines both share.
//! Must not: allocate on the path, keep or copy bytes, or read a byte twice: the caller keeps the buffer and calls
//! again with more of it, the head's own state says where the reading stopped.
//! Called by: `engine`, and by `filter` for the headers that a table asks for.
//!
//! It validates as strictly as httparse, and more strictly wherever two readers could disagree (see [`Ambiguity`]).
//! What it says does not depend on how the bytes arrived: a prefix is `Partial` exactly until the verdict is certain.

mod ends;
mod facts;
mod fields;
mod found;
mod interest;
mod names;
mod request;
mod response;

pub use facts::Facts;
pub(crate) use fields::{FieldLine, FieldReader};
pub(crate) use found::FoundFields;
pub(crate) use interest::NameInterest;
pub use names::Names;
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
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a head has at most `MAX_HEAD` bytes, and lines end within it")]
fn stored(at: usize) -> u32 {
    debug_assert!(at <= MAX_HEAD);
    at as u32
}

#[cfg(test)]
mod tests {
    use super::Names;
    use super::*;
    use crate::bytes::{InstructionSet, looked};

    /// The most that is looked at again where reading goes on, in bytes: blocks begin before it where the buffer ends.
    const AGAIN: usize = 256;

    fn looked_at(level: InstructionSet, wire: &[u8], ends: impl IntoIterator<Item = usize>) -> usize {
        let mut last = Progress::Partial;
        let looked = looked::by(|| {
            let mut head = RequestHead::new();
            ends.into_iter().for_each(|end| last = head.advance_at(level, &wire[..end], &Names::empty()).unwrap());
        });
        assert_eq!(last, Progress::Complete);
        looked
    }

    #[test]
    fn reading_goes_on_where_it_stopped() {
        let line = |name: &str, len: usize| format!("{name}: {}\r\n", "v".repeat(len));
        let lines = |name: &str, len: usize| line(name, len).repeat(2000);
        let odd_name = "n".repeat(100);
        for (target, fields) in [
            ("/".to_owned(), line("Cookie", 100_000)),
            ("/".to_owned(), lines("X", 1)),
            ("/".to_owned(), lines("Accept-Language", 45)),
            ("/".to_owned(), lines(&odd_name, 5)),
            (format!("/{}?{}", "p".repeat(50_000), "q".repeat(50_000)), line("Host", 9)),
        ] {
            let wire = format!("GET {target} HTTP/1.1\r\n{fields}\r\n").into_bytes();
            for level in InstructionSet::all() {
                let whole = looked_at(level, &wire, [wire.len()]);
                for split in (1..wire.len()).step_by(wire.len() / 60) {
                    let two = looked_at(level, &wire, [split, wire.len()]);
                    assert!(two <= whole + AGAIN, "{} bytes, split at {split}: {two} for {whole}", wire.len());
                }
                for piece in [1, 7, 64, 1460] {
                    let ends = (piece..wire.len()).step_by(piece).chain([wire.len()]);
                    let most = whole + wire.len() / piece * AGAIN;
                    let all = looked_at(level, &wire, ends);
                    assert!(all <= most, "{} bytes in pieces of {piece}: {all} for {whole}", wire.len());
                }
            }
        }
    }
}
