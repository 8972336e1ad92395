//! Connections that become HTTP/2 by `Upgrade: h2c`, as the JDK's client and curl offer it: each stream is decided for
//! itself, whoever got the first request.
#![cfg(target_os = "linux")]

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result, ensure};
use redir_rig::{
    Listener,
    http2::{DATA, HEADERS, PREFACE, SETTINGS, frame},
    topology::Family,
};
use redir_tests::{LOCAL, PORT, SOON, USUAL, World, both, http2::Origin, once, read_exactly};

fn green(w: &World) -> Result<Origin> {
    Origin::upgrading(&w.pod().namespace, ([0u16; 8], PORT).into(), "green")
}

fn blue(w: &World) -> Result<Origin> {
    Origin::upgrading(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue")
}

/// One request after the other with curl, over one connection; who answered, and with which version of HTTP.
fn curl(w: &World, family: Family, requests: &[(&str, &[&str])]) -> Result<Vec<String>> {
    let url = format!("http://{}/", w.pod().at(family, PORT));
    let mut command = vec!["curl"];
    for (number, (user, options)) in requests.iter().enumerate() {
        command.extend((number > 0).then_some("--next"));
        command.extend(["--silent", "--show-error", "--http2", "--max-time", "20", "--header", user]);
        command.extend(["--write-out", " %{http_version} %{num_connects} %{http_code}\n"]);
        command.extend(*options);
        command.push(&url);
    }
    Ok(w.client().namespace.output(&command)?.lines().map(str::to_owned).collect())
}

const ALICE: &str = "x-user: alice";
const BOB: &str = "x-user: bob";

both!(each_stream_of_an_upgraded_connection_is_decided, USUAL, |w| {
    let (green, blue) = (green(w)?, blue(w)?);
    let mut cli = w.alice()?;
    for family in [Family::V4, Family::V6] {
        let answers = curl(w, family, &[(BOB, &[]), (ALICE, &[]), (BOB, &[]), (ALICE, &[])])?;
        let expected = ["green 2 1 200", "blue 2 0 200", "green 2 0 200", "blue 2 0 200"];
        ensure!(answers == expected, "{answers:?}");
    }
    for (origin, user) in [(&green, "bob"), (&blue, "alice")] {
        let seen = origin.seen();
        ensure!(seen.len() == 4 && seen.iter().all(|seen| seen.headers["x-user"] == user), "{seen:?}");
        ensure!(seen.iter().all(|seen| seen.line.starts_with("GET http://")), "streams of HTTP/2: {seen:?}");
    }
    let clients: Vec<_> = green.seen().iter().map(|seen| seen.client.ip().to_canonical()).collect();
    let (four, six) = (w.client().ip(Family::V4), w.client().ip(Family::V6));
    ensure!(clients == [four, four, six, six], "{clients:?}");
    ensure!(cli.wait_events("request", 4, SOON)?.iter().all(|event| event["status"] == 200));
    Ok(())
});

both!(a_matched_first_request_does_not_give_the_connection_away, USUAL, |w| {
    let (green, blue) = (green(w)?, blue(w)?);
    let mut cli = w.alice()?;
    for family in [Family::V4, Family::V6] {
        // The developer answers in HTTP/1; the app's next answer makes it HTTP/2.
        let answers = curl(w, family, &[(ALICE, &[]), (BOB, &[]), (ALICE, &[])])?;
        ensure!(answers[0] == "blue 1.1 1 200", "{answers:?}");
        ensure!(answers[1].starts_with("green ") && answers[2].starts_with("blue "), "{answers:?}");
    }
    let first = blue.seen().into_iter().next().context("a request")?;
    let offer = ["upgrade", "http2-settings", "connection"].map(|name| first.headers.contains_key(name));
    ensure!(first.line == "GET /" && offer == [false; 3], "{first:?}");
    ensure!(first.headers["x-user"] == "alice" && first.headers.contains_key("user-agent"), "{first:?}");
    ensure!(blue.seen().len() == 4 && green.seen().len() == 2, "{:?} {:?}", blue.seen(), green.seen());
    cli.wait_events("request", 4, SOON)?;
    Ok(())
});

once!(a_body_and_a_head_are_upgraded_as_well, USUAL, |w| {
    let (green, _blue) = (green(w)?, blue(w)?);
    let _cli = w.alice()?;
    let mut client = w.connect(w.client(), Family::V4)?;
    let post =
        String::from_utf8_lossy(OFFER).replace("GET", "POST").replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\n");
    client.write_all(post.as_bytes())?;
    client.write_all(b"body")?;
    ensure!(read_exactly(&mut client, SWITCHING.len())? == SWITCHING);
    client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())?;
    ensure!(read_to(&mut client, DATA, 1)?.1 == b"green");
    let answers = curl(w, Family::V4, &[(BOB, &["--data", "body"]), (ALICE, &[]), (BOB, &[])])?;
    ensure!(answers == ["green 2 1 200", "blue 2 0 200", "green 2 0 200"], "{answers:?}");
    let answers = curl(w, Family::V4, &[(BOB, &["--head", "--output", "/dev/null"]), (BOB, &[]), (ALICE, &[])])?;
    ensure!(answers == [" 2 1 200", "green 2 0 200", "blue 2 0 200"], "{answers:?}");
    let lines: Vec<_> = green.seen().into_iter().map(|seen| seen.line).collect();
    ensure!(lines.iter().filter(|line| line.starts_with("POST ")).count() == 2, "{lines:?}");
    ensure!(lines.iter().filter(|line| line.starts_with("HEAD ")).count() == 1, "{lines:?}");
    Ok(())
});

once!(where_nobody_is_matched_nothing_changes, USUAL, |w| {
    let (green, _blue) = (green(w)?, blue(w)?);
    let cli = w.alice()?;
    let answers = curl(w, Family::V4, &[(BOB, &[]), (BOB, &[])])?;
    ensure!(answers == ["green 2 1 200", "green 2 0 200"], "{answers:?}");
    ensure!(green.seen().len() == 2 && cli.events("request").is_empty());
    Ok(())
});

const OFFER: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\nX-User: bob\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                       Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAQAEAAA\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;

/// Kinds and streams of frames, and the last one's payload.
type Frames = (Vec<(u8, u32)>, Vec<u8>);

/// Reads frames up to one of this kind and stream.
fn read_to(socket: &mut TcpStream, kind: u8, stream: u32) -> Result<Frames> {
    let mut seen = Vec::new();
    loop {
        let head = read_exactly(socket, 9)?;
        let payload = read_exactly(socket, usize::from(head[1]) * 256 + usize::from(head[2]))?;
        seen.push((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]])));
        if seen.last() == Some(&(kind, stream)) {
            return Ok((seen, payload));
        }
    }
}

// The app goes by what the client has offered until it has read the agent's SETTINGS: a larger table, more than one window
// of the default; and it may answer before the client has sent its preface.
both!(an_app_may_answer_before_the_clients_preface, USUAL, |w| {
    let _cli = w.intercept_early(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let app = Listener::new(&w.pod().namespace, (Family::V4.any(), PORT).into())?;
    let mut pair = w.pair(w.client(), Family::V4, &app)?;
    pair.client.write_all(OFFER)?;
    ensure!(read_exactly(&mut pair.app, OFFER.len())? == OFFER);
    // A table of 16,384 bytes, `:status: 200`, and `server: app` into the table; 40,000 bytes of the body.
    let block = [&[0x3f, 0xe1, 0x7f, 0x88, 0x76, 3][..], b"app"].concat();
    let begun = [SWITCHING, &frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 7]), &frame(HEADERS, 4, 1, &block)].concat();
    pair.app.write_all(&begun)?;
    for _ in 0..4 {
        pair.app.write_all(&frame(DATA, 0, 1, &[7; 10_000]))?;
    }
    ensure!(read_exactly(&mut pair.client, SWITCHING.len())? == SWITCHING);
    pair.client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())?;
    ensure!(read_exactly(&mut pair.app, PREFACE.len())? == PREFACE);
    let (frames, settings) = read_to(&mut pair.app, SETTINGS, 0)?;
    ensure!(frames.len() == 1 && settings.chunks(6).any(|setting| setting == [0, 1, 0, 0, 64, 0]), "{settings:?}");
    ensure!(settings.chunks(6).any(|setting| setting == [0, 2, 0, 0, 0, 0]), "no pushed streams: {settings:?}");
    pair.app.write_all(&frame(SETTINGS, 1, 0, &[]))?;
    let (_, head) = read_to(&mut pair.client, HEADERS, 1)?;
    ensure!(head.first() == Some(&0x88), "{head:?}");
    let mut body = 0;
    while body < 40_000 {
        body += read_to(&mut pair.client, DATA, 1)?.1.len();
    }
    // The next stream's head names what the app's decoder knows, which is nothing of stream 1.
    let get = [&[0x82, 0x84, 0x86, 0x40, 6][..], b"x-user", &[3], b"bob"].concat();
    pair.client.write_all(&frame(HEADERS, WHOLE, 3, &get))?;
    let (frames, head) = read_to(&mut pair.app, HEADERS, 3)?;
    ensure!(!frames.contains(&(HEADERS, 1)), "the app got its own request again: {frames:?}");
    ensure!(head.contains(&0x40) && !head.contains(&0xbe), "the table was empty: {head:?}");
    // `server` from the table.
    pair.app.write_all(&frame(HEADERS, WHOLE, 3, &[0x88, 0xbe]))?;
    read_to(&mut pair.client, HEADERS, 3)?;
    pair.app.write_all(&frame(DATA, 1, 1, b"end"))?;
    ensure!(read_to(&mut pair.client, DATA, 1)?.1 == b"end");
    Ok(())
});

once!(a_client_that_does_not_go_on_gets_what_the_app_says, USUAL, |w| {
    let _cli = w.intercept_early(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let app = Listener::new(&w.pod().namespace, (Family::V4.any(), PORT).into())?;
    let mut pair = w.pair(w.client(), Family::V4, &app)?;
    pair.client.write_all(OFFER)?;
    ensure!(read_exactly(&mut pair.app, OFFER.len())? == OFFER);
    let settings = frame(SETTINGS, 0, 0, &[]);
    pair.app.write_all(&[SWITCHING, &settings].concat())?;
    pair.client.write_all(b"something else")?;
    ensure!(read_exactly(&mut pair.app, 14)? == b"something else");
    drop(pair.app);
    let mut rest = Vec::new();
    pair.client.read_to_end(&mut rest)?;
    ensure!(rest == [SWITCHING, &settings].concat(), "{rest:?}");
    Ok(())
});
