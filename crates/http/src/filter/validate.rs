//! What a filter may say.
//!
//! Owns: the checks and their sentences. Must not: accept a condition that can never hold or always holds: it is a typing
//! error, and a silent one. Called by: `Filter::new`.

use std::fmt;

use super::compare::{CompiledCondition, Exclusion};
use super::pattern::{CompiledPattern, PatternError};
use super::{Condition, Filter, Mode, Subject, Test};
use crate::bytes;

/// The longest name of a condition, in bytes: far above what is typed, far below a message's limit.
pub const MAX_NAME: usize = 256;
/// The same of a value.
pub const MAX_VALUE: usize = 4096;

/// Why a filter is refused. `Display` is a sentence that ends with the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// No condition at all.
    Empty,
    /// More than [`Filter::MAX_CONDITIONS`].
    TooMany(usize),
    /// A name that no header, parameter, cookie or member can have.
    Name(Subject),
    /// A value that cannot occur.
    Value(Condition),
    /// A condition on something that is always there.
    Always(Condition),
    /// A path that cannot occur.
    Path(Condition),
    /// A value of a query parameter that cannot occur.
    Query(Condition),
    /// A method that cannot occur, or is compared otherwise than exactly or by a regex.
    Method(Condition),
    /// Two conditions that must both hold and never do.
    Never(Box<[Condition; 2]>),
    /// Two conditions of which one always holds, and one is enough.
    Everything(Box<[Condition; 2]>),
    /// A regex that does not compile, and why.
    Regex(Condition, String),
    /// Conditions that are too big together.
    TooBig,
    /// CORS preflights are asked for, and no condition is about a header that they could name.
    Preflights,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the filter is empty: give at least one condition"),
            Self::TooMany(count) => {
                write!(
                    f,
                    "the filter has {count} conditions: use at most {}, or one regex for several",
                    Filter::MAX_CONDITIONS
                )
            }
            Self::Name(subject) => write!(
                f,
                "\"{subject}\" has no valid name: use 1 to {MAX_NAME} letters, digits, '-', '_' and '.', and put the value behind ':' or '='"
            ),
            Self::Value(condition) => write!(
                f,
                "\"{condition}\" can never hold: use at most {MAX_VALUE} bytes without line breaks, control bytes or spaces around the value"
            ),
            Self::Always(condition) => write!(f, "\"{condition}\" always holds: give the value that it must have"),
            Self::Path(condition) => {
                write!(f, "\"{condition}\" can never hold: begin the path with '/', and leave out '?' and what follows")
            }
            Self::Query(condition) => write!(
                f,
                "\"{condition}\" can never hold: write the value as it is in the request, with %XX for what is not printable ASCII, and at most {MAX_VALUE} bytes"
            ),
            Self::Method(condition) => write!(
                f,
                "\"{condition}\" can never hold: give one method exactly, in upper case, like GET, or a regex like GET|HEAD"
            ),
            Self::Never(both) => write!(
                f,
                "no request has both \"{}\" and \"{}\": leave one out, or let one of the conditions be enough (any)",
                both[0], both[1]
            ),
            Self::Everything(both) => write!(
                f,
                "every request has \"{}\" or \"{}\": leave one out, or let all of the conditions be needed (all)",
                both[0], both[1]
            ),
            Self::TooBig => write!(
                f,
                "the filter takes more than {} KiB once its regexes are compiled: use fewer or shorter ones, without large counts such as {{1000}}",
                Filter::MAX_SIZE / 1024
            ),
            Self::Preflights => f.write_str(
                "no condition is about a header that a CORS preflight could ask for: add one, or leave the preflights out",
            ),
            Self::Regex(condition, why) => write!(
                f,
                "\"{condition}\" is no usable regex ({why}): use the syntax of https://docs.rs/regex, which has no look-around and no back-references"
            ),
        }
    }
}

impl std::error::Error for FilterError {}

pub(super) fn count(conditions: usize) -> Result<(), FilterError> {
    match conditions {
        0 => Err(FilterError::Empty),
        1..=Filter::MAX_CONDITIONS => Ok(()),
        _ => Err(FilterError::TooMany(conditions)),
    }
}

/// Checks the conditions against each other: a filter that can never hold, or always does, is a mistake too.
pub(super) fn together(filter: &Filter) -> Result<(), FilterError> {
    let compiled: Vec<CompiledCondition<'_>> = filter.compiled().collect();
    let absurd = |one: CompiledCondition<'_>, other: CompiledCondition<'_>| match filter.mode {
        Mode::All => one.apart(other) == Exclusion::Always,
        Mode::Any => one.cover(other),
    };
    for (n, one) in compiled.iter().enumerate() {
        if let Some(m) = compiled[..n].iter().position(|other| absurd(*one, *other)) {
            let both = Box::new([m, n].map(|at| filter.conditions[at].clone()));
            return Err(match filter.mode {
                Mode::All => FilterError::Never(both),
                Mode::Any => FilterError::Everything(both),
            });
        }
    }
    Ok(())
}

/// Checks one condition, and compiles its regex.
pub(super) fn condition(condition: &Condition) -> Result<Option<CompiledPattern>, FilterError> {
    name(&condition.subject)?;
    match (&condition.subject, &condition.test) {
        (Subject::Method, Test::Exact(method)) if is_method(method) => {}
        (Subject::Method, Test::Regex(_)) => {}
        (Subject::Method, _) => return Err(FilterError::Method(condition.clone())),
        (Subject::Path, Test::Present) => return Err(FilterError::Always(condition.clone())),
        (Subject::Path, Test::Exact(path) | Test::Prefix(path)) if !is_path(path) => {
            return Err(FilterError::Path(condition.clone()));
        }
        (Subject::Query(_), Test::Exact(value) | Test::Prefix(value)) if !is_query_value(value) => {
            return Err(FilterError::Query(condition.clone()));
        }
        _ => {}
    }
    match &condition.test {
        Test::Present => Ok(None),
        Test::Prefix(value) if value.is_empty() => Err(FilterError::Always(condition.clone())),
        Test::Exact(value) | Test::Prefix(value) if !occurs(&condition.subject, &condition.test, value) => {
            Err(FilterError::Value(condition.clone()))
        }
        Test::Exact(_) | Test::Prefix(_) => Ok(None),
        Test::Regex(pattern) => CompiledPattern::new(pattern)
            .map(Some)
            .map_err(|error| FilterError::Regex(condition.clone(), one_line(&error))),
    }
}

fn name(subject: &Subject) -> Result<(), FilterError> {
    let (name, valid): (_, fn(u8) -> bool) = match subject {
        Subject::Path | Subject::Method => return Ok(()),
        Subject::Header(name) | Subject::Cookie(name) | Subject::Baggage(name) => (name, bytes::is_token),
        Subject::Query(name) => (name, |byte| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'&' | b'=' | b'#')),
    };
    let fits = !name.is_empty() && name.len() <= MAX_NAME;
    if fits && name.iter().all(|&byte| valid(byte)) { Ok(()) } else { Err(FilterError::Name(subject.clone())) }
}

fn is_method(method: &[u8]) -> bool {
    !method.is_empty() && method.len() <= 32 && bytes::method_end(method, 0) == method.len()
}

/// As requests send it; OPTIONS alone has `*`.
fn is_path(path: &[u8]) -> bool {
    let rooted = path.first() == Some(&b'/') || path == b"*";
    rooted && bytes::target_end(path, 0) == path.len() && !path.contains(&b'?') && !path.contains(&b'#')
}

fn is_query_value(value: &[u8]) -> bool {
    value.len() <= MAX_VALUE && bytes::target_end(value, 0) == value.len() && !value.contains(&b'&')
}

/// Whether some request could have `value` there.
fn occurs(subject: &Subject, test: &Test, value: &[u8]) -> bool {
    let separators: &[u8] = match subject {
        Subject::Header(_) | Subject::Path | Subject::Method | Subject::Query(_) => b"",
        Subject::Cookie(_) => b";",
        Subject::Baggage(_) => b",;",
    };
    let spaced = match test {
        Test::Exact(_) => bytes::trimmed(value) != value,
        _ => matches!(value.first(), Some(b' ' | b'\t')),
    };
    value.len() <= MAX_VALUE
        && !spaced
        && value.iter().all(|&byte| bytes::is_value(byte) && !separators.contains(&byte))
}

fn one_line(error: &PatternError) -> String {
    match error {
        PatternError::TooBig => "it is too big".to_owned(),
        PatternError::Syntax(error) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::MAX_REGEX;
    use super::*;

    fn check(subject: Subject, test: Test) -> Result<Filter, FilterError> {
        Filter::new(Mode::All, vec![Condition { subject, test, negate: false }])
    }

    fn header(name: &str, test: Test) -> Result<Filter, FilterError> {
        check(Subject::Header(name.into()), test)
    }

    #[test]
    fn what_people_write_is_accepted() {
        for test in [
            Test::Present,
            Test::Exact(b"alice".into()),
            Test::Exact(b"".into()),
            Test::Exact(b"a, b; c".into()),
            Test::Exact("zo\u{eb}".into()),
            Test::Prefix(b"Bearer ".into()),
            Test::Regex("a|b".into()),
            Test::Regex("".into()),
        ] {
            assert!(header("x-user", test.clone()).is_ok(), "{test:?}");
        }
        assert!(check(Subject::Path, Test::Exact(b"/a".into())).is_ok());
        assert!(check(Subject::Path, Test::Prefix(b"/".into())).is_ok());
        assert!(check(Subject::Method, Test::Exact(b"M-SEARCH".into())).is_ok());
        assert!(check(Subject::Method, Test::Regex("GET|HEAD".into())).is_ok());
        assert!(check(Subject::Query(b"user[]".into()), Test::Exact(b"a=b".into())).is_ok());
        assert!(check(Subject::Cookie(b"sid".into()), Test::Prefix(b"a".into())).is_ok());
        assert!(check(Subject::Baggage(b"tenant".into()), Test::Present).is_ok());
    }

    #[test]
    fn what_can_never_hold_is_refused_with_the_next_step() {
        let errors = [
            Filter::new(Mode::All, vec![]),
            header("", Test::Present),
            header("x user", Test::Present),
            header("x-user:", Test::Present),
            header(&"x".repeat(MAX_NAME + 1), Test::Present),
            header("x-user", Test::Exact(b" alice".into())),
            header("x-user", Test::Exact(b"alice ".into())),
            header("x-user", Test::Exact(b"a\r\nb".into())),
            header("x-user", Test::Exact(vec![b'a'; MAX_VALUE + 1])),
            header("x-user", Test::Prefix(b"".into())),
            header("x-user", Test::Prefix(b" a".into())),
            header("x-user", Test::Regex("(".into())),
            header("x-user", Test::Regex("a)|(b".into())),
            header("x-user", Test::Regex("(?=a)".into())),
            header("x-user", Test::Regex("x".repeat(MAX_REGEX + 1))),
            header("x-user", Test::Regex("(a{1000}){1000}".into())),
            check(Subject::Path, Test::Present),
            check(Subject::Path, Test::Exact(b"a".into())),
            check(Subject::Path, Test::Exact(b"/a?b".into())),
            check(Subject::Path, Test::Prefix(b"/a b".into())),
            check(Subject::Method, Test::Exact(b"get".into())),
            check(Subject::Method, Test::Prefix(b"GE".into())),
            check(Subject::Method, Test::Present),
            check(Subject::Query(b"a&b".into()), Test::Present),
            check(Subject::Query(b"a".into()), Test::Exact(b"b&c".into())),
            check(Subject::Query(b"a".into()), Test::Exact("zo\u{eb}".into())),
            check(Subject::Query(b"a".into()), Test::Prefix(b"a b".into())),
            check(Subject::Cookie(b"sid".into()), Test::Exact(b"a;b".into())),
            check(Subject::Baggage(b"t".into()), Test::Exact(b"a,b".into())),
        ];
        for error in errors {
            let sentence = error.unwrap_err().to_string();
            assert!(sentence.contains(": ") && !sentence.contains('\n') && sentence.len() < 6000, "{sentence}");
        }
        let path = |test| Condition { subject: Subject::Path, test, negate: false };
        let user = |test| Condition { subject: Subject::Header(b"x-user".into()), test, negate: false };
        let not = |condition| Condition { negate: true, ..condition };
        let (a, b) = (path(Test::Exact(b"/a".into())), path(Test::Prefix(b"/b".into())));
        let alice = || user(Test::Exact(b"alice".into()));
        for (mode, conditions, valid) in [
            (Mode::All, vec![a.clone(), b.clone()], false),
            (Mode::Any, vec![a.clone(), b.clone()], true),
            (Mode::Any, vec![not(a.clone()), not(b.clone())], false),
            (Mode::All, vec![not(a.clone()), not(b)], true),
            (Mode::All, vec![alice(), user(Test::Exact(b"bob".into()))], true), // the header may occur twice
            (Mode::All, vec![alice(), not(user(Test::Present))], false),
            (Mode::All, vec![user(Test::Present), not(alice())], true),
            (Mode::Any, vec![user(Test::Present), not(alice())], false),
            (Mode::Any, vec![alice(), not(alice())], false),
        ] {
            let error = Filter::new(mode, conditions.clone()).err();
            let expected = |error: &FilterError| match mode {
                Mode::All => matches!(error, FilterError::Never(..)),
                Mode::Any => matches!(error, FilterError::Everything(..)),
            };
            assert!(
                if valid { error.is_none() } else { error.as_ref().is_some_and(expected) },
                "{conditions:?}: {error:?}"
            );
        }
        let many = vec![Condition { subject: Subject::Path, test: Test::Exact(b"/".into()), negate: false }; 33];
        assert_eq!(Filter::new(Mode::Any, many).unwrap_err(), FilterError::TooMany(33));
    }

    #[test]
    fn regexes_are_bounded_together() {
        let is = |n: usize, test| Condition { subject: Subject::Header(format!("x-{n}").into()), test, negate: false };
        let regexes = |each: &dyn Fn(usize) -> String| {
            let conditions = (0..Filter::MAX_CONDITIONS).map(|n| is(n, Test::Regex(each(n)))).collect();
            Filter::new(Mode::Any, conditions)
        };
        let usual = regexes(&|n| format!(r"(?i)team-{n}-[a-z0-9-]+\.example\.(com|org)")).expect("what people write");
        assert!(usual.size() <= Filter::MAX_SIZE, "{}", usual.size());
        assert!(usual.with_preflights().expect("as well").size() <= Filter::MAX_SIZE);
        // Each is within the limits of one.
        let large = |n: usize| format!("{n}[^a]{{500}}");
        let alone = Filter::new(Mode::Any, vec![is(1, Test::Regex(large(1)))]).expect("one is not too big");
        assert!(alone.size() > Filter::MAX_SIZE / Filter::MAX_CONDITIONS, "{}", alone.size());
        let error = regexes(&large).expect_err("too big together");
        assert_eq!(error, FilterError::TooBig);
        assert!(error.to_string().contains("256 KiB") && error.to_string().contains(": use fewer"), "{error}");
    }
}
