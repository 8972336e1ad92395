//! Two conditions side by side: whether one says that the other holds, and whether both can.
//!
//! Owns: the comparison of conditions. Must not: claim more than it can prove. Called by: `overlap`, and `validate` for
//! conditions of one filter.

use std::sync::Arc;

use super::pattern::{CompiledPattern, ValueStart};
use super::{Condition, Subject, Test};

/// A condition with its compiled regex, if it has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompiledCondition<'a> {
    pub(super) subject: &'a Subject,
    pub(super) test: &'a Test,
    pub(super) pattern: Option<&'a CompiledPattern>,
    pub(super) value: &'a Arc<[u8]>,
    pub(super) negate: bool,
}

/// Whether two conditions can hold for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exclusion {
    /// They can, as far as is known.
    No,
    /// Only if the request has a header, a parameter, a cookie or a member more than once.
    UnlessRepeated,
    /// They cannot.
    Always,
}

impl<'a> CompiledCondition<'a> {
    pub(super) fn new(condition: &'a Condition, pattern: Option<&'a CompiledPattern>, value: &'a Arc<[u8]>) -> Self {
        Self { subject: &condition.subject, test: &condition.test, pattern, value, negate: condition.negate }
    }

    /// Whether this condition holds only where `other` holds too.
    pub(super) fn implies(self, other: Self) -> bool {
        if !same(self.subject, other.subject) {
            return false;
        }
        match (self.negate, other.negate) {
            (false, false) => self.passes_only(other),
            (true, true) => other.passes_only(self),
            (false, true) => self.never_with(other) == Exclusion::Always,
            (true, false) => false,
        }
    }

    /// Whether this condition and `other` can hold together.
    pub(super) fn apart(self, other: Self) -> Exclusion {
        if !same(self.subject, other.subject) {
            return Exclusion::No;
        }
        match (self.negate, other.negate) {
            (false, false) => self.never_with(other),
            (false, true) if self.passes_only(other) => Exclusion::Always,
            (true, false) if other.passes_only(self) => Exclusion::Always,
            _ => Exclusion::No,
        }
    }

    /// Whether one of the two holds for every request.
    pub(super) fn cover(self, other: Self) -> bool {
        let turned = |of: Self| Self { negate: !of.negate, ..of };
        turned(self).apart(turned(other)) == Exclusion::Always
    }

    /// Whether every value that passes this test passes the other's.
    fn passes_only(self, other: Self) -> bool {
        if self.test == other.test {
            return true;
        }
        let Some(starts) = self.starts() else { return *other.test == Test::Present };
        starts.iter().all(|start| match other.test {
            Test::Present => true,
            Test::Prefix(wanted) => start.bytes.starts_with(wanted),
            Test::Exact(_) | Test::Regex(_) => start.whole && other.passes(&start.bytes),
        })
    }

    /// Whether no value passes both tests, and then whether a request can have two values.
    fn never_with(self, other: Self) -> Exclusion {
        let alone = |start: &ValueStart, test: Self| start.whole && !test.passes(&start.bytes);
        let excluded = |a: &ValueStart, b: &ValueStart| match (a.whole, b.whole) {
            (true, _) => alone(a, other),
            (_, true) => alone(b, self),
            (false, false) => !a.bytes.starts_with(&b.bytes) && !b.bytes.starts_with(&a.bytes),
        };
        let never = match (self.starts(), other.starts()) {
            (Some(a), Some(b)) => a.iter().all(|a| b.iter().all(|b| excluded(a, b))),
            (Some(a), None) => a.iter().all(|a| alone(a, other)),
            (None, Some(b)) => b.iter().all(|b| alone(b, self)),
            (None, None) => false,
        };
        match self.subject {
            _ if !never => Exclusion::No,
            Subject::Path | Subject::Method => Exclusion::Always,
            Subject::Header(_) | Subject::Query(_) | Subject::Cookie(_) | Subject::Baggage(_) => {
                Exclusion::UnlessRepeated
            }
        }
    }

    /// What the values begin with that pass the test.
    fn starts(self) -> Option<Vec<ValueStart>> {
        match self.test {
            Test::Present => Some(vec![ValueStart { bytes: vec![], whole: false }]),
            Test::Exact(value) => Some(vec![ValueStart { bytes: value.clone(), whole: true }]),
            Test::Prefix(value) => Some(vec![ValueStart { bytes: value.clone(), whole: false }]),
            Test::Regex(_) => self.pattern?.starts.clone(),
        }
    }

    /// Whether a value passes the test.
    fn passes(self, value: &[u8]) -> bool {
        match self.test {
            Test::Present => true,
            Test::Exact(wanted) => wanted == value,
            Test::Prefix(wanted) => value.starts_with(wanted),
            Test::Regex(_) => self.pattern.is_some_and(|pattern| pattern.regex.is_match(value)),
        }
    }
}

fn same(a: &Subject, b: &Subject) -> bool {
    match (a, b) {
        (Subject::Header(a), Subject::Header(b)) => a.eq_ignore_ascii_case(b),
        (a, b) => a == b,
    }
}
