//! What a front and a back are known to read differently: requests of the smuggling literature, and answers that are
//! longer, shorter, more or other than their heads say.

mod check;

use check::EVERYWHERE;
use check::connection::{End, Origins, Pace, Run, same_however_split};
use check::judge::{Rules, judge};
use redir_http::engine::Origin;
use redir_http::filter::Key;
use redir_http::{Ambiguity, OpaqueReason};

const APP: Origin = Origin::App;
const DEV: Origin = Origin::Developer(Key(3));
const BOTH: [Pace; 2] = [Pace::Eager, Pace::Lazy];

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const MATCHED: &str = "GET /dev HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Runs the wire at every split; the n-th request gets the n-th answer, and those after the last get `OK`.
fn at(pace: Pace, wire: &str, answers: &[&str]) -> Run {
    let rules = Rules::some();
    let answer = |n: usize, _: &[u8]| answers.get(n).copied().unwrap_or(OK).as_bytes().to_vec();
    let [bytes, whole] = [1, usize::MAX].map(|piece| {
        let origins = Origins { answer: &answer, pace, piece };
        let run = same_however_split(wire.as_bytes(), EVERYWHERE, &rules.table, &origins);
        judge(wire.as_bytes(), &run, &rules);
        run
    });
    assert_eq!(bytes, whole, "{wire:?}");
    whole
}

fn got(run: &Run, origin: Origin) -> String {
    let bytes = run.got.get(&origin).cloned().unwrap_or_default();
    String::from_utf8(bytes).expect("the scripts are text")
}

fn client(run: &Run) -> &str {
    std::str::from_utf8(&run.client).expect("the scripts are text")
}

/// The part of a payload that one reader takes for a request of its own and another one for a body.
const SMUGGLED: &str = "GET /dev/smuggled HTTP/1.1\r\nX: y\r\n\r\n";

/// Framing that front and back are known to disagree on. Sent to the app, it is the app's with all that follows; sent to
/// a developer, it is the app's if the head is at fault, and ends the connection if the body is.
#[test]
fn nothing_is_smuggled() {
    let length = SMUGGLED.len();
    for (name, head, body) in [
        ("CL.TE", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
        ("TE.TE, two", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
        ("TE.TE, space", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("TE.TE, tab", "Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n"),
        ("TE.TE, vertical tab", "Transfer-Encoding:\u{b}chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("TE.TE, list", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("TE.TE, fold", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        ("TE.TE, bare LF", "X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("TE.TE, bare CR", "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("TE.TE, letters", "Transfer-Encod\u{131}ng: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("CL.CL", "Content-Length: 0\r\nContent-Length: 5\r\n", ""),
        ("CL.CL, list", "Content-Length: 0, 5\r\n", ""),
        ("CL.0, sign", "Content-Length: +0\r\n", ""),
        ("CL.0, hexadecimal", "Content-Length: 0x0\r\n", ""),
        ("CL.0, underscore", "Content_Length: 5\r\n", ""),
        ("0.CL, Expect", "Expect: y 100-continue\r\nContent-Length: 5\r\n", ""),
        ("0.CL, fold", "Content-Length:\r\n 5\r\n", ""),
        ("nameless colon", ": x\r\nContent-Length: 5\r\n", ""),
    ] {
        for path in ["/", "/dev"] {
            let rest = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{head}\r\n{body}{SMUGGLED}{MATCHED}");
            for pace in BOTH {
                let run = at(pace, &format!("{MATCHED}{GET}{rest}"), &[]);
                assert_eq!((got(&run, DEV).as_str(), got(&run, APP)), (MATCHED, format!("{GET}{rest}")), "{name}");
                assert!(matches!(run.end, End::Opaque(APP, OpaqueReason::Ambiguous(_), _)), "{name}: {:?}", run.end);
            }
        }
    }
    for (name, body) in [
        ("TERM.EXT", format!("5;\nhello\r\n{length:x}\r\n0\r\n\r\n")),
        ("EXT.TERM", format!("5;a\rb\r\nhello\r\n{length:x}\r\n0\r\n\r\n")),
        ("TERM.SPILL", "5\r\nhello\n0\r\n\r\n".into()),
        ("SPILL.TERM", "5\r\nhelloAA0\r\n\r\n".into()),
        ("bare LF after the size", "5\nhello\r\n0\r\n\r\n".into()),
        ("space after the size", "5 \r\nhello\r\n0\r\n\r\n".into()),
        ("overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n".into()),
        ("hexadecimal prefix", "0x5\r\nhello\r\n0\r\n\r\n".into()),
        ("folded trailer", "0\r\nA: b\r\n c\r\n\r\n".into()),
        ("bare LF after a trailer", "0\r\nA: b\n\r\n".into()),
        ("trailer without a colon", "0\r\nA\r\n\r\n".into()),
    ] {
        let after = format!("{body}{SMUGGLED}{MATCHED}");
        for pace in BOTH {
            let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            let run = at(pace, &format!("{MATCHED}{head}{after}"), &[]);
            assert_eq!((got(&run, DEV).as_str(), got(&run, APP)), (MATCHED, format!("{head}{after}")), "{name}");

            let head = "POST /dev HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            let run = at(pace, &format!("{GET}{head}{after}"), &[]);
            assert_eq!(got(&run, APP), GET, "{name}");
            let cut = got(&run, DEV);
            assert!(cut.starts_with(head) && body.starts_with(&cut[head.len()..]), "{name}: {cut:?}");
            assert!(matches!(run.end, End::Reset(_)), "{name}: {:?}", run.end);
        }
    }
}

/// A body that holds a request is a body, whoever leaves it unread.
#[test]
fn a_request_in_a_body_is_no_request() {
    let length = SMUGGLED.len();
    for framing in [
        format!("Content-Length: {length}\r\n\r\n{SMUGGLED}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:X};x=\"0\"\r\n{SMUGGLED}\r\n0\r\nX-User: alice\r\n\r\n"),
    ] {
        for method in ["POST", "GET", "HEAD", "DELETE", "OPTIONS"] {
            let [app, dev] = ["/", "/dev"].map(|path| format!("{method} {path} HTTP/1.1\r\n{framing}"));
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            for pace in BOTH {
                let run = at(pace, &format!("{app}{dev}{app}{MATCHED}"), &[head; 4]);
                assert_eq!(got(&run, APP), format!("{app}{app}"));
                assert_eq!(got(&run, DEV), format!("{dev}{MATCHED}"));
                assert_eq!(run.end, End::Open);
            }
        }
    }
}

/// Answers that go on after their end. The app's client gets whatever the app sends, and redir looks no more; what a
/// developer sends beyond an answer is nobody's.
#[test]
fn bytes_after_an_answers_end() {
    for (method, answer, more) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hello"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", "until the end"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "hello"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "hello"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"),
        ("GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", "hello"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "more"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 103 Late\r\n\r\n",
        ),
        ("GET", OK, OK),
    ] {
        let both = format!("{answer}{more}");
        for pace in BOTH {
            let app = format!("{method} / HTTP/1.1\r\n\r\n");
            let run = at(pace, &format!("{app}{MATCHED}"), &[&both]);
            assert_eq!(client(&run), both);
            assert_eq!(run.end, End::Opaque(APP, OpaqueReason::Unsolicited, MATCHED.into()));

            let dev = format!("{method} /dev HTTP/1.1\r\n\r\n");
            let run = at(pace, &format!("{dev}{GET}{MATCHED}"), &[&both]);
            assert_eq!(client(&run), format!("{answer}{OK}{OK}"));
            assert_eq!(run.end, End::Open);
        }
    }
}

/// Answers whose end clients are known to see elsewhere: the app's are passed on unread, and so is the rest of the
/// connection; a developer's end it.
#[test]
fn answers_with_two_ends() {
    use Ambiguity::*;
    for (answer, why) in [
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", BodyForbidden),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BodyForbidden),
        ("HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\nhello", BodyForbidden),
        ("HTTP/1.1 205 Reset Content\r\n\r\nhello", BodyForbidden),
        ("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello", BodyForbidden),
        ("HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BodyForbidden),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhello", UpgradeUnasked),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", CodingInHttp10),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", CodingOdd),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", CodingOdd),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", LengthTwice),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", LengthAndCoding),
        ("HTTP/1.1 200 OK\r\nContent_Length: 2\r\n\r\nok", LookalikeName),
        ("HTTP/1.1 200 OK\r\nX: y\r\n Content-Length: 2\r\n\r\nok", ObsFold),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok", BareLf),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\n\r\n", ChunkSize),
        ("HTTP/2 200 OK\r\n\r\nok", StatusLine),
        ("HTTP/1.1 99 No\r\n\r\nok", StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\nok", StatusLine),
        ("hello", StatusLine),
    ] {
        for pace in BOTH {
            let run = at(pace, &format!("{GET}{MATCHED}"), &[answer]);
            assert_eq!(client(&run), answer);
            assert_eq!(run.end, End::Opaque(APP, OpaqueReason::Ambiguous(why), MATCHED.into()), "{answer:?}");
            assert_eq!(got(&run, DEV), "");

            let run = at(pace, &format!("{MATCHED}{GET}"), &[answer, OK]);
            if answer.starts_with("HTTP/1.1 204") {
                // It ends with its head, as RFC 9112 says, and what follows is nobody's.
                let head = answer.split_inclusive("\r\n\r\n").next().expect("a head");
                assert_eq!((client(&run), got(&run, APP)), (format!("{head}{OK}").as_str(), GET.to_owned()));
                continue;
            }
            assert_eq!(client(&run), answer);
            assert_eq!(got(&run, APP), "", "no answer of the app's is put behind {answer:?}");
        }
    }
}

/// However many interim answers there are, the request has one answer, and nobody else's comes between.
#[test]
fn a_flood_of_interim_answers() {
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(2000) + OK;
    let rules = Rules::some();
    for piece in [7, 1000, usize::MAX] {
        let answer = |_: usize, _: &[u8]| flood.as_bytes().to_vec();
        let origins = Origins { answer: &answer, pace: Pace::Lazy, piece };
        let wire = [MATCHED, GET, MATCHED].concat();
        let run = check::connection::run([wire.as_bytes()], &rules.table, &origins);
        judge(wire.as_bytes(), &run, &rules);
        assert_eq!(client(&run), flood.repeat(3));
        assert_eq!(run.statuses, [200; 3]);
    }
}

/// Two pipelined requests and three answers: the third answers nothing.
#[test]
fn a_split_answer_shifts_no_one_elses() {
    for pace in BOTH {
        let run = at(pace, &[MATCHED, GET, MATCHED, GET].concat(), &[&OK.repeat(2), OK, OK, OK]);
        assert_eq!(client(&run), OK.repeat(4));
        assert_eq!((got(&run, APP), got(&run, DEV)), (GET.repeat(2), MATCHED.repeat(2)));
    }
    // Those that were pipelined to the same developer get their answers in the order in which they come, as from any
    // server; what is too much goes nowhere.
    let run = at(Pace::Lazy, &[MATCHED, MATCHED, GET].concat(), &[&OK.repeat(2), "HTTP/1.1 500 Late\r\n\r\n", OK]);
    assert_eq!(client(&run), OK.repeat(3));
}

/// The body of a request that asks for another protocol is its body; only what comes after it waits for the answer.
#[test]
fn an_upgrade_with_a_body() {
    let upgrade =
        |path: &str, body: &str| format!("POST {path} HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n{body}");
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        for (to, path) in [(APP, "/"), (DEV, "/dev")] {
            let upgrade = upgrade(path, body);
            for pace in BOTH {
                // What follows looks like a request for the other origin, and is not.
                let other = if to == APP { MATCHED } else { GET };
                let run = at(pace, &format!("{upgrade}{other}"), &[switched]);
                assert_eq!(got(&run, to), format!("{upgrade}{other}"));
                assert_eq!(run.end, End::Opaque(to, OpaqueReason::Upgraded, other.into()));
                let run = at(pace, &format!("{upgrade}{other}"), &[]);
                assert_eq!(got(&run, to), upgrade);
                assert_eq!(run.end, End::Open);
            }
        }
    }
}

/// Targets that are no path: by their header fields they are matched like others, by a path only if they have it.
#[test]
fn targets_that_are_no_path() {
    for (target, method, to) in [
        ("*", "OPTIONS", APP),
        ("http://a/dev", "GET", DEV),
        ("HTTP://me@a:80/dev/x?y", "GET", DEV),
        ("http://a?/dev", "GET", APP),
        ("http://a//dev", "GET", APP),
        ("http://dev", "GET", APP),
        ("//dev/x", "GET", APP),
        ("/dev/../x", "GET", DEV),
    ] {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        for pace in BOTH {
            let run = at(pace, &format!("{GET}{request}{MATCHED}"), &[]);
            assert_eq!(run.messages[1], (to, request.clone().into_bytes()));
            let alice = format!("{method} {target} HTTP/1.1\r\nX-User: alice\r\n\r\n");
            let run = at(pace, &format!("{GET}{alice}{GET}"), &[]);
            assert_eq!(run.messages[1], (Origin::Developer(Key(1)), alice.into_bytes()));
        }
    }
}
