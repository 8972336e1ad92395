//! Several filters compiled into one table.
//!
//! Owns: the index from what a request has to the filters it may match. Must not: allocate or lock while deciding.
//! Called by: the agent's registry (builds one for each armed port, swaps it whole), `engine` (decides).
//!
//! A decision costs by what the request has, not by the number of filters: each filter is filed under one condition that
//! must hold for it (all-of: the rarest in this table; any-of: under each), and is looked at only if that one holds.

use std::collections::HashMap;

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};

use super::{Condition, Filter, Mode, Names, Subject, Test};
use crate::head::{Found, RequestHead};
use crate::{Ambiguity, bytes};

/// The caller's own name for one filter (an intercept's number): the same in every table that has this filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// Filters in the order in which they win, ready to decide.
#[derive(Debug)]
pub struct Table {
    names: Names,
    entries: Vec<Entry>,
    /// By the header's number in `names`.
    headers: Vec<Index>,
    path: Index,
    method: Index,
    /// Query parameters, cookies and baggage members, by name.
    parts: Vec<(Part, Index)>,
    /// Filters without a condition to be filed under: looked at for every request.
    always: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    mode: Mode,
    checks: Vec<Check>,
}

/// A condition with its names resolved.
#[derive(Debug)]
struct Check {
    place: Place,
    test: Matcher,
    negate: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Header(u16),
    Path,
    Method,
    Part(Part),
}

/// A value inside another: the query, or a header that holds a list of pairs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Query(Box<[u8]>),
    Cookie(u16, Box<[u8]>),
    Baggage(u16, Box<[u8]>),
}

#[derive(Debug)]
enum Matcher {
    Present,
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(Regex),
}

/// Filters, by the bytes that they are filed under.
type ByValue = HashMap<Box<[u8]>, Vec<usize>>;

/// The filters that are filed under one subject.
#[derive(Debug, Default)]
struct Index {
    /// The longest exact value: longer ones are not hashed.
    longest: usize,
    exact: ByValue,
    /// By length of the prefix.
    prefixes: Vec<(usize, ByValue)>,
    /// One pass that says whether any of `regexes` matches, where there are several.
    any_regex: Option<RegexSet>,
    regexes: Vec<(Regex, usize)>,
    present: Vec<usize>,
}

/// A request as the filters see it.
struct View<'a> {
    head: &'a RequestHead,
    found: &'a Found,
    buf: &'a [u8],
}

impl Table {
    /// A table of these filters; the first one that matches wins.
    #[must_use]
    pub fn new(filters: impl IntoIterator<Item = (Key, Filter)>) -> Self {
        let filters: Vec<(Key, Filter)> = filters.into_iter().collect();
        let names = Names::new(filters.iter().flat_map(|(_, filter)| filter.conditions()).filter_map(header_name));
        let entries: Vec<Entry> = filters.iter().map(|(key, filter)| Entry::new(*key, filter, &names)).collect();
        let headers = (0..names.len()).map(|_| Index::default()).collect();
        let mut table = Self {
            names,
            entries,
            headers,
            path: Index::default(),
            method: Index::default(),
            parts: vec![],
            always: vec![],
        };
        table.file();
        table
    }

    /// A table that matches nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::new([])
    }

    /// The number of filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing can match.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The key of the filter at `index`.
    #[must_use]
    pub fn key(&self, index: usize) -> Option<Key> {
        self.entries.get(index).map(|entry| entry.key)
    }

    /// Where the filter of `key` is.
    #[must_use]
    pub fn position(&self, key: Key) -> Option<usize> {
        self.entries.iter().position(|entry| entry.key == key)
    }

    /// The header names that heads are to be read for.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The first filter that the complete `head`, at the beginning of `buf`, matches.
    ///
    /// # Errors
    /// The filters' headers occur too often to be looked at.
    pub fn decide(&self, head: &mut RequestHead, buf: &[u8]) -> Result<Option<usize>, Ambiguity> {
        if self.entries.is_empty() {
            return Ok(None);
        }
        let view = View::new(self, head, buf)?;
        let mut best = self.entries.len();
        let mut consider = |index: usize| {
            if index < best && self.entries.get(index).is_some_and(|entry| entry.matches(&view)) {
                best = index;
            }
        };
        for (name, value) in view.found.iter(buf) {
            if let Some(index) = self.headers.get(usize::from(name)) {
                index.lookup(value, &mut consider);
            }
        }
        if !self.path.is_empty() {
            self.path.lookup(view.target().0, &mut consider);
        }
        if !self.method.is_empty() {
            self.method.lookup(view.method(), &mut consider);
        }
        for (part, index) in &self.parts {
            view.part(part, |value| {
                index.lookup(value, &mut consider);
                false
            });
        }
        self.always.iter().copied().for_each(consider);
        Ok((best < self.entries.len()).then_some(best))
    }

    /// Every filter that the complete `head` matches, in order: for telling the losers.
    ///
    /// # Errors
    /// As [`Table::decide`].
    pub fn matching(&self, head: &mut RequestHead, buf: &[u8]) -> Result<Vec<usize>, Ambiguity> {
        let view = View::new(self, head, buf)?;
        Ok(self.entries.iter().enumerate().filter(|(_, entry)| entry.matches(&view)).map(|(index, _)| index).collect())
    }

    /// Files every entry.
    fn file(&mut self) {
        let mut uses: HashMap<(Place, Box<[u8]>), usize> = HashMap::new();
        for check in self.entries.iter().flat_map(|entry| &entry.checks) {
            *uses.entry(check.identity()).or_default() += 1;
        }
        for number in 0..self.entries.len() {
            let Some(entry) = self.entries.get(number) else { continue };
            let pivots: Vec<(Place, Matcher)> = match entry.mode {
                Mode::Any if entry.checks.iter().any(|check| check.negate) => vec![],
                Mode::Any => entry.checks.iter().map(Check::pivot).collect(),
                Mode::All => {
                    let rarest = |check: &&Check| check.cost(uses.get(&check.identity()).copied().unwrap_or_default());
                    let positive = entry.checks.iter().filter(|check| !check.negate);
                    positive.min_by_key(rarest).map(Check::pivot).into_iter().collect()
                }
            };
            if pivots.is_empty() {
                self.always.push(number);
            }
            for (place, test) in pivots {
                self.index(place).add(test, number);
            }
        }
        let parts = self.parts.iter_mut().map(|(_, index)| index);
        self.headers.iter_mut().chain(parts).chain([&mut self.path, &mut self.method]).for_each(Index::seal);
    }

    fn index(&mut self, place: Place) -> &mut Index {
        match place {
            Place::Header(name) => &mut self.headers[usize::from(name)],
            Place::Path => &mut self.path,
            Place::Method => &mut self.method,
            Place::Part(part) => {
                let at = self.parts.iter().position(|(other, _)| *other == part).unwrap_or_else(|| {
                    self.parts.push((part, Index::default()));
                    self.parts.len() - 1
                });
                &mut self.parts[at].1
            }
        }
    }
}

impl Entry {
    /// A filter whose names do not all have a number (there are 65,534) matches nothing, rather than too much.
    fn new(key: Key, filter: &Filter, names: &Names) -> Self {
        let checks = filter.compiled().map(|(condition, regex)| Check::new(condition, regex, names)).collect();
        match checks {
            Some(checks) => Self { key, mode: filter.mode(), checks },
            None => Self { key, mode: Mode::Any, checks: vec![] },
        }
    }

    fn matches(&self, view: &View<'_>) -> bool {
        match self.mode {
            Mode::All => self.checks.iter().all(|check| check.holds(view)),
            Mode::Any => self.checks.iter().any(|check| check.holds(view)),
        }
    }
}

impl Check {
    /// `None` only if `names` does not have the condition's header.
    fn new(condition: &Condition, regex: Option<&Regex>, names: &Names) -> Option<Self> {
        let place = match &condition.subject {
            Subject::Header(name) => Place::Header(names.find(name)?),
            Subject::Path => Place::Path,
            Subject::Method => Place::Method,
            Subject::Query(name) => Place::Part(Part::Query(name.as_slice().into())),
            Subject::Cookie(name) => Place::Part(Part::Cookie(names.find(b"cookie")?, name.as_slice().into())),
            Subject::Baggage(name) => Place::Part(Part::Baggage(names.find(b"baggage")?, name.as_slice().into())),
        };
        let test = match (&condition.test, regex) {
            (Test::Present, _) => Matcher::Present,
            (Test::Exact(value), _) => Matcher::Exact(value.as_slice().into()),
            (Test::Prefix(value), _) => Matcher::Prefix(value.as_slice().into()),
            (Test::Regex(_), regex) => Matcher::Regex(regex?.clone()),
        };
        Some(Self { place, test, negate: condition.negate })
    }

    fn holds(&self, view: &View<'_>) -> bool {
        let passes = match &self.place {
            Place::Header(name) => {
                view.found.iter(view.buf).any(|(other, value)| other == *name && self.test.passes(value))
            }
            Place::Path => self.test.passes(view.target().0),
            Place::Method => self.test.passes(view.method()),
            Place::Part(part) => view.part(part, |value| self.test.passes(value)),
        };
        passes != self.negate
    }

    /// The same for checks that hold for the same requests, as far as rarity goes.
    fn identity(&self) -> (Place, Box<[u8]>) {
        let bytes = match &self.test {
            Matcher::Present => &b""[..],
            Matcher::Exact(value) | Matcher::Prefix(value) => value,
            Matcher::Regex(regex) => regex.as_str().as_bytes(),
        };
        (self.place.clone(), bytes.into())
    }

    /// How dear it is to be filed here, when `uses` filters share the condition: by what an average request is likely
    /// to have.
    fn cost(&self, uses: usize) -> (usize, u8, u8) {
        let test = match self.test {
            Matcher::Exact(_) => 0,
            Matcher::Prefix(_) => 1,
            Matcher::Regex(_) => 2,
            Matcher::Present => 3,
        };
        let place = match self.place {
            Place::Header(_) => 0,
            Place::Part(_) => 1,
            Place::Path => 2,
            // Every request has one of very few.
            Place::Method => return (usize::MAX, test, 3),
        };
        (uses, test, place)
    }

    fn pivot(&self) -> (Place, Matcher) {
        let test = match &self.test {
            Matcher::Present => Matcher::Present,
            Matcher::Exact(value) => Matcher::Exact(value.clone()),
            Matcher::Prefix(value) => Matcher::Prefix(value.clone()),
            Matcher::Regex(regex) => Matcher::Regex(regex.clone()),
        };
        (self.place.clone(), test)
    }
}

impl Matcher {
    fn passes(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(wanted) => **wanted == *value,
            Self::Prefix(wanted) => value.starts_with(wanted),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl Index {
    fn add(&mut self, test: Matcher, entry: usize) {
        match test {
            Matcher::Present => self.present.push(entry),
            Matcher::Exact(value) => {
                self.longest = self.longest.max(value.len());
                self.exact.entry(value).or_default().push(entry);
            }
            Matcher::Prefix(value) => {
                let at = self.prefixes.iter().position(|(len, _)| *len == value.len()).unwrap_or_else(|| {
                    self.prefixes.push((value.len(), HashMap::new()));
                    self.prefixes.len() - 1
                });
                self.prefixes[at].1.entry(value).or_default().push(entry);
            }
            Matcher::Regex(regex) => self.regexes.push((regex, entry)),
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.regexes.is_empty() && self.present.is_empty()
    }

    fn seal(&mut self) {
        if self.regexes.len() > 1 {
            // Too big for one automaton: they are tried one by one.
            let patterns = self.regexes.iter().map(|(regex, _)| regex.as_str());
            self.any_regex = RegexSetBuilder::new(patterns).unicode(false).build().ok();
        }
    }

    /// Hands every filter that is filed under something that `value` passes to `consider`.
    fn lookup(&self, value: &[u8], consider: &mut impl FnMut(usize)) {
        if value.len() <= self.longest
            && let Some(entries) = self.exact.get(value)
        {
            entries.iter().copied().for_each(&mut *consider);
        }
        for (len, prefixes) in &self.prefixes {
            if let Some(entries) = value.get(..*len).and_then(|start| prefixes.get(start)) {
                entries.iter().copied().for_each(&mut *consider);
            }
        }
        if self.any_regex.as_ref().is_none_or(|any| any.is_match(value)) {
            for (regex, entry) in &self.regexes {
                if regex.is_match(value) {
                    consider(*entry);
                }
            }
        }
        self.present.iter().copied().for_each(consider);
    }
}

impl<'a> View<'a> {
    fn new(table: &Table, head: &'a mut RequestHead, buf: &'a [u8]) -> Result<Self, Ambiguity> {
        head.find(buf, &table.names)?;
        Ok(Self { found: head.found(), head, buf })
    }

    fn method(&self) -> &'a [u8] {
        self.buf.get(self.head.method()).unwrap_or_default()
    }

    /// The path and the query.
    fn target(&self) -> (&'a [u8], &'a [u8]) {
        let (path, query) = self.head.path_and_query(self.buf);
        (self.buf.get(path).unwrap_or_default(), self.buf.get(query).unwrap_or_default())
    }

    /// Whether `passes` accepts a value of `part`; it sees each until it accepts one.
    fn part(&self, part: &Part, mut passes: impl FnMut(&[u8]) -> bool) -> bool {
        let mut value_of = |pair: &[u8], wanted: &[u8]| {
            let (name, value) = match memchr::memchr(b'=', pair) {
                Some(equals) => pair.split_at_checked(equals).unwrap_or((pair, b"")),
                None => (pair, &b""[..]),
            };
            let value = value.strip_prefix(b"=").unwrap_or(value);
            bytes::trimmed(name) == wanted && passes(bytes::trimmed(value))
        };
        match part {
            Part::Query(name) => {
                self.target().1.split(|&byte| byte == b'&').any(|pair| !pair.is_empty() && value_of(pair, name))
            }
            Part::Cookie(header, name) => self.lists(*header, b';').any(|pair| value_of(pair, name)),
            Part::Baggage(header, name) => self.lists(*header, b',').any(|member| {
                let pair = member.split(|&byte| byte == b';').next().unwrap_or_default();
                value_of(pair, name)
            }),
        }
    }

    /// The elements of every occurrence of a list header.
    fn lists(&self, header: u16, separator: u8) -> impl Iterator<Item = &[u8]> {
        let occurrences = self.found.iter(self.buf).filter(move |(name, _)| *name == header);
        occurrences.flat_map(move |(_, value)| value.split(move |&byte| byte == separator))
    }
}

fn header_name(condition: &Condition) -> Option<&[u8]> {
    match &condition.subject {
        Subject::Header(name) => Some(name),
        Subject::Cookie(_) => Some(b"cookie"),
        Subject::Baggage(_) => Some(b"baggage"),
        Subject::Path | Subject::Method | Subject::Query(_) => None,
    }
}
