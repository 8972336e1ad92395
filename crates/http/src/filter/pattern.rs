//! A regex of a condition: compiled for whole values, and what its matches begin with.
//!
//! Owns: the compilation and its limits. Must not: know what the value is. Called by: `validate`, `compare`.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::{ParserBuilder, hir::literal::Extractor};

/// The longest regex, in bytes, and the memory one may take once compiled, in bytes: each connection of the node may run it.
pub const MAX_REGEX: usize = 1024;
const MAX_COMPILED: usize = 256 * 1024;
/// How deep groups may be nested.
const MAX_NESTED: u32 = 50;

/// A compiled regex.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// Matches whole values.
    pub(super) regex: Regex,
    /// Every value that it matches begins with one of these, or is it; `None` if that is not known.
    pub(super) starts: Option<Vec<Start>>,
}

/// What values begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) bytes: Vec<u8>,
    /// The value is this and goes no further.
    pub(super) whole: bool,
}

impl Pattern {
    /// Compiles a regex for whole values. It is compiled alone first: `a)|(b` must not become valid by being wrapped.
    pub(super) fn new(pattern: &str) -> Result<Self, regex::Error> {
        if pattern.len() > MAX_REGEX {
            return Err(regex::Error::CompiledTooBig(MAX_REGEX));
        }
        compile(pattern)?;
        Ok(Self { regex: compile(&format!(r"\A(?:{pattern})\z"))?, starts: starts(pattern) })
    }
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .nest_limit(MAX_NESTED)
        .build()
}

fn starts(pattern: &str) -> Option<Vec<Start>> {
    let hir = ParserBuilder::new().unicode(false).utf8(false).nest_limit(MAX_NESTED).build().parse(pattern).ok()?;
    let found = Extractor::new().extract(&hir);
    let starts = found.literals()?.iter();
    Some(starts.map(|start| Start { bytes: start.as_bytes().to_vec(), whole: start.is_exact() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches_begin_with_is_known() {
        let starts = |pattern: &str| {
            let starts = Pattern::new(pattern).unwrap().starts?;
            let shown = |start: &Start| start.bytes.escape_ascii().to_string() + if start.whole { "" } else { "*" };
            Some(starts.iter().map(shown).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(starts("alice|bob").as_deref(), Some("alice bob"));
        assert_eq!(starts("^/api/v[12]/.*$").as_deref(), Some("/api/v1/* /api/v2/*"));
        assert_eq!(starts("(?i)al").as_deref(), Some("AL Al aL al"));
        assert_eq!(starts("^$").as_deref(), Some(""));
        assert_eq!(starts(r"zo\xeb").as_deref(), Some(r"zo\xeb"));
        assert_eq!(starts(".*x").as_deref(), None);
    }
}
