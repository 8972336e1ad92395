//! Filters: which requests a developer wants.
//!
//! Owns: a filter's conditions and their validation (here), several filters compiled into one table ([`Table`]), and
//! what two filters have in common ([`overlap()`]). Must not: know developers, pods or connections.
//! Called by: the CLI (flags), the wire format, the agent's registry (tables), `engine` (decisions).
//!
//! What a condition means, exactly; everything is bytes, as they are on the wire:
//! - A header's name is compared without case. Its value is the whole field value without surrounding spaces and tabs;
//!   commas do not split it. If the header occurs several times, one occurrence that passes is enough.
//! - The path is the request target up to the first `?`, not decoded and not normalised; of an absolute-form target,
//!   what follows the authority. CONNECT has an empty path.
//! - The method keeps its case; it is compared exactly or by a regex.
//! - A query parameter is a `name=value` (or a bare `name`, whose value is empty) between the `&` of the query, not
//!   decoded; name and value are compared as they were sent.
//! - A cookie is a `name=value` between the `;` of any Cookie field, a baggage member a `name=value` between the `,` of
//!   any `baggage` field, without its `;properties`; names keep their case, nothing is decoded.
//! - *exact*: all bytes are the same. *prefix*: the value begins with these. *present*: it is there, be it empty.
//! - *regex*: the regex matches the **whole** value (as if written `\A(?:…)\z`), byte by byte: `.` is any byte but a line
//!   feed, `\w`, `\d`, `\s` are ASCII. It runs in linear time.
//! - *not* turns a condition around: `not header x-user exact alice` holds if no occurrence is `alice`, also if there is
//!   none at all.
//! - With its preflights a filter also matches the CORS preflights that ask for the headers of its conditions.

mod compare;
mod condition;
mod index;
mod overlap;
mod parts;
mod pattern;
mod preflight;
mod table;
mod validate;

pub use crate::head::Names;
pub use overlap::{Overlap, overlap};
pub use pattern::MAX_REGEX;
pub use table::{Key, Table};
pub use validate::{FilterError, MAX_NAME, MAX_VALUE};

use std::{fmt, sync::Arc};

/// How a filter's conditions go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every condition must hold.
    All,
    /// One condition is enough.
    Any,
}

/// What of a request is looked at. The name is in it where there is one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A header field, by its name.
    Header(Vec<u8>),
    /// The path, without query.
    Path,
    /// The method.
    Method,
    /// A query parameter, by its name.
    Query(Vec<u8>),
    /// A cookie, by its name.
    Cookie(Vec<u8>),
    /// A member of the W3C `baggage` header, by its name.
    Baggage(Vec<u8>),
}

/// What it must be. `Debug` shows no value: it may be a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Test {
    /// There, whatever its value.
    Present,
    /// These bytes.
    Exact(Vec<u8>),
    /// Something that begins with these bytes.
    Prefix(Vec<u8>),
    /// Something that this regex matches as a whole.
    Regex(String),
}

/// One condition of a filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// What is looked at.
    pub subject: Subject,
    /// What it must be.
    pub test: Test,
    /// Whether the condition is turned around.
    pub negate: bool,
}

/// A validated filter: between one and [`Filter::MAX_CONDITIONS`] conditions (none only in [`Filter::everything`]),
/// regexes compiled.
#[derive(Clone, Debug)]
pub struct Filter {
    mode: Mode,
    conditions: Vec<Condition>,
    /// One for each condition; `None` where it is no regex.
    patterns: Vec<Option<pattern::CompiledPattern>>,
    /// What each is compared with, empty where it is with nothing: all tables of the filter share it.
    values: Vec<Arc<[u8]>>,
    /// The CORS preflights of its requests, if they match too.
    preflights: Vec<Filter>,
}

impl Filter {
    /// The most conditions in one filter: a bound for messages and decisions, far above what people write.
    pub const MAX_CONDITIONS: usize = 32;

    /// The most memory, in bytes, that the compiled conditions of one filter may take together ([`Filter::size`]): some fifty
    /// times as much as what people write, and little enough for many filters in one agent.
    pub const MAX_SIZE: usize = 256 * 1024;

    /// A filter of these conditions.
    ///
    /// # Errors
    /// The first condition that could never hold, always holds, or is malformed, or two that make the filter so, with the
    /// next step.
    pub fn new(mode: Mode, conditions: Vec<Condition>) -> Result<Self, FilterError> {
        validate::count(conditions.len())?;
        let mut filter = Self { mode, ..Self::everything() };
        for condition in conditions {
            filter.patterns.push(validate::condition(&condition)?);
            filter.values.push(condition.test.value());
            filter.conditions.push(condition);
            // Compiling the rest would cost time and memory for nothing.
            filter = filter.within_size()?;
        }
        validate::together(&filter)?;
        Ok(filter)
    }

    /// The filter that every request matches: a global intercept's entry, last in a table with filtered ones.
    #[must_use]
    pub fn everything() -> Self {
        Self { mode: Mode::All, conditions: vec![], patterns: vec![], values: vec![], preflights: vec![] }
    }

    /// The filter, with the CORS preflights of its requests: those that ask for the headers that its conditions are about.
    ///
    /// # Errors
    /// [`FilterError::Preflights`] if no condition is about a header that a preflight asks for, [`FilterError::TooBig`] if
    /// they are too big together.
    pub fn with_preflights(self) -> Result<Self, FilterError> {
        let preflights = preflight::of(&self);
        if preflights.is_empty() {
            return Err(FilterError::Preflights);
        }
        Self { preflights, ..self }.within_size()
    }

    /// The memory, in bytes, that its compiled conditions take: those who keep many filters bound the sum.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts: usize = self.conditions.iter().map(Condition::length).sum();
        let regexes: usize = self.patterns.iter().flatten().map(|pattern| pattern.regex.size()).sum();
        texts + regexes + self.preflights.iter().map(Self::size).sum::<usize>()
    }

    /// How many regexes it has. Each takes some memory more once requests are compared with it, on each thread.
    #[must_use]
    pub fn regexes(&self) -> usize {
        self.patterns.iter().flatten().count() + self.preflights.iter().map(Self::regexes).sum::<usize>()
    }

    fn within_size(self) -> Result<Self, FilterError> {
        if self.size() > Self::MAX_SIZE { Err(FilterError::TooBig) } else { Ok(self) }
    }

    /// Whether the CORS preflights of its requests match too.
    #[must_use]
    pub fn has_preflights(&self) -> bool {
        !self.preflights.is_empty()
    }

    /// How the conditions go together.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The conditions, as they were given.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Each condition with its compiled regex.
    fn compiled(&self) -> impl Iterator<Item = compare::CompiledCondition<'_>> {
        let conditions = self.conditions.iter().zip(&self.patterns).zip(&self.values);
        conditions
            .map(|((condition, pattern), value)| compare::CompiledCondition::new(condition, pattern.as_ref(), value))
    }
}

impl Condition {
    /// Bytes of its name and value.
    fn length(&self) -> usize {
        let name = match &self.subject {
            Subject::Header(name) | Subject::Query(name) | Subject::Cookie(name) | Subject::Baggage(name) => name.len(),
            Subject::Path | Subject::Method => 0,
        };
        let value = match &self.test {
            Test::Present => 0,
            Test::Exact(value) | Test::Prefix(value) => value.len(),
            Test::Regex(text) => text.len(),
        };
        name + value
    }
}

impl Test {
    fn value(&self) -> Arc<[u8]> {
        match self {
            Self::Exact(value) | Self::Prefix(value) => value.as_slice().into(),
            Self::Present | Self::Regex(_) => Arc::default(),
        }
    }

    /// `present`, `exact`, `prefix` or `regex`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Exact(_) => "exact",
            Self::Prefix(_) => "prefix",
            Self::Regex(_) => "regex",
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(..)", self.kind())
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode
            && self.conditions == other.conditions
            && self.has_preflights() == other.has_preflights()
    }
}

impl Eq for Filter {}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.conditions.is_empty() {
            return f.write_str("every request");
        }
        let joint = if self.mode == Mode::All { " and " } else { " or " };
        for (n, condition) in self.conditions.iter().enumerate() {
            write!(f, "{}{condition}", if n == 0 { "" } else { joint })?;
        }
        if self.has_preflights() { f.write_str(", with their CORS preflights") } else { Ok(()) }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negate { "not " } else { "" };
        write!(f, "{not}{}", self.subject)?;
        match &self.test {
            Test::Present => f.write_str(" present"),
            Test::Exact(value) => write!(f, " = {}", value.escape_ascii()),
            Test::Prefix(value) => write!(f, " = {}…", value.escape_ascii()),
            Test::Regex(pattern) => write!(f, " ~ {}", pattern.escape_debug()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {}", name.escape_ascii()),
            Self::Path => f.write_str("path"),
            Self::Method => f.write_str("method"),
            Self::Query(name) => write!(f, "query {}", name.escape_ascii()),
            Self::Cookie(name) => write!(f, "cookie {}", name.escape_ascii()),
            Self::Baggage(name) => write!(f, "baggage {}", name.escape_ascii()),
        }
    }
}
