//! Ambiguity, tried on other people's cases and on every odd byte around a framing field: what another reader could read
//! differently reaches no developer, and the app gets exactly what the client sent it.

mod cases;
mod check;

use cases::Case;
use check::connection::{End, Origins, Pace, Run, same_however_split};
use check::judge::{Rules, judge};
use check::oracle::{EXCEPTIONS, Opinion, opinion};
use check::{EVERYWHERE, SOMEWHERE};
use redir_http::engine::Origin;
use redir_http::filter::Key;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const MATCHED: &[u8] = b"GET /dev HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const DEVELOPER: Origin = Origin::Developer(Key(1));

/// Runs `wire` whole, byte by byte and at so many places, with origins that answer at once and late, and judges it.
fn run(wire: &[u8], places: usize, rules: &Rules, answer: &[u8]) -> Run {
    let answer = |_: usize, _: &[u8]| answer.to_vec();
    let [eager, _] = [Pace::Eager, Pace::Lazy].map(|pace| {
        let origins = Origins { answer: &answer, pace, piece: usize::MAX };
        let run = same_however_split(wire, places, &rules.table, &origins);
        judge(wire, &run, rules);
        run
    });
    eager
}

/// A case alone and among other requests, for developers of nothing, of something and of everything; the run in which
/// everything that can be decided is a developer's.
fn run_everywhere(wire: &[u8]) -> Run {
    let alone = run(wire, SOMEWHERE, &Rules::nothing(), OK);
    assert!(matches!(alone.end, End::Open | End::Opaque(Origin::App, ..)), "{:?}", alone.end);
    let got = alone.got.get(&Origin::App).map(Vec::as_slice).unwrap_or_default();
    assert_eq!(got.escape_ascii().to_string(), wire.escape_ascii().to_string(), "as if redir were not there");
    for before in [GET, MATCHED] {
        run(&[before, wire, MATCHED, GET].concat(), SOMEWHERE, &Rules::some(), OK);
    }
    run(&[GET, wire, MATCHED].concat(), SOMEWHERE, &Rules::everything(), OK);
    run(wire, EVERYWHERE, &Rules::everything(), OK)
}

/// A case that differs from its like, and why that is right.
type Listed<'a> = &'a [(&'a str, &'a str)];

/// Fails unless exactly the cases of the list are `odd`.
#[track_caller]
fn exactly(listed: Listed<'_>, odd: &[String]) {
    let names: Vec<&str> = listed.iter().map(|(name, _)| *name).collect();
    assert_eq!(odd, names, "the list has to name exactly these");
}

/// gunicorn reads these, and redir goes on with the connection: all of it reaches somebody.
#[test]
fn valid_requests_of_gunicorn_are_not_harmed() {
    const AFTER_CLOSE: &str =
        "gunicorn leaves the second request unread as well: the first one said that it is the last";
    let all = cases::gunicorn("valid");
    assert_eq!(all.len(), 62);
    let mut cut = vec![];
    for Case { name, wire } in all {
        let run = run_everywhere(&wire);
        match run.end {
            End::Open | End::Opaque(..) => {}
            End::Over(rest) if rest.is_empty() => {}
            End::Over(_) | End::Reset(_) => cut.push(name),
        }
    }
    exactly(&[("valid/019", AFTER_CLOSE), ("valid/021", AFTER_CLOSE)], &cut);
}

/// What gunicorn refuses is never a whole message of a developer, but where the reason is none of framing.
#[test]
fn invalid_requests_of_gunicorn_reach_no_developer() {
    const LIMIT: &str = "gunicorn's limits are lower than redir's, and the bytes have one reading";
    const FIELDS: &str = "what the fields mean together is the origin's business: no reader ends the message elsewhere";
    const TRAILER: &str = "the message has its end before the trailers are read, and no filter reads them";
    const LISTED: Listed<'_> = &[
        ("invalid/006", LIMIT),
        ("invalid/007", LIMIT),
        ("invalid/008", LIMIT),
        ("invalid/009", LIMIT),
        ("invalid/010", LIMIT),
        ("invalid/011", LIMIT),
        ("invalid/012", LIMIT),
        ("invalid/017", LIMIT),
        ("invalid/019", FIELDS),
        ("invalid/041", FIELDS),
        ("invalid/042", FIELDS),
        ("invalid/limit_header_default_01", LIMIT),
        ("invalid/rfc9110_trailer_forbidden_cl_01", TRAILER),
        ("invalid/rfc9110_trailer_forbidden_host_01", TRAILER),
        ("invalid/rfc9110_trailer_forbidden_te_01", TRAILER),
    ];
    let all = cases::gunicorn("invalid");
    assert_eq!(all.len(), 81);
    let mut decided = vec![];
    for Case { name, wire } in all {
        let run = run_everywhere(&wire);
        if run.complete > 0 {
            decided.push(name);
        }
    }
    exactly(LISTED, &decided);
}

#[test]
fn requests_of_httparse() {
    let (requests, _) = cases::httparse();
    assert!(requests.len() > 280, "{}", requests.len());
    for Case { wire, .. } in requests {
        check::head::request(&wire, EVERYWHERE);
        run_everywhere(&wire);
    }
}

#[test]
fn responses_of_httparse() {
    let (_, responses) = cases::httparse();
    assert!(responses.len() > 30, "{}", responses.len());
    for Case { name, wire } in responses {
        check::head::response(&wire, EVERYWHERE);
        for rules in [Rules::nothing(), Rules::some(), Rules::everything()] {
            let run = run(&[GET, MATCHED, GET].concat(), EVERYWHERE, &rules, &wire);
            let answers = wire.repeat(3);
            assert!(answers.starts_with(&run.client), "{name}: the client gets the answers and nothing else");
        }
    }
}

/// Requests of third parties, and every byte at every place around the field that smuggling is made of: what the oracle
/// calls ambiguous or severe is not decided, but for the exceptions, and those are decided.
#[test]
fn the_oracle_has_no_objection_but_the_exceptions() {
    let guardian = cases::guardian();
    assert_eq!(guardian.len(), 2 * 159);
    guardian.iter().for_each(|case| drop(run_everywhere(&case.wire)));
    let others = [guardian, cases::gunicorn("valid"), cases::gunicorn("invalid"), cases::httparse().0];
    let mut tally = Tally::default();
    others.iter().flatten().for_each(|case| tally.hold(&case.wire));
    assert!(tally.ambiguous > 200, "{}", tally.ambiguous);
    for line in [&b"\r\nTransfer-Encoding: chunked\r\n"[..], b"\r\nContent-Length: 5\r\n"] {
        for other in [&b""[..], b"Content-Length: 5\r\n"] {
            for odd in with_odd_bytes(line) {
                let head = [b"POST / HTTP/1.1\r\nHost: a", odd.as_slice(), other, b"A: b\r\n\r\n"].concat();
                tally.hold(&[&head, &b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"[..]].concat());
            }
        }
    }
    for (exception, count) in EXCEPTIONS.iter().zip(tally.excepted) {
        assert!(count > 0, "{} is no exception any more", exception.what);
    }
}

/// How often the oracle objected.
#[derive(Default)]
struct Tally {
    ambiguous: usize,
    /// For each exception, how many such requests were decided.
    excepted: [usize; EXCEPTIONS.len()],
}

impl Tally {
    /// Holds what is made of the first request of `wire` against the oracle's opinion of it.
    fn hold(&mut self, wire: &[u8]) {
        let Some(end) = wire.windows(4).position(|four| four == b"\r\n\r\n") else { return };
        let head = &wire[..end + 4];
        let run = run(wire, 1, &Rules::everything(), OK);
        let control = head.iter().any(|&byte| byte == 0x7f || byte < b' ' && !b"\r\n\t".contains(&byte));
        match opinion(head) {
            Opinion::Excepted(index) => self.excepted[index] += usize::from(run.got.contains_key(&DEVELOPER)),
            Opinion::Clear if !control => {}
            Opinion::Clear | Opinion::Ambiguous(_) => {
                self.ambiguous += 1;
                assert!(run.messages.is_empty(), "decided: {}", wire.escape_ascii());
                assert!(matches!(run.end, End::Opaque(Origin::App, ..)), "{:?}: {}", run.end, wire.escape_ascii());
            }
        }
    }
}

/// Each byte put before and in place of each byte of `line`, where that changes it.
fn with_odd_bytes(line: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let at_each = (0..=line.len()).flat_map(|at| (0..=255).map(move |byte| (at, byte)));
    at_each.flat_map(move |(at, byte)| {
        let (before, after) = line.split_at(at);
        let inserted = [before, &[byte], after].concat();
        let replaced = after.split_first().map(|(_, after)| [before, &[byte], after].concat());
        [Some(inserted), replaced].into_iter().flatten().filter(move |odd| odd != line)
    })
}
