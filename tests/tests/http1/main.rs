//! HTTP/1.x through the real agent, with raw sockets at every end: what arrives is compared byte for byte with what was
//! written, in whole writes and byte by byte.
#![cfg(target_os = "linux")]

mod ends;

use std::time::Duration;

use anyhow::ensure;
use redir_tests::{
    Scenario, USUAL, once,
    talk::{
        ORIGINS, Stage, Step,
        What::{Closes, Finishes, HearsEnd, HearsNothing, HearsReset, Resets},
        Who::{self, Alice, App, Bob, Carol, Client},
        exchange, hears, passes, says,
    },
};

const HTTP1: Scenario = Scenario { limit: Duration::from_secs(120), ..USUAL };

/// A request for an origin; `line` is method and target, `more` further field lines.
fn request(of: Who, line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: web\r\nX-User: {}\r\n{more}\r\n", of.user())
}

fn get(of: Who, number: usize) -> String {
    request(of, &format!("GET /{number}"), "")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The same conversation with the app and with a developer in the leading part.
fn both_ways(of: impl Fn(Who, Who) -> Vec<Step>) -> Vec<(&'static str, Vec<Step>)> {
    vec![("app", of(App, Alice)), ("developer", of(Alice, App))]
}

/// Every origin once more: the connection is as good as before.
fn as_before() -> Vec<Step> {
    ORIGINS.iter().zip(900..).flat_map(|(of, number)| exchange(*of, get(*of, number), ok("again"))).collect()
}

once!(answers_are_in_the_order_of_requests, HTTP1, |w| {
    let stage = Stage::new(w)?;
    // One waits for the other: nobody may hear its request before its turn, or the answers would have to be held.
    stage.play(both_ways(|slow, fast| {
        [
            vec![says(Client, get(slow, 1) + &get(fast, 2) + &get(fast, 3) + &get(slow, 4)), hears(slow, get(slow, 1))],
            vec![(Client, HearsNothing), says(slow, ok("one")), hears(Client, ok("one"))],
            vec![hears(fast, get(fast, 2) + &get(fast, 3)), says(fast, ok("two") + &ok("three"))],
            vec![hears(Client, ok("two") + &ok("three")), hears(slow, get(slow, 4))],
            vec![says(slow, ok("four")), hears(Client, ok("four"))],
            as_before(),
        ]
        .concat()
    }))?;
    // Bodies that are still on their way, and answers in pieces.
    let post = |of| request(of, "POST /", "Content-Length: 10\r\n");
    stage.play(both_ways(|first, second| {
        [
            passes(Client, first, post(first) + "01234"),
            vec![says(Client, "56789".to_owned() + &get(second, 2)), hears(first, "56789")],
            passes(first, Client, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234"),
            vec![says(first, "56789"), hears(Client, "56789"), hears(second, get(second, 2))],
            passes(second, Client, ok("two")),
            as_before(),
        ]
        .concat()
    }))?;
    // As deep as it is kept track of, and deeper: the rest comes as answers go.
    let deep = |of: Who| -> Vec<Step> {
        let requests = |range: std::ops::Range<usize>| range.map(|n| get(of, n)).collect::<String>();
        let answers = |range: std::ops::Range<usize>| range.map(|n| ok(&format!("answer {n}"))).collect::<String>();
        [
            vec![says(Client, requests(0..200)), hears(of, requests(0..64)), (of, HearsNothing)],
            vec![says(of, answers(0..64)), hears(Client, answers(0..64)), hears(of, requests(64..128))],
            vec![says(of, answers(64..100)), hears(Client, answers(64..100)), hears(of, requests(128..164))],
            vec![says(of, answers(100..164)), hears(Client, answers(100..164)), hears(of, requests(164..200))],
            passes(of, Client, answers(164..200)),
            as_before(),
        ]
        .concat()
    };
    for of in [App, Alice] {
        stage.play_by(usize::MAX, "deep", &deep(of))?;
    }
    // Every other one for another origin.
    let turns = |n: usize| ORIGINS[n % ORIGINS.len()];
    let mut steps = vec![says(Client, (0..100).map(|n| get(turns(n), n)).collect::<String>())];
    for n in 0..100 {
        steps.push(hears(turns(n), get(turns(n), n)));
        steps.extend(passes(turns(n), Client, ok(&format!("answer {n}"))));
    }
    stage.play([("in turns", steps)])
});

once!(three_developers_and_the_app_share_a_connection, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let orders: [&[Who]; 4] = [
        &[App, Alice, Bob, Carol, App, Carol, Bob, Alice],
        &[Alice, Alice, App, App, Bob, Bob, Alice, Carol],
        &[Carol, Bob, Alice, App],
        &[Bob, App, Bob, App, Bob],
    ];
    stage.play(orders.iter().map(|order| {
        let one_by_one = order.iter().zip(0..).flat_map(|(of, n)| exchange(*of, get(*of, n), ok(of.user())));
        (format!("{order:?}"), one_by_one.chain(as_before()).collect())
    }))?;
    // What a developer's service closes between requests is opened again; the app's close is the client's.
    let again = [exchange(Alice, get(Alice, 1), ok("1")), exchange(App, get(App, 2), ok("2"))].concat();
    let closed = [
        again.clone(),
        vec![(Alice, Finishes), (Alice, HearsEnd), (Alice, Closes)],
        exchange(Alice, get(Alice, 3), ok("3")),
        exchange(Bob, get(Bob, 4), ok("4")),
    ];
    stage.play([("a developer's close", closed.concat())])?;
    stage.play([("the app's close", [again.clone(), vec![(App, Closes), (Client, HearsEnd)]].concat())])?;
    // Closed just when it was used again: a GET is sent again.
    let race = [
        [again, passes(Client, Alice, get(Alice, 3))].concat(),
        vec![(Alice, Closes), hears(Alice, get(Alice, 3)), says(Alice, ok("3")), hears(Client, ok("3"))],
        as_before(),
    ];
    stage.play([("a close that met a request", race.concat())])
});

once!(interim_answers_come_from_the_chosen_origin, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let expecting = |of| request(of, "PUT /file", "Expect: 100-continue\r\nContent-Length: 5\r\n");
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
    stage.play(both_ways(|of, other| {
        [
            exchange(of, expecting(of), go_on),
            exchange(of, "hello", ok("stored")),
            // The client need not wait.
            exchange(of, expecting(of) + "hello", go_on.to_owned() + &ok("stored")),
            exchange(of, get(of, 1), hints.to_owned() + &ok("hinted")),
            exchange(of, request(of, "HEAD /", ""), hints.to_owned() + "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
            // Behind a request whose answer is still out.
            vec![says(Client, get(other, 2) + &expecting(of)), hears(other, get(other, 2))],
            passes(other, Client, ok("two")),
            vec![hears(of, expecting(of)), says(of, go_on), hears(Client, go_on)],
            exchange(of, "hello", ok("stored")),
            as_before(),
        ]
        .concat()
    }))?;
    // A final answer at once: whether the body follows is between the client and the origin.
    let no = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno";
    let then_body =
        [exchange(App, expecting(App), no), passes(Client, App, "hello"), exchange(App, get(Alice, 1), ok("1"))];
    let then_none = [exchange(App, expecting(App), no), exchange(App, get(Alice, 1), ok("1"))];
    let developer = [exchange(Alice, expecting(Alice), no), vec![(Client, HearsEnd)]];
    stage.play([("body", then_body.concat()), ("no body", then_none.concat()), ("developer", developer.concat())])
});

once!(answers_end_where_they_say, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let head = |of| request(of, "HEAD /", "");
    let kept_1_0 = |of: Who| format!("GET / HTTP/1.0\r\nX-User: {}\r\nConnection: Keep-Alive\r\n\r\n", of.user());
    stage.play(both_ways(|of, other| {
        [
            // Without a body, whatever they announce.
            exchange(of, head(of), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
            exchange(of, head(of), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            exchange(of, head(of), "HTTP/1.1 404 Not Found\r\n\r\n"),
            exchange(of, get(of, 1), "HTTP/1.1 204 No Content\r\n\r\n"),
            exchange(of, get(of, 2), "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
            exchange(of, get(of, 3), "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: \"x\"\r\n\r\n"),
            exchange(of, get(of, 4), "HTTP/1.1 304 Not Modified\r\n\r\n"),
            exchange(other, get(other, 5), ok("")),
            // Many at once.
            vec![says(Client, head(of) + &get(of, 6) + &head(of) + &get(of, 7)), hears(of, head(of) + &get(of, 6))],
            vec![
                hears(of, head(of) + &get(of, 7)),
                says(of, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_owned() + &ok("five!")),
            ],
            vec![says(of, "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &ok("seven"))],
            vec![hears(Client, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_owned() + &ok("five!"))],
            vec![hears(Client, "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &ok("seven"))],
            // HTTP/1.0 that is kept alive.
            exchange(of, kept_1_0(of), "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold"),
            exchange(
                of,
                get(of, 8),
                "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Other\r\nContent-Length: 3\r\n\r\nnew",
            ),
            as_before(),
        ]
        .concat()
    }))?;
    // Legal, and seldom seen.
    for answer in [
        "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 \r\ncontent-length:2\r\n\r\nok",
        "HTTP/1.1 299 caf\u{e9} \t!\r\nX: \u{e9}\r\nx:\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 599 x\r\nCONTENT-LENGTH: 2\r\nConnection: Foo\r\nConnection: Bar\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    ] {
        stage.play(both_ways(|of, _| [exchange(of, get(of, 1), answer), as_before()].concat()))?;
    }
    Ok(())
});

once!(chunks_pass_with_extensions_and_trailers, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let chunked = "5;name=value;q=\"a b\"\r\nhello\r\n00a\r\n0123456789\r\nA;\r\n\r\n\r\nGET / \r\n0;last=1\r\nX-Sum: \u{e9}1\r\nX-Empty:\r\n\r\n";
    let post = |of| request(of, "POST /", "transfer-encoding: chunked\r\nTrailer: X-Sum\r\n") + chunked;
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding:chunked\r\n\r\n{chunked}");
    let empty = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n\r\n";
    stage.play(both_ways(|of, other| {
        [
            exchange(of, post(of), &answer),
            vec![says(Client, post(of) + &post(of) + &post(other)), hears(of, post(of) + &post(of))],
            vec![says(of, answer.clone() + empty), hears(Client, answer.clone() + empty), hears(other, post(other))],
            passes(other, Client, empty),
            as_before(),
        ]
        .concat()
    }))
});

once!(upgrades_and_tunnels_stay_with_whoever_agreed, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let upgrade = |of| {
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        request(of, "GET /chat", fields)
    };
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let frame = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    let connect = |of: Who| format!("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\nX-User: {}\r\n\r\n", of.user());
    let tunnel = "HTTP/1.1 200 Connection established\r\n\r\n";
    for (ask, agree) in [(&upgrade as &dyn Fn(Who) -> String, switched), (&connect, tunnel)] {
        stage.play(both_ways(|of, other| {
            [
                exchange(other, get(other, 1), ok("1")),
                exchange(of, ask(of), agree),
                // No longer HTTP, whatever it looks like; each direction ends by itself.
                exchange(of, frame, b"\x81\x05hello"),
                exchange(of, get(other, 2), get(of, 3)),
                vec![(Client, Finishes), (of, HearsEnd)],
                passes(of, Client, "last words"),
                vec![(of, Closes), (Client, HearsEnd)],
            ]
            .concat()
        }))?;
        // What follows waits until it is known what it is: with the agreement it is the tunnel's ...
        stage.play(both_ways(|of, other| {
            [
                exchange(other, get(other, 1), ok("1")),
                vec![says(Client, [ask(of).as_bytes(), frame].concat()), hears(of, ask(of)), (of, HearsNothing)],
                vec![
                    says(of, agree.to_owned() + "first words"),
                    hears(Client, agree.to_owned() + "first words"),
                    hears(of, frame),
                ],
            ]
            .concat()
        }))?;
        // ... and else it is the next request, decided by itself.
        let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\n";
        stage.play(both_ways(|of, other| {
            [
                vec![says(Client, ask(of) + &get(other, 2) + &get(of, 3)), hears(of, ask(of))],
                vec![says(of, refused), hears(Client, refused), hears(other, get(other, 2))],
                vec![says(other, ok("2")), hears(Client, ok("2")), hears(of, get(of, 3))],
                passes(of, Client, ok("3")),
                as_before(),
            ]
            .concat()
        }))?;
        // An interim answer before, and others that are still out.
        stage.play(both_ways(|of, _| {
            [
                vec![says(Client, get(of, 1) + &ask(of)), hears(of, get(of, 1) + &ask(of))],
                passes(of, Client, ok("1") + "HTTP/1.1 103 Early Hints\r\n\r\n"),
                passes(of, Client, agree),
                exchange(of, frame, frame),
            ]
            .concat()
        }))?;
    }
    // An answer with a body to a request that asked for an upgrade, as servers give that know none.
    stage.play(both_ways(|of, _| [exchange(of, upgrade(of), ok("plain")), as_before()].concat()))
});

once!(targets_of_every_form_pass, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let lines = [
        "OPTIONS *",
        "GET http://web/a/../b?x=1",
        "GET http://web",
        "POST http://me:secret@web:80/",
        "GET //a//b",
        "GET /%2e%2e/\\^`{|}\"<>",
    ];
    stage.play(both_ways(|of, _| {
        let each = lines.iter().flat_map(|line| exchange(of, request(of, line, ""), ok(line)));
        each.chain(as_before()).collect()
    }))?;
    // Odd but legal heads.
    let heads = [
        "GET / HTTP/1.1\r\nx-USER:alice\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nx-user: \t alice \t\r\nX:\r\n: \r\n".replace("\r\n: \r\n", "\r\n\r\n"),
        "M-SEARCH / HTTP/1.1\r\nCookie: a\r\ncookie: b\r\nx-user: bob\r\nX-User: alice\r\nx: caf\u{e9}\r\n\r\n"
            .replace("bob", "eve"),
    ];
    stage.play(heads.iter().map(|head| ("a head", [exchange(Alice, head, ok("")), as_before()].concat())))
});

once!(heads_of_256_kib_are_looked_at_and_longer_ones_are_not, HTTP1, |w| {
    const LIMIT: usize = 256 * 1024;
    let stage = Stage::new(w)?;
    let long = |of: Who, length: usize| {
        let without = request(of, "GET /", "X-Fill: \r\n").len();
        request(of, "GET /", &format!("X-Fill: {}\r\n", "f".repeat(length - without)))
    };
    let many = |of: Who| request(of, "GET /", &"X-Filling: 0123456789abcdef\r\n".repeat(LIMIT / 32));
    let answer = format!("HTTP/1.1 200 OK\r\nX-Fill: {}\r\nContent-Length: 2\r\n\r\nok", "f".repeat(200_000));
    for of in [App, Alice] {
        ensure!(long(of, LIMIT).len() == LIMIT);
        let steps = [
            exchange(of, long(of, LIMIT), ok("1")),
            exchange(of, many(of), &answer),
            exchange(of, get(of, 2), ok("2")),
            as_before(),
        ]
        .concat();
        for piece in [usize::MAX, 1000] {
            stage.play_by(piece, "256 KiB", &steps)?;
        }
        // One above: opaque to the app from there on.
        let steps = [
            exchange(Bob, get(Bob, 1), ok("1")),
            exchange(App, long(of, LIMIT + 1), ok("2")),
            exchange(App, get(Alice, 3), ok("3")),
        ]
        .concat();
        for piece in [usize::MAX, 1000] {
            stage.play_by(piece, "more than 256 KiB", &steps)?;
        }
    }
    Ok(())
});
