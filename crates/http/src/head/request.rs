//! A request's head.
//!
//! Owns: the request line, and what was found among the fields. Must not: decide whom the request is for.
//! Called by: `engine`, `filter::Table` (which decides), the agent's access log (method and path).

use std::ops::Range;

use super::Names;
use super::ends::{ByteBlocks, LINE_END, LineEnds, in_blocks};
use super::fields::{FieldPlace, LineOutcome};
use super::{Facts, FieldLine, FieldReader, FoundFields, NameInterest, Progress, clip, partial, stored};
use crate::Ambiguity;
use crate::bytes::{self, ByteLanes, ByteWork, InstructionSet, wide};

/// The longest method, in bytes: twice the longest registered one. Longer is no HTTP.
const MAX_METHOD: usize = 32;

/// The version and the line's end: `HTTP/1.1` CR LF.
const VERSION_LEN: usize = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
enum RequestStage {
    #[default]
    Method,
    Target,
    Version,
    FieldReader,
    Complete,
}

/// A request's head as far as it is read: a few words of state, kept by the caller between reads.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// In the request line: everything up to `end()` is read.
    fields: FieldReader,
    target_end: u32,
    /// Where the first question mark of the target is; 0: it has none.
    mark: u32,
    /// Of which names `found` tells: their generation, or `STALE`.
    generation: u32,
    method_len: u8,
    stage: RequestStage,
    facts: Facts,
    found: FoundFields,
}

/// No generation of names: no field was read yet.
const NONE: u32 = 0;
/// The names changed in the middle of a head: `found` is collected again before it is used.
const STALE: u32 = u32::MAX;

impl RequestHead {
    /// A head of which nothing is read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it a head of which nothing is read.
    pub(crate) fn clear(&mut self) {
        let Self { fields, target_end, mark, generation, method_len, stage, facts, found } = self;
        (*fields, *facts, *stage) = (FieldReader::default(), Facts::default(), RequestStage::default());
        (*target_end, *mark, *generation, *method_len) = (0, 0, NONE, 0);
        found.clear();
    }

    /// Reads on. `buf` begins with the head and holds at least what it held at the last call.
    ///
    /// # Errors
    /// What makes the head ambiguous, as soon as it is certain. The head is of no use then.
    pub fn advance(&mut self, buf: &[u8], names: &Names) -> Result<Progress, Ambiguity> {
        self.advance_at(InstructionSet::best(), buf, names)
    }

    /// [`Self::advance`] with other instructions than the best, for tests and measurements.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn advance_at(&mut self, level: InstructionSet, buf: &[u8], names: &Names) -> Result<Progress, Ambiguity> {
        let buf = clip(buf);
        self.watch(names);
        let mut clean = self.fields.end();
        if self.is_new() || (self.stage == RequestStage::FieldReader && self.fields.at_line_start()) {
            clean = self.plain(level, buf, names)?;
        }
        if self.stage == RequestStage::Complete { Ok(Progress::Complete) } else { self.any(level, buf, names, clean) }
    }

    /// Reads on from the beginning of a line as long as there is nothing unusual. Returns up to where no byte ends a value.
    #[inline]
    fn plain(&mut self, level: InstructionSet, buf: &[u8], names: &Names) -> Result<usize, Ambiguity> {
        in_blocks(buf, |buf| level.run(PlainHead { head: self, buf, names }))
    }

    /// Reads on in whatever is there, plain or not. Up to `clean` no byte ends a value.
    #[inline(never)]
    fn any(
        &mut self,
        level: InstructionSet,
        buf: &[u8],
        names: &Names,
        mut clean: usize,
    ) -> Result<Progress, Ambiguity> {
        if self.stage < RequestStage::FieldReader {
            if self.request_line(level, buf)? == Progress::Partial {
                return partial(buf);
            }
            clean = self.plain(level, buf, names)?;
        }
        while self.stage != RequestStage::Complete {
            match self.fields.any_line(level, buf, clean)? {
                LineOutcome::Whole(place) => {
                    if names.interest().has(place.name(buf)) {
                        self.field(buf, names, place)?;
                    }
                    clean = self.plain(level, buf, names)?;
                }
                LineOutcome::Last => self.stage = RequestStage::Complete,
                LineOutcome::Cut => return partial(buf),
            }
        }
        Ok(Progress::Complete)
    }

    /// Takes note of a field that may be of interest.
    #[inline(always)]
    fn field(&mut self, buf: &[u8], names: &Names, place: FieldPlace) -> Result<(), Ambiguity> {
        if names.may_hold(place.name(buf)) {
            return self.wanted_field(buf, names, place);
        }
        // Nearly every request has a User-Agent, and what most of them say means nothing.
        if is_ordinary_agent(&place.field(buf)) { Ok(()) } else { self.framing_field(buf, place) }
    }

    #[inline(never)]
    fn framing_field(&mut self, buf: &[u8], place: FieldPlace) -> Result<(), Ambiguity> {
        self.facts.field(&place.field(buf))
    }

    /// A field that a filter may ask for.
    #[inline(never)]
    fn wanted_field(&mut self, buf: &[u8], names: &Names, place: FieldPlace) -> Result<(), Ambiguity> {
        let field = place.field(buf);
        if NameInterest::FRAMING.has(field.name) {
            self.facts.field(&field)?;
        }
        if self.generation == STALE { Ok(()) } else { note(&mut self.found, names, buf, &field) }
    }

    /// Whether no byte of the head is read.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.stage == RequestStage::Method && self.fields.end() == 0
    }

    /// The length of the complete head in bytes, its empty line included.
    #[expect(clippy::len_without_is_empty, reason = "a complete head is never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.end()
    }

    /// Where the method is in the head.
    #[must_use]
    pub fn method(&self) -> Range<usize> {
        0..usize::from(self.method_len)
    }

    /// Where the request target is in the head.
    #[must_use]
    pub fn target(&self) -> Range<usize> {
        usize::from(self.method_len) + 1..self.target_end as usize
    }

    /// Where the path (without query; empty for an authority or `http://host`) and the query (without `?`) are.
    #[must_use]
    #[inline]
    pub fn path_and_query(&self, buf: &[u8]) -> (Range<usize>, Range<usize>) {
        let Range { start, end } = self.target();
        if buf.get(start) != Some(&b'/') {
            return self.path_and_query_of_others(buf);
        }
        self.split(start, end)
    }

    /// Of a target that is not in origin-form.
    fn path_and_query_of_others(&self, buf: &[u8]) -> (Range<usize>, Range<usize>) {
        let Range { mut start, end } = self.target();
        let target = buf.get(start..end).unwrap_or_default();
        if buf.get(self.method()) == Some(b"CONNECT") {
            return (end..end, end..end);
        }
        if let Some(scheme) = scheme_len(target) {
            let rest = target.get(scheme..).unwrap_or_default();
            start += scheme + memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        }
        self.split(start, end)
    }

    /// The path that begins at `start`, and the query behind it.
    #[inline]
    fn split(&self, start: usize, end: usize) -> (Range<usize>, Range<usize>) {
        match self.mark as usize {
            0 => (start..end, end..end),
            mark => (start..mark, mark + 1..end),
        }
    }

    /// What the fields say about framing and the connection.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Makes `found` tell of `names`: the complete head is read again only if they changed while it came in.
    #[inline]
    pub(crate) fn find(&mut self, buf: &[u8], names: &Names) -> Result<(), Ambiguity> {
        if self.generation == names.generation() { Ok(()) } else { self.find_again(buf, names) }
    }

    #[inline(never)]
    fn find_again(&mut self, buf: &[u8], names: &Names) -> Result<(), Ambiguity> {
        self.found.clear();
        self.generation = names.generation();
        let mut fields = FieldReader::begin(self.target_end as usize + 1 + VERSION_LEN);
        let on_field = |field: &FieldLine<'_>| {
            if names.may_hold(field.name) { note(&mut self.found, names, buf, field) } else { Ok(()) }
        };
        fields.advance(InstructionSet::best(), clip(buf), names.interest(), on_field).map(|_| ())
    }

    /// Whether the complete head is known to have none of `names`.
    #[inline]
    pub(crate) fn found_nothing_of(&self, names: &Names) -> bool {
        self.generation == names.generation() && self.found.is_empty()
    }

    /// The occurrences of the names that were asked for.
    pub(crate) fn found(&self) -> &FoundFields {
        &self.found
    }

    fn watch(&mut self, names: &Names) {
        if self.generation == NONE {
            self.generation = names.generation();
        } else if self.generation != names.generation() {
            self.generation = STALE;
        }
    }

    /// The request line of most requests, all of it at once. `false`: nothing is done, and `request_line` is to look.
    #[inline(always)]
    fn plain_request_line<L: ByteLanes>(&mut self, ends: &mut LineEnds<'_, L>) -> bool {
        let Some(method_len) = common_method(ends.buf) else { return false };
        // Not where the target ends: the lines after it must not wait for that.
        let Ok(end) = ends.next(0) else { return false };
        let start = method_len + 1;
        let (target_end, mark) = wide::TargetEnd { buf: ends.buf, from: start }.with(ends.lanes);
        let rooted = ends.buf.get(start) == Some(&b'/');
        let version = ends.buf.get(target_end..end).and_then(<[u8]>::split_last_chunk::<1>);
        let Some((known, [minor @ (b'0' | b'1')])) = version else { return false };
        if !rooted || known != b" HTTP/1." {
            return false;
        }
        if *minor == b'0' {
            self.facts.set_http_1_0();
        }
        self.method_len = u8::try_from(method_len).unwrap_or_default();
        (self.target_end, self.mark) = (stored(target_end), stored(mark));
        self.fields = FieldReader::begin(end + LINE_END);
        self.stage = RequestStage::FieldReader;
        true
    }

    fn request_line(&mut self, level: InstructionSet, buf: &[u8]) -> Result<Progress, Ambiguity> {
        let mut pos = self.fields.end();
        if self.stage == RequestStage::Method {
            pos = bytes::method_end(buf, pos);
            if pos > MAX_METHOD {
                return Err(Ambiguity::Method);
            }
            match buf.get(pos) {
                None => return self.pause(pos),
                Some(b' ') if pos > 0 => {}
                Some(b'\r' | b'\n') if pos == 0 => return Err(Ambiguity::EmptyLine),
                Some(_) => return Err(Ambiguity::Method),
            }
            if buf.get(..pos) == Some(b"PRI") {
                return Err(Ambiguity::Preface);
            }
            self.method_len = u8::try_from(pos).map_err(|_| Ambiguity::Method)?;
            self.stage = RequestStage::Target;
            pos += 1;
        }
        if self.stage == RequestStage::Target {
            let mark;
            (pos, mark) = level.run(wide::TargetEnd { buf, from: pos });
            if self.mark == 0 {
                self.mark = stored(mark);
            }
            match buf.get(pos) {
                None => return self.pause(pos),
                Some(b' ') => {}
                Some(b'\r' | b'\n') => return Err(Ambiguity::Http09),
                Some(_) => return Err(Ambiguity::Target),
            }
            self.target_end = stored(pos);
            self.check_target(buf)?;
            self.stage = RequestStage::Version;
        }
        self.version(buf)
    }

    fn pause(&mut self, pos: usize) -> Result<Progress, Ambiguity> {
        self.fields = FieldReader::begin(pos);
        Ok(Progress::Partial)
    }

    /// RFC 9112, 3.2: origin-form, absolute-form, authority-form for CONNECT alone, asterisk-form for OPTIONS alone.
    fn check_target(&self, buf: &[u8]) -> Result<(), Ambiguity> {
        let target = buf.get(self.target()).unwrap_or_default();
        let rooted = target.first() == Some(&b'/');
        let allowed = match buf.get(self.method()) {
            Some(b"CONNECT") => is_authority(target) && !target.contains(&b'@'),
            Some(b"OPTIONS") if target == b"*" => true,
            _ => rooted || is_absolute(target),
        };
        if allowed && !target.is_empty() { Ok(()) } else { Err(Ambiguity::Target) }
    }

    fn version(&mut self, buf: &[u8]) -> Result<Progress, Ambiguity> {
        let start = self.target_end as usize + 1;
        let rest = buf.get(start..).unwrap_or_default();
        match rest.first_chunk::<VERSION_LEN>() {
            Some(b"HTTP/1.1\r\n") => {}
            Some(b"HTTP/1.0\r\n") => self.facts.set_http_1_0(),
            _ => return check_version(rest.get(..VERSION_LEN).unwrap_or(rest)),
        }
        self.fields = FieldReader::begin(start + VERSION_LEN);
        self.stage = RequestStage::FieldReader;
        Ok(Progress::Complete)
    }
}

/// The length of the method, where it is one of those that nearly all requests have.
#[inline(always)]
fn common_method(buf: &[u8]) -> Option<usize> {
    let word = u64::from_le_bytes(*buf.first_chunk()?);
    let begins = |method: &[u8]| {
        let mut padded = [0; 8];
        padded[..method.len()].copy_from_slice(method);
        let mask = !0 >> (64 - 8 * method.len());
        (word & mask == u64::from_le_bytes(padded)).then_some(method.len() - 1)
    };
    let rarer =
        || begins(b"PUT ").or_else(|| begins(b"HEAD ")).or_else(|| begins(b"DELETE ")).or_else(|| begins(b"PATCH "));
    begins(b"GET ").or_else(|| begins(b"POST ")).or_else(rarer)
}

/// A version that is not whole, or wrong.
fn check_version(rest: &[u8]) -> Result<Progress, Ambiguity> {
    for (at, &byte) in rest.iter().enumerate() {
        match (at, byte) {
            (0..7, _) if b"HTTP/1.".get(at) == Some(&byte) => {}
            (7, b'0' | b'1') | (8, b'\r') | (9, b'\n') => {}
            (8, b'\n') => return Err(Ambiguity::BareLf),
            (9, _) => return Err(Ambiguity::BareCr),
            _ => return Err(Ambiguity::Version),
        }
    }
    Ok(Progress::Partial)
}

/// Whether a target has a scheme that is HTTP's and an authority that ends at the same byte for every reader: to some of
/// them a backslash begins the path, and an empty authority is none.
fn is_absolute(target: &[u8]) -> bool {
    scheme_len(target).is_some_and(|scheme| {
        let rest = target.get(scheme..).unwrap_or_default();
        let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        rest.get(..end).is_some_and(is_authority)
    })
}

/// RFC 3986, 3.2: what an authority is made of.
fn is_authority(bytes: &[u8]) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(byte);
    !bytes.is_empty() && bytes.iter().all(part)
}

/// The length of `http://` or `https://` at the beginning of an absolute-form target.
fn scheme_len(target: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"].into_iter().map(<[u8]>::len).find(|&len| {
        target.get(..len).is_some_and(|scheme| {
            scheme.eq_ignore_ascii_case(if len == 7 { &b"http://"[..] } else { &b"https://"[..] })
        })
    })
}

/// Keeps `field`'s place if a filter asks for its name.
#[inline]
fn note(found: &mut FoundFields, names: &Names, buf: &[u8], field: &FieldLine<'_>) -> Result<(), Ambiguity> {
    let Some(name) = names.find(field.name) else { return Ok(()) };
    let (start, end) = bytes::trim(buf, field.at, field.at + field.raw.len());
    found.push(name, start, end)
}

/// The plain beginning of a head: its request line if nothing of it is read yet, and then field lines, with the
/// instructions of a level.
struct PlainHead<'a> {
    head: &'a mut RequestHead,
    buf: ByteBlocks<'a>,
    names: &'a Names,
}

impl ByteWork for PlainHead<'_> {
    type Output = Result<usize, Ambiguity>;

    #[inline(always)]
    fn with<L: ByteLanes>(self, lanes: L) -> Self::Output {
        let Self { head, buf, names } = self;
        let mut ends = LineEnds::new(lanes, buf, head.fields.end());
        let buf = buf.buf;
        if head.stage == RequestStage::Method && !head.plain_request_line(&mut ends) {
            return Ok(0);
        }
        let mut fields = head.fields;
        let clean = fields.plain_lines(&mut ends, names.interest(), |place| head.field(buf, names, place))?;
        if fields.ends_here(buf) {
            head.stage = RequestStage::Complete;
        }
        head.fields = fields;
        Ok(clean)
    }
}

/// Whether a field is a User-Agent that is certainly not the kubelet's.
#[inline(always)]
fn is_ordinary_agent(field: &FieldLine<'_>) -> bool {
    let other = matches!(field.raw, [b' ', first, ..] if *first > b' ' && *first != b'k');
    other && bytes::folds_to(field.name, b"user-agent")
}
