//! Field lines, from the first to the empty line: requests, responses and nothing else.
//!
//! Owns: where reading stopped among the lines. Must not: know what a field means.
//! Called by: `RequestHead` and `ResponseHead`, which see each field as it ends.

use super::ends::{ByteBlocks, LINE_END, LineEnds, in_blocks};
use super::{NameInterest, Progress, partial, stored};
use crate::Ambiguity;
use crate::bytes::{self, ByteLanes, ByteWork, InstructionSet, wide};

/// One whole field line.
pub(crate) struct FieldLine<'b> {
    /// A non-empty token.
    pub(crate) name: &'b [u8],
    /// Everything between the colon and the line's end, spaces included.
    pub(crate) raw: &'b [u8],
    /// Where `raw` begins in the head.
    pub(crate) at: usize,
}

/// Where a whole field line is.
#[derive(Clone, Copy)]
pub(super) struct FieldPlace {
    line: usize,
    /// Where it ends.
    end: usize,
    /// The length of the name.
    len: usize,
}

impl FieldPlace {
    #[inline]
    pub(super) fn name(self, buf: &[u8]) -> &[u8] {
        buf.get(self.line..).and_then(|line| line.get(..self.len)).unwrap_or_default()
    }

    #[inline]
    pub(super) fn field(self, buf: &[u8]) -> FieldLine<'_> {
        let line = buf.get(self.line..self.end).unwrap_or_default();
        let (name, raw) = line.split_at_checked(self.len).unwrap_or_default();
        FieldLine { name, raw: raw.get(1..).unwrap_or_default(), at: self.line + self.len + 1 }
    }
}

/// How far the field lines are read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FieldReader {
    /// Everything before is read; in the end, the length of the head.
    pos: u32,
    /// Where the current line begins.
    line: u32,
    /// Where the current line's colon is; 0 while it is not reached.
    colon: u32,
}

impl FieldReader {
    /// Field lines that begin at `at`.
    pub(crate) fn begin(at: usize) -> Self {
        Self { pos: stored(at), line: stored(at), colon: 0 }
    }

    /// The length of the head, once it is complete.
    pub(crate) fn end(&self) -> usize {
        self.pos as usize
    }

    /// Reads on; `buf` begins with the head. `on_field` sees the fields of `interest`.
    pub(super) fn advance(
        &mut self,
        level: InstructionSet,
        buf: &[u8],
        interest: &NameInterest,
        mut on_field: impl FnMut(&FieldLine<'_>) -> Result<(), Ambiguity>,
    ) -> Result<Progress, Ambiguity> {
        let mut clean = self.end();
        loop {
            if self.at_line_start() {
                let on_field = |place: FieldPlace| on_field(&place.field(buf));
                clean = in_blocks(buf, |buf| level.run(PlainLines { fields: self, buf, interest, on_field }))?;
            }
            match self.any_line(level, buf, clean)? {
                LineOutcome::Whole(place) => {
                    let field = place.field(buf);
                    if interest.has(field.name) {
                        on_field(&field)?;
                    }
                }
                LineOutcome::Last => return Ok(Progress::Complete),
                LineOutcome::Cut => return partial(buf),
            }
        }
    }

    /// Whether nothing is read of the line that comes next.
    #[inline]
    pub(super) fn at_line_start(&self) -> bool {
        self.pos == self.line
    }

    /// Takes whole lines, from the beginning of a line on, as long as there is nothing unusual about them. `on_field` sees
    /// the fields of `interest`. Returns up to where no byte ends a value in the line that it stopped at.
    #[inline(always)]
    pub(super) fn plain_lines<L: ByteLanes>(
        &mut self,
        ends: &mut LineEnds<'_, L>,
        interest: &NameInterest,
        mut on_field: impl FnMut(FieldPlace) -> Result<(), Ambiguity>,
    ) -> Result<usize, Ambiguity> {
        let mut line = self.line as usize;
        let clean = loop {
            let end = match ends.next(line) {
                Ok(end) => end,
                Err(clean) => break clean,
            };
            let Some(name) = wide::short_name(ends.lanes, ends.buf, line) else { break end };
            if interest.has(name) {
                on_field(FieldPlace { line, end, len: name.len() })?;
            }
            line = end + LINE_END;
        };
        *self = Self::begin(line);
        Ok(clean)
    }

    /// Whether the empty line is here, where a line begins; takes it.
    #[inline(always)]
    pub(super) fn ends_here(&mut self, buf: &[u8]) -> bool {
        let line = self.line as usize;
        let ends = buf.get(line..).and_then(<[u8]>::first_chunk) == Some(b"\r\n");
        if ends {
            self.pos = stored(line + LINE_END);
        }
        ends
    }

    /// Reads on in one line, whatever it is and wherever it was left. Up to `clean` no byte ends a value.
    pub(super) fn any_line(
        &mut self,
        level: InstructionSet,
        buf: &[u8],
        clean: usize,
    ) -> Result<LineOutcome, Ambiguity> {
        let (mut pos, line) = (self.pos as usize, self.line as usize);
        if self.colon == 0 {
            if pos == line && self.ends_here(buf) {
                return Ok(LineOutcome::Last);
            }
            pos = bytes::token_end(buf, pos);
            match buf.get(pos) {
                Some(b':') if pos > line => {
                    self.colon = stored(pos);
                    pos += 1;
                }
                Some(b'\r') if pos == line && pos + 1 < buf.len() => return Err(Ambiguity::BareCr),
                Some(b'\r') if pos == line => return self.cut(pos),
                Some(&byte) => return Err(bad_name(byte, pos == line)),
                None => return self.cut(pos),
            }
        }
        pos = bytes::value_end(level, buf, pos.max(clean));
        match (buf.get(pos), buf.get(pos + 1)) {
            (Some(b'\r'), Some(b'\n')) => {}
            (Some(b'\r'), Some(_)) => return Err(Ambiguity::BareCr),
            (Some(b'\r') | None, None) => return self.cut(pos),
            (Some(b'\n'), _) => return Err(Ambiguity::BareLf),
            _ => return Err(Ambiguity::Control),
        }
        let len = self.colon as usize - line;
        *self = Self::begin(pos + LINE_END);
        Ok(LineOutcome::Whole(FieldPlace { line, end: pos, len }))
    }

    fn cut(&mut self, pos: usize) -> Result<LineOutcome, Ambiguity> {
        self.pos = stored(pos);
        Ok(LineOutcome::Cut)
    }
}

/// What `any_line` came to.
pub(super) enum LineOutcome {
    /// A whole field line, with its end.
    Whole(FieldPlace),
    /// The empty line.
    Last,
    /// The end of the buffer.
    Cut,
}

/// `plain_lines`, with the instructions of a level.
struct PlainLines<'a, F> {
    fields: &'a mut FieldReader,
    buf: ByteBlocks<'a>,
    interest: &'a NameInterest,
    on_field: F,
}

impl<F: FnMut(FieldPlace) -> Result<(), Ambiguity>> ByteWork for PlainLines<'_, F> {
    type Output = Result<usize, Ambiguity>;

    #[inline(always)]
    fn with<L: ByteLanes>(self, lanes: L) -> Self::Output {
        let Self { fields, buf, interest, on_field } = self;
        fields.plain_lines(&mut LineEnds::new(lanes, buf, fields.end()), interest, on_field)
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
