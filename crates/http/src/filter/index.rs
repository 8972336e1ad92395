//! Filters, filed under a value that they must find.
//!
//! Owns: the lookup of one value of a request. Must not: know which value it is, or decide.
//! Called by: `Table`, with each value that a request has.

use std::sync::Arc;

use regex_automata::meta::Regex;

use super::condition::ValueMatcher;
use super::pattern::{WholeRegex, any_of};
use crate::hash::{self, HashSlots};

/// Filters, by the bytes that they are filed under.
#[derive(Debug, Default)]
struct ByValue {
    /// The longest value: longer ones are not hashed.
    longest: usize,
    values: Vec<(Arc<[u8]>, Vec<usize>)>,
    slots: HashSlots,
}

impl ByValue {
    fn add(&mut self, value: Arc<[u8]>, entry: usize) {
        if let Some(number) = self.position(&value) {
            return self.values[number].1.push(entry);
        }
        self.longest = self.longest.max(value.len());
        self.values.push((value, vec![entry]));
        let Self { values, slots, .. } = self;
        slots.add(values.len() - 1, |number| hash::of_value(&values[number].0));
    }

    /// The filters that are filed under `value`.
    #[inline]
    fn get(&self, value: &[u8]) -> &[usize] {
        let found = if value.len() > self.longest { None } else { self.position(value) };
        found.and_then(|number| self.values.get(number)).map_or(&[], |(_, entries)| entries)
    }

    #[inline]
    fn position(&self, value: &[u8]) -> Option<usize> {
        self.slots.find(hash::of_value(value), |number| {
            self.values.get(number).is_some_and(|(own, _)| hash::same_value(own, value))
        })
    }
}

/// The filters that are filed under one subject.
#[derive(Debug, Default)]
pub(super) struct SubjectIndex {
    exact: ByValue,
    /// By length of the prefix.
    prefixes: Vec<(usize, ByValue)>,
    /// One pass that says whether any of `regexes` matches, where there are several.
    any_regex: Option<Regex>,
    regexes: Vec<(WholeRegex, usize)>,
    present: Vec<usize>,
    /// Whether there is nothing but `exact`.
    only_exact: bool,
}

impl SubjectIndex {
    pub(super) fn add(&mut self, test: ValueMatcher, entry: usize) {
        match test {
            ValueMatcher::Present => self.present.push(entry),
            ValueMatcher::Exact(value) => self.exact.add(value, entry),
            ValueMatcher::Prefix(value) => {
                let at = self.prefixes.iter().position(|(len, _)| *len == value.len()).unwrap_or_else(|| {
                    self.prefixes.push((value.len(), ByValue::default()));
                    self.prefixes.len() - 1
                });
                self.prefixes[at].1.add(value, entry);
            }
            ValueMatcher::Regex(regex) => self.regexes.push((regex, entry)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.values.is_empty() && self.prefixes.is_empty() && self.regexes.is_empty() && self.present.is_empty()
    }

    /// Nothing is added any more. `joint` is how many joint regexes the table may still have.
    pub(super) fn seal(&mut self, joint: &mut usize) {
        self.only_exact = self.prefixes.is_empty() && self.regexes.is_empty() && self.present.is_empty();
        if self.regexes.len() > 1 && *joint > 0 {
            *joint -= 1;
            // Too big for one automaton: they are tried one by one.
            self.any_regex = any_of(self.regexes.iter().map(|(regex, _)| regex));
        }
    }

    /// Hands every filter that is filed under something that `value` passes to `consider`.
    #[inline]
    pub(super) fn lookup(&self, value: &[u8], consider: &mut impl FnMut(usize)) {
        self.exact.get(value).iter().copied().for_each(&mut *consider);
        if !self.only_exact {
            self.lookup_others(value, consider);
        }
    }

    fn lookup_others(&self, value: &[u8], consider: &mut impl FnMut(usize)) {
        for (len, prefixes) in &self.prefixes {
            if let Some(start) = value.get(..*len) {
                prefixes.get(start).iter().copied().for_each(&mut *consider);
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
