//! A regex of a condition: compiled for whole values, and what its matches begin with.
//!
//! Owns: the compilation and its limits. Must not: know what the value is. Called by: `validate`, `compare`, `index`.

use std::sync::Arc;

use regex_automata::meta;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::util::syntax;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, literal::Extractor};

/// The longest regex, in bytes.
pub const MAX_REGEX: usize = 1024;
/// The memory that each automaton of one regex may take once compiled, in bytes.
const MAX_COMPILED: usize = 256 * 1024;
/// The memory that running a regex may take on each thread, in bytes: the states of some fifty characters. One that needs
/// more forgets what it has and begins anew.
const MAX_CACHE: usize = 32 * 1024;
/// The same for the regexes of a value together, of which each table has its own.
const MAX_JOINT: usize = 128 * 1024;
/// How deep groups may be nested.
const MAX_NESTED: u32 = 50;

/// A compiled regex.
#[derive(Clone, Debug)]
pub(super) struct CompiledPattern {
    /// Matches whole values.
    pub(super) regex: WholeRegex,
    /// Every value that it matches begins with one of these, or is it; `None` if that is not known.
    pub(super) starts: Option<Vec<ValueStart>>,
}

/// What values begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ValueStart {
    pub(super) bytes: Vec<u8>,
    /// The value is this and goes no further.
    pub(super) whole: bool,
}

/// A regex for whole values. Clones share the compiled form and what running it needs.
#[derive(Clone, Debug)]
pub(super) struct WholeRegex {
    regex: Arc<meta::Regex>,
    text: Arc<str>,
}

/// Why a regex is refused.
#[derive(Debug)]
pub(super) enum PatternError {
    /// It, or what it compiles to, is larger than the limits.
    TooBig,
    /// It is no regex.
    Syntax(Box<regex_syntax::Error>),
}

impl CompiledPattern {
    /// Compiles a regex for whole values. It is parsed alone first: `a)|(b` must not become valid by being wrapped.
    pub(super) fn new(pattern: &str) -> Result<Self, PatternError> {
        if pattern.len() > MAX_REGEX {
            return Err(PatternError::TooBig);
        }
        let parser = ParserBuilder::new().unicode(false).utf8(false).nest_limit(MAX_NESTED).build().parse(pattern);
        let parsed = parser.map_err(|error| PatternError::Syntax(Box::new(error)))?;
        Ok(Self { regex: WholeRegex::new(pattern)?, starts: starts(&parsed) })
    }
}

impl WholeRegex {
    fn new(pattern: &str) -> Result<Self, PatternError> {
        let text = format!(r"\A(?:{pattern})\z");
        // Alone it could be parsed; wrapped it is nested once more.
        let regex = builder(MAX_COMPILED, MAX_CACHE).build(&text).map_err(|_| PatternError::TooBig)?;
        Ok(Self { regex: Arc::new(regex), text: text.into() })
    }

    pub(super) fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The memory that the compiled regex takes, in bytes.
    pub(super) fn size(&self) -> usize {
        self.regex.memory_usage()
    }
}

/// One automaton that says whether any of these regexes matches; `None` if it would be too big.
pub(super) fn any_of<'a>(regexes: impl Iterator<Item = &'a WholeRegex>) -> Option<meta::Regex> {
    let texts: Vec<&str> = regexes.map(WholeRegex::as_str).collect();
    builder(MAX_JOINT, MAX_JOINT).build_many(&texts).ok()
}

fn builder(most: usize, cache: usize) -> meta::Builder {
    let limits = meta::Config::new()
        .nfa_size_limit(Some(most))
        .hybrid_cache_capacity(cache)
        // Off whatever features the rest of a build turns on: the same regex must have the same size everywhere.
        .onepass(false)
        .dfa(false)
        .backtrack(false)
        // Whether it matches is all that is asked.
        .which_captures(WhichCaptures::None)
        .utf8_empty(false);
    let mut builder = meta::Builder::new();
    builder.configure(limits).syntax(syntax::Config::new().unicode(false).utf8(false).nest_limit(MAX_NESTED + 1));
    builder
}

fn starts(parsed: &Hir) -> Option<Vec<ValueStart>> {
    let found = Extractor::new().extract(parsed);
    let starts = found.literals()?.iter();
    Some(starts.map(|start| ValueStart { bytes: start.as_bytes().to_vec(), whole: start.is_exact() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches_begin_with_is_known() {
        let starts = |pattern: &str| {
            let starts = CompiledPattern::new(pattern).unwrap().starts?;
            let shown =
                |start: &ValueStart| start.bytes.escape_ascii().to_string() + if start.whole { "" } else { "*" };
            Some(starts.iter().map(shown).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(starts("alice|bob").as_deref(), Some("alice bob"));
        assert_eq!(starts("^/api/v[12]/.*$").as_deref(), Some("/api/v1/* /api/v2/*"));
        assert_eq!(starts("(?i)al").as_deref(), Some("AL Al aL al"));
        assert_eq!(starts("^$").as_deref(), Some(""));
        assert_eq!(starts(r"zo\xeb").as_deref(), Some(r"zo\xeb"));
        assert_eq!(starts(".*x").as_deref(), None);
    }

    /// An automaton takes memory in proportion to what it spells out: one that would be too big is given up on the way.
    #[test]
    fn what_would_be_too_big_is_refused_quickly() {
        let began = std::time::Instant::now();
        for pattern in [
            "(a{1000}){1000}",
            "((a{100}){100}){100}",
            "(((((a{9}){9}){9}){9}){9}){9}",
            "(?:){1000000000}x{20000}",
            "(a?){4000}(b?){4000}",
            "[^a]{20000}",
            &"(a|b|c|d){99}".repeat(78),
        ] {
            assert!(matches!(CompiledPattern::new(pattern), Err(PatternError::TooBig)), "{pattern}");
        }
        let took = began.elapsed();
        assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn what_people_write_is_small() {
        for pattern in
            ["alice|bob", r"[a-z]+-\d{1,6}", "^/api/v[12]/.*$", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", ".*x.*"]
        {
            let size = CompiledPattern::new(pattern).unwrap().regex.size();
            assert!(size < 8 * 1024, "{pattern} takes {size} bytes");
        }
    }
}
