//! The verdicts against hand-written cases, and against every request of a small world.

use super::*;
use crate::filter::{Condition, Key, Subject, Table, Test};
use crate::head::RequestHead;

/// `user=alice & !path^/api` or `user~al.* | cookie?`: `=` exact, `^` prefix, `~` regex, `?` present, `!` not.
fn filter(text: &str) -> Filter {
    if text == "*" {
        return Filter::everything();
    }
    let (mode, joint) = if text.contains(" | ") { (Mode::Any, " | ") } else { (Mode::All, " & ") };
    Filter::new(mode, text.split(joint).map(condition).collect()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn condition(text: &str) -> Condition {
    let (negate, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let at = text.find(['=', '^', '~', '?']).expect("an operator");
    let (subject, value) = (&text[..at], &text[at + 1..]);
    let subject = match subject {
        "path" => Subject::Path,
        "method" => Subject::Method,
        "query" => Subject::Query(b"q".into()),
        "cookie" => Subject::Cookie(b"c".into()),
        "baggage" => Subject::Baggage(b"b".into()),
        header => Subject::Header(header.into()),
    };
    let test = match &text[at..=at] {
        "=" => Test::Exact(value.into()),
        "^" => Test::Prefix(value.into()),
        "~" => Test::Regex(value.into()),
        _ => Test::Present,
    };
    Condition { subject, test, negate }
}

#[test]
fn overlaps_are_told_as_far_as_they_are_certain() {
    use Overlap::{Never, Possible, Same, Subset, Superset, UnlessRepeated};
    for (a, b, expected) in [
        ("user=alice", "USER=alice", Same),
        ("user=alice", "user=alice | user=alice", Same),
        ("user=alice", "user=bob", UnlessRepeated),
        ("user=alice", "user^al", Subset),
        ("user=alice", "user^bo", UnlessRepeated),
        ("user?", "user^al", Superset),
        ("user=alice", "user~a.*", Subset),
        ("user=alice", "user~a", UnlessRepeated),
        ("user~alice|bob", "user=bob", Superset),
        ("user~alice|bob", "user~alice|bob|carol", Subset),
        ("user~alice|bob", "user~bob|carol", Possible),
        ("user~alice|bob", "user~carol.*", UnlessRepeated),
        ("user~al.*", "user^a", Subset),
        ("user~al.*", "user~bo.*", UnlessRepeated),
        ("user~.*x", "user~.*y", Possible),
        ("user=alice & method=GET", "user=alice", Subset),
        ("user=alice & method=GET", "user=alice & method=POST", Never),
        ("user=alice", "team=core", Possible),
        ("user=alice | user=bob", "user=alice", Superset),
        ("user=alice | user=bob", "user=bob | user=alice", Same),
        ("user=alice | user=bob", "user=carol", UnlessRepeated),
        ("user=alice | method=GET", "user=alice & method=POST", Superset),
        ("user=alice | method=GET", "method=POST", Possible),
        ("path=/a | path=/b", "path^/c", Never),
        ("path=/a | path^/c", "path^/c/", Superset),
        ("path=/api/v1", "path^/api", Subset),
        ("path^/b", "path^/api", Never),
        ("path~/users/[0-9]+", "path^/orders", Never),
        ("path~/users/[0-9]+", "path=/users/", Never),
        ("path~/users/[0-9]+", "path^/users/", Subset),
        ("method~GET|HEAD", "method=GET", Superset),
        ("method~GET|HEAD", "method=PUT", Never),
        // Turned around.
        ("method=GET", "!method=GET", Never),
        ("method=POST", "!method=GET", Subset),
        ("!method=GET", "!method=GET", Same),
        ("!method=GET", "!method=POST", Possible),
        ("!path^/a", "!path^/a/b", Subset),
        ("!path^/a", "path=/a/b", Never),
        ("user=alice", "!user=alice", Never),
        ("user=alice", "!user?", Never),
        ("user=alice", "!user=bob", Possible),
        ("!user?", "!user=alice", Subset),
        ("user=alice & !path^/health", "user=alice", Subset),
        ("user=alice & !path^/health", "path=/health", Never),
        ("cookie=a", "cookie^a", Subset),
        ("cookie=a", "cookie=b", UnlessRepeated),
        ("query=a", "query?", Subset),
        ("baggage~a.*", "!baggage^a", Never),
        ("*", "method=GET", Superset),
        ("method=GET | method=POST", "*", Subset),
        ("*", "*", Same),
    ] {
        assert_eq!(overlap(&filter(a), &filter(b)), expected, "{a} / {b}");
        let turned = match expected {
            Subset => Superset,
            Superset => Subset,
            other => other,
        };
        assert_eq!(overlap(&filter(b), &filter(a)), turned, "{b} / {a}");
    }
}

/// Every request of a small world.
struct World {
    requests: Vec<String>,
    /// Those that have nothing twice.
    plain: Bits,
}

/// A set of requests, by their place.
type Bits = Vec<u64>;

fn bits(members: impl Iterator<Item = bool>) -> Bits {
    let members: Vec<bool> = members.collect();
    members.chunks(64).map(|chunk| chunk.iter().rev().fold(0, |word, bit| word << 1 | u64::from(*bit))).collect()
}

impl World {
    fn new() -> Self {
        let values = ["", "a", "ab", "abc", "b", "bc"];
        let mut headers = vec![(String::new(), true)];
        for (n, one) in values.iter().enumerate() {
            headers.push((format!("x: {one}\r\n"), true));
            headers.extend(values[..=n].iter().map(|two| (format!("x: {one}\r\nX: {two}\r\n"), false)));
        }
        let cookies = ["", "c=a", "c=abc", "c=b", "c=bc", "c=a; c=b"];
        let (mut requests, mut plain) = (vec![], vec![]);
        for method in ["GET", "POST", "PUT"] {
            for path in ["/", "/a", "/ab", "/abc", "/b", "/bc"] {
                for (header, once) in &headers {
                    for cookie in cookies {
                        requests.push(format!("{method} {path} HTTP/1.1\r\n{header}Cookie: {cookie}\r\n\r\n"));
                        plain.push(*once && cookie.matches("c=").count() < 2);
                    }
                }
            }
        }
        Self { requests, plain: bits(plain.into_iter()) }
    }

    /// The requests of each filter.
    fn of(&self, filters: &[Filter]) -> Vec<Bits> {
        let table = Table::new(filters.iter().map(|filter| (Key(1), filter.clone())));
        let matching = |request: &String| {
            let mut head = RequestHead::new();
            head.advance(request.as_bytes(), table.names()).expect("a plain request");
            table.matching(&mut head, request.as_bytes()).expect("few fields")
        };
        let matching: Vec<Vec<usize>> = self.requests.iter().map(matching).collect();
        (0..filters.len()).map(|filter| bits(matching.iter().map(|all| all.contains(&filter)))).collect()
    }

    /// Whether what is claimed of all requests is so for these.
    fn bears_out(&self, claimed: Overlap, a: &Bits, b: &Bits) -> bool {
        match claimed {
            Overlap::Possible => true,
            Overlap::Same => a == b,
            Overlap::Subset => none(a, b, |a, b| a & !b),
            Overlap::Superset => none(b, a, |b, a| b & !a),
            Overlap::UnlessRepeated => self.never_at_once(a, b),
            Overlap::Never => none(a, b, |a, b| a & b),
        }
    }

    fn never_at_once(&self, a: &Bits, b: &Bits) -> bool {
        a.iter().zip(b).zip(&self.plain).all(|((a, b), plain)| a & b & plain == 0)
    }

    /// How two filters lie to each other among these requests.
    fn verdict(&self, a: &Bits, b: &Bits) -> Overlap {
        match (none(a, b, |a, b| a & !b), none(b, a, |b, a| b & !a)) {
            (true, true) => Overlap::Same,
            (true, false) => Overlap::Subset,
            (false, true) => Overlap::Superset,
            (false, false) if none(a, b, |a, b| a & b) => Overlap::Never,
            (false, false) if self.never_at_once(a, b) => Overlap::UnlessRepeated,
            (false, false) => Overlap::Possible,
        }
    }
}

fn none(a: &Bits, b: &Bits, of: fn(u64, u64) -> u64) -> bool {
    a.iter().zip(b).all(|(a, b)| of(*a, *b) == 0)
}

/// What of this world a condition may say; regexes are beyond what is always proven.
const PLAIN: &[&str] = &[
    "method=GET",
    "method=POST",
    "path=/a",
    "path=/ab",
    "path^/a",
    "path^/b",
    "x?",
    "x=a",
    "x=ab",
    "x=b",
    "x^a",
    "x^ab",
    "x^b",
    "X^abc",
    "cookie?",
    "cookie=a",
    "cookie^a",
    "cookie^b",
];
const REGEXES: &[&str] = &[
    "method~GET|PUT|HEAD",
    "path~/a.*",
    "path~/a|/b",
    "path~.*b",
    "x~a.*",
    "x~a|b",
    "x~ab?",
    "x~.*c",
    "x~",
    "x~(?i)A",
    "cookie~a|b",
    "cookie~.+",
];

#[test]
fn no_verdict_claims_too_much() {
    let world = World::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |sides: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap_or_default() % sides
    };
    let mut filters = vec![Filter::everything()];
    while filters.len() < 150 {
        let mode = if roll(2) == 0 { Mode::Any } else { Mode::All };
        let conditions = (0..=roll(4)).map(|_| {
            let text = if roll(3) == 0 { REGEXES[roll(REGEXES.len())] } else { PLAIN[roll(PLAIN.len())] };
            Condition { negate: roll(4) == 0, ..condition(text) }
        });
        // Filters that never hold, or always, are refused.
        filters.extend(Filter::new(mode, conditions.collect()));
    }
    let requests = world.of(&filters);
    let mut counts = std::collections::HashMap::new();
    for (a, of_a) in filters.iter().zip(&requests) {
        for (b, of_b) in filters.iter().zip(&requests) {
            let claimed = overlap(a, b);
            assert!(world.bears_out(claimed, of_a, of_b), "{a} / {b}: {claimed:?}");
            *counts.entry(format!("{claimed:?}")).or_insert(0) += 1;
        }
    }
    assert!(counts.len() == 6 && counts.values().all(|count| *count > 100), "{counts:?}");
}

#[test]
fn nothing_is_missed_between_two_plain_conditions() {
    let world = World::new();
    let plain = PLAIN.iter().flat_map(|text| [(*text).to_owned(), format!("!{text}")]);
    let filters: Vec<Filter> = plain.map(|text| filter(&text)).collect();
    let requests = world.of(&filters);
    for (a, of_a) in filters.iter().zip(&requests) {
        for (b, of_b) in filters.iter().zip(&requests) {
            assert_eq!(overlap(a, b), world.verdict(of_a, of_b), "{a} / {b}");
        }
    }
}

#[test]
fn what_is_refused_never_or_always_holds() {
    let world = World::new();
    let texts = PLAIN.iter().chain(REGEXES).flat_map(|text| [(*text).to_owned(), format!("!{text}")]);
    let conditions: Vec<Condition> = texts.map(|text| condition(&text)).collect();
    let alone = |condition: &Condition| Filter::new(Mode::All, vec![condition.clone()]).expect("alone it is valid");
    let requests = world.of(&conditions.iter().map(alone).collect::<Vec<_>>());
    let everything = world.of(&[Filter::everything()]).remove(0);
    let mut refused = 0;
    for (one, of_one) in conditions.iter().zip(&requests) {
        for (other, of_other) in conditions.iter().zip(&requests) {
            let words = || of_one.iter().zip(of_other);
            if Filter::new(Mode::All, vec![one.clone(), other.clone()]).is_err() {
                refused += 1;
                assert!(words().all(|(a, b)| a & b == 0), "{one} and {other}");
            }
            if Filter::new(Mode::Any, vec![one.clone(), other.clone()]).is_err() {
                refused += 1;
                assert_eq!(words().map(|(a, b)| a | b).collect::<Bits>(), everything, "{one} or {other}");
            }
        }
    }
    assert!(refused > 200, "{refused}");
}
