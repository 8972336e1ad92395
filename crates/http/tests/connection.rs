//! Whole connections in memory: who gets which byte, at every split, with origins that answer early and late.

mod check;

use check::connection::{End, Origins, Pace, Run, canned, same_however_split};
use redir_http::engine::Origin;
use redir_http::filter::Key;
use redir_http::{Ambiguity, OpaqueReason};

const APP: Origin = Origin::App;
const ALICE: Origin = Origin::Developer(Key(1));
const FLAG: Origin = Origin::Developer(Key(2));
const DEV: Origin = Origin::Developer(Key(3));

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const MATCHED: &str = "GET / HTTP/1.1\r\nX-User: alice\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn at(pace: Pace, wire: &str, answer: &dyn Fn(usize, &[u8]) -> Vec<u8>) -> Run {
    let runs = [1, 7, 10_000].map(|piece| {
        let origins = Origins { answer, pace, piece };
        same_however_split(wire.as_bytes(), 100, &check::head::table(), &origins)
    });
    let [one, seven, whole] = runs;
    assert_eq!(one, whole);
    assert_eq!(seven, whole);
    whole
}

/// Both paces, and every message and answer as given; the run for what else there is to see.
#[track_caller]
fn goes(parts: &[(Origin, &str)], answer: &str) -> Run {
    let wire: String = parts.iter().map(|(_, part)| *part).collect();
    let answer = |_: usize, _: &[u8]| answer.as_bytes().to_vec();
    let (eager, lazy) = (at(Pace::Eager, &wire, &answer), at(Pace::Lazy, &wire, &answer));
    let expected: Vec<(Origin, Vec<u8>)> = parts.iter().map(|(to, part)| (*to, part.as_bytes().to_vec())).collect();
    assert_eq!(eager.messages, expected, "eager");
    assert_eq!(lazy.messages, expected, "lazy");
    assert_eq!(eager.client, lazy.client);
    assert_eq!(eager.end, End::Open);
    eager
}

/// The messages, then opaque to the app with this rest.
#[track_caller]
fn goes_then_opaque(parts: &[(Origin, &str)], rest: &str, why: OpaqueReason) {
    let wire: String = parts.iter().map(|(_, part)| *part).chain([rest]).collect();
    for pace in [Pace::Eager, Pace::Lazy] {
        let run = at(pace, &wire, &|_, _| OK.into());
        let got: Vec<(Origin, &str)> = run
            .messages
            .iter()
            .map(|(to, bytes)| (*to, std::str::from_utf8(bytes).expect("the scripts are text")))
            .collect();
        assert_eq!(got, parts);
        assert_eq!(run.end, End::Opaque(APP, why, rest.into()), "{wire:?}");
    }
}

#[test]
fn requests_alternate_on_one_connection() {
    let run = goes(
        &[
            (APP, GET),
            (ALICE, MATCHED),
            (APP, GET),
            (ALICE, MATCHED),
            (ALICE, MATCHED),
            (DEV, "GET /dev?x HTTP/1.1\r\n\r\n"),
            (APP, GET),
        ],
        OK,
    );
    assert_eq!(run.client, OK.repeat(7).into_bytes());
    assert_eq!(run.statuses, [200; 7]);
}

#[test]
fn bodies_go_where_their_head_went() {
    let goes_both = |body: &str| {
        let app = format!("POST / HTTP/1.1\r\n{body}");
        let dev = format!("POST /dev HTTP/1.1\r\n{body}");
        goes(&[(APP, &app), (DEV, &dev), (DEV, &dev), (APP, &app), (APP, GET), (DEV, &dev), (ALICE, MATCHED)], OK);
    };
    goes_both("Content-Length: 5\r\n\r\nhello");
    goes_both("Content-Length: 0\r\n\r\n");
    goes_both("Content-Length: 27\r\n\r\nGET /dev HTTP/1.1\r\n\r\nhello\n");
    goes_both("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    goes_both(
        "Transfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n3\r\n\r\n0\r\n0\r\nX-User: alice\r\nY: z\r\n\r\n",
    );
}

#[test]
fn the_first_filter_wins_and_any_occurrence_counts() {
    goes(
        &[
            (FLAG, "GET / HTTP/1.1\r\nx-flag:\r\n\r\n"),
            (ALICE, "GET /dev HTTP/1.1\r\nX-FLAG: 1\r\nX-USER: bob\r\nx-user: alice \r\n\r\n"),
            (APP, "GET / HTTP/1.1\r\nx-user: alice, bob\r\n\r\n"),
            (APP, "GET / HTTP/1.1\r\nx-user: Alice\r\n\r\n"),
            (APP, "GET /?/dev HTTP/1.1\r\n\r\n"),
            (DEV, "GET http://x/dev HTTP/1.1\r\nHost: x\r\n\r\n"),
        ],
        OK,
    );
}

#[test]
fn probes_go_to_the_app() {
    goes(&[(APP, "GET /dev HTTP/1.1\r\nUser-Agent: kube-probe/1.30\r\n\r\n"), (DEV, "GET /dev HTTP/1.1\r\n\r\n")], OK);
}

#[test]
fn every_framing_of_answers_keeps_the_order() {
    let messages = [(APP, GET), (ALICE, MATCHED), (ALICE, "HEAD / HTTP/1.1\r\nX-User: alice\r\n\r\n"), (APP, GET)];
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500\r\nContent-Length: 0\r\n\r\n",
    ] {
        let run = goes(&messages, answer);
        assert_eq!(run.client, answer.repeat(4).into_bytes());
    }
    let bodies = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\nTrailer: x\r\n\r\n";
    goes(&[(APP, GET), (ALICE, MATCHED), (APP, GET)], bodies);
}

#[test]
fn an_answer_to_head_has_no_body_whatever_it_says() {
    let run = goes(
        &[(APP, "HEAD / HTTP/1.1\r\n\r\n"), (DEV, "HEAD /dev HTTP/1.1\r\n\r\n"), (APP, "HEAD / HTTP/1.1\r\n\r\n")],
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(run.statuses.len(), 3);
}

#[test]
fn pipelines_longer_than_the_window_arrive() {
    let parts: Vec<(Origin, &str)> =
        (0..200).map(|n| if n % 90 < 80 { (APP, GET) } else { (ALICE, MATCHED) }).collect();
    goes(&parts, OK);
}

#[test]
fn what_is_ambiguous_goes_to_the_app_with_all_that_follows() {
    use Ambiguity::*;
    for (head, why) in [
        ("GET / HTTP/1.1\r\nA : b\r\n", SpaceBeforeColon),
        ("GET / HTTP/1.1\nX-User: alice\n\n", BareLf),
        ("POST /dev HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", LengthAndCoding),
        ("POST /dev HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", LengthTwice),
        ("POST /dev HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", CodingInHttp10),
        ("CONNECT a:1 HTTP/1.1\r\nX-User: alice\r\nContent-Length: 1\r\n\r\n", BodyForbidden),
        ("\r\nGET /dev HTTP/1.1\r\n\r\n", EmptyLine),
        ("get /dev HTTP/1.1\r\n\r\n", Method),
        ("PRI * HTTP/2.0\r\n\r\n", Preface),
        ("GET /dev\r\n", Http09),
    ] {
        let rest = format!("{head}{MATCHED}{GET}");
        goes_then_opaque(&[(APP, GET)], &rest, OpaqueReason::Ambiguous(why));
        goes_then_opaque(&[(ALICE, MATCHED), (APP, GET), (ALICE, MATCHED)], &rest, OpaqueReason::Ambiguous(why));
    }
}

#[test]
fn other_protocols_are_the_apps_from_the_first_certain_byte() {
    for (wire, why) in [
        ("\u{16}\u{3}\u{1}", OpaqueReason::Tls),
        ("\u{16}", OpaqueReason::Tls),
        ("PRI ", OpaqueReason::Http2),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", OpaqueReason::Http2),
        ("SSH-2.", OpaqueReason::NotHttp),
        ("*1\r\n$4\r\nPING\r\n", OpaqueReason::NotHttp),
        ("PING\r\n", OpaqueReason::NotHttp),
        ("\0\0\0\u{8}", OpaqueReason::NotHttp),
        ("get x\r\n", OpaqueReason::NotHttp),
        ("\r\n", OpaqueReason::NotHttp),
        ("GET /\r\n", OpaqueReason::Ambiguous(Ambiguity::Http09)),
    ] {
        goes_then_opaque(&[], wire, why);
    }
}

#[test]
fn a_body_that_turns_malformed() {
    let app = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello";
    for pace in [Pace::Eager, Pace::Lazy] {
        let run = at(pace, &format!("{GET}{app}X\r\n{MATCHED}"), &|_, _| OK.into());
        assert_eq!(run.messages, [(APP, GET.into()), (APP, app.into())]);
        let rest = format!("X\r\n{MATCHED}").into_bytes();
        assert_eq!(run.end, End::Opaque(APP, OpaqueReason::Ambiguous(Ambiguity::ChunkEnd), rest));

        let dev = app.replace("/ ", "/dev ");
        let run = at(pace, &format!("{GET}{dev}X\r\n{MATCHED}"), &|_, _| OK.into());
        assert_eq!(run.messages, [(APP, GET.into()), (DEV, dev.into())]);
        assert_eq!(run.end, End::Reset(Ambiguity::ChunkEnd));
    }
}

#[test]
fn an_upgrade_belongs_to_whoever_answers_101() {
    let rest = "\u{1}hello GET / HTTP/1.1\r\n\r\n";
    let upgrade = |path: &str| format!("GET {path} HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    for (to, path) in [(APP, "/"), (DEV, "/dev")] {
        for pace in [Pace::Eager, Pace::Lazy] {
            let wire = format!("{GET}{MATCHED}{}{rest}", upgrade(path));
            let switched = "HTTP/1.1 101 Switching Protocols\r\n\r\nserver bytes";
            let answer = |n: usize, _: &[u8]| if n == 2 { switched.into() } else { OK.into() };
            let run = at(pace, &wire, &answer);
            assert_eq!(run.end, End::Opaque(to, OpaqueReason::Upgraded, rest.into()));
            assert_eq!(run.client, format!("{OK}{OK}{switched}").into_bytes());
            assert_eq!(run.statuses, [200, 200, 101]);
        }
        goes(&[(APP, GET), (to, &upgrade(path)), (APP, GET), (ALICE, MATCHED)], OK);
    }
}

#[test]
fn a_tunnel_belongs_to_whoever_answers_2xx() {
    for (to, head) in [(APP, "CONNECT a:1 HTTP/1.1\r\n\r\n"), (ALICE, "CONNECT a:1 HTTP/1.1\r\nX-User: alice\r\n\r\n")]
    {
        let wire = format!("{GET}{head}tunnel bytes");
        let answer = |n: usize, _: &[u8]| if n == 1 { b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec() } else { OK.into() };
        for pace in [Pace::Eager, Pace::Lazy] {
            let run = at(pace, &wire, &answer);
            assert_eq!(run.end, End::Opaque(to, OpaqueReason::Tunnel, b"tunnel bytes".into()));
            assert!(run.client.ends_with(b"200 OK\r\n\r\nhello"));
        }
        let refused = "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno";
        goes(&[(APP, GET), (to, head), (ALICE, MATCHED)], refused);
    }
}

#[test]
fn close_is_honoured_on_each_side() {
    let close = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
    let close_dev = "GET /dev HTTP/1.1\r\nConnection: x, Close\r\n\r\n";
    goes_then_opaque(&[(ALICE, MATCHED), (APP, close)], MATCHED, OpaqueReason::AfterClose);
    goes_then_opaque(&[(APP, "GET / HTTP/1.0\r\n\r\n")], MATCHED, OpaqueReason::AfterClose);
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
    for pace in [Pace::Eager, Pace::Lazy] {
        // The client said so to a developer: what follows is dropped with the connection, as any server would.
        let run = at(pace, &format!("{GET}{close_dev}{MATCHED}"), &|_, _| OK.into());
        assert_eq!(run.messages, [(APP, GET.into()), (DEV, close_dev.into())]);
        assert_eq!(run.end, End::Over(MATCHED.into()));
        // An origin said so.
        for answer in [closing, old, "HTTP/1.1 200 OK\r\n\r\nuntil the end"] {
            let run = at(pace, &format!("{MATCHED}{GET}"), &|_, _| answer.into());
            assert_eq!(run.messages, [(ALICE, MATCHED.into())], "{answer}");
            assert_eq!(run.end, End::Over(GET.into()));
            assert_eq!(run.client, answer.as_bytes());
            let run = at(pace, &format!("{GET}{MATCHED}"), &|_, _| answer.into());
            assert_eq!(run.messages, [(APP, GET.into())]);
            assert_eq!(run.end, End::Opaque(APP, OpaqueReason::AfterClose, MATCHED.into()));
        }
    }
    // HTTP/1.0 with keep-alive goes on.
    let kept = "GET /dev HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    goes(&[(DEV, kept), (APP, GET)], "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn answers_that_cannot_be_read() {
    for odd in [
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 101 What\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        for pace in [Pace::Eager, Pace::Lazy] {
            let run = at(pace, &format!("{GET}{MATCHED}"), &|_, _| odd.into());
            assert_eq!(run.client, odd.as_bytes());
            assert!(
                matches!(&run.end, End::Opaque(APP, OpaqueReason::Ambiguous(_), rest) if rest == MATCHED.as_bytes()),
                "{odd:?} {:?}",
                run.end
            );
            let run = at(pace, &format!("{MATCHED}{GET}"), &|_, _| odd.into());
            assert_eq!(run.messages, [(ALICE, MATCHED.into())]);
            assert_eq!(run.client, odd.as_bytes(), "the client sees what the developer sent");
            assert!(matches!(run.end, End::Over(_) | End::Reset(_)), "{:?}", run.end);
        }
    }
}

#[test]
fn the_canned_answers_of_the_fuzz_target_are_all_used() {
    for n in 0..16 {
        let data = [
            &[0, n][..],
            GET.as_bytes(),
            MATCHED.as_bytes(),
            b"POST /dev HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
            GET.as_bytes(),
        ]
        .concat();
        check::connection::connection(&data, check::EVERYWHERE);
        assert!(!canned(usize::from(n), b"").is_empty());
    }
}
