//! What stands behind a condition's flag.
//!
//! Owns: taking name and value apart. Must not: judge them (`redir_http::filter` does, as at the agent) or word the
//! verdict (`wording` does). Called by: `conditions`, for each flag.

use std::ffi::OsStr;

use redir_http::filter::{Condition, Filter, FilterError, Mode, Subject, Test};

use crate::model::values::ConditionSubject;
use crate::wording::values as say;

/// How a flag compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComparisonKind {
    Exact,
    Prefix,
    Regex,
    Present,
}

/// The condition that a flag's value says, or why it says none.
pub(super) fn parse(place: ConditionSubject, kind: ComparisonKind, text: &OsStr) -> Result<Condition, String> {
    let text = bytes(text).ok_or_else(say::not_utf8)?;
    let (name, value) = match place {
        ConditionSubject::Path | ConditionSubject::Method => (&b""[..], text),
        _ if kind == ComparisonKind::Present => (text, &b""[..]),
        ConditionSubject::Header => split(place, text, b':').map(|(name, value)| (name, value.trim_ascii_start()))?,
        ConditionSubject::Query | ConditionSubject::Cookie | ConditionSubject::Baggage => split(place, text, b'=')?,
    };
    if value.is_empty()
        && kind != ComparisonKind::Present
        && place != ConditionSubject::Path
        && place != ConditionSubject::Method
    {
        return Err(say::empty(place, name));
    }
    let name_of = || name.to_vec();
    let subject = match place {
        ConditionSubject::Header => Subject::Header(name_of()),
        ConditionSubject::Query => Subject::Query(name_of()),
        ConditionSubject::Cookie => Subject::Cookie(name_of()),
        ConditionSubject::Baggage => Subject::Baggage(name_of()),
        ConditionSubject::Path => Subject::Path,
        ConditionSubject::Method => Subject::Method,
    };
    let test = match kind {
        ComparisonKind::Present => Test::Present,
        // A blank at the end of a whole value never arrives; at the end of a prefix it means something.
        ComparisonKind::Exact => Test::Exact(value.trim_ascii_end().to_vec()),
        ComparisonKind::Prefix => Test::Prefix(value.to_vec()),
        ComparisonKind::Regex => Test::Regex(std::str::from_utf8(value).map_err(|_| say::not_utf8())?.to_owned()),
    };
    let condition = Condition { subject, test, negate: false };
    match Filter::new(Mode::All, vec![condition.clone()]) {
        Ok(_) => Ok(condition),
        Err(why) => Err(refusal(place, name, value, &why)),
    }
}

/// The agent's own judge has refused it: why, with what was typed.
fn refusal(place: ConditionSubject, name: &[u8], value: &[u8], why: &FilterError) -> String {
    match why {
        FilterError::Name(_) => say::name(place, name),
        FilterError::Path(_) | FilterError::Value(_) | FilterError::Always(_) if place == ConditionSubject::Path => {
            path(value)
        }
        FilterError::Method(_) => {
            match value.iter().any(u8::is_ascii_lowercase) && value.iter().all(u8::is_ascii_graphic) {
                true => say::method_case(value),
                false => say::method(value),
            }
        }
        FilterError::Query(_) => say::query_value(value),
        FilterError::Value(_) => say::value(place, name),
        FilterError::Regex(_, why) if why == "it is too big" => say::regex_too_big(value),
        FilterError::Regex(_, why) => say::regex(value, why),
        other => say::filter(other),
    }
}

fn path(value: &[u8]) -> String {
    match value {
        [b'/', rest @ ..] if rest.iter().any(|byte| b"?#".contains(byte)) => say::path_query(value),
        [b'/', ..] => say::path_bytes(value),
        _ => say::path_slash(value),
    }
}

fn split(place: ConditionSubject, text: &[u8], at: u8) -> Result<(&[u8], &[u8]), String> {
    let end = text.iter().position(|byte| *byte == at).ok_or_else(|| say::no_value(place, text))?;
    Ok((&text[..end], &text[end + 1..]))
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere not every text has bytes")]
fn bytes(text: &OsStr) -> Option<&[u8]> {
    Some(std::os::unix::ffi::OsStrExt::as_bytes(text))
}

#[cfg(not(unix))]
fn bytes(text: &OsStr) -> Option<&[u8]> {
    text.to_str().map(str::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [ConditionSubject; 6] = [
        ConditionSubject::Header,
        ConditionSubject::Path,
        ConditionSubject::Method,
        ConditionSubject::Query,
        ConditionSubject::Cookie,
        ConditionSubject::Baggage,
    ];
    const KINDS: [ComparisonKind; 4] =
        [ComparisonKind::Exact, ComparisonKind::Prefix, ComparisonKind::Regex, ComparisonKind::Present];

    fn shown(place: ConditionSubject, kind: ComparisonKind, text: &str) -> String {
        parse(place, kind, OsStr::new(text)).unwrap_or_else(|why| panic!("{text}: {why}")).to_string()
    }

    fn refused(place: ConditionSubject, kind: ComparisonKind, text: &str) -> String {
        parse(place, kind, OsStr::new(text)).expect_err(text)
    }

    #[test]
    fn names_and_values_are_taken_apart() {
        for (place, kind, text, expected) in [
            (ConditionSubject::Header, ComparisonKind::Exact, "x-user:alice", "header x-user = alice"),
            (ConditionSubject::Header, ComparisonKind::Exact, "X-User: a: b=c ", "header X-User = a: b=c"),
            (ConditionSubject::Header, ComparisonKind::Prefix, "x-user: al ", "header x-user = al …"),
            (ConditionSubject::Header, ComparisonKind::Regex, "x-user: al.*|bob", "header x-user ~ al.*|bob"),
            (ConditionSubject::Header, ComparisonKind::Regex, "x-user: ^$", "header x-user ~ ^$"),
            (ConditionSubject::Header, ComparisonKind::Present, "x-user", "header x-user present"),
            (ConditionSubject::Query, ComparisonKind::Exact, "user[]=a=b", "query user[] = a=b"),
            (ConditionSubject::Query, ComparisonKind::Prefix, "q=%C3%AB", "query q = %C3%AB…"),
            (ConditionSubject::Cookie, ComparisonKind::Exact, "sid=\"a\"", "cookie sid = \\\"a\\\""),
            (ConditionSubject::Cookie, ComparisonKind::Present, "sid", "cookie sid present"),
            (ConditionSubject::Baggage, ComparisonKind::Regex, "tenant=a|b", "baggage tenant ~ a|b"),
            (ConditionSubject::Path, ComparisonKind::Exact, "/a/b", "path = /a/b"),
            (ConditionSubject::Path, ComparisonKind::Regex, "/users/[0-9]+", "path ~ /users/[0-9]+"),
            (ConditionSubject::Method, ComparisonKind::Exact, "M-SEARCH", "method = M-SEARCH"),
            (ConditionSubject::Method, ComparisonKind::Regex, "GET|HEAD", "method ~ GET|HEAD"),
        ] {
            assert_eq!(shown(place, kind, text), expected, "{text}");
        }
    }

    #[test]
    fn refusals_name_the_next_step() {
        for (place, kind, text, expected) in [
            (ConditionSubject::Header, ComparisonKind::Exact, "alice", "no colon"),
            (ConditionSubject::Header, ComparisonKind::Exact, "x user: a", "header name"),
            (ConditionSubject::Header, ComparisonKind::Exact, "x-user:  ", "--header-present x-user"),
            (ConditionSubject::Header, ComparisonKind::Prefix, "x-user:", "--header-regex 'x-user: ^$'"),
            (ConditionSubject::Header, ComparisonKind::Exact, "x-user: a\u{7}", "control"),
            (ConditionSubject::Query, ComparisonKind::Exact, "user", "no ="),
            (ConditionSubject::Query, ComparisonKind::Exact, "user=", "--query-present user"),
            (ConditionSubject::Query, ComparisonKind::Exact, "q=zoë x&", "zo%C3%AB%20x%26"),
            (ConditionSubject::Query, ComparisonKind::Present, "user&", "query parameter"),
            (ConditionSubject::Cookie, ComparisonKind::Exact, "sid", "no ="),
            (ConditionSubject::Cookie, ComparisonKind::Exact, "sid=a;b", "`;`"),
            (ConditionSubject::Cookie, ComparisonKind::Exact, "=a", "cookie"),
            (ConditionSubject::Baggage, ComparisonKind::Exact, "tenant=a,b", "`,`"),
            (ConditionSubject::Baggage, ComparisonKind::Regex, "tenant=", "--baggage-regex 'tenant=^$'"),
            (ConditionSubject::Path, ComparisonKind::Exact, "api", "write /api"),
            (ConditionSubject::Path, ComparisonKind::Exact, "", "write /"),
            (ConditionSubject::Path, ComparisonKind::Prefix, "/a?b=c", "--query"),
            (ConditionSubject::Path, ComparisonKind::Exact, "/caf\u{e9} x", "/caf%C3%A9%20x"),
            (ConditionSubject::Path, ComparisonKind::Regex, "(", "unclosed group"),
            (ConditionSubject::Path, ComparisonKind::Regex, "(a{1000}){1000}", "too big"),
            (ConditionSubject::Method, ComparisonKind::Exact, "get", "write GET"),
            (ConditionSubject::Method, ComparisonKind::Exact, "GE T", "POST"),
            (ConditionSubject::Method, ComparisonKind::Exact, "", "POST"),
        ] {
            let why = refused(place, kind, text);
            assert!(why.contains(expected), "{text}: {why}");
        }
    }

    /// Whatever is typed: a condition or an answer in one line, no panic.
    #[test]
    fn any_text_gets_one_line() {
        let alphabet: Vec<char> = "az09:=,/.-_[](){}*+?\\&;# \t\n\u{1b}é\0".chars().collect();
        let mut state = 42_u64;
        for round in 0..2_000_usize {
            let text: String = (0..round % 13)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    alphabet[usize::try_from(state >> 33).unwrap() % alphabet.len()]
                })
                .collect();
            for (place, kind) in PLACES.iter().flat_map(|place| KINDS.map(|kind| (*place, kind))) {
                if let Err(why) = parse(place, kind, OsStr::new(&text)) {
                    assert!(
                        why.len() > 20 && why.bytes().all(|b| (0x20..=0x7e).contains(&b)),
                        "{text:?} gives {why:?}"
                    );
                }
            }
        }
    }
}
