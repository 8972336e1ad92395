//! Several filters compiled into one table.
//!
//! Owns: the index from what a request has to the filters it may match. Must not: allocate or lock while deciding.
//! Called by: the agent's registry (builds one for each armed port, swaps it whole), `engine` (decides).
//!
//! A decision costs by what the request has, not by the number of filters: each filter is filed under one condition that
//! must hold for it (all-of: the rarest in this table; any-of: under each), and is looked at only if that one holds.

use std::collections::HashMap;

use super::condition::{RequestView, ResolvedCondition, ValueMatcher, ValuePart, ValuePlace};
use super::index::SubjectIndex;
use super::{Condition, Filter, Mode, Names, Subject};
use crate::Ambiguity;
use crate::head::RequestHead;

/// Joint regexes of one table: each may take half a megabyte, and no table shares one with another. Where more values have
/// several regexes, those are tried one by one.
const MOST_JOINT: usize = 4;

/// The caller's own name for one filter (an intercept's number): the same in every table that has this filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// Filters in the order in which they win, ready to decide.
#[derive(Debug)]
pub struct Table {
    names: Names,
    entries: Vec<TableEntry>,
    /// By the header's number in `names`.
    headers: Vec<SubjectIndex>,
    path: SubjectIndex,
    method: SubjectIndex,
    /// Query parameters, cookies and baggage members, by name.
    parts: Vec<(ValuePart, SubjectIndex)>,
    /// Filters without a condition to be filed under: looked at for every request.
    always: Vec<usize>,
    /// Whether every filter is filed under a header.
    by_header: bool,
    /// Whether no filter matches a request that has none of `names`.
    needs_header: bool,
}

#[derive(Debug)]
struct TableEntry {
    key: Key,
    mode: Mode,
    checks: Vec<ResolvedCondition>,
    /// Whether it matches as soon as one of the conditions holds that it is filed under.
    certain: bool,
}

impl Table {
    /// A table of these filters; the first one that matches wins. The preflights of a filter are further filters of its key,
    /// behind it.
    #[must_use]
    pub fn new(filters: impl IntoIterator<Item = (Key, Filter)>) -> Self {
        let with_preflights = |(key, mut filter): (Key, Filter)| {
            let preflights = std::mem::take(&mut filter.preflights);
            [filter].into_iter().chain(preflights).map(move |filter| (key, filter))
        };
        let filters: Vec<(Key, Filter)> = filters.into_iter().flat_map(with_preflights).collect();
        let names = Names::new(filters.iter().flat_map(|(_, filter)| filter.conditions()).filter_map(header_name));
        let entries: Vec<TableEntry> =
            filters.iter().map(|(key, filter)| TableEntry::new(*key, filter, &names)).collect();
        let headers = (0..names.len()).map(|_| SubjectIndex::default()).collect();
        let mut table = Self {
            names,
            entries,
            headers,
            path: SubjectIndex::default(),
            method: SubjectIndex::default(),
            parts: vec![],
            always: vec![],
            by_header: false,
            needs_header: false,
        };
        table.file();
        table.by_header =
            table.path.is_empty() && table.method.is_empty() && table.parts.is_empty() && table.always.is_empty();
        table.needs_header = table.entries.iter().all(TableEntry::needs_header);
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
    #[inline]
    pub fn decide(&self, head: &mut RequestHead, buf: &[u8]) -> Result<Option<usize>, Ambiguity> {
        if self.needs_header && head.found_nothing_of(&self.names) {
            return Ok(None);
        }
        head.find(buf, &self.names)?;
        Ok(self.first(&RequestView::of_head(head, buf)))
    }

    /// The first filter that a request matches.
    pub(super) fn first(&self, view: &RequestView<'_>) -> Option<usize> {
        let mut best = self.entries.len();
        let mut consider = |index: usize| {
            if index < best && self.entries.get(index).is_some_and(|entry| entry.certain || entry.matches(view)) {
                best = index;
            }
        };
        for (name, value) in view.found.iter(view.buf) {
            if let Some(index) = self.headers.get(usize::from(name)) {
                index.lookup(value, &mut consider);
            }
        }
        if self.by_header {
            return (best < self.entries.len()).then_some(best);
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
        (best < self.entries.len()).then_some(best)
    }

    /// Every filter that the complete `head` matches, in order: for telling the losers.
    ///
    /// # Errors
    /// As [`Table::decide`].
    pub fn matching(&self, head: &mut RequestHead, buf: &[u8]) -> Result<Vec<usize>, Ambiguity> {
        head.find(buf, &self.names)?;
        let view = RequestView::of_head(head, buf);
        Ok(self.entries.iter().enumerate().filter(|(_, entry)| entry.matches(&view)).map(|(index, _)| index).collect())
    }

    /// Files every entry.
    fn file(&mut self) {
        let mut uses: HashMap<(ValuePlace, Box<[u8]>), usize> = HashMap::new();
        for check in self.entries.iter().flat_map(|entry| &entry.checks) {
            *uses.entry(check.identity()).or_default() += 1;
        }
        for number in 0..self.entries.len() {
            let Some(entry) = self.entries.get_mut(number) else { continue };
            let pivots: Vec<(ValuePlace, ValueMatcher)> = match entry.mode {
                Mode::Any if entry.checks.iter().any(|check| check.negate) => vec![],
                Mode::Any => entry.checks.iter().map(ResolvedCondition::pivot).collect(),
                Mode::All => {
                    let rarest = |check: &&ResolvedCondition| {
                        check.cost(uses.get(&check.identity()).copied().unwrap_or_default())
                    };
                    let positive = entry.checks.iter().filter(|check| !check.negate);
                    positive.min_by_key(rarest).map(ResolvedCondition::pivot).into_iter().collect()
                }
            };
            entry.certain = !pivots.is_empty() && (entry.mode == Mode::Any || entry.checks.len() == 1);
            if pivots.is_empty() {
                self.always.push(number);
            }
            for (place, test) in pivots {
                self.index(place).add(test, number);
            }
        }
        let parts = self.parts.iter_mut().map(|(_, index)| index);
        let indexes = [&mut self.path, &mut self.method].into_iter().chain(&mut self.headers).chain(parts);
        let mut joint = MOST_JOINT;
        indexes.for_each(|index| index.seal(&mut joint));
    }

    fn index(&mut self, place: ValuePlace) -> &mut SubjectIndex {
        match place {
            ValuePlace::Header(name) => &mut self.headers[usize::from(name)],
            ValuePlace::Path => &mut self.path,
            ValuePlace::Method => &mut self.method,
            ValuePlace::ValuePart(part) => {
                let at = self.parts.iter().position(|(other, _)| *other == part).unwrap_or_else(|| {
                    self.parts.push((part, SubjectIndex::default()));
                    self.parts.len() - 1
                });
                &mut self.parts[at].1
            }
        }
    }
}

impl TableEntry {
    /// A filter whose names do not all have a number (there are 65,534) matches nothing, rather than too much.
    fn new(key: Key, filter: &Filter, names: &Names) -> Self {
        let checks = filter.compiled().map(|condition| ResolvedCondition::new(condition, names)).collect();
        match checks {
            Some(checks) => Self { key, mode: filter.mode(), checks, certain: false },
            None => Self { key, mode: Mode::Any, checks: vec![], certain: false },
        }
    }

    /// Whether it matches no request without a header that it names.
    fn needs_header(&self) -> bool {
        match self.mode {
            Mode::All => self.checks.iter().any(ResolvedCondition::needs_header),
            Mode::Any => self.checks.iter().all(ResolvedCondition::needs_header),
        }
    }

    fn matches(&self, view: &RequestView<'_>) -> bool {
        match self.mode {
            Mode::All => self.checks.iter().all(|check| check.holds(view)),
            Mode::Any => self.checks.iter().any(|check| check.holds(view)),
        }
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

#[cfg(test)]
mod tests {
    use super::super::Test;
    use super::*;

    #[test]
    fn tables_share_the_values_of_a_filter() {
        let condition = Condition { subject: Subject::Path, test: Test::Exact(vec![b'/'; 4096]), negate: false };
        let filter = Filter::new(Mode::All, vec![condition]).unwrap();
        let tables = [(); 3].map(|()| Table::new([(Key(1), filter.clone())]));
        // In each its check and its index.
        assert_eq!(std::sync::Arc::strong_count(&filter.values[0]), 1 + 2 * tables.len());
    }
}
