//! What stands behind a condition's flag.
//!
//! Owns: taking name and value apart. Must not: judge them (`redir_http::filter` does, as at the agent) or word the
//! verdict (`wording` does). Called by: `conditions`, for each flag.

use std::ffi::OsStr;

use redir_http::filter::{Condition, Filter, FilterError, Mode, Subject, Test};

use crate::wording::values as say;

/// What of a request a flag looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Header,
    Path,
    Method,
    Query,
    Cookie,
    Baggage,
}

/// How a flag compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exact,
    Prefix,
    Regex,
    Present,
}

/// The condition that a flag's value says, or why it says none.
pub(super) fn parse(place: Place, kind: Kind, text: &OsStr) -> Result<Condition, String> {
    let text = bytes(text).ok_or_else(say::not_utf8)?;
    let (name, value) = match place {
        Place::Path | Place::Method => (&b""[..], text),
        _ if kind == Kind::Present => (text, &b""[..]),
        Place::Header => split(place, text, b':').map(|(name, value)| (name, value.trim_ascii_start()))?,
        Place::Query | Place::Cookie | Place::Baggage => split(place, text, b'=')?,
    };
    if value.is_empty() && kind != Kind::Present && place != Place::Path && place != Place::Method {
        return Err(say::empty(place, name));
    }
    let name_of = || name.to_vec();
    let subject = match place {
        Place::Header => Subject::Header(name_of()),
        Place::Query => Subject::Query(name_of()),
        Place::Cookie => Subject::Cookie(name_of()),
        Place::Baggage => Subject::Baggage(name_of()),
        Place::Path => Subject::Path,
        Place::Method => Subject::Method,
    };
    let test = match kind {
        Kind::Present => Test::Present,
        // A blank at the end of a whole value never arrives; at the end of a prefix it means something.
        Kind::Exact => Test::Exact(value.trim_ascii_end().to_vec()),
        Kind::Prefix => Test::Prefix(value.to_vec()),
        Kind::Regex => Test::Regex(std::str::from_utf8(value).map_err(|_| say::not_utf8())?.to_owned()),
    };
    let condition = Condition { subject, test, negate: false };
    match Filter::new(Mode::All, vec![condition.clone()]) {
        Ok(_) => Ok(condition),
        Err(why) => Err(refusal(place, name, value, &why)),
    }
}

/// The agent's own judge has refused it: why, with what was typed.
fn refusal(place: Place, name: &[u8], value: &[u8], why: &FilterError) -> String {
    match why {
        FilterError::Name(_) => say::name(place, name),
        FilterError::Path(_) | FilterError::Value(_) | FilterError::Always(_) if place == Place::Path => path(value),
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

fn split(place: Place, text: &[u8], at: u8) -> Result<(&[u8], &[u8]), String> {
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

    const PLACES: [Place; 6] = [Place::Header, Place::Path, Place::Method, Place::Query, Place::Cookie, Place::Baggage];
    const KINDS: [Kind; 4] = [Kind::Exact, Kind::Prefix, Kind::Regex, Kind::Present];

    fn shown(place: Place, kind: Kind, text: &str) -> String {
        parse(place, kind, OsStr::new(text)).unwrap_or_else(|why| panic!("{text}: {why}")).to_string()
    }

    fn refused(place: Place, kind: Kind, text: &str) -> String {
        parse(place, kind, OsStr::new(text)).expect_err(text)
    }

    #[test]
    fn names_and_values_are_taken_apart() {
        for (place, kind, text, expected) in [
            (Place::Header, Kind::Exact, "x-user:alice", "header x-user = alice"),
            (Place::Header, Kind::Exact, "X-User: a: b=c ", "header X-User = a: b=c"),
            (Place::Header, Kind::Prefix, "x-user: al ", "header x-user = al …"),
            (Place::Header, Kind::Regex, "x-user: al.*|bob", "header x-user ~ al.*|bob"),
            (Place::Header, Kind::Regex, "x-user: ^$", "header x-user ~ ^$"),
            (Place::Header, Kind::Present, "x-user", "header x-user present"),
            (Place::Query, Kind::Exact, "user[]=a=b", "query user[] = a=b"),
            (Place::Query, Kind::Prefix, "q=%C3%AB", "query q = %C3%AB…"),
            (Place::Cookie, Kind::Exact, "sid=\"a\"", "cookie sid = \\\"a\\\""),
            (Place::Cookie, Kind::Present, "sid", "cookie sid present"),
            (Place::Baggage, Kind::Regex, "tenant=a|b", "baggage tenant ~ a|b"),
            (Place::Path, Kind::Exact, "/a/b", "path = /a/b"),
            (Place::Path, Kind::Regex, "/users/[0-9]+", "path ~ /users/[0-9]+"),
            (Place::Method, Kind::Exact, "M-SEARCH", "method = M-SEARCH"),
            (Place::Method, Kind::Regex, "GET|HEAD", "method ~ GET|HEAD"),
        ] {
            assert_eq!(shown(place, kind, text), expected, "{text}");
        }
    }

    #[test]
    fn refusals_name_the_next_step() {
        for (place, kind, text, expected) in [
            (Place::Header, Kind::Exact, "alice", "no colon"),
            (Place::Header, Kind::Exact, "x user: a", "header name"),
            (Place::Header, Kind::Exact, "x-user:  ", "--header-present x-user"),
            (Place::Header, Kind::Prefix, "x-user:", "--header-regex 'x-user: ^$'"),
            (Place::Header, Kind::Exact, "x-user: a\u{7}", "control"),
            (Place::Query, Kind::Exact, "user", "no ="),
            (Place::Query, Kind::Exact, "user=", "--query-present user"),
            (Place::Query, Kind::Exact, "q=zoë x&", "zo%C3%AB%20x%26"),
            (Place::Query, Kind::Present, "user&", "query parameter"),
            (Place::Cookie, Kind::Exact, "sid", "no ="),
            (Place::Cookie, Kind::Exact, "sid=a;b", "`;`"),
            (Place::Cookie, Kind::Exact, "=a", "cookie"),
            (Place::Baggage, Kind::Exact, "tenant=a,b", "`,`"),
            (Place::Baggage, Kind::Regex, "tenant=", "--baggage-regex 'tenant=^$'"),
            (Place::Path, Kind::Exact, "api", "write /api"),
            (Place::Path, Kind::Exact, "", "write /"),
            (Place::Path, Kind::Prefix, "/a?b=c", "--query"),
            (Place::Path, Kind::Exact, "/caf\u{e9} x", "/caf%C3%A9%20x"),
            (Place::Path, Kind::Regex, "(", "unclosed group"),
            (Place::Path, Kind::Regex, "(a{1000}){1000}", "too big"),
            (Place::Method, Kind::Exact, "get", "write GET"),
            (Place::Method, Kind::Exact, "GE T", "POST"),
            (Place::Method, Kind::Exact, "", "POST"),
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
