//! A response's head, as far as its framing needs.
//!
//! Owns: the status line and the framing fields. Must not: look at anything else.
//! Called by: `engine`.

use super::{Facts, FieldReader, NameInterest, Progress, clip, partial};
use crate::Ambiguity;
use crate::bytes::{self, InstructionSet};

/// `HTTP/1.1 200`: what every status line begins with, in bytes.
const STATUS_LEN: usize = 12;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ResponseStage {
    #[default]
    Status,
    Reason,
    FieldReader,
    Complete,
}

/// A response's head as far as it is read.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    fields: FieldReader,
    facts: Facts,
    status: u16,
    stage: ResponseStage,
}

impl ResponseHead {
    /// A head of which nothing is read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on. `buf` begins with the head and holds at least what it held at the last call.
    ///
    /// # Errors
    /// What makes the head ambiguous, as soon as it is certain. The head is of no use then.
    pub fn advance(&mut self, buf: &[u8]) -> Result<Progress, Ambiguity> {
        self.advance_at(InstructionSet::best(), buf)
    }

    /// [`Self::advance`] with other instructions than the best, for tests and measurements.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn advance_at(&mut self, level: InstructionSet, buf: &[u8]) -> Result<Progress, Ambiguity> {
        let buf = clip(buf);
        if self.stage == ResponseStage::Status && self.status(buf)? == Progress::Partial {
            return partial(buf);
        }
        if self.stage == ResponseStage::Reason && self.reason(level, buf)? == Progress::Partial {
            return partial(buf);
        }
        if self.stage == ResponseStage::Complete {
            return Ok(Progress::Complete);
        }
        let facts = &mut self.facts;
        let progress = self.fields.advance(level, buf, &NameInterest::FRAMING, |field| facts.field(field))?;
        if progress == Progress::Complete {
            self.stage = ResponseStage::Complete;
        }
        Ok(progress)
    }

    /// Whether no byte of the head is read.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.stage == ResponseStage::Status
    }

    /// The length of the complete head in bytes, its empty line included.
    #[expect(clippy::len_without_is_empty, reason = "a complete head is never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.end()
    }

    /// The status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.status
    }

    /// What the fields say about framing and the connection.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    fn status(&mut self, buf: &[u8]) -> Result<Progress, Ambiguity> {
        let line = buf.get(..STATUS_LEN).unwrap_or(buf);
        for (at, &byte) in line.iter().enumerate() {
            match at {
                0..7 if b"HTTP/1.".get(at) == Some(&byte) => {}
                7 if matches!(byte, b'0' | b'1') => {}
                8 if byte == b' ' => {}
                9 if matches!(byte, b'1'..=b'9') => {}
                10 | 11 if byte.is_ascii_digit() => {}
                _ => return Err(Ambiguity::StatusLine),
            }
        }
        let &[.., minor, b' ', hundreds, tens, ones] = line else { return Ok(Progress::Partial) };
        if line.len() < STATUS_LEN {
            return Ok(Progress::Partial);
        }
        if minor == b'0' {
            self.facts.set_http_1_0();
        }
        self.status = [hundreds, tens, ones].iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        self.fields = FieldReader::begin(STATUS_LEN);
        self.stage = ResponseStage::Reason;
        Ok(Progress::Complete)
    }

    /// The reason phrase means nothing (RFC 9112, 4), and some servers leave out the space before an empty one.
    fn reason(&mut self, level: InstructionSet, buf: &[u8]) -> Result<Progress, Ambiguity> {
        let pos = self.fields.end();
        if pos == STATUS_LEN && !matches!(buf.get(pos), None | Some(b' ' | b'\r')) {
            return Err(Ambiguity::StatusLine);
        }
        let pos = bytes::value_end(level, buf, pos);
        match (buf.get(pos), buf.get(pos + 1)) {
            (Some(b'\r'), Some(b'\n')) => {
                self.fields = FieldReader::begin(pos + 2);
                self.stage = ResponseStage::FieldReader;
                Ok(Progress::Complete)
            }
            (Some(b'\r'), Some(_)) => Err(Ambiguity::BareCr),
            (Some(b'\r') | None, None) => {
                self.fields = FieldReader::begin(pos);
                Ok(Progress::Partial)
            }
            (Some(b'\n'), _) => Err(Ambiguity::BareLf),
            _ => Err(Ambiguity::Control),
        }
    }
}
