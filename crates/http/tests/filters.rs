//! What each condition means, and which filter wins.

mod check;

use redir_http::filter::{Condition, Filter, Key, Mode, Subject, Table, Test};
use redir_http::head::RequestHead;

fn decide(table: &Table, wire: &str) -> Option<usize> {
    let mut head = RequestHead::new();
    assert!(head.advance(wire.as_bytes(), table.names()).is_ok(), "{wire:?}");
    table.decide(&mut head, wire.as_bytes()).expect("few fields")
}

fn one(mode: Mode, conditions: Vec<Condition>) -> Table {
    Table::new([(Key(1), Filter::new(mode, conditions).expect("the tests' filters are valid"))])
}

fn is(subject: Subject, test: Test) -> Condition {
    Condition { subject, test, negate: false }
}

fn not(condition: Condition) -> Condition {
    Condition { negate: true, ..condition }
}

fn header(name: &str, test: Test) -> Condition {
    is(Subject::Header(name.into()), test)
}

fn exact(value: &str) -> Test {
    Test::Exact(value.into())
}

fn prefix(value: &str) -> Test {
    Test::Prefix(value.into())
}

fn regex(pattern: &str) -> Test {
    Test::Regex(pattern.into())
}

/// A request for `target` with these field lines.
fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{fields}\r\n")
}

#[test]
fn conditions_mean_what_they_say() {
    let cookie = |name: &str, test| is(Subject::Cookie(name.into()), test);
    let baggage = |name: &str, test| is(Subject::Baggage(name.into()), test);
    let query = |name: &str, test| is(Subject::Query(name.into()), test);
    let path = |test| is(Subject::Path, test);
    for (condition, target, fields, expected) in [
        // Headers.
        (header("X-User", exact("alice")), "/", "x-uSER:\t alice \t\r\n", true),
        (header("x-user", exact("alice")), "/", "x-user: alice2\r\n", false),
        (header("x-user", exact("alice")), "/", "x-user: Alice\r\n", false),
        (header("x-user", exact("alice")), "/", "x-user: bob\r\nx-user: alice\r\n", true),
        (header("x-user", exact("alice")), "/", "x-user: alice, bob\r\n", false),
        (header("x-user", exact("alice, bob")), "/", "x-user: alice, bob\r\n", true),
        (header("x-user", exact("")), "/", "x-user:  \r\n", true),
        (header("x-user", exact("")), "/", "", false),
        (header("x-user", exact("zo\u{eb}")), "/", "x-user: zo\u{eb}\r\n", true),
        (header("x-user", prefix("al")), "/", "x-user: al\r\n", true),
        (header("x-user", prefix("al")), "/", "x-user: a\r\n", false),
        (header("x-user", Test::Present), "/", "X-User:\r\n", true),
        (header("x-user", Test::Present), "/", "x-use: 1\r\nx-users: 2\r\n", false),
        (header("x-user", regex("a.*|bob")), "/", "x-user: bob\r\n", true),
        (header("x-user", regex("a.*|bob")), "/", "x-user: bobby\r\n", false),
        (header("x-user", regex("li")), "/", "x-user: alice\r\n", false),
        (header("x-user", regex("(?i)ALICE")), "/", "x-user: alice\r\n", true),
        (header("x-user", regex("zo.{2}")), "/", "x-user: zo\u{eb}\r\n", true), // bytes
        (header("x-user", regex(r"\w+")), "/", "x-user: zo\u{eb}\r\n", false),
        (header("content-length", exact("0")), "/", "Content-Length: 0\r\n", true),
        (not(header("x-user", exact("alice"))), "/", "x-user: alice\r\n", false),
        (not(header("x-user", exact("alice"))), "/", "x-user: bob\r\nx-user: alice\r\n", false),
        (not(header("x-user", exact("alice"))), "/", "", true),
        // The path.
        (path(exact("/a")), "/a?b", "", true),
        (path(exact("/a")), "/a/", "", false),
        (path(exact("/a")), "/%61", "", false),
        (path(exact("/a")), "http://x/a", "", true),
        (path(prefix("/a")), "/ab", "", true),
        (path(regex("/v[12]/.*")), "/v2/x?y", "", true),
        (path(regex("/v[12]")), "/v2/x", "", false),
        // The query.
        (query("user", exact("alice")), "/?a=b&user=alice", "", true),
        (query("user", exact("alice")), "/?user=bob&user=alice&c", "", true),
        (query("user", exact("alice")), "/?xuser=alice", "", false),
        (query("user", exact("")), "/?user", "", true),
        (query("user", exact("a=b")), "/?user=a=b", "", true),
        (query("user", exact("alice")), "/?user=%61lice", "", false),
        (query("user", Test::Present), "/user", "", false),
        // Cookies and baggage.
        (cookie("user", exact("alice")), "/", "Cookie: a=b; user=alice\r\n", true),
        (cookie("user", exact("alice")), "/", "Cookie: a=b\r\nCookie: user=alice;c\r\n", true),
        (cookie("user", exact("alice")), "/", "Cookie: a=user=alice\r\n", false),
        (cookie("user", exact("alice")), "/", "Cookie: User=alice\r\n", false),
        (cookie("user", prefix("al")), "/", "Set-Cookie: user=alice\r\n", false),
        (baggage("user", exact("alice")), "/", "Baggage: a=b, user = alice;p=1;q\r\n", true),
        (baggage("user", exact("alice")), "/", "baggage: a=b;user=alice\r\n", false),
        (baggage("user", Test::Present), "/", "baggage: users=1\r\nbaggage: user=\r\n", true),
    ] {
        let shown = condition.to_string();
        let table = one(Mode::All, vec![condition]);
        assert_eq!(decide(&table, &get(target, fields)).is_some(), expected, "{shown}: {target} {fields:?}");
    }
}

/// Whatever is not split at, decoded or folded stays what it was on the wire.
#[test]
fn values_are_bytes() {
    let latin = || Test::Exact(b"zo\xeb".to_vec());
    let cookie = |test| is(Subject::Cookie(b"c".into()), test);
    let baggage = |test| is(Subject::Baggage(b"b".into()), test);
    let query = |test| is(Subject::Query(b"q".into()), test);
    let utf8 = "x: zo\u{eb}\r\nCookie: c=zo\u{eb}\r\nbaggage: b=zo\u{eb}\r\n".as_bytes();
    let latin1 = &b"x: zo\xeb\r\nCookie: c=zo\xeb\r\nbaggage: b=zo\xeb\r\n"[..];
    // One field for each cookie, as HTTP/2 may send them; a list in several fields; names that others contain.
    let crumbs =
        &b"cookie: cc=1\r\ncookie: c=2\r\ncookie: c=3; c=\r\nbaggage: bb=1,\tb = 2 ;p=9\r\nBaggage: b=3;b=8\r\n"[..];
    let encoded = &b"Cookie: c=%C3%AB\r\nbaggage: b=a%2Cb\r\n"[..];
    for (condition, fields, expected) in [
        (header("x", exact("zo\u{eb}")), utf8, true),
        (cookie(exact("zo\u{eb}")), utf8, true),
        (baggage(exact("zo\u{eb}")), utf8, true),
        (header("x", latin()), utf8, false),
        (header("x", latin()), latin1, true),
        (cookie(latin()), latin1, true),
        (baggage(latin()), latin1, true),
        (header("x", exact("zo\u{eb}")), latin1, false),
        (header("x", regex(r"zo\xeb")), latin1, true),
        (header("x", regex("zo.")), latin1, true),
        (header("x", regex("zo.")), utf8, false),
        (header("x", prefix("zo")), latin1, true),
        (cookie(exact("2")), crumbs, true),
        (cookie(exact("3")), crumbs, true),
        (cookie(exact("")), crumbs, true),
        (cookie(exact("1")), crumbs, false),
        (not(cookie(exact("3"))), crumbs, false),
        (baggage(exact("2")), crumbs, true),
        (baggage(exact("3")), crumbs, true),
        (baggage(exact("8")), crumbs, false),
        (baggage(exact("9")), crumbs, false),
        (header("baggage", exact("b=3;b=8")), crumbs, true),
        (cookie(exact("\u{eb}")), encoded, false),
        (cookie(exact("%C3%AB")), encoded, true),
        (baggage(exact("a%2Cb")), encoded, true),
        (query(exact("%C3%AB+x")), b"", true),
        (query(exact("%c3%ab+x")), b"", false),
        (query(exact("\"")), b"", true),
        (query(exact("")), b"", false),
    ] {
        let shown = condition.to_string();
        let table = one(Mode::All, vec![condition]);
        let wire = [b"GET /?qq=&q=%C3%AB+x&q=\" HTTP/1.1\r\n", fields, b"\r\n"].concat();
        let mut head = RequestHead::new();
        assert!(head.advance(&wire, table.names()).is_ok(), "{shown}");
        assert_eq!(
            table.decide(&mut head, &wire).expect("few fields").is_some(),
            expected,
            "{shown}: {}",
            fields.escape_ascii()
        );
    }
}

#[test]
fn all_and_any() {
    let alice = || header("x-user", exact("alice"));
    let api = || is(Subject::Path, prefix("/api"));
    let is_get = || is(Subject::Method, exact("GET"));
    for (mode, conditions, target, fields, expected) in [
        (Mode::All, vec![alice(), api(), is_get()], "/api", "x-user: alice\r\n", true),
        (Mode::All, vec![alice(), api()], "/", "x-user: alice\r\n", false),
        (Mode::All, vec![alice(), api()], "/api", "", false),
        (Mode::All, vec![alice(), not(api())], "/", "x-user: alice\r\n", true),
        (Mode::All, vec![not(alice()), not(api())], "/", "", true),
        (Mode::Any, vec![alice(), api()], "/", "x-user: alice\r\n", true),
        (Mode::Any, vec![alice(), api()], "/api", "", true),
        (Mode::Any, vec![alice(), api()], "/", "", false),
        (Mode::Any, vec![alice(), not(api())], "/", "", true),
        (Mode::Any, vec![alice(), not(is_get())], "/", "", false),
        (Mode::All, vec![is(Subject::Method, regex("GET|HEAD"))], "/", "", true),
        (Mode::All, vec![is(Subject::Method, regex("get|G"))], "/", "", false),
    ] {
        let table = one(mode, conditions);
        assert_eq!(decide(&table, &get(target, fields)).is_some(), expected, "{table:?} {target} {fields:?}");
    }
}

#[test]
fn the_first_of_many_wins() {
    let user = |n: u64| Filter::new(Mode::All, vec![header("x-user", exact(&format!("u{n}")))]).expect("valid");
    let mut filters: Vec<(Key, Filter)> = (0..1000).map(|n| (Key(n + 10), user(n % 900))).collect();
    filters.push((Key(5), Filter::everything()));
    let table = Table::new(filters);
    assert_eq!(table.len(), 1001);
    for n in [0, 1, 99, 899] {
        assert_eq!(decide(&table, &get("/", &format!("x-user: u{n}\r\n"))), Some(n));
    }
    assert_eq!(decide(&table, &get("/", "x-user: u7\r\nx-user: u3\r\n")), Some(3));
    assert_eq!(decide(&table, &get("/", "")), Some(1000));
    assert_eq!(table.key(1000), Some(Key(5)));
    assert_eq!(table.position(Key(5)), Some(1000));
    let wire = get("/", "x-user: u7\r\n");
    let mut head = RequestHead::new();
    assert!(head.advance(wire.as_bytes(), table.names()).is_ok());
    assert_eq!(table.matching(&mut head, wire.as_bytes()), Ok(vec![7, 907, 1000]));
    assert_eq!(decide(&Table::empty(), &wire), None);
}

#[test]
fn filters_are_told_to_people() {
    let filter = Filter::new(
        Mode::Any,
        vec![header("X-User", exact("alice")), not(is(Subject::Path, prefix("/api"))), header("a", regex("b\u{7}"))],
    )
    .expect("valid");
    assert_eq!(filter.to_string(), "header X-User = alice or not path = /api\u{2026} or header a ~ b\\u{7}");
    assert_eq!(Filter::everything().to_string(), "every request");
}

/// A thousand cases from a fixed seed: what the fuzz targets do, without coverage.
#[test]
fn random_cases_hold() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let parts: [&[u8]; 16] = [
        b"GET / HTTP/1.1\r\n",
        b"POST /dev HTTP/1.1\r\n",
        b"\r\n",
        b"X-User: alice\r\n",
        b"Content-Length: 5\r\n",
        b"hello",
        b"Transfer-Encoding: chunked\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"HEAD / HTTP/1.1\r\n\r\n",
        b"Connection: close\r\n",
        b"Upgrade: x\r\n",
        b"Expect: 100-continue\r\n",
        b"\n",
        b" ",
        b"x-flag:\r\n",
    ];
    for _ in 0..1000 {
        let bytes: Vec<u8> = (0..next() % 200).map(|_| next().to_le_bytes()[0]).collect();
        check::filter::table(&bytes);
        let [settings, seed, count, ..] = next().to_le_bytes();
        let mut wire = vec![settings, seed];
        for _ in 0..count % 24 {
            wire.extend_from_slice(parts[usize::from(next().to_le_bytes()[0]) % parts.len()]);
        }
        check::connection::connection(&wire, check::SOMEWHERE);
        check::head::request(&wire[2..], check::SOMEWHERE);
    }
}
