//! Filters, filed under a value that they must find.
//!
//! Owns: the lookup of one value of a request. Must not: know which value it is, or decide.
//! Called by: `Table`, with each value that a request has.

use std::collections::HashMap;

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};

use super::condition::Matcher;

/// The memory that running the joint regex may take on each thread, in bytes: as much as one filter's regex.
const MAX_CACHE: usize = 256 * 1024;

/// Filters, by the bytes that they are filed under.
pub(super) type ByValue = HashMap<Box<[u8]>, Vec<usize>>;

/// The filters that are filed under one subject.
#[derive(Debug, Default)]
pub(super) struct Index {
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

impl Index {
    pub(super) fn add(&mut self, test: Matcher, entry: usize) {
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

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.regexes.is_empty() && self.present.is_empty()
    }

    pub(super) fn seal(&mut self) {
        if self.regexes.len() > 1 {
            // Too big for one automaton: they are tried one by one.
            let patterns = self.regexes.iter().map(|(regex, _)| regex.as_str());
            self.any_regex = RegexSetBuilder::new(patterns).unicode(false).dfa_size_limit(MAX_CACHE).build().ok();
        }
    }

    /// Hands every filter that is filed under something that `value` passes to `consider`.
    pub(super) fn lookup(&self, value: &[u8], consider: &mut impl FnMut(usize)) {
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
