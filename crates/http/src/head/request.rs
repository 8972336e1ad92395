//! A request's head.
//!
//! Owns: the request line, and what was found among the fields. Must not: decide whom the request is for.
//! Called by: `engine`, `filter::Table` (which decides), the agent's access log (method and path).

use std::ops::Range;

use super::{Facts, Field, Fields, Found, Progress, clip, partial, stored};
use crate::{Ambiguity, bytes, filter::Names};

/// The longest method, in bytes: twice the longest registered one. Longer is no HTTP.
const MAX_METHOD: usize = 32;

/// The version and the line's end: `HTTP/1.1` CR LF.
const VERSION_LEN: usize = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
enum Stage {
    #[default]
    Method,
    Target,
    Version,
    Fields,
    Complete,
}

/// A request's head as far as it is read: a few words of state, kept by the caller between reads.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// In the request line: everything up to `end()` is read.
    fields: Fields,
    target_end: u32,
    /// Of which names `found` tells: their generation, or `STALE`.
    generation: u32,
    method_len: u8,
    stage: Stage,
    facts: Facts,
    found: Found,
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

    /// Reads on. `buf` begins with the head and holds at least what it held at the last call.
    ///
    /// # Errors
    /// What makes the head ambiguous, as soon as it is certain. The head is of no use then.
    pub fn advance(&mut self, buf: &[u8], names: &Names) -> Result<Progress, Ambiguity> {
        let buf = clip(buf);
        if self.stage < Stage::Fields && self.request_line(buf)? == Progress::Partial {
            return partial(buf);
        }
        if self.stage == Stage::Complete {
            return Ok(Progress::Complete);
        }
        self.watch(names);
        let Self { fields, facts, found, generation, .. } = self;
        let progress = fields.advance(buf, |field| {
            facts.field(field)?;
            if *generation == STALE { Ok(()) } else { note(found, names, buf, field) }
        })?;
        if progress == Progress::Complete {
            self.stage = Stage::Complete;
        }
        Ok(progress)
    }

    /// Whether no byte of the head is read.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.stage == Stage::Method && self.fields.end() == 0
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
    pub fn path_and_query(&self, buf: &[u8]) -> (Range<usize>, Range<usize>) {
        let Range { mut start, end } = self.target();
        let mut target = buf.get(start..end).unwrap_or_default();
        if target.first() != Some(&b'/') {
            if buf.get(self.method()) == Some(b"CONNECT") {
                return (end..end, end..end);
            }
            if let Some(scheme) = scheme_len(target) {
                let rest = target.get(scheme..).unwrap_or_default();
                start += scheme + memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
                target = buf.get(start..end).unwrap_or_default();
            }
        }
        // Not memchr: a path is shorter than the way there.
        match target.iter().position(|&byte| byte == b'?') {
            Some(mark) => (start..start + mark, start + mark + 1..end),
            None => (start..end, end..end),
        }
    }

    /// What the fields say about framing and the connection.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Makes `found` tell of `names`: the complete head is read again only if they changed while it came in.
    pub(crate) fn find(&mut self, buf: &[u8], names: &Names) -> Result<(), Ambiguity> {
        if self.generation != names.generation() {
            self.found.clear();
            self.generation = names.generation();
            let found = &mut self.found;
            let mut again = Fields::begin(self.target_end as usize + 1 + VERSION_LEN);
            again.advance(clip(buf), |field| note(found, names, buf, field))?;
        }
        Ok(())
    }

    /// The occurrences of the names that were asked for.
    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    fn watch(&mut self, names: &Names) {
        if self.generation == NONE {
            self.generation = names.generation();
        } else if self.generation != names.generation() {
            self.generation = STALE;
        }
    }

    fn request_line(&mut self, buf: &[u8]) -> Result<Progress, Ambiguity> {
        let mut pos = self.fields.end();
        if self.stage == Stage::Method {
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
            self.stage = Stage::Target;
            pos += 1;
        }
        if self.stage == Stage::Target {
            pos = bytes::target_end(buf, pos);
            match buf.get(pos) {
                None => return self.pause(pos),
                Some(b' ') => {}
                Some(b'\r' | b'\n') => return Err(Ambiguity::Http09),
                Some(_) => return Err(Ambiguity::Target),
            }
            self.target_end = stored(pos);
            self.check_target(buf)?;
            self.stage = Stage::Version;
        }
        self.version(buf)
    }

    fn pause(&mut self, pos: usize) -> Result<Progress, Ambiguity> {
        self.fields = Fields::begin(pos);
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
        self.fields = Fields::begin(start + VERSION_LEN);
        self.stage = Stage::Fields;
        Ok(Progress::Complete)
    }
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
fn note(found: &mut Found, names: &Names, buf: &[u8], field: &Field<'_>) -> Result<(), Ambiguity> {
    if !names.may_hold(field.name) {
        return Ok(());
    }
    let Some(name) = names.find(field.name) else { return Ok(()) };
    let (start, end) = bytes::trim(buf, field.at, field.at + field.raw.len());
    found.push(name, start, end)
}
