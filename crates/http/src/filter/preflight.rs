//! The CORS preflights of a filter's requests.
//!
//! Owns: what a preflight shows of the request that is to follow it. Must not: know tables. Called by: `Table`, `Filter`.
//!
//! Before a browser sends a header of the page's own to another origin it asks for it with an OPTIONS request of the same
//! target (<https://fetch.spec.whatwg.org/#cors-preflight-fetch>). That names the method and the headers of the request to
//! come, never their values, and has no cookies: whose it is can only be told by the names.

use super::{Condition, Filter, Mode, Subject, Test, validate};

const METHOD: &[u8] = b"access-control-request-method";
const HEADERS: &[u8] = b"access-control-request-headers";
/// Headers that a preflight has itself, as the request to come.
const ITS_OWN: [&[u8]; 3] = [b"host", b"origin", b"user-agent"];

/// The filters of the preflights, one for each alternative of `filter` that is about a header.
pub(super) fn of(filter: &Filter) -> Vec<Filter> {
    let alternatives: Vec<&[Condition]> = match filter.mode {
        Mode::All => vec![&filter.conditions],
        Mode::Any => filter.conditions.chunks(1).collect(),
    };
    alternatives.into_iter().filter_map(preflight).collect()
}

fn preflight(conditions: &[Condition]) -> Option<Filter> {
    if !conditions.iter().any(is_asked_for) {
        return None;
    }
    let is = |subject, test| Condition { subject, test, negate: false };
    let mut all =
        vec![is(Subject::Method, Test::Exact(b"OPTIONS".into())), is(Subject::Header(METHOD.into()), Test::Present)];
    for shown in conditions.iter().filter_map(shown) {
        if !all.contains(&shown) {
            all.push(shown);
        }
    }
    let patterns = all.iter().map(validate::condition).collect::<Result<_, _>>().ok()?;
    let values = all.iter().map(|condition| condition.test.value()).collect();
    Some(Filter { mode: Mode::All, conditions: all, patterns, values, preflights: vec![] })
}

/// Whether a request that meets the condition has a header for which its preflight asks.
fn is_asked_for(condition: &Condition) -> bool {
    match &condition.subject {
        Subject::Header(name) => !condition.negate && !is_its_own(name),
        Subject::Baggage(_) => !condition.negate,
        Subject::Path | Subject::Method | Subject::Query(_) | Subject::Cookie(_) => false,
    }
}

/// What the preflight shows of a condition on the request to come; `None`: nothing.
fn shown(condition: &Condition) -> Option<Condition> {
    let Condition { subject, test, negate } = condition;
    let (subject, test) = match subject {
        Subject::Path | Subject::Query(_) => (subject.clone(), test.clone()),
        Subject::Header(name) if is_its_own(name) => (subject.clone(), test.clone()),
        Subject::Method => (Subject::Header(METHOD.into()), test.clone()),
        // That it is not there is shown; that it has another value is not.
        Subject::Header(name) if !negate || *test == Test::Present => (Subject::Header(HEADERS.into()), names(name)),
        Subject::Baggage(_) if !negate => (Subject::Header(HEADERS.into()), names(b"baggage")),
        Subject::Header(_) | Subject::Baggage(_) | Subject::Cookie(_) => return None,
    };
    Some(Condition { subject, test, negate: *negate })
}

fn is_its_own(name: &[u8]) -> bool {
    ITS_OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// A list of header names that has this one.
fn names(name: &[u8]) -> Test {
    let name = regex_syntax::escape(&String::from_utf8_lossy(name));
    Test::Regex(format!(r"(?i:(.*,)?[ \t]*{name}[ \t]*(,.*)?)"))
}

#[cfg(test)]
mod tests {
    use super::super::{FilterError, Key, Table};
    use super::*;
    use crate::head::{Progress, RequestHead};

    fn is(subject: Subject, test: Test) -> Condition {
        Condition { subject, test, negate: false }
    }

    fn user() -> Condition {
        is(Subject::Header(b"X-User".into()), Test::Exact(b"alice".into()))
    }

    fn table(mode: Mode, conditions: Vec<Condition>) -> Table {
        let filter = Filter::new(mode, conditions).unwrap().with_preflights().unwrap();
        Table::new([(Key(1), filter), (Key(2), Filter::everything())])
    }

    #[track_caller]
    fn goes(table: &Table, head: &str, matched: bool) {
        let wire = format!("{head}\r\nHost: web\r\n\r\n").replace('\n', "\r\n").replace("\r\r", "\r");
        let mut parsed = RequestHead::new();
        assert_eq!(parsed.advance(wire.as_bytes(), table.names()), Ok(Progress::Complete), "{wire}");
        let index = table.decide(&mut parsed, wire.as_bytes()).unwrap().expect("at least everything");
        assert_eq!(table.key(index), Some(Key(if matched { 1 } else { 2 })), "{wire}");
    }

    const ASKS: &str = "OPTIONS /a?b HTTP/1.1\nOrigin: http://x\nAccess-Control-Request-Method: GET";

    #[test]
    fn a_preflight_that_asks_for_the_header_comes_along() {
        let only = table(Mode::All, vec![user()]);
        for (names, matched) in [
            ("x-user", true),
            ("X-USER", true),
            ("authorization,x-user", true),
            ("authorization, x-user , x-other", true),
            ("x-user,x-other", true),
            ("x-users", false),
            ("ax-user", false),
            ("x_user", false),
            ("x-other", false),
            ("", false),
        ] {
            goes(&only, &format!("{ASKS}\nAccess-Control-Request-Headers: {names}"), matched);
        }
        goes(&only, &format!("{ASKS}\nX-User: alice"), true);
        goes(&only, ASKS, false);
        let asked = "Access-Control-Request-Headers: x-user";
        goes(&only, &format!("OPTIONS / HTTP/1.1\n{asked}"), false);
        goes(&only, &format!("GET / HTTP/1.1\nAccess-Control-Request-Method: GET\n{asked}"), false);
        let without = Filter::new(Mode::All, vec![user()]).unwrap();
        goes(&Table::new([(Key(1), without), (Key(2), Filter::everything())]), &format!("{ASKS}\n{asked}"), false);
        // What is in a name is no regex.
        let odd = table(Mode::All, vec![is(Subject::Header(b"x.user+".into()), Test::Present)]);
        goes(&odd, &format!("{ASKS}\nAccess-Control-Request-Headers: x.user+"), true);
        goes(&odd, &format!("{ASKS}\nAccess-Control-Request-Headers: xauser"), false);
    }

    #[test]
    fn the_other_conditions_hold_as_far_as_they_are_shown() {
        let not = |condition| Condition { negate: true, ..condition };
        let header = |name: &str, test| is(Subject::Header(name.into()), test);
        let asked = format!("{ASKS}\nAccess-Control-Request-Headers: x-user,baggage");
        for (condition, matched) in [
            (is(Subject::Path, Test::Exact(b"/a".into())), true),
            (is(Subject::Path, Test::Exact(b"/b".into())), false),
            (not(is(Subject::Path, Test::Exact(b"/a".into()))), false),
            (is(Subject::Query(b"b".into()), Test::Present), true),
            (is(Subject::Query(b"c".into()), Test::Present), false),
            (is(Subject::Method, Test::Exact(b"GET".into())), true),
            (is(Subject::Method, Test::Exact(b"POST".into())), false),
            (is(Subject::Method, Test::Regex("GET|PUT".into())), true),
            (is(Subject::Cookie(b"sid".into()), Test::Present), true),
            (is(Subject::Baggage(b"tenant".into()), Test::Exact(b"a".into())), true),
            (header("x-team", Test::Present), false),
            (header("origin", Test::Exact(b"http://x".into())), true),
            (header("Origin", Test::Exact(b"http://y".into())), false),
            (not(header("x-debug", Test::Present)), true),
            (not(header("baggage", Test::Present)), false),
            (not(header("baggage", Test::Exact(b"a=b".into()))), true),
        ] {
            let shown = format!("{condition}");
            println!("{shown}");
            goes(&table(Mode::All, vec![user(), condition]), &asked, matched);
        }
        let any = table(Mode::Any, vec![user(), is(Subject::Path, Test::Exact(b"/p".into()))]);
        goes(&any, &asked, true);
        goes(&any, ASKS, false);
        goes(&any, "OPTIONS /p HTTP/1.1", true);
    }

    #[test]
    fn a_filter_that_names_no_header_has_no_preflights() {
        for condition in [
            is(Subject::Path, Test::Exact(b"/".into())),
            is(Subject::Cookie(b"sid".into()), Test::Present),
            is(Subject::Header(b"origin".into()), Test::Present),
            Condition { negate: true, ..user() },
        ] {
            let filter = Filter::new(Mode::All, vec![condition]).unwrap();
            assert_eq!(filter.with_preflights(), Err(FilterError::Preflights));
        }
        let many = (0..Filter::MAX_CONDITIONS).map(|n| is(Subject::Header(format!("x-{n}").into()), Test::Present));
        let filter = Filter::new(Mode::All, many.collect()).unwrap().with_preflights().unwrap();
        assert_eq!(of(&filter).len(), 1);
        assert!(filter.to_string().ends_with("x-31 present, with their CORS preflights"));
    }
}
