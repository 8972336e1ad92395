//! One condition of a table, against one request.
//!
//! Owns: where a condition's values are in a request, and whether one passes. Must not: know other conditions.
//! Called by: `Table`.

use std::{cell::OnceCell, sync::Arc};

use super::compare::CompiledCondition;
use super::pattern::WholeRegex;
use super::{Names, Subject, Test};
use crate::bytes;
use crate::head::{FoundFields, RequestHead};

/// A condition with its names resolved.
#[derive(Debug)]
pub(super) struct ResolvedCondition {
    place: ValuePlace,
    test: ValueMatcher,
    pub(super) negate: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ValuePlace {
    Header(u16),
    Path,
    Method,
    ValuePart(ValuePart),
}

/// A value inside another: the query, or a header that holds a list of pairs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ValuePart {
    Query(Box<[u8]>),
    Cookie(u16, Box<[u8]>),
    Baggage(u16, Box<[u8]>),
}

#[derive(Debug)]
pub(super) enum ValueMatcher {
    Present,
    Exact(Arc<[u8]>),
    Prefix(Arc<[u8]>),
    Regex(WholeRegex),
}

/// A request as the filters see it.
pub(super) struct RequestView<'a> {
    line: LinePlaces<'a>,
    pub(super) found: &'a FoundFields,
    /// What `found` tells places in.
    pub(super) buf: &'a [u8],
    /// The path and the query, once a filter asks for one of them.
    target: OnceCell<(&'a [u8], &'a [u8])>,
}

/// Where method and target are.
enum LinePlaces<'a> {
    /// In an HTTP/1 head.
    Head(&'a RequestHead),
    /// Apart.
    Parts { method: &'a [u8], target: &'a [u8] },
}

impl ResolvedCondition {
    /// `None` only if `names` does not have the condition's header.
    pub(super) fn new(condition: CompiledCondition<'_>, names: &Names) -> Option<Self> {
        let place = match condition.subject {
            Subject::Header(name) => ValuePlace::Header(names.find(name)?),
            Subject::Path => ValuePlace::Path,
            Subject::Method => ValuePlace::Method,
            Subject::Query(name) => ValuePlace::ValuePart(ValuePart::Query(name.as_slice().into())),
            Subject::Cookie(name) => {
                ValuePlace::ValuePart(ValuePart::Cookie(names.find(b"cookie")?, name.as_slice().into()))
            }
            Subject::Baggage(name) => {
                ValuePlace::ValuePart(ValuePart::Baggage(names.find(b"baggage")?, name.as_slice().into()))
            }
        };
        let test = match condition.test {
            Test::Present => ValueMatcher::Present,
            Test::Exact(_) => ValueMatcher::Exact(condition.value.clone()),
            Test::Prefix(_) => ValueMatcher::Prefix(condition.value.clone()),
            Test::Regex(_) => ValueMatcher::Regex(condition.pattern?.regex.clone()),
        };
        Some(Self { place, test, negate: condition.negate })
    }

    pub(super) fn holds(&self, view: &RequestView<'_>) -> bool {
        let passes = match &self.place {
            ValuePlace::Header(name) => {
                view.found.iter(view.buf).any(|(other, value)| other == *name && self.test.passes(value))
            }
            ValuePlace::Path => self.test.passes(view.target().0),
            ValuePlace::Method => self.test.passes(view.method()),
            ValuePlace::ValuePart(part) => view.part(part, |value| self.test.passes(value)),
        };
        passes != self.negate
    }

    /// Whether it holds for no request without the header that it is about.
    pub(super) fn needs_header(&self) -> bool {
        let in_header = match self.place {
            ValuePlace::Header(_) | ValuePlace::ValuePart(ValuePart::Cookie(..) | ValuePart::Baggage(..)) => true,
            ValuePlace::Path | ValuePlace::Method | ValuePlace::ValuePart(ValuePart::Query(_)) => false,
        };
        in_header && !self.negate
    }

    /// The same for checks that hold for the same requests, as far as rarity goes.
    pub(super) fn identity(&self) -> (ValuePlace, Box<[u8]>) {
        let bytes = match &self.test {
            ValueMatcher::Present => &b""[..],
            ValueMatcher::Exact(value) | ValueMatcher::Prefix(value) => value,
            ValueMatcher::Regex(regex) => regex.as_str().as_bytes(),
        };
        (self.place.clone(), bytes.into())
    }

    /// How dear it is to be filed here, when `uses` filters share the condition: by what an average request is likely
    /// to have.
    pub(super) fn cost(&self, uses: usize) -> (usize, u8, u8) {
        let test = match self.test {
            ValueMatcher::Exact(_) => 0,
            ValueMatcher::Prefix(_) => 1,
            ValueMatcher::Regex(_) => 2,
            ValueMatcher::Present => 3,
        };
        let place = match self.place {
            ValuePlace::Header(_) => 0,
            ValuePlace::ValuePart(_) => 1,
            ValuePlace::Path => 2,
            // Every request has one of very few.
            ValuePlace::Method => return (usize::MAX, test, 3),
        };
        (uses, test, place)
    }

    pub(super) fn pivot(&self) -> (ValuePlace, ValueMatcher) {
        let test = match &self.test {
            ValueMatcher::Present => ValueMatcher::Present,
            ValueMatcher::Exact(value) => ValueMatcher::Exact(value.clone()),
            ValueMatcher::Prefix(value) => ValueMatcher::Prefix(value.clone()),
            ValueMatcher::Regex(regex) => ValueMatcher::Regex(regex.clone()),
        };
        (self.place.clone(), test)
    }
}

impl ValueMatcher {
    pub(super) fn passes(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(wanted) => **wanted == *value,
            Self::Prefix(wanted) => value.starts_with(wanted),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl<'a> RequestView<'a> {
    /// Of a complete head that was made to tell of the table's names.
    #[inline]
    pub(super) fn of_head(head: &'a RequestHead, buf: &'a [u8]) -> Self {
        Self { found: head.found(), line: LinePlaces::Head(head), buf, target: OnceCell::new() }
    }

    /// Of a request that is no HTTP/1 head; `target` is the path with its query, `found` tells places in `buf`.
    pub(super) fn of_parts(method: &'a [u8], target: &'a [u8], found: &'a FoundFields, buf: &'a [u8]) -> Self {
        Self { line: LinePlaces::Parts { method, target }, found, buf, target: OnceCell::new() }
    }

    pub(super) fn method(&self) -> &'a [u8] {
        match self.line {
            LinePlaces::Head(head) => self.buf.get(head.method()).unwrap_or_default(),
            LinePlaces::Parts { method, .. } => method,
        }
    }

    /// The path and the query.
    pub(super) fn target(&self) -> (&'a [u8], &'a [u8]) {
        *self.target.get_or_init(|| match self.line {
            LinePlaces::Head(head) => {
                let (path, query) = head.path_and_query(self.buf);
                (self.buf.get(path).unwrap_or_default(), self.buf.get(query).unwrap_or_default())
            }
            LinePlaces::Parts { target, .. } => {
                let (path, query) = target.split_at(memchr::memchr(b'?', target).unwrap_or(target.len()));
                (path, query.strip_prefix(b"?").unwrap_or_default())
            }
        })
    }

    /// Whether `passes` accepts a value of `part`; it sees each until it accepts one.
    pub(super) fn part(&self, part: &ValuePart, mut passes: impl FnMut(&[u8]) -> bool) -> bool {
        let mut value_of = |pair: &[u8], wanted: &[u8]| {
            let (name, value) = match memchr::memchr(b'=', pair) {
                Some(equals) => pair.split_at_checked(equals).unwrap_or((pair, b"")),
                None => (pair, &b""[..]),
            };
            let value = value.strip_prefix(b"=").unwrap_or(value);
            bytes::trimmed(name) == wanted && passes(bytes::trimmed(value))
        };
        match part {
            ValuePart::Query(name) => {
                self.target().1.split(|&byte| byte == b'&').any(|pair| !pair.is_empty() && value_of(pair, name))
            }
            ValuePart::Cookie(header, name) => self.lists(*header, b';').any(|pair| value_of(pair, name)),
            ValuePart::Baggage(header, name) => self.lists(*header, b',').any(|member| {
                let pair = member.split(|&byte| byte == b';').next().unwrap_or_default();
                value_of(pair, name)
            }),
        }
    }

    /// The elements of every occurrence of a list header.
    pub(super) fn lists(&self, header: u16, separator: u8) -> impl Iterator<Item = &[u8]> {
        let occurrences = self.found.iter(self.buf).filter(move |(name, _)| *name == header);
        occurrences.flat_map(move |(_, value)| value.split(move |&byte| byte == separator))
    }
}
