//! Field lines, from the first to the empty line: requests, responses and nothing else.
//!
//! Owns: where reading stopped among the lines. Must not: know what a field means.
//! Called by: `RequestHead` and `ResponseHead`, which see each field as it ends.

use super::{Progress, partial, stored};
use crate::{Ambiguity, bytes};

/// One whole field line.
pub(crate) struct Field<'b> {
    /// A non-empty token.
    pub(crate) name: &'b [u8],
    /// Everything between the colon and the line's end, spaces included.
    pub(crate) raw: &'b [u8],
    /// Where `raw` begins in the head.
    pub(crate) at: usize,
}

/// How far the field lines are read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields {
    /// Everything before is read; in the end, the length of the head.
    pos: u32,
    /// Where the current line begins.
    line: u32,
    /// Where the current line's colon is; 0 while it is not reached.
    colon: u32,
}

impl Fields {
    /// Field lines that begin at `at`.
    pub(crate) fn begin(at: usize) -> Self {
        Self { pos: stored(at), line: stored(at), colon: 0 }
    }

    /// The length of the head, once it is complete.
    pub(crate) fn end(&self) -> usize {
        self.pos as usize
    }

    /// Reads on; `buf` begins with the head.
    #[inline]
    pub(crate) fn advance<'b>(
        &mut self,
        buf: &'b [u8],
        mut on_field: impl FnMut(&Field<'b>) -> Result<(), Ambiguity>,
    ) -> Result<Progress, Ambiguity> {
        let (mut pos, mut line, mut colon) = (self.pos as usize, self.line as usize, self.colon as usize);
        loop {
            if colon == 0 {
                pos = bytes::token_end(buf, pos);
                match buf.get(pos) {
                    Some(b':') if pos > line => {
                        colon = pos;
                        pos += 1;
                    }
                    Some(b'\r') if pos == line => match buf.get(pos + 1) {
                        Some(b'\n') => {
                            self.pos = stored(pos + 2);
                            return Ok(Progress::Complete);
                        }
                        Some(_) => return Err(Ambiguity::BareCr),
                        None => break,
                    },
                    Some(&byte) => return Err(bad_name(byte, pos == line)),
                    None => break,
                }
            }
            pos = bytes::value_end(buf, pos);
            match (buf.get(pos), buf.get(pos + 1)) {
                (Some(b'\r'), Some(b'\n')) => {}
                (Some(b'\r'), Some(_)) => return Err(Ambiguity::BareCr),
                (Some(b'\r') | None, None) => break,
                (Some(b'\n'), _) => return Err(Ambiguity::BareLf),
                _ => return Err(Ambiguity::Control),
            }
            let name = buf.get(line..colon).unwrap_or_default();
            let raw = buf.get(colon + 1..pos).unwrap_or_default();
            on_field(&Field { name, raw, at: colon + 1 })?;
            pos += 2;
            line = pos;
            colon = 0;
        }
        *self = Self { pos: stored(pos), line: stored(line), colon: stored(colon) };
        partial(buf)
    }
}

/// What a byte means that ends a field name without being its colon.
#[cold]
fn bad_name(byte: u8, at_line_start: bool) -> Ambiguity {
    match byte {
        b'\n' => Ambiguity::BareLf,
        b' ' | b'\t' if at_line_start => Ambiguity::ObsFold,
        b' ' | b'\t' => Ambiguity::SpaceBeforeColon,
        b':' => Ambiguity::EmptyName,
        b'\r' => Ambiguity::NoColon,
        0..=0x1f | 0x7f => Ambiguity::Control,
        _ => Ambiguity::FieldName,
    }
}
