//! Where a message's body ends.
//!
//! Owns: the body's kind (RFC 9112, 6.3) and the chunked state machine, which works byte by byte and keeps no bytes.
//! Must not: repair or guess: a body that two readers could end at different bytes is an [`Ambiguity`].
//! Called by: `engine`.

use crate::Ambiguity;
use crate::bytes::{self, InstructionSet};
use crate::head::{RequestHead, ResponseHead};

/// The rest of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// This many bytes, 0 when it is through.
    Length(u64),
    /// Chunks, and trailers.
    Chunked(Chunked),
    /// Everything until the connection ends.
    UntilClose,
}

/// What was asked, as far as the framing of its answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// HEAD: the answer has no body, whatever its fields say.
    Head,
    /// CONNECT: a 2xx makes the connection a tunnel.
    Connect,
    /// Anything else.
    Other,
}

impl Body {
    /// The body that follows a request's head.
    ///
    /// # Errors
    /// The ambiguity of a framing that RFC 9112 calls invalid.
    pub fn of_request(head: &RequestHead, asked: Asked) -> Result<Self, Ambiguity> {
        let facts = head.facts();
        let body = Self::announced(facts.length(), facts.chunked(), facts.http_1_0())?;
        match body {
            // Some servers read it, some begin the tunnel with it.
            Some(_) if asked == Asked::Connect => Err(Ambiguity::BodyForbidden),
            Some(body) => Ok(body),
            None => Ok(Self::Length(0)),
        }
    }

    /// The body that follows a response's head. 101 and a CONNECT's 2xx have none; what follows them is a tunnel.
    ///
    /// # Errors
    /// The ambiguity of a framing that clients are known to read differently.
    pub fn of_response(head: &ResponseHead, asked: Asked) -> Result<Self, Ambiguity> {
        let facts = head.facts();
        let body = Self::announced(facts.length(), facts.chunked(), facts.http_1_0())?;
        let bodiless = match head.code() {
            100..=199 | 204 => true,
            200..=299 => asked == Asked::Connect,
            _ => false,
        };
        match body {
            // A Content-Length of 0 is said by many, and read the same by all.
            Some(Self::Length(0)) => Ok(Self::Length(0)),
            Some(_) if bodiless => Err(Ambiguity::BodyForbidden),
            // RFC 9110, 15.3.6 forbids content, but the framing is the usual one: some clients look for a body, some not.
            _ if head.code() == 205 && asked != Asked::Head => Err(Ambiguity::BodyForbidden),
            _ if bodiless || asked == Asked::Head || head.code() == 304 => Ok(Self::Length(0)),
            Some(body) => Ok(body),
            None => Ok(Self::UntilClose),
        }
    }

    fn announced(length: Option<u64>, chunked: bool, http_1_0: bool) -> Result<Option<Self>, Ambiguity> {
        match (length, chunked) {
            (_, true) if http_1_0 => Err(Ambiguity::CodingInHttp10),
            (_, true) => Ok(Some(Self::Chunked(Chunked::default()))),
            (Some(length), false) => Ok(Some(Self::Length(length))),
            (None, false) => Ok(None),
        }
    }

    /// Whether the body is through.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.state == ChunkedState::Done,
            Self::UntilClose => false,
        }
    }

    /// How many bytes of `buf` belong to the body. Fewer than all of them: the body is through, or the next byte is
    /// ambiguous, and the next call says why.
    ///
    /// # Errors
    /// What is ambiguous about the first byte of `buf`.
    #[inline]
    pub fn advance(&mut self, buf: &[u8]) -> Result<usize, Ambiguity> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).map_or(buf.len(), |left| left.min(buf.len()));
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunked) => chunked.advance(buf),
            Self::UntilClose => Ok(buf.len()),
        }
    }
}

/// The chunked coding as far as it is read (RFC 9112, 7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunked {
    /// The size read so far, then the chunk's bytes still to come.
    left: u64,
    /// Bytes of the current extension, or of the trailers.
    extra: u32,
    /// Digits of the size read so far.
    digits: u8,
    state: ChunkedState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkedState {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// Digits of a chunk size: 15 of them fit every reader's 64-bit integer, signed or not.
const MAX_DIGITS: u8 = 15;

/// The longest extension of one chunk, in bytes, and the longest trailers: what servers take of a head is the model.
const MAX_EXTENSION: u32 = 4 * 1024;
const MAX_TRAILERS: u32 = 64 * 1024;

impl Chunked {
    fn advance(&mut self, buf: &[u8]) -> Result<usize, Ambiguity> {
        let mut pos = 0;
        while pos < buf.len() && self.state != ChunkedState::Done {
            match self.run(buf, pos) {
                // An ambiguous byte is told when it is the first: what came before it is forwarded either way.
                Err(ambiguity) if pos == 0 => return Err(ambiguity),
                Err(_) => break,
                Ok(next) => pos = next,
            }
        }
        Ok(pos)
    }

    /// Takes what belongs to one state from `buf[pos..]`, at least a byte of it.
    fn run(&mut self, buf: &[u8], pos: usize) -> Result<usize, Ambiguity> {
        match self.state {
            ChunkedState::Data => return Ok(self.data(buf, pos)),
            ChunkedState::Extension => {
                let end = bytes::value_end(InstructionSet::best(), buf, pos);
                if end > pos {
                    return self.extra(end - pos, MAX_EXTENSION, Ambiguity::ChunkExtension).map(|taken| pos + taken);
                }
            }
            ChunkedState::TrailerName | ChunkedState::TrailerValue => {
                let named = self.state == ChunkedState::TrailerName;
                let end =
                    if named { bytes::token_end(buf, pos) } else { bytes::value_end(InstructionSet::best(), buf, pos) };
                if end > pos {
                    return self.extra(end - pos, MAX_TRAILERS, Ambiguity::Trailer).map(|taken| pos + taken);
                }
            }
            _ => {}
        }
        let Some(&byte) = buf.get(pos) else { return Ok(pos) };
        self.byte(byte)?;
        Ok(pos + 1)
    }

    fn data(&mut self, buf: &[u8], pos: usize) -> usize {
        let there = buf.len() - pos;
        let taken = usize::try_from(self.left).map_or(there, |left| left.min(there));
        self.left -= taken as u64;
        if self.left == 0 {
            self.state = ChunkedState::DataCr;
        }
        pos + taken
    }

    /// Counts up to `wanted` bytes against `limit`, and says how many of them are within it.
    fn extra(&mut self, wanted: usize, limit: u32, over: Ambiguity) -> Result<usize, Ambiguity> {
        let room = limit - self.extra;
        if room == 0 {
            return Err(over);
        }
        let taken = u32::try_from(wanted).unwrap_or(u32::MAX).min(room);
        self.extra += taken;
        Ok(taken as usize)
    }

    /// Takes one byte that stands between the runs.
    fn byte(&mut self, byte: u8) -> Result<(), Ambiguity> {
        self.state = match (self.state, byte) {
            (ChunkedState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => return self.digit(byte),
            (ChunkedState::Size, b';') if self.digits > 0 => ChunkedState::Extension,
            (ChunkedState::Size, b'\r') if self.digits > 0 => ChunkedState::SizeLf,
            (ChunkedState::Size, _) => return Err(Ambiguity::ChunkSize),
            (ChunkedState::Extension, b'\r') => ChunkedState::SizeLf,
            (ChunkedState::Extension, _) => return Err(Ambiguity::ChunkExtension),
            (ChunkedState::SizeLf, b'\n') => {
                self.extra = 0;
                self.digits = 0;
                if self.left == 0 { ChunkedState::TrailerStart } else { ChunkedState::Data }
            }
            (ChunkedState::SizeLf, _) => return Err(Ambiguity::ChunkSize),
            (ChunkedState::DataCr, b'\r') => ChunkedState::DataLf,
            (ChunkedState::DataLf, b'\n') => ChunkedState::Size,
            (ChunkedState::Data | ChunkedState::DataCr | ChunkedState::DataLf, _) => return Err(Ambiguity::ChunkEnd),
            (ChunkedState::TrailerStart, b'\r') => ChunkedState::EndLf,
            (ChunkedState::TrailerStart, byte) if bytes::is_token(byte) => {
                self.extra(1, MAX_TRAILERS, Ambiguity::Trailer)?;
                ChunkedState::TrailerName
            }
            (ChunkedState::TrailerName, b':') => ChunkedState::TrailerValue,
            (ChunkedState::TrailerValue, b'\r') => ChunkedState::TrailerLf,
            (ChunkedState::TrailerLf, b'\n') => ChunkedState::TrailerStart,
            (ChunkedState::EndLf, b'\n') => ChunkedState::Done,
            (
                ChunkedState::TrailerStart
                | ChunkedState::TrailerName
                | ChunkedState::TrailerValue
                | ChunkedState::TrailerLf
                | ChunkedState::EndLf
                | ChunkedState::Done,
                _,
            ) => return Err(Ambiguity::Trailer),
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<(), Ambiguity> {
        if self.digits == MAX_DIGITS {
            return Err(Ambiguity::ChunkSize);
        }
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => byte.to_ascii_lowercase() - b'a' + 10,
        };
        self.digits += 1;
        self.left = self.left << 4 | u64::from(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `wire` in pieces of `step` bytes: the bytes taken, and how it ended.
    fn read(wire: &[u8], step: usize) -> (usize, Result<bool, Ambiguity>) {
        let mut body = Body::Chunked(Chunked::default());
        let mut taken = 0;
        while taken < wire.len() && !body.is_done() {
            let piece = &wire[taken..wire.len().min(taken + step)];
            match body.advance(piece) {
                Ok(n) => taken += n,
                Err(ambiguity) => return (taken, Err(ambiguity)),
            }
        }
        (taken, Ok(body.is_done()))
    }

    #[track_caller]
    fn reads(wire: &[u8], expected: (usize, Result<bool, Ambiguity>)) {
        for step in 1..=wire.len() {
            assert_eq!(read(wire, step), expected, "{:?} by {step}", wire.escape_ascii().to_string());
        }
    }

    #[test]
    fn chunks_end_where_they_say() {
        for wire in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r\nA\r\n0123456789\r\na\r\n0123456789\r\n00\r\n\r\n",
            b"5;ext=\"a b\"\r\nhello\r\n0;last\r\n\r\n",
            b"5;\r\n\r\n0\r\n\r\n0\r\n\r\n",
            b"000000000000005\r\nhello\r\n0\r\n\r\n",
            b"1\r\nx\r\n0\r\nGrpc-Status: 0\r\nX:\r\nY: \xc3\xa9\tz\r\n\r\n",
        ] {
            reads(wire, (wire.len(), Ok(true)));
            let mut more = wire.to_vec();
            more.extend_from_slice(b"GET / HTTP/1.1\r\n");
            reads(&more, (wire.len(), Ok(true)));
            for cut in 0..wire.len() {
                reads(&wire[..cut], (cut, Ok(false)));
            }
        }
    }

    #[test]
    fn each_malformed_byte_is_where_reading_stops() {
        use Ambiguity::{ChunkEnd, ChunkExtension, ChunkSize, Trailer};
        for (wire, at, ambiguity) in [
            (&b"\r\n"[..], 0, ChunkSize),
            (b" 5\r\n", 0, ChunkSize),
            (b"5 \r\nhello\r\n", 1, ChunkSize),
            (b"5\t;x\r\n", 1, ChunkSize),
            (b"+5\r\n", 0, ChunkSize),
            (b"-5\r\n", 0, ChunkSize),
            (b"0x5\r\n", 1, ChunkSize),
            (b"5_0\r\n", 1, ChunkSize),
            (b"g\r\n", 0, ChunkSize),
            (b";x\r\n", 0, ChunkSize),
            (b"5\n", 1, ChunkSize),
            (b"5\rx", 2, ChunkSize),
            (b"5\r\r\n", 2, ChunkSize),
            (b"0000000000000005\r\n", 15, ChunkSize),
            (b"ffffffffffffffff\r\n", 15, ChunkSize),
            (b"5;a\nhello", 3, ChunkExtension),
            (b"5;a\x00\r\n", 3, ChunkExtension),
            (b"5;a\x7f\r\n", 3, ChunkExtension),
            (b"5;a\rb\r\n", 4, ChunkSize),
            (b"5\r\nhelloX", 8, ChunkEnd),
            (b"5\r\nhello\n", 8, ChunkEnd),
            (b"5\r\nhello\rX", 9, ChunkEnd),
            (b"5\r\nhello0\r\n\r\n", 8, ChunkEnd),
            (b"0\r\n\n", 3, Trailer),
            (b"0\r\n\rx", 4, Trailer),
            (b"0\r\n x: y\r\n", 3, Trailer),
            (b"0\r\n: y\r\n", 3, Trailer),
            (b"0\r\nx y\r\n", 4, Trailer),
            (b"0\r\nx : y\r\n", 4, Trailer),
            (b"0\r\nx\r\n", 4, Trailer),
            (b"0\r\nx: y\n", 7, Trailer),
            (b"0\r\nx: y\rz", 8, Trailer),
            (b"0\r\nx: \x00\r\n", 6, Trailer),
            (b"0\r\nGET / HTTP/1.1\r\n", 6, Trailer),
        ] {
            reads(wire, (at, Err(ambiguity)));
        }
    }

    #[test]
    fn extensions_and_trailers_have_an_end() {
        let long = |head: &str, len: usize| [head.as_bytes(), &vec![b'x'; len]].concat();
        let extension = long("5;", MAX_EXTENSION as usize + 1);
        assert_eq!(read(&extension, 1000), (2 + MAX_EXTENSION as usize, Err(Ambiguity::ChunkExtension)));
        assert_eq!(read(&extension, 1), (2 + MAX_EXTENSION as usize, Err(Ambiguity::ChunkExtension)));
        let trailer = long("0\r\n", MAX_TRAILERS as usize + 1);
        assert_eq!(read(&trailer, 1000), (3 + MAX_TRAILERS as usize, Err(Ambiguity::Trailer)));
        assert_eq!(read(&trailer, trailer.len()), (3 + MAX_TRAILERS as usize, Err(Ambiguity::Trailer)));
    }

    fn response(head: &str, asked: Asked) -> Result<Body, Ambiguity> {
        let mut parsed = ResponseHead::new();
        parsed.advance(head.as_bytes())?;
        assert_eq!(parsed.len(), head.len(), "{head:?}");
        Body::of_response(&parsed, asked)
    }

    #[test]
    fn a_response_is_framed_by_what_was_asked_and_answered() {
        let chunked = Ok(Body::Chunked(Chunked::default()));
        for (asked, head, expected) in [
            (Asked::Other, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ok(Body::Length(5))),
            (Asked::Other, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked),
            (Asked::Other, "HTTP/1.1 200 OK\r\n\r\n", Ok(Body::UntilClose)),
            (Asked::Other, "HTTP/1.0 200 OK\r\n\r\n", Ok(Body::UntilClose)),
            (Asked::Other, "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n", Ok(Body::Length(3))),
            (Asked::Head, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Head, "HTTP/1.1 200 OK\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 304 Not Modified\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 204 No Content\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Err(Ambiguity::BodyForbidden)),
            (Asked::Other, "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\n", Err(Ambiguity::BodyForbidden)),
            (Asked::Other, "HTTP/1.1 205 x\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Ambiguity::BodyForbidden)),
            (Asked::Other, "HTTP/1.1 205 Reset Content\r\n\r\n", Err(Ambiguity::BodyForbidden)),
            (Asked::Head, "HTTP/1.1 205 Reset Content\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 100 Continue\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", Err(Ambiguity::BodyForbidden)),
            (Asked::Other, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Other, "HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Ambiguity::BodyForbidden)),
            (Asked::Connect, "HTTP/1.1 200 OK\r\n\r\n", Ok(Body::Length(0))),
            (Asked::Connect, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Err(Ambiguity::BodyForbidden)),
            (Asked::Connect, "HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n", Ok(Body::Length(5))),
            (Asked::Other, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Ambiguity::CodingInHttp10)),
        ] {
            assert_eq!(response(head, asked), expected, "{head:?}");
        }
    }
}
