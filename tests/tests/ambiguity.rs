//! What two HTTP parsers could read differently, through the real agent: the app gets it with all that follows, byte for
//! byte, and no developer sees any of it.
#![cfg(target_os = "linux")]

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use redir_http::Ambiguity::{self, *};
use redir_http::head::MAX_HEAD;
use redir_rig::{Listener, topology::Family, wait};
use redir_tests::{LOCAL, PORT, SOON, USUAL, World, once, read_all, read_exactly, write};

const UNMATCHED: &[u8] = b"GET /unmatched HTTP/1.1\r\nHost: web\r\n\r\n";
const MATCHED: &[u8] = b"GET /matched HTTP/1.1\r\nHost: web\r\nX-User: alice\r\n\r\n";
const GREEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngreen";
const BLUE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nblue";

/// A request of each ambiguous kind: whatever its header says, it is the app's.
fn requests() -> Vec<(Ambiguity, Vec<u8>)> {
    let mut all: Vec<(Ambiguity, Vec<u8>)> = [
        (Method, "get / HTTP/1.1\r\nX-User: alice\r\n\r\n"),
        (Preface, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (EmptyLine, "\r\nGET / HTTP/1.1\r\nX-User: alice\r\n\r\n"),
        (Target, "GET http://a\\b/ HTTP/1.1\r\nX-User: alice\r\n\r\n"),
        (Http09, "GET /\r\n"),
        (Version, "GET / HTTP/1.2\r\nX-User: alice\r\n\r\n"),
        (ObsFold, "GET / HTTP/1.1\r\nX-User:\r\n alice\r\n\r\n"),
        (BareCr, "GET / HTTP/1.1\r\nA: b\rX-User: alice\r\n\r\n"),
        (BareLf, "GET / HTTP/1.1\r\nA: b\nX-User: alice\r\n\r\n"),
        (Control, "GET / HTTP/1.1\r\nX-User: alice\r\nA: \0\r\n\r\n"),
        (SpaceBeforeColon, "GET / HTTP/1.1\r\nX-User : alice\r\n\r\n"),
        (NoColon, "GET / HTTP/1.1\r\nX-User: alice\r\nA\r\n\r\n"),
        (EmptyName, "GET / HTTP/1.1\r\nX-User: alice\r\n: b\r\n\r\n"),
        (FieldName, "GET / HTTP/1.1\r\nX-User: alice\r\n(A): b\r\n\r\n"),
        (LookalikeName, "POST / HTTP/1.1\r\nX-User: alice\r\nContent_Length: 5\r\n\r\nhello"),
        (LengthTwice, "POST / HTTP/1.1\r\nX-User: alice\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        (LengthOdd, "POST / HTTP/1.1\r\nX-User: alice\r\nContent-Length: +5\r\n\r\nhello"),
        (LengthAndCoding, "POST / HTTP/1.1\r\nX-User: alice\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (CodingTwice, "POST / HTTP/1.1\r\nX-User: alice\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (CodingOdd, "POST / HTTP/1.1\r\nX-User: alice\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (CodingInHttp10, "POST / HTTP/1.0\r\nX-User: alice\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (BodyForbidden, "CONNECT a:1 HTTP/1.1\r\nX-User: alice\r\nContent-Length: 5\r\n\r\nhello"),
        (ExpectOdd, "POST / HTTP/1.1\r\nX-User: alice\r\nExpect: y 100-continue\r\nContent-Length: 5\r\n\r\nhello"),
    ]
    .map(|(why, wire)| (why, wire.as_bytes().to_vec()))
    .into();
    let line =
        |line: &[u8], times| [b"GET / HTTP/1.1\r\nX-User: alice\r\n", line.repeat(times).as_slice(), b"\r\n"].concat();
    all.push((HeadTooLong, line(b"A: b\r\n", MAX_HEAD / 6)));
    all.push((TooManyFields, line(b"X-User: alice\r\n", 64)));
    // In the body of a request that is the app's.
    let head = "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
    all.extend(bodies().map(|(why, good, bad)| (why, format!("{head}{good}{bad}").into_bytes())));
    all
}

/// Bodies that are good up to some byte.
fn bodies() -> [(Ambiguity, &'static str, &'static str); 4] {
    [
        (ChunkSize, "5\r\nhello\r\n0", " \r\n\r\n"),
        (ChunkExtension, "5\r\nhello\r\n0;a", "\n\r\n"),
        (ChunkEnd, "5\r\nhello", "XX0\r\n\r\n"),
        (Trailer, "5\r\nhello\r\n0\r\nA", "\r\n\r\n"),
    ]
}

/// Answers of each ambiguous kind that no request has.
fn answers() -> [(Ambiguity, &'static [u8]); 2] {
    [
        (StatusLine, b"HTTP/2 200 OK\r\n\r\n"),
        (UpgradeUnasked, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    ]
}

fn count(w: &World, metric: &str, reason: &str) -> Result<f64> {
    w.metric(metric, &[&format!("reason=\"{reason}\"")])
}

/// Does `what` and looks that it made exactly one connection opaque for this reason.
fn opaque_once(w: &World, why: Ambiguity, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let opaque = || count(w, "redir_connections_opaque_total", why.as_str());
    let before = opaque()?;
    what().with_context(|| format!("{why:?}"))?;
    let more = opaque()? - before;
    ensure!((more - 1.0).abs() < 0.5, "{why:?}: {more} connections went opaque for it");
    Ok(())
}

/// The app's and the developer's services, whose connections the tests hold by hand.
fn services(w: &World) -> Result<(Listener, Listener)> {
    let app = Listener::new(&w.pod().namespace, (Family::V4.any(), PORT).into())?;
    let developer = Listener::new(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into())?;
    Ok((app, developer))
}

once!(an_ambiguous_request_is_the_apps_with_all_that_follows, USUAL, |w| {
    let all = requests();
    let kinds = || all.iter().map(|(why, _)| *why).chain(answers().map(|(why, _)| why));
    for &why in Ambiguity::ALL {
        ensure!(kinds().any(|kind| kind == why), "{why:?} is missing in the table");
    }
    let _cli = w.intercept_early(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let (app, developer) = services(w)?;
    for (why, wire) in all {
        opaque_once(w, why, || {
            let mut pair = w.pair(w.client(), Family::V4, &app)?;
            // The connection is kept alive, and its requests were decided one by one.
            write(&mut pair.client, MATCHED)?;
            let (mut blue, _) = developer.accept()?;
            ensure!(read_exactly(&mut blue, MATCHED.len())? == MATCHED);
            write(&mut blue, BLUE)?;
            ensure!(read_exactly(&mut pair.client, BLUE.len())? == BLUE);
            write(&mut pair.client, UNMATCHED)?;
            ensure!(read_exactly(&mut pair.app, UNMATCHED.len())? == UNMATCHED);
            write(&mut pair.app, GREEN)?;
            ensure!(read_exactly(&mut pair.client, GREEN.len())? == GREEN);
            // What follows would be the developer's.
            let rest = [&wire, MATCHED].concat();
            let sender = thread::spawn({
                let (mut client, rest) = (pair.client.try_clone()?, rest.clone());
                move || write(&mut client, rest)
            });
            ensure!(read_exactly(&mut pair.app, rest.len())? == rest, "the app gets other bytes");
            ensure!(sender.join().is_ok_and(|sent| sent.is_ok()));
            // Its idle leg is ended; the FIN and the end of reading race each other through the tunnel.
            let end = read_all(&mut blue);
            ensure!(is_reset(&end) || end?.is_empty(), "the developer gets nothing more");
            write(&mut pair.app, b"as you like")?;
            drop(pair.app);
            ensure!(read_all(&mut pair.client)? == b"as you like", "the app alone answers");
            Ok(())
        })?;
    }
    ensure!(developer.accept_within(Duration::ZERO).is_err(), "one leg for each connection");
    Ok(())
});

once!(an_ambiguous_body_to_a_developer_ends_the_connection, USUAL, |w| {
    let _cli = w.intercept_early(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let (app, developer) = services(w)?;
    for (why, good, bad) in bodies() {
        let mut pair = w.pair(w.client(), Family::V4, &app)?;
        write(&mut pair.client, UNMATCHED)?;
        ensure!(read_exactly(&mut pair.app, UNMATCHED.len())? == UNMATCHED);
        write(&mut pair.app, GREEN)?;
        ensure!(read_exactly(&mut pair.client, GREEN.len())? == GREEN);
        let begun = format!("POST / HTTP/1.1\r\nX-User: alice\r\nTransfer-Encoding: chunked\r\n\r\n{good}");
        write(&mut pair.client, &begun)?;
        let (mut blue, _) = developer.accept()?;
        ensure!(read_exactly(&mut blue, begun.len())? == begun.as_bytes(), "{why:?}");
        write(&mut pair.client, [bad.as_bytes(), UNMATCHED, MATCHED].concat())?;
        ensure!(is_reset(&read_all(&mut pair.client)), "{why:?}: the client");
        ensure!(is_reset(&read_all(&mut blue)), "{why:?}: the developer's service, which got no byte more");
        ensure!(is_reset(&read_all(&mut pair.app)), "{why:?}: the app");
        ensure!(count(w, "redir_connections_opaque_total", why.as_str())? < 0.5, "{why:?}");
    }
    let ended = || count(w, "redir_connections_closed_total", "ambiguous");
    wait::until_true("each of them to be counted", SOON, || Ok((ended()? - 4.0).abs() < 0.5))
});

once!(an_ambiguous_answer_is_passed_on_as_it_is, USUAL, |w| {
    let _cli = w.intercept_early(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let (app, developer) = services(w)?;
    for (why, answer) in answers() {
        opaque_once(w, why, || {
            let mut pair = w.pair(w.client(), Family::V4, &app)?;
            write(&mut pair.client, UNMATCHED)?;
            ensure!(read_exactly(&mut pair.app, UNMATCHED.len())? == UNMATCHED);
            write(&mut pair.app, answer)?;
            ensure!(read_exactly(&mut pair.client, answer.len())? == answer);
            write(&mut pair.client, MATCHED)?;
            ensure!(read_exactly(&mut pair.app, MATCHED.len())? == MATCHED, "opaque from then on");
            Ok(())
        })?;
        // A developer's goes on until its end, and is the connection's last.
        let mut pair = w.pair(w.client(), Family::V4, &app)?;
        write(&mut pair.client, MATCHED)?;
        let (mut blue, _) = developer.accept()?;
        ensure!(read_exactly(&mut blue, MATCHED.len())? == MATCHED);
        write(&mut blue, answer)?;
        write(&mut blue, b"and more")?;
        drop(blue);
        ensure!(read_all(&mut pair.client)? == [answer, b"and more"].concat(), "{why:?}");
        ensure!(read_all(&mut pair.app)?.is_empty(), "{why:?}: nothing of it was the app's");
    }
    Ok(())
});

fn is_reset(read: &Result<Vec<u8>>) -> bool {
    read.as_ref().is_err_and(|error| format!("{error:#}").contains("reset by peer"))
}
