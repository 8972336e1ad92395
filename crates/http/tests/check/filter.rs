//! Tables: a decision is what trying every filter in order would say.

use redir_http::filter::{Condition, Filter, Key, Mode, Subject, Table, Test};
use redir_http::head::{Progress, RequestHead};

/// A request as the naive matcher sees it.
struct Request {
    method: &'static str,
    path: &'static str,
    query: Vec<(&'static str, &'static str)>,
    headers: Vec<(&'static str, &'static str)>,
}

/// Settings, one byte after the other, and then zeros.
struct Settings<'a>(&'a [u8]);

impl Settings<'_> {
    fn next(&mut self) -> usize {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        usize::from(*first)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next() % of.len()]
    }
}

const NAMES: &[&str] = &["x-user", "X-User", "x-env", "cookie", "x-u"];
const VALUES: &[&str] = &["alice", "bob", "a", "", "al", "alice, bob", "sid=a; x=alice", "Alice"];
const PATHS: &[&str] = &["/", "/a", "/a/b", "/alice", "/b"];
const METHODS: &[&str] = &["GET", "POST", "HEAD"];
type Meaning = fn(&str) -> bool;

/// Each with what it means, so that the naive matcher needs no regex.
const REGEXES: &[(&str, Meaning)] = &[
    ("a.*", |value| value.starts_with('a')),
    ("alice|bob", |value| ["alice", "bob"].contains(&value)),
    ("", str::is_empty),
    (".*e", |value| value.ends_with('e')),
    ("[a-c]+", |value| !value.is_empty() && value.chars().all(|letter| ('a'..='c').contains(&letter))),
];

fn condition(settings: &mut Settings<'_>) -> Condition {
    let value = |settings: &mut Settings<'_>| settings.pick(VALUES).as_bytes().to_vec();
    let (subject, test) = match settings.next() % 8 {
        0 => (Subject::Method, Test::Exact(settings.pick(METHODS).into())),
        1 => (Subject::Path, Test::Exact(settings.pick(PATHS).into())),
        2 => (Subject::Path, Test::Prefix(settings.pick(PATHS).into())),
        3 => (Subject::Query(b"user".into()), Test::Exact(settings.pick(&["alice", "a", ""]).into())),
        4 => (Subject::Cookie(b"x".into()), Test::Exact(settings.pick(&["alice", "a", ""]).into())),
        5 => (Subject::Header(settings.pick(NAMES).into()), Test::Present),
        6 => (Subject::Header(settings.pick(NAMES).into()), Test::Regex(settings.pick(REGEXES).0.into())),
        _ if settings.next().is_multiple_of(2) => {
            (Subject::Header(settings.pick(NAMES).into()), Test::Exact(value(settings)))
        }
        _ => (Subject::Header(settings.pick(NAMES).into()), Test::Prefix(value(settings))),
    };
    Condition { subject, test, negate: settings.next().is_multiple_of(5) }
}

fn request(settings: &mut Settings<'_>) -> Request {
    let headers = (0..settings.next() % 10).map(|_| (settings.pick(NAMES), settings.pick(VALUES))).collect();
    let query = (0..settings.next() % 3).map(|_| ("user", settings.pick(&["alice", "a", ""]))).collect();
    Request { method: settings.pick(METHODS), path: settings.pick(PATHS), query, headers }
}

fn wire(request: &Request) -> String {
    let query: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    let mut wire = format!("{} {}{mark}{} HTTP/1.1\r\n", request.method, request.path, query.join("&"));
    for (name, value) in &request.headers {
        wire += &format!("{name}: \t{value} \r\n");
    }
    wire + "\r\n"
}

fn holds(condition: &Condition, request: &Request) -> bool {
    let values: Vec<&str> = match &condition.subject {
        Subject::Method => vec![request.method],
        Subject::Path => vec![request.path],
        Subject::Query(_) => request.query.iter().map(|(_, value)| *value).collect(),
        Subject::Cookie(_) => {
            let cookies = request.headers.iter().filter(|(name, _)| *name == "cookie").flat_map(|(_, v)| v.split(';'));
            cookies
                .map(|pair| pair.trim().split_once('=').unwrap_or((pair.trim(), "")))
                .filter(|(n, _)| *n == "x")
                .map(|(_, v)| v)
                .collect()
        }
        Subject::Header(name) | Subject::Baggage(name) => {
            let same = |other: &str| other.as_bytes().eq_ignore_ascii_case(name);
            request.headers.iter().filter(|(other, _)| same(other)).map(|(_, value)| *value).collect()
        }
    };
    let passes = |value: &str| match &condition.test {
        Test::Present => true,
        Test::Exact(wanted) => value.as_bytes() == wanted,
        Test::Prefix(wanted) => value.as_bytes().starts_with(wanted),
        Test::Regex(pattern) => REGEXES.iter().any(|(known, matches)| known == pattern && matches(value)),
    };
    values.into_iter().any(passes) != condition.negate
}

/// The fuzz target `filter`.
pub(crate) fn table(data: &[u8]) {
    let mut settings = Settings(data);
    let mut filters: Vec<(Key, Filter)> = Vec::new();
    for number in 0..settings.next() % 24 {
        let mode = if settings.next().is_multiple_of(3) { Mode::Any } else { Mode::All };
        let conditions = (0..settings.next() % 4 + 1).map(|_| condition(&mut settings)).collect();
        if let Ok(filter) = Filter::new(mode, conditions) {
            filters.push((Key(number as u64), filter));
        }
    }
    if settings.next().is_multiple_of(4) {
        filters.push((Key(99), Filter::everything()));
    }
    let table = Table::new(filters.clone());
    for _ in 0..4 {
        let request = request(&mut settings);
        let wire = wire(&request);
        let matches = |filter: &Filter| match filter.mode() {
            Mode::All => filter.conditions().iter().all(|condition| holds(condition, &request)),
            Mode::Any => filter.conditions().iter().any(|condition| holds(condition, &request)),
        };
        let expected: Vec<usize> =
            filters.iter().enumerate().filter(|(_, (_, filter))| matches(filter)).map(|(index, _)| index).collect();
        let mut head = RequestHead::new();
        assert_eq!(head.advance(wire.as_bytes(), table.names()), Ok(Progress::Complete), "{wire}");
        assert_eq!(table.matching(&mut head, wire.as_bytes()), Ok(expected.clone()), "{wire}");
        assert_eq!(table.decide(&mut head, wire.as_bytes()), Ok(expected.first().copied()), "{wire} {filters:?}");
        let other = Table::new(filters.iter().rev().cloned());
        let turned = other.decide(&mut head, wire.as_bytes()).map(|index| index.map(|index| filters.len() - 1 - index));
        assert_eq!(turned, Ok(expected.last().copied()), "after a swap of tables: {wire}");
    }
}
