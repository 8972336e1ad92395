//! What becomes of a connection when the agent's memory is used up; each in a process of its own, whose memory it is.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, pause, timeout},
};

use super::{
    super::{Ended, frames::tests::frame, limits},
    rig::{Pipes, Rig, get, post, pour, rest, soon},
};
use crate::memory::{self, Purpose};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn alone(test: &str) -> bool {
    memory::tests::alone(&format!("proxy::http2::tests::memory::{test}"))
}

#[tokio::test]
async fn a_request_that_would_wait_is_refused_unbegun() {
    if !alone("a_request_that_would_wait_is_refused_unbegun") {
        return;
    }
    let mut rig = Rig::new().await;
    let all = memory::tests::exhaust(Purpose::Message);
    let mut open = Vec::new();
    for _ in 0..limits::FREE_STREAMS {
        let (response, _) = rig.ask(get("/open"), true).await;
        open.push((response, rig.arrival().await.1));
    }
    let (refused, _) = rig.ask(get("/refused"), true).await;
    assert_eq!(soon(refused).await.expect_err("refused").reason(), Some(Reason::REFUSED_STREAM));
    // What was begun goes on.
    for (response, mut respond) in open {
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(soon(response).await.unwrap().status(), 200);
    }
    drop(all);
    rig.works("/again").await;
}

/// A request's pseudo-headers (GET, http, `/`), by their numbers in HPACK's static table.
const GET_ROOT: [u8; 3] = [0x82, 0x86, 0x84];
/// A field with a name of one letter and no value, which goes into no table.
const FIELD: [u8; 4] = [0, 1, b'a', 0];
/// `x: y`, which goes into the table, and the number that it then has.
const INDEXED: [u8; 5] = [0x40, 1, b'x', 1, b'y'];
const INDEX: u8 = 0x80 | 62;

/// The client begins, with a header block that is not whole.
async fn send_open_block(client: &mut DuplexStream) {
    let block = [&GET_ROOT[..], &FIELD.repeat(1000)].concat();
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    client.write_all(&frame(HEADERS, 0, 1, &block)).await.unwrap();
}

/// A served connection whose app has sent its SETTINGS, and its client a header block that is not whole.
async fn with_open_block() -> Pipes {
    let mut pipes = Pipes::new().await;
    pipes.app.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    send_open_block(&mut pipes.client).await;
    pipes
}

#[tokio::test]
async fn headers_that_do_not_end_end_the_connection() {
    if !alone("headers_that_do_not_end_end_the_connection") {
        return;
    }
    let all = memory::tests::exhaust(Purpose::Message);
    let pipes = with_open_block().await;
    assert!(matches!(soon(pipes.served).await.unwrap(), Ended::Closed("flood") | Ended::Reset("flood")));
    drop(all);
    let pipes = with_open_block().await;
    // From here on time passes by itself whenever nothing else is to do.
    pause();
    let begun = Instant::now();
    assert!(matches!(pipes.served.await.unwrap(), Ended::Closed("flood") | Ended::Reset("flood")));
    assert!((28..=40).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(memory::held(), 0, "it is given back");
}

/// Its next request depends on the compression table as that stream has left it.
#[tokio::test]
async fn a_stream_whose_headers_find_no_memory_is_refused_and_the_connection_goes_on() {
    if !alone("a_stream_whose_headers_find_no_memory_is_refused_and_the_connection_goes_on") {
        return;
    }
    let all = memory::tests::exhaust(Purpose::LongMessage);
    let before = memory::held();
    let mut pipes = Pipes::new().await;
    let app = tokio::spawn(h2::server::handshake(pipes.app));
    send_open_block(&mut pipes.client).await;
    soon(async {
        while memory::held() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(memory::held() - before < 8 * 1024, "{} bytes are held", memory::held() - before);
    let rest = [&FIELD[..], &INDEXED].concat();
    pipes.client.write_all(&frame(CONTINUATION, 0, 1, &rest[..5])).await.unwrap();
    let next = [&GET_ROOT[..], &[INDEX]].concat();
    let ended = [frame(CONTINUATION, END_HEADERS, 1, &rest[5..]), frame(HEADERS, END_HEADERS | END_STREAM, 3, &next)];
    // In pieces, which end anywhere.
    for piece in ended.concat().chunks(7) {
        pipes.client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut app = soon(app).await.unwrap().unwrap();
    let (request, mut respond) = soon(app.accept()).await.unwrap().unwrap();
    assert_eq!(request.headers()["x"], "y");
    respond.send_response(Response::new(()), true).unwrap();
    tokio::spawn(async move { while let Some(Ok(_)) = app.accept().await {} });
    assert_eq!(soon(frame_of(&mut pipes.client, RST_STREAM, 1)).await, u32::from(Reason::REFUSED_STREAM).to_be_bytes());
    soon(frame_of(&mut pipes.client, HEADERS, 3)).await;
    drop(all);
    // It is given back.
    soon(async {
        while memory::held() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Reads up to a stream's next frame of this type; its payload.
async fn frame_of(client: &mut DuplexStream, kind: u8, stream: u32) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        client.read_exact(&mut payload).await.unwrap();
        if head[3] == kind && head[5..] == stream.to_be_bytes() {
            return payload;
        }
    }
}

#[tokio::test]
async fn a_side_whose_bytes_wait_is_read_no_further_until_there_is_room() {
    // The app's window has room for 65,535 of them.
    const BODY: usize = 250_000;
    if !alone("a_side_whose_bytes_wait_is_read_no_further_until_there_is_room") {
        return;
    }
    let mut rig = Rig::new().await;
    let all = memory::tests::exhaust(Purpose::SlowReader);
    let before = memory::held();
    let (response, mut to) = rig.ask(post("/"), false).await;
    let (request, mut respond) = rig.arrival().await;
    let sending = tokio::spawn(async move { pour(&mut to, Bytes::from(vec![7; BODY]), true).await });
    // The client's own window has room for all of it.
    soon(sending).await.unwrap();
    let most = async {
        loop {
            assert!(memory::held() - before < 96 * 1024, "{} bytes are held", memory::held() - before);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(Duration::from_secs(2), most).await.is_err());
    drop(all);
    let (got, _) = rest(request.into_body()).await.unwrap();
    assert_eq!(got.len(), BODY);
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 200);
}
