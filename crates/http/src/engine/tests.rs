//! The two directions against each other: order, ends, refusals, and what the agent may not know beforehand.
//! (Whole connections at every split are in `tests/connection.rs`.)

use super::*;
use crate::Ambiguity;
use crate::filter::{Condition, Filter, Mode, Subject, Table, Test};

const DEV: Origin = Origin::Developer(Key(7));
const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const MATCHED: &[u8] = b"GET /dev HTTP/1.1\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn table() -> Table {
    table_of(7)
}

fn table_of(key: u64) -> Table {
    let condition = Condition { subject: Subject::Path, test: Test::Prefix(b"/dev".into()), negate: false };
    Table::new([(Key(key), Filter::new(Mode::All, vec![condition]).unwrap())])
}

fn engine() -> Engine {
    Engine::new(Options::default())
}

/// Sends one whole request that must be forwarded to `to`.
#[track_caller]
fn send(engine: &mut Engine, wire: &[u8], to: Origin) {
    match engine.client(wire, &table()) {
        Step::Forward { to: origin, len, begins: Some(_), .. } => assert_eq!((origin, len), (to, wire.len())),
        step => panic!("{step:?}"),
    }
}

/// Answers with bytes that must be forwarded whole; whether the answer is finished, and ends the connection.
#[track_caller]
fn answer(engine: &mut Engine, from: Origin, wire: &[u8]) -> (bool, bool) {
    match engine.response(from, wire) {
        Reply::Forward { len, finished, ends, .. } => {
            assert_eq!(len, wire.len());
            (finished, ends)
        }
        reply => panic!("{reply:?}"),
    }
}

#[test]
fn an_idle_connection_costs_little() {
    let size = size_of::<Engine>();
    assert!(size <= 200, "{size}");
}

#[test]
fn a_switch_of_origins_waits_for_what_is_outstanding() {
    let mut engine = engine();
    send(&mut engine, GET, Origin::App);
    send(&mut engine, GET, Origin::App);
    assert_eq!(engine.client(MATCHED, &table()), Step::Wait);
    assert_eq!(engine.outstanding(), 2);
    assert_eq!(answer(&mut engine, Origin::App, OK), (true, false));
    assert_eq!(engine.client(MATCHED, &table()), Step::Wait);
    assert_eq!(answer(&mut engine, Origin::App, OK), (true, false));
    send(&mut engine, MATCHED, DEV);
    assert!(!engine.leg_idle(DEV) && engine.leg_idle(Origin::App));
    assert_eq!(answer(&mut engine, DEV, OK), (true, false));
    assert!(engine.idle() && engine.leg_idle(DEV));
}

#[test]
fn a_request_that_waits_is_decided_by_the_table_of_its_turn() {
    let mut engine = engine();
    send(&mut engine, GET, Origin::App);
    assert_eq!(engine.client(MATCHED, &table()), Step::Wait);
    answer(&mut engine, Origin::App, OK);
    let other = table_of(8);
    assert!(matches!(
        engine.client(MATCHED, &other),
        Step::Forward { to: Origin::Developer(Key(8)), begins: Some(Begins { index: Some(0), .. }), .. }
    ));
    answer(&mut engine, Origin::Developer(Key(8)), OK);
    send(&mut engine, GET, Origin::App);
    assert_eq!(engine.client(MATCHED, &table()), Step::Wait);
    assert!(matches!(engine.client(MATCHED, &Table::empty()), Step::Forward { to: Origin::App, .. }));
}

#[test]
fn the_app_that_speaks_first_has_the_connection() {
    for client in [&b""[..], b"GE", b"GET / HTTP/1.1\r\nA"] {
        let mut engine = engine();
        assert_eq!(engine.client(client, &table()), Step::NeedMore);
        let opaque = Reply::Opaque { to: Origin::App, why: OpaqueReason::ServerFirst };
        assert_eq!(engine.response(Origin::App, b"220 smtp\r\n"), opaque);
        assert_eq!(engine.client(client, &table()), Step::Opaque { to: Origin::App, why: OpaqueReason::ServerFirst });
        assert_eq!(engine.opaque(), Some((Origin::App, OpaqueReason::ServerFirst)));
    }
}

#[test]
fn bytes_that_answer_nothing() {
    let mut engine = engine();
    send(&mut engine, MATCHED, DEV);
    assert_eq!(engine.response(Origin::App, b"HTTP/1.1 408 Timeout\r\n"), Reply::Wait);
    answer(&mut engine, DEV, OK);
    assert_eq!(engine.response(DEV, b"HTTP/1.1 408 Timeout\r\n"), Reply::Discard);
    assert_eq!(engine.client(b"GET", &table()), Step::NeedMore);
    let unsolicited = Reply::Opaque { to: Origin::App, why: OpaqueReason::Unsolicited };
    assert_eq!(engine.response(Origin::App, b"HTTP/1.1 408 Timeout\r\n"), unsolicited);
    assert_eq!(engine.response(DEV, b"x"), Reply::Discard);
}

#[test]
fn a_developer_may_go_between_requests_and_the_app_may_not() {
    let mut engine = engine();
    send(&mut engine, MATCHED, DEV);
    answer(&mut engine, DEV, OK);
    assert_eq!(engine.origin_eof(DEV), OriginEnd::Idle);
    send(&mut engine, MATCHED, DEV);
    assert_eq!(engine.origin_eof(Origin::App), OriginEnd::Idle);
    assert_eq!(engine.origin_eof(DEV), OriginEnd::Unanswered);
}

#[test]
fn ends_inside_answers() {
    for (sent, expected) in [
        (&b""[..], OriginEnd::Unanswered),
        (b"HTTP/1.1 100 Continue\r\n\r\n", OriginEnd::Unanswered),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", OriginEnd::Cut),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r", OriginEnd::Cut),
        (b"HTTP/1.1 200 OK\r\n\r\nany", OriginEnd::Finished),
        (b"HTTP/1.1 200 OK\r\n\r\n", OriginEnd::Finished),
    ] {
        for (origin, request) in [(Origin::App, GET), (DEV, MATCHED)] {
            let mut engine = engine();
            send(&mut engine, request, origin);
            if !sent.is_empty() {
                assert!(!answer(&mut engine, origin, sent).0);
            }
            assert_eq!(engine.response(origin, b""), Reply::NeedMore);
            assert_eq!(engine.origin_eof(origin), expected, "{}", sent.escape_ascii());
        }
    }
}

#[test]
fn a_partial_answer_head_is_unanswered() {
    let mut engine = engine();
    send(&mut engine, MATCHED, DEV);
    assert_eq!(engine.response(DEV, b"HTTP/1.1 200 OK\r\nA"), Reply::NeedMore);
    assert_eq!(engine.origin_eof(DEV), OriginEnd::Unanswered);
    assert_eq!(engine.refuse(), Refusal { head: false, keep_alive: true });
    assert!(engine.idle());
    send(&mut engine, GET, Origin::App);
}

#[test]
fn refusals_keep_the_connection_where_they_can() {
    let head = b"HEAD /dev HTTP/1.1\r\n\r\n";
    let mut engine = engine();
    send(&mut engine, head, DEV);
    send(&mut engine, MATCHED, DEV);
    assert_eq!(engine.refuse(), Refusal { head: true, keep_alive: true });
    assert_eq!(engine.refuse(), Refusal { head: false, keep_alive: true });
    assert!(engine.idle());
    send(&mut engine, b"POST /dev HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe", DEV);
    assert_eq!(engine.sending_to(), Some(DEV));
    assert_eq!(engine.refuse(), Refusal { head: false, keep_alive: false });
    assert_eq!(engine.client(b"llo", &table()), Step::Wait);
    let mut engine = self::engine();
    send(&mut engine, b"GET /dev HTTP/1.1\r\nConnection: close\r\n\r\n", DEV);
    assert!(!engine.refuse().keep_alive);
}

#[test]
fn a_developer_who_cannot_be_reached_leaves_the_request_to_the_app() {
    let mut engine = engine();
    send(&mut engine, b"POST /dev HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe", DEV);
    assert!(engine.fall_back());
    assert!(matches!(engine.client(b"llo", &table()), Step::Forward { to: Origin::App, len: 3, complete: true, .. }));
    assert_eq!(answer(&mut engine, Origin::App, OK), (true, false));
    assert!(!engine.fall_back());
    send(&mut engine, MATCHED, DEV);
    send(&mut engine, MATCHED, DEV);
    assert!(!engine.fall_back(), "the first one is already there");
}

#[test]
fn an_early_answer_lets_the_body_go_on() {
    let mut engine = engine();
    send(&mut engine, b"POST /dev HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe", DEV);
    assert_eq!(answer(&mut engine, DEV, OK), (true, false));
    assert!(!engine.leg_idle(DEV), "the body is still on its way");
    assert_eq!(engine.response(Origin::App, b"x"), Reply::Wait);
    assert!(matches!(engine.client(b"llo", &table()), Step::Forward { to: DEV, len: 3, complete: true, .. }));
    assert!(engine.idle());
    send(&mut engine, b"POST /dev HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe", DEV);
    answer(&mut engine, DEV, OK);
    assert_eq!(engine.origin_eof(DEV), OriginEnd::Early);
    the_body_is_the_last(&mut engine);
    // The same where the answer said that it is the last, or ends with its leg.
    for last in
        ["HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nany"]
    {
        let mut engine = self::engine();
        send(&mut engine, b"POST /dev HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe", DEV);
        let (finished, ends) = answer(&mut engine, DEV, last.as_bytes());
        assert!(ends);
        if !finished {
            assert_eq!(engine.origin_eof(DEV), OriginEnd::Early);
        }
        the_body_is_the_last(&mut engine);
    }
}

/// The rest of a body of five bytes goes on, and nothing after it.
#[track_caller]
fn the_body_is_the_last(engine: &mut Engine) {
    assert!(engine.is_ending() && !engine.is_over());
    assert!(matches!(engine.client(b"lloGET", &table()), Step::Forward { to: DEV, len: 3, complete: true, .. }));
    assert!(engine.is_over());
    assert_eq!(engine.client(GET, &table()), Step::Wait);
}

#[test]
fn a_final_answer_instead_of_100_ends_what_can_be_known() {
    let expect =
        |path: &str| format!("POST {path} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").into_bytes();
    let mut engine = engine();
    send(&mut engine, &expect("/"), Origin::App);
    assert_eq!(answer(&mut engine, Origin::App, OK), (true, false));
    let opaque = Step::Opaque { to: Origin::App, why: OpaqueReason::ExpectRefused };
    assert_eq!(engine.client(b"hello", &table()), opaque);
    let mut engine = self::engine();
    send(&mut engine, &expect("/dev"), DEV);
    assert_eq!(answer(&mut engine, DEV, OK), (true, true));
    assert_eq!(engine.client(b"hello", &table()), Step::Wait);
    // With 100, or with the body already on its way, all is well.
    for early in [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], b"HTTP/1.1 103 Early\r\n\r\n"] {
        let mut engine = self::engine();
        send(&mut engine, &expect("/dev"), DEV);
        assert_eq!(answer(&mut engine, DEV, early), (false, false));
        assert!(matches!(engine.client(b"hello", &table()), Step::Forward { to: DEV, complete: true, .. }));
        assert_eq!(answer(&mut engine, DEV, OK), (true, false));
        assert!(engine.idle());
    }
}

#[test]
fn the_clients_end() {
    let mut engine = engine();
    assert_eq!(engine.client_eof(b""), ClientEnd::Idle);
    send(&mut engine, MATCHED, DEV);
    assert_eq!(engine.client_eof(b""), ClientEnd::Idle);
    let part = b"GET / HTT";
    assert_eq!(engine.client(part, &table()), Step::NeedMore);
    assert_eq!(engine.client_eof(part), ClientEnd::Partial);
    assert_eq!(engine.client(part, &table()), Step::Wait);
    answer(&mut engine, DEV, OK);
    assert_eq!(engine.client(part, &table()), Step::Opaque { to: Origin::App, why: OpaqueReason::Truncated });
    assert_eq!(engine.client_eof(b""), ClientEnd::Inside(Origin::App));
    let mut engine = self::engine();
    send(&mut engine, b"POST /dev HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe", DEV);
    assert_eq!(engine.client_eof(b""), ClientEnd::Inside(DEV));
}

#[test]
fn an_unreadable_answer_of_a_developer_goes_on_until_its_end() {
    let mut engine = engine();
    send(&mut engine, MATCHED, DEV);
    assert_eq!(answer(&mut engine, DEV, b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhe"), (false, true));
    assert!(engine.is_unreadable() && !engine.is_likely_whole());
    assert_eq!(answer(&mut engine, DEV, b"llo"), (false, true));
    assert!(engine.is_likely_whole());
    assert_eq!(engine.client(b"", &table()), Step::NeedMore);
    assert_eq!(engine.origin_eof(DEV), OriginEnd::Finished);
    assert_eq!(engine.client(GET, &table()), Step::Wait);
    let mut engine = self::engine();
    send(&mut engine, MATCHED, DEV);
    answer(&mut engine, DEV, b"HTTP/1.1 200 OK\n\nhe");
    assert!(engine.is_unreadable());
    assert_eq!(engine.client(GET, &table()), Step::Wait);
    assert_eq!(answer(&mut engine, DEV, b"llo"), (false, true));
}

#[test]
fn where_an_unreadable_answer_most_likely_ends() {
    for (wire, whole) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", true),
        ("HTTP/1.1 200 OK\nContent-Length: 3\n\nok", false),
        ("HTTP/1.1 205 Reset Content\r\n\r\n", true),
        ("HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\n\ndata: 1\n\n", false),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\n\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\nok", false),
        ("HTTP/1.1 200 OK\n", false),
        ("hello", false),
    ] {
        let mut engine = engine();
        send(&mut engine, MATCHED, DEV);
        answer(&mut engine, DEV, wire.as_bytes());
        assert!(engine.is_unreadable(), "{wire}");
        assert_eq!(engine.is_likely_whole(), whole, "{wire}");
    }
}

#[test]
fn an_answer_that_has_no_body_ends_with_its_head() {
    for announced in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let mut engine = engine();
        send(&mut engine, MATCHED, DEV);
        let head = format!("HTTP/1.1 204 No Content\r\n{announced}\r\n\r\n");
        assert_eq!(answer(&mut engine, DEV, head.as_bytes()), (true, false));
        assert_eq!(engine.response(DEV, b"hello"), Reply::Discard);
        send(&mut engine, GET, Origin::App);
        // Two of the app's clients could read it differently.
        assert!(matches!(engine.response(Origin::App, head.as_bytes()), Reply::Opaque { .. }));
    }
}

#[test]
fn more_of_the_filters_headers_than_are_looked_at() {
    let condition = Condition { subject: Subject::Header(b"x".into()), test: Test::Present, negate: false };
    let table = Table::new([(Key(7), Filter::new(Mode::All, vec![condition]).unwrap())]);
    let wire = |count| ["GET / HTTP/1.1\r\n", &"X: y\r\n".repeat(count), "\r\n"].concat();
    let mut engine = engine();
    assert!(matches!(engine.client(wire(64).as_bytes(), &table), Step::Forward { to: DEV, .. }));
    let mut engine = self::engine();
    let why = OpaqueReason::Ambiguous(Ambiguity::TooManyFields);
    assert_eq!(engine.client(wire(65).as_bytes(), &table), Step::Opaque { to: Origin::App, why });
}

#[test]
fn after_a_developers_last_answer_nothing_is_the_apps() {
    let mut engine = engine();
    send(&mut engine, MATCHED, DEV);
    assert_eq!(engine.client(b"get odd", &table()), Step::Wait);
    let closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answer(&mut engine, DEV, closing), (true, true));
    assert_eq!(engine.client(b"get odd", &table()), Step::Wait, "the client was told that the connection ends");
}

#[test]
fn what_may_be_sent_again_on_a_new_leg() {
    let line = |method: &str| format!("{method} /dev HTTP/1.1\r\n\r\n").into_bytes();
    for (method, idempotent) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("CONNECT", false),
        ("PROPFIND", false),
        ("GETS", false),
    ] {
        let target = if method == "CONNECT" { "CONNECT a:1 HTTP/1.1\r\n\r\n".into() } else { line(method) };
        let everything = Table::new([(Key(7), Filter::everything())]);
        let mut engine = engine();
        let Step::Forward { begins: Some(begins), .. } = engine.client(&target, &everything) else {
            panic!("{method}")
        };
        assert_eq!(begins.idempotent, idempotent, "{method}");
        assert_eq!(engine.may_resend(false), idempotent, "{method}");
        assert!(engine.may_resend(true), "nothing of it was sent: {method}");
    }
    let mut engine = engine();
    assert!(!engine.may_resend(false) && !engine.may_resend(true), "nothing is outstanding");
    send(&mut engine, MATCHED, DEV);
    send(&mut engine, &line("POST"), DEV);
    assert!(!engine.may_resend(false) && engine.may_resend(true));
    send(&mut engine, MATCHED, DEV);
    assert!(!engine.may_resend(true), "the one before it was sent");
    answer(&mut engine, DEV, OK);
    answer(&mut engine, DEV, OK);
    assert!(engine.may_resend(false), "only the last one is without an answer");
    answer(&mut engine, DEV, b"HTTP/1.1 103 Early Hints\r\n\r\n");
    assert!(!engine.may_resend(false), "an answer has begun");
    answer(&mut engine, DEV, OK);
    for _ in 0..MAX_OUTSTANDING {
        send(&mut engine, MATCHED, DEV);
    }
    assert!(engine.may_resend(false));
    assert_eq!(engine.response(DEV, b"HTTP/1.1 200 OK\r\n"), Reply::NeedMore);
    assert!(!engine.may_resend(false));
}
