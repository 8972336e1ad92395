//! A ready `curl` line whose request the filter matches.
//!
//! Owns: finding such a request (the agent's own judge is asked about it), and writing it for a shell. Must not print.
//! Called by: `link::shown`.

mod example;

use redir_http::filter::{Condition, Key, Mode, Subject, Table};
use redir_http::head::RequestHead;
use redir_wire::Filter;

use crate::escape::{Charset, shell_word};

/// How many requests are tried, over all their values: far more than conditions that people write need.
const TRIES: usize = 512;
/// Methods and paths where no condition names one.
const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
const PATHS: &[&str] = &["/", "/x"];
/// What curl sends unless it is told otherwise.
const ACCEPT: &[u8] = b"*/*";
const USER_AGENT: &[u8] = b"curl/8";

/// Ports whose services hardly ever speak HTTP: SSH, mail, DNS, directories, databases, queues and caches.
const NOT_HTTP: &[u16] = &[
    21, 22, 23, 25, 53, 88, 110, 111, 119, 135, 139, 143, 389, 445, 465, 514, 587, 636, 873, 993, 995, 1433, 1521,
    1883, 2049, 2181, 3306, 3389, 4222, 5222, 5432, 5433, 5671, 5672, 5900, 6379, 6380, 8883, 9042, 9092, 9093, 11211,
    27017,
];

/// The words of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CurlLine(Vec<Vec<u8>>);

impl CurlLine {
    /// As it is typed into a shell.
    pub(crate) fn shown(&self, charset: Charset) -> String {
        self.0.iter().map(|word| shell_word(word, charset)).collect::<Vec<_>>().join(" ")
    }

    #[cfg(test)]
    pub(crate) fn of(words: &[&str]) -> Self {
        Self(words.iter().map(|word| word.as_bytes().to_vec()).collect())
    }
}

/// A line for this host and port; `None` where no request was found that the filter matches, or where the port is not one
/// of HTTP. Over TLS without a look at the certificate, which is not an address's.
pub(crate) fn curl(filter: Option<&Filter>, tls: bool, host: &str, port: u16) -> Option<CurlLine> {
    // Whoever has conditions means HTTP.
    if filter.is_none() && NOT_HTTP.contains(&port) {
        return None;
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let authority = format!("{host}:{port}");
    let request = match filter {
        None => Request { method: b"GET".to_vec(), path: b"/".to_vec(), ..Request::default() },
        Some(filter) => find(filter, authority.as_bytes())?,
    };
    Some(request.line(tls, &authority))
}

fn find(filter: &Filter, authority: &[u8]) -> Option<Request> {
    let checked = filter.compile().ok()?;
    let table = Table::new([(Key(0), checked)]);
    let alternatives: Vec<&[Condition]> = match filter.mode {
        Mode::All => vec![&filter.conditions],
        Mode::Any => filter.conditions.chunks(1).collect(),
    };
    let requests = alternatives.into_iter().flat_map(requests);
    requests.take(TRIES).find(|request| request.is_matched(&table, authority))
}

/// Requests that may meet all of these conditions, the likeliest first.
fn requests(conditions: &[Condition]) -> impl Iterator<Item = Request> {
    let positive: Vec<&Condition> = conditions.iter().filter(|condition| !condition.negate).collect();
    let mut choices: Vec<Vec<Vec<u8>>> = positive.iter().map(|condition| example::values(condition)).collect();
    let named = |subject: Subject| positive.iter().any(|condition| condition.subject == subject);
    let defaults = |of: &[&str]| of.iter().map(|text| text.as_bytes().to_vec()).collect();
    choices.push(if named(Subject::Method) { vec![vec![]] } else { defaults(METHODS) });
    choices.push(if named(Subject::Path) { vec![vec![]] } else { defaults(PATHS) });
    let subjects: Vec<Subject> = positive.iter().map(|condition| condition.subject.clone()).collect();
    let unwanted: Vec<Vec<u8>> = conditions.iter().filter(|condition| condition.negate).filter_map(unwanted).collect();
    let all: usize = choices.iter().map(Vec::len).fold(1, usize::saturating_mul);
    (0..all.min(TRIES)).map(move |number| {
        let mut number = number;
        let mut pick = |choice: &Vec<Vec<u8>>| {
            let value = choice[number % choice.len()].clone();
            number /= choice.len();
            value
        };
        let mut request = Request { without: unwanted.clone(), ..Request::default() };
        // The last ones change fastest: what no condition asks for may be anything.
        let values: Vec<Vec<u8>> = choices.iter().rev().map(&mut pick).collect();
        (request.path, request.method) = (values[0].clone(), values[1].clone());
        for (subject, value) in subjects.iter().zip(values.into_iter().skip(2).rev()) {
            request.give(subject, value);
        }
        request
    })
}

/// A header of curl's own that must not be there, or not with its usual value.
fn unwanted(condition: &Condition) -> Option<Vec<u8>> {
    match &condition.subject {
        Subject::Header(name) => {
            let name = name.to_ascii_lowercase();
            (name == b"accept" || name == b"user-agent").then_some(name)
        }
        Subject::Path | Subject::Method | Subject::Query(_) | Subject::Cookie(_) | Subject::Baggage(_) => None,
    }
}

#[derive(Debug, Default)]
struct Request {
    method: Vec<u8>,
    path: Vec<u8>,
    query: Vec<Vec<u8>>,
    cookies: Vec<Vec<u8>>,
    baggage: Vec<Vec<u8>>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Headers that curl would send by itself.
    without: Vec<Vec<u8>>,
}

impl Request {
    fn give(&mut self, subject: &Subject, value: Vec<u8>) {
        let pair = |name: &[u8]| [name, b"=", &value].concat();
        match subject {
            Subject::Method => self.method = value,
            Subject::Path => self.path = value,
            Subject::Query(name) => self.query.push(pair(name)),
            Subject::Cookie(name) => self.cookies.push(pair(name)),
            Subject::Baggage(name) => self.baggage.push(pair(name)),
            Subject::Header(name) => self.headers.push((name.clone(), value)),
        }
    }

    fn target(&self) -> Vec<u8> {
        let mark: &[u8] = if self.query.is_empty() { b"" } else { b"?" };
        [&self.path, mark, &self.query.join(&b'&')].concat()
    }

    /// The headers that the line gives.
    fn given(&self) -> Vec<(&[u8], Vec<u8>)> {
        let mut all: Vec<(&[u8], Vec<u8>)> =
            self.headers.iter().map(|(name, value)| (name.as_slice(), value.clone())).collect();
        for (name, pairs, joint) in [(&b"cookie"[..], &self.cookies, &b"; "[..]), (b"baggage", &self.baggage, b",")] {
            if !pairs.is_empty() {
                all.push((name, pairs.join(joint)));
            }
        }
        all
    }

    /// Whether curl's request would be matched.
    fn is_matched(&self, table: &Table, authority: &[u8]) -> bool {
        let given = self.given();
        let own = [(&b"host"[..], authority), (b"user-agent", USER_AGENT), (b"accept", ACCEPT)];
        let own = own.into_iter().filter(|(name, _)| {
            let replaced = given.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
            !replaced && !self.without.iter().any(|without| without == name)
        });
        let given = given.iter().map(|(name, value)| (*name, value.as_slice()));
        let fields: Vec<u8> =
            own.chain(given).flat_map(|(name, value)| [name, b": ", value, b"\r\n"].concat()).collect();
        let wire = [&self.method, &b" "[..], &self.target(), b" HTTP/1.1\r\n", &fields, b"\r\n"].concat();
        let mut head = RequestHead::new();
        head.advance(&wire, table.names()).is_ok()
            && head.len() == wire.len()
            && table.decide(&mut head, &wire).is_ok_and(|index| index.is_some())
    }

    fn line(&self, tls: bool, authority: &str) -> CurlLine {
        let mut words: Vec<Vec<u8>> = vec![b"curl".to_vec()];
        for (name, value) in self.given() {
            // curl leaves a header out that ends with its colon.
            let header = if value.is_empty() { [name, b";"].concat() } else { [name, b": ", &value].concat() };
            words.extend([b"-H".to_vec(), header]);
        }
        for name in &self.without {
            words.extend([b"-H".to_vec(), [name.as_slice(), b":"].concat()]);
        }
        match self.method.as_slice() {
            b"GET" => {}
            b"HEAD" => words.push(b"-I".to_vec()),
            method => words.extend([b"-X".to_vec(), method.to_vec()]),
        }
        let target = self.target();
        // Its own globbing would read the brackets and braces of a literal path or address.
        if authority.starts_with('[') || target.iter().any(|byte| b"[]{}".contains(byte)) {
            words.push(b"-g".to_vec());
        }
        if target.windows(2).any(|two| two == b"/.") {
            words.push(b"--path-as-is".to_vec());
        }
        if tls {
            words.push(b"-k".to_vec());
        }
        let scheme: &[u8] = if tls { b"https://" } else { b"http://" };
        words.push([scheme, authority.as_bytes(), &target].concat());
        CurlLine(words)
    }
}

#[cfg(test)]
mod tests {
    use redir_http::filter::Test;

    use super::*;

    fn is(subject: Subject, test: Test) -> Condition {
        Condition { subject, test, negate: false }
    }

    fn not(condition: Condition) -> Condition {
        Condition { negate: true, ..condition }
    }

    fn header(name: &str, test: Test) -> Condition {
        is(Subject::Header(name.into()), test)
    }

    fn regex(pattern: &str) -> Test {
        Test::Regex(pattern.into())
    }

    fn line(mode: Mode, conditions: Vec<Condition>) -> Option<String> {
        curl(Some(&Filter { mode, conditions, preflights: false }), false, "10.0.0.2", 8080)
            .map(|line| line.shown(Charset::Ascii))
    }

    #[test]
    fn without_conditions_it_is_everything() {
        let line = |tls, host, port| curl(None, tls, host, port).map(|line| line.shown(Charset::Ascii));
        assert_eq!(line(false, "10.0.0.2", 8080).unwrap(), "curl http://10.0.0.2:8080/");
        assert_eq!(line(true, "10.0.0.2", 8443).unwrap(), "curl -k https://10.0.0.2:8443/");
        assert_eq!(line(false, "fd00::2", 80).unwrap(), "curl -g 'http://[fd00::2]:80/'");
        assert_eq!(line(false, "10.0.0.2", 5432), None, "PostgreSQL");
    }

    #[test]
    fn the_line_meets_the_filter() {
        let path = |test| is(Subject::Path, test);
        let method = |test| is(Subject::Method, test);
        let query = |test| is(Subject::Query(b"q".into()), test);
        let cookie = |test| is(Subject::Cookie(b"sid".into()), test);
        let baggage = |test| is(Subject::Baggage(b"tenant".into()), test);
        let any = [header("x-user", regex("(?-u)[^\\x00-\\xff]")), path(regex("^/users$"))];
        for (mode, conditions, expected) in [
            (
                Mode::All,
                vec![
                    header("x-user", Test::Exact("o'hara".into())),
                    header("x-debug", Test::Present),
                    path(Test::Prefix("/api".into())),
                    method(Test::Exact("POST".into())),
                ],
                r"-H 'x-user: o'\''hara' -H 'x-debug: 1' -X POST http://10.0.0.2:8080/api",
            ),
            (Mode::All, vec![header("x-user", regex("al.*|bob"))], "-H 'x-user: al' http://10.0.0.2:8080/"),
            (Mode::All, vec![header("x-user", regex("^$"))], "-H 'x-user;' http://10.0.0.2:8080/"),
            (
                Mode::All,
                vec![header("x-user", Test::Exact("zo\u{eb}".into()))],
                r"-H $'x-user: zo\xc3\xab' http://10.0.0.2:8080/",
            ),
            (Mode::All, vec![header("x-user", regex(r"zo\xeb'"))], r"-H $'x-user: zo\xeb\'' http://10.0.0.2:8080/"),
            (Mode::All, vec![path(regex("/users/[0-9]{2,}"))], "http://10.0.0.2:8080/users/11"),
            (Mode::All, vec![path(regex(".*[.]js"))], "--path-as-is http://10.0.0.2:8080/.js"),
            (Mode::All, vec![path(Test::Exact("/a[1]".into()))], "-g 'http://10.0.0.2:8080/a[1]'"),
            (Mode::All, vec![method(regex("PUT|POST"))], "-X PUT http://10.0.0.2:8080/"),
            (Mode::All, vec![method(Test::Exact("HEAD".into()))], "-I http://10.0.0.2:8080/"),
            (
                Mode::All,
                vec![query(Test::Exact("%C3%AB".into())), query(Test::Present), path(Test::Exact("/a".into()))],
                "'http://10.0.0.2:8080/a?q=%C3%AB&q=1'",
            ),
            (
                Mode::All,
                vec![cookie(Test::Exact("4711".into())), cookie(Test::Prefix("a".into())), baggage(regex("a|b"))],
                "-H 'cookie: sid=4711; sid=a' -H 'baggage: tenant=a' http://10.0.0.2:8080/",
            ),
            // Of any, the first that a request can meet.
            (Mode::Any, any.to_vec(), "http://10.0.0.2:8080/users"),
            // Around what must not be.
            (Mode::All, vec![not(method(Test::Exact("GET".into())))], "-X POST http://10.0.0.2:8080/"),
            (Mode::All, vec![not(path(Test::Exact("/".into())))], "http://10.0.0.2:8080/x"),
            (
                Mode::All,
                vec![path(Test::Prefix("/api".into())), not(path(Test::Exact("/api".into())))],
                "http://10.0.0.2:8080/api1",
            ),
            (
                Mode::All,
                vec![header("x-user", Test::Present), not(header("x-user", Test::Exact("1".into())))],
                "-H 'x-user: 2' http://10.0.0.2:8080/",
            ),
            (
                Mode::All,
                vec![not(header("User-Agent", Test::Prefix("curl".into())))],
                "-H user-agent: http://10.0.0.2:8080/",
            ),
            (Mode::All, vec![header("accept", Test::Exact("*/*".into()))], "-H 'accept: */*' http://10.0.0.2:8080/"),
            (Mode::Any, vec![not(header("x-user", Test::Present))], "http://10.0.0.2:8080/"),
        ] {
            let shown = format!("{conditions:?}");
            assert_eq!(line(mode, conditions), Some(format!("curl {expected}")), "{shown}");
        }
    }

    #[test]
    fn a_terminal_that_shows_it_gets_it_as_it_is_written() {
        let conditions = vec![header("x-user", Test::Exact("zo\u{eb}".into()))];
        let line =
            curl(Some(&Filter { mode: Mode::All, conditions, preflights: false }), false, "10.0.0.2", 5432).unwrap();
        assert_eq!(line.shown(Charset::Utf8), "curl -H 'x-user: zo\u{eb}' http://10.0.0.2:5432/");
    }

    #[test]
    fn a_line_that_nobody_knows_is_none() {
        assert_eq!(line(Mode::All, vec![header("x-user", regex("[a&&b]"))]), None);
        let host = header("host", Test::Present);
        assert_eq!(line(Mode::All, vec![not(host)]), None);
    }
}
