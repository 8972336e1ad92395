//! Developers' services that end a connection where a client would rather they did not, through the real agent: while it is
//! used again, before a request's body is there, or behind an answer that nobody can read.
#![cfg(target_os = "linux")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redir_rig::{Listener, topology::Family};
use redir_tests::{
    LOCAL, Scenario, USUAL, once,
    talk::{
        Stage, Step,
        What::{self, Closes, Finishes, HearsEnd, HearsNothing, Resets},
        Who::{self, Alice, App, Client},
        exchange, hears, passes, says,
    },
};

const ENDS: Scenario = Scenario { limit: Duration::from_secs(120), ..USUAL };

fn request(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: web\r\nX-User: alice\r\n{more}\r\n")
}

fn unmatched() -> Vec<Step> {
    exchange(App, "GET /app HTTP/1.1\r\nHost: web\r\n\r\n", ok("app"))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A connection that alice's service has kept alive: the next request is on a leg that was used before.
fn kept_alive() -> Vec<Step> {
    exchange(Alice, request("GET /first", ""), ok("first"))
}

/// The service hears everything once more, and answers; then the connection is as good as before.
fn again(everything: &str, answers: &str) -> Vec<Step> {
    [
        vec![hears(Alice, everything), says(Alice, answers), hears(Client, answers)],
        kept_alive(),
        unmatched(),
        kept_alive(),
    ]
    .concat()
}

/// However the service ends it.
fn either_end(of: impl Fn(What) -> Vec<Step>) -> [(String, Vec<Step>); 2] {
    [Closes, Resets].map(|end| (format!("{end:?}"), of(end)))
}

once!(what_may_be_sent_twice_is_sent_again, ENDS, |w| {
    let stage = Stage::new(w)?;
    let put = request("PUT /file", "Content-Length: 10\r\n");
    let chunked = request("DELETE /file", "Transfer-Encoding: chunked\r\n") + "3\r\nabc\r\n0\r\n\r\n";
    let whole = put.clone() + "0123456789";
    for sent in [request("GET /2", ""), request("HEAD /2", ""), request("OPTIONS /2", ""), whole.clone(), chunked] {
        let answer = if sent.starts_with("HEAD") { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" } else { &ok("2") };
        stage.play(either_end(|end| {
            [kept_alive(), passes(Client, Alice, &sent), vec![(Alice, end)], again(&sent, answer)].concat()
        }))?;
    }
    // A body that is still on its way goes on behind what was sent.
    let part = put + "01234";
    stage.play(either_end(|end| {
        [
            [kept_alive(), passes(Client, Alice, &part), vec![(Alice, end)]].concat(),
            vec![hears(Alice, &part), says(Client, "56789")],
            again("56789", &ok("2")),
        ]
        .concat()
    }))?;
    // All that is without an answer, also where the first of them was answered on a leg of its own.
    let many = |range: std::ops::Range<usize>| range.map(|n| request(&format!("GET /{n}"), "")).collect::<String>();
    stage.play(either_end(|end| {
        [kept_alive(), passes(Client, Alice, many(0..64)), vec![(Alice, end)], again(&many(0..64), &ok("").repeat(64))]
            .concat()
    }))?;
    stage.play(either_end(|end| {
        [
            passes(Client, Alice, many(0..3)),
            passes(Alice, Client, ok("0")),
            vec![(Alice, end)],
            again(&many(1..3), &ok("").repeat(2)),
        ]
        .concat()
    }))?;
    // A client that is done, and a service that does it again and again.
    stage.play(either_end(|end| {
        [
            [
                kept_alive(),
                passes(Client, Alice, many(0..1)),
                vec![(Client, Finishes), (Alice, HearsEnd), (Alice, end)],
            ]
            .concat(),
            vec![hears(Alice, many(0..1)), says(Alice, ok("0")), hears(Client, ok("0"))],
        ]
        .concat()
    }))?;
    stage.play(either_end(|end| {
        let once = [passes(Client, Alice, many(0..1)), vec![(Alice, end), hears(Alice, many(0..1))]].concat();
        [kept_alive(), vec![[once, passes(Alice, Client, ok("0"))].concat(); 5].concat(), unmatched()].concat()
    }))
});

once!(what_may_not_be_sent_twice_is_closed_as_the_service_did, ENDS, |w| {
    let stage = Stage::new(w)?;
    let post = request("POST /file", "Content-Length: 10\r\n");
    let large = request("PUT /file", "Content-Length: 100000\r\n") + &"x".repeat(100_000);
    let posts = [post.clone() + "0123456789", request("PATCH /file", "Content-Length: 0\r\n"), post.clone() + "01234"];
    let pipelined = posts[0].clone() + &request("GET /", "");
    for sent in posts.into_iter().chain([pipelined, large]) {
        stage.play(either_end(|end| {
            [kept_alive(), passes(Client, Alice, &sent), vec![(Alice, end), (Client, HearsEnd)]].concat()
        }))?;
    }
    // An answer has begun.
    let hint = "HTTP/1.1 103 Early Hints\r\n\r\n";
    stage.play(either_end(|end| {
        [kept_alive(), exchange(Alice, request("GET /2", ""), hint), vec![(Alice, end), (Client, HearsEnd)]].concat()
    }))
});

/// How long the service keeps an idle connection.
const KEEP_ALIVE: Duration = Duration::from_millis(100);

/// Answers GET and POST, and closes what is idle for [`KEEP_ALIVE`], as uvicorn does after five seconds: with requests
/// that have just come in unread, which is a reset.
fn serve(mut socket: TcpStream, closed: &AtomicUsize) -> Result<()> {
    socket.set_read_timeout(Some(KEEP_ALIVE))?;
    let mut unread = Vec::new();
    loop {
        let mut block = [0; 4096];
        match socket.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(count) => unread.extend_from_slice(&block[..count]),
            Err(_) => {
                closed.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        if unread.ends_with(b"\r\n\r\n") || unread.ends_with(b"body") {
            unread.clear();
            socket.write_all(ok("blue").as_bytes())?;
        }
    }
}

once!(a_short_keep_alive_of_the_service_costs_no_request, ENDS, |w| {
    const CLIENTS: usize = 12;
    const EACH: usize = 40;
    let _green = w.green()?;
    let listener = Listener::new(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into())?;
    let _cli = w.alice()?;
    let (over, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let accepting = {
        let (over, closed) = (over.clone(), closed.clone());
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok((socket, _)) = listener.accept_within(KEEP_ALIVE) {
                    let closed = closed.clone();
                    thread::spawn(move || serve(socket, &closed));
                }
            }
        })
    };
    let w = &*w;
    let ask = |number: usize| -> Result<(usize, usize)> {
        let (mut answered, mut ended) = (0, 0);
        let mut http = w.http(w.client(), Family::V4)?;
        for round in 0..EACH {
            // Around the moment at which the service closes.
            thread::sleep(
                KEEP_ALIVE - Duration::from_millis(2) + Duration::from_micros((round * 97 % 40) as u64 * 100),
            );
            if number.is_multiple_of(3) {
                http.send(request("POST /", "Content-Length: 4\r\n") + "body")?;
                match http.response() {
                    Ok(response) => ensure!(response.status == 200, "a POST, round {round}: {response:?}"),
                    Err(error) => {
                        ensure!(format!("{error:#}").contains("closed before"), "a POST, round {round}: {error:#}");
                        ended += 1;
                        http = w.http(w.client(), Family::V4)?;
                    }
                }
            } else {
                let response = http.get("/", &["x-user: alice"]).with_context(|| format!("a GET, round {round}"))?;
                ensure!(response.status == 200 && response.text() == "blue", "a GET, round {round}: {response:?}");
            }
            answered += 1;
        }
        Ok((answered, ended))
    };
    let results = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || ask(number))).collect();
        clients.into_iter().map(|client| client.join().expect("no panic")).collect::<Result<Vec<_>>>()
    });
    over.store(true, Ordering::Relaxed);
    accepting.join().expect("no panic");
    let ended: usize = results?.iter().map(|(_, ended)| ended).sum();
    let closed = closed.load(Ordering::Relaxed);
    eprintln!("the service closed {closed} connections; {ended} POSTs met one");
    ensure!(closed > CLIENTS, "the service closed {closed} connections");
    Ok(())
});

/// The upload of the tests: so many pieces of 64 KiB.
const PIECES: usize = 48;

fn piece(number: usize) -> Vec<u8> {
    (0..65_536usize).map(|at| (at * 31 + number).to_be_bytes()[7]).collect()
}

fn upload(of: Who) -> String {
    format!("POST /upload HTTP/1.1\r\nHost: web\r\nX-User: {}\r\nContent-Length: {}\r\n\r\n", of.user(), PIECES << 16)
}

/// The client sends the upload from this piece on, and whoever answered hears it.
fn goes_on(of: Who, from: usize) -> Vec<Step> {
    (from..PIECES).flat_map(|number| passes(Client, of, piece(number))).collect()
}

once!(an_upload_goes_on_behind_an_early_answer, ENDS, |w| {
    let stage = Stage::new(w)?;
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly";
    for of in [App, Alice] {
        for answer in [&ok("early"), closing, "HTTP/1.1 200 OK\r\n\r\nuntil the end"] {
            let before = [exchange(Alice, request("GET /", ""), ok("1")), unmatched()].concat();
            let begins = [passes(Client, of, upload(of)), passes(Client, of, piece(0)), passes(of, Client, answer)];
            // It sends no more, and reads on.
            let ends = vec![(of, Finishes), (Client, HearsEnd)];
            let last = vec![(Client, Finishes), (of, HearsEnd)];
            let steps = [before, begins.concat(), ends, goes_on(of, 1), last].concat();
            stage.play_by(usize::MAX, &format!("{of:?} {answer:?}"), &steps)?;
        }
        // Nobody has ended yet.
        let begins = [passes(Client, of, upload(of)), passes(of, Client, closing), goes_on(of, 0)].concat();
        stage.play_by(usize::MAX, "closing", &[begins, vec![(of, Closes), (Client, HearsEnd)]].concat())?;
    }
    // The client gives up inside it.
    let begins =
        [passes(Client, Alice, upload(Alice)), passes(Alice, Client, closing), passes(Client, Alice, piece(0))];
    let ends = vec![(Client, Finishes), (Alice, HearsEnd), (Alice, Closes), (Client, HearsEnd)];
    stage.play_by(usize::MAX, "given up", &[begins.concat(), ends].concat())
});

/// Refuses an upload as nginx does: answers, sends its FIN, and reads on for a while. Or ends at once.
fn refuse(mut socket: TcpStream, reads_on: bool) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut block = [0; 65_536];
    ensure!(socket.read(&mut block)? > 0);
    socket.write_all(REFUSED.as_bytes())?;
    if reads_on {
        socket.shutdown(std::net::Shutdown::Write)?;
        while socket.read(&mut block)? > 0 {}
    }
    Ok(())
}

const REFUSED: &str = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 10\r\n\r\ntoo large\n";

once!(a_refused_upload_is_answered_however_long_the_client_sends_on, ENDS, |w| {
    // Longer than a client may say nothing, in pieces that come sooner.
    const SENDS: Duration = Duration::from_secs(7);
    const PAUSE: Duration = Duration::from_millis(250);
    let _green = w.green()?;
    let _cli = w.intercept_early(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let listener = Listener::new(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into())?;
    for reads_on in [true, false] {
        let mut http = w.http(w.client(), Family::V4)?;
        http.send(upload(Alice))?;
        let (socket, _) = listener.accept()?;
        let service = thread::spawn(move || refuse(socket, reads_on));
        let began = Instant::now();
        while began.elapsed() < SENDS {
            http.send(&piece(0)[..1000])
                .with_context(|| format!("after {:?}, reads on: {reads_on}", began.elapsed()))?;
            thread::sleep(PAUSE);
        }
        let response = http.response().with_context(|| format!("reads on: {reads_on}"))?;
        ensure!(response.status == 413 && response.text() == "too large\n", "{response:?}");
        ensure!(http.closed()?, "the connection ends with it");
        drop(http);
        service.join().expect("no panic")?;
    }
    Ok(())
});

once!(an_answer_that_cannot_be_read_ends_the_connection_in_order, ENDS, |w| {
    let stage = Stage::new(w)?;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 205 Reset Content\r\n\r\n",
    ] {
        let odd = [unmatched(), kept_alive(), exchange(Alice, request("GET /odd", ""), answer)].concat();
        let quiet = [odd.clone(), vec![(Client, HearsEnd), (Alice, HearsEnd)]].concat();
        // What the client says before it hears of it gets no answer, as on any connection that is closed: no reset.
        let next = "GET /next HTTP/1.1\r\nHost: web\r\n\r\n";
        let used = [odd, vec![says(Client, next), (Client, HearsEnd), (Alice, HearsEnd), (App, HearsEnd)]].concat();
        stage.play_by(usize::MAX, answer, &quiet)?;
        stage.play_by(usize::MAX, answer, &used)?;
    }
    // These end with their heads, whatever they announce: the connection goes on.
    for announced in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let head = format!("HTTP/1.1 204 No Content\r\n{announced}\r\n\r\n");
        let odd = [
            [kept_alive(), passes(Client, Alice, request("DELETE /odd", ""))].concat(),
            vec![says(Alice, head.clone() + "hello"), hears(Client, head), (Client, HearsNothing)],
            unmatched(),
            vec![(Alice, HearsEnd), (Alice, Closes)],
            kept_alive(),
            unmatched(),
        ];
        stage.play_by(usize::MAX, announced, &odd.concat())?;
    }
    Ok(())
});
