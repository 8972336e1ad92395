//! Flow control from end to end: who is slow slows its own sender, and nobody else.

use bytes::Bytes;
use h2::{RecvStream, client, server};
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, Instant, timeout},
};

use super::rig::{Pipes, Rig, get, post, pour, rest, soon, whole};
use crate::proxy::http2::{
    frames::{HEADERS, SETTINGS, tests::frame},
    limits,
};

/// Sends until nothing more is taken for a while; how much was taken.
async fn fill(to: &mut h2::SendStream<Bytes>) -> usize {
    let block = Bytes::from(vec![0; 16 * 1024]);
    let mut taken = 0;
    loop {
        to.reserve_capacity(block.len());
        let room = std::future::poll_fn(|cx| to.poll_capacity(cx));
        match tokio::time::timeout(Duration::from_millis(300), room).await {
            Err(_) => return taken,
            Ok(room) => {
                let room = room.expect("open").unwrap();
                to.send_data(block.slice(..room.min(block.len())), false).unwrap();
                taken += room.min(block.len());
            }
        }
    }
}

async fn drained(mut body: RecvStream, count: usize) {
    let mut got = 0;
    while got < count {
        let piece = soon(body.data()).await.expect("more").unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        got += piece.len();
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_read_stops_its_sender_in_both_directions() {
    let mut rig = Rig::new().await;
    let (response, mut up) = rig.ask(post("/"), false).await;
    let (request, mut respond) = rig.arrival().await;
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let answer = soon(response).await.unwrap().into_body();
    let (sent, answered) = (fill(&mut up).await, fill(&mut down).await);
    // What the agent gives a stream, what the receiver does, and what the sender's own library holds back.
    for taken in [sent, answered] {
        assert!((200_000..1_000_000).contains(&taken), "{taken}");
    }
    // Nothing is lost.
    tokio::join!(drained(request.into_body(), sent), drained(answer, answered));
}

#[tokio::test]
async fn stalled_streams_stall_no_other() {
    // More of them than their connection's window has room for.
    const STALLED: usize = 12;
    assert!(STALLED * 256 * 1024 > 2 * usize::try_from(limits::CLIENT_CONNECTION.max(limits::APP_CONNECTION)).unwrap());
    let (mut client, mut app) = (client::Builder::new(), server::Builder::new());
    client.initial_connection_window_size(1 << 24);
    app.initial_connection_window_size(1 << 24);
    let mut rig = Rig::with(client, app).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let (response, mut up) = rig.ask(post("/stalled"), false).await;
        let (request, mut respond) = rig.arrival().await;
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        let answer = soon(response).await.unwrap().into_body();
        let filled = tokio::join!(fill(&mut up), fill(&mut down));
        stalled.push((up, down, request.into_body(), answer, filled));
    }
    // 4 MB each way, through what is left.
    let (response, mut up) = rig.ask(post("/"), false).await;
    let (request, mut respond) = rig.arrival().await;
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let began = Instant::now();
    let (heard, (_, answer, _), (), ()) = tokio::join!(
        rest(request.into_body()),
        whole(response),
        pour(&mut up, vec![1; 4 << 20].into(), true),
        pour(&mut down, vec![2; 4 << 20].into(), true),
    );
    assert_eq!((heard.unwrap().0.len(), answer.len()), (4 << 20, 4 << 20));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Small things pass as well, and the stalled ones go on when they are read.
    rig.works("/small").await;
    for (_up, _down, request, answer, (sent, answered)) in stalled {
        tokio::join!(drained(request, sent), drained(answer, answered));
    }
}

#[tokio::test]
async fn many_small_messages_to_a_slow_reader_are_no_flood() {
    // To the h2 crate they are, if the reader does not look; it is the agent that is tried here.
    let (mut client, mut app) = (client::Builder::new(), server::Builder::new());
    client.data_frame_budget(usize::MAX).initial_connection_window_size(1 << 20);
    app.data_frame_budget(usize::MAX);
    let mut rig = Rig::with(client, app).await;
    let (response, mut up) = rig.ask(post("/"), false).await;
    let (request, mut respond) = rig.arrival().await;
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let answer = soon(response).await.unwrap().into_body();
    // Each in a frame of its own: gRPC's smallest message has 5 bytes.
    for n in 0..20_000 {
        up.send_data(Bytes::from_static(b"12345"), false).unwrap();
        down.send_data(Bytes::from_static(b"12345"), false).unwrap();
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    rig.works("/meanwhile").await;
    tokio::join!(drained(request.into_body(), 100_000), drained(answer, 100_000));
}

#[tokio::test]
async fn apps_that_flush_with_empty_frames_are_no_flood() {
    let mut rig = Rig::new().await;
    for n in 0..300 {
        let (response, _) = rig.ask(get("/"), true).await;
        let (_, mut respond) = rig.arrival().await;
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        down.send_data(Bytes::new(), false).unwrap();
        down.send_data(Bytes::from_static(b"x"), true).unwrap();
        assert_eq!(whole(response).await.1, b"x", "{n}");
    }
}

/// Heads have no window: what bounds them is that the client is not read on.
#[tokio::test]
async fn a_client_is_not_read_on_while_the_app_takes_nothing() {
    const MOST: usize = 4 * 1024 * 1024;
    let mut pipes = Pipes::new().await;
    pipes.client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    // The app shows itself, and reads no more.
    pipes.app.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    // `GET /` of `w`, and a value of 8,000 bytes that no table remembers, in each direction.
    let value = [&[0x82, 0x84, 0x86, 0x41, 1, b'w', 0, 1, b'a', 0x7f, 0xc1, 0x3d][..], &[b'~'; 8000]].concat();
    let (mut sent, mut stream) = (0, 1);
    while let Ok(written) =
        timeout(Duration::from_secs(2), pipes.client.write_all(&frame(HEADERS, 5, stream, &value))).await
    {
        written.unwrap();
        (sent, stream) = (sent + value.len(), stream + 2);
        assert!(sent < MOST, "{sent} bytes of heads were read for an app that takes nothing");
    }
    assert!(sent > limits::CLIENT_CONNECTION as usize / 2, "{sent}");
    // Once it reads, all of them come; one was cut by the time.
    let mut got = 0;
    let mut block = vec![0; 65536];
    while got < sent {
        got += soon(pipes.app.read(&mut block)).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_is_told_of_the_apps_list_of_headers() {
    const MAX_HEADER_LIST_SIZE: u8 = 6;
    for (app, told) in [(Some(8192_u32), 8192), (Some(1 << 30), limits::HEADER_LIST), (None, limits::HEADER_LIST)] {
        let mut pipes = Pipes::new().await;
        pipes.client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let own = app.map(|size| [&[0, MAX_HEADER_LIST_SIZE][..], &size.to_be_bytes()].concat()).unwrap_or_default();
        pipes.app.write_all(&frame(SETTINGS, 0, 0, &own)).await.unwrap();
        let mut head = [0; 9];
        soon(pipes.client.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        soon(pipes.client.read_exact(&mut payload)).await.unwrap();
        let size = payload.chunks_exact(6).find(|setting| setting[1] == MAX_HEADER_LIST_SIZE).unwrap();
        assert_eq!((head[3], &size[2..]), (SETTINGS, &told.to_be_bytes()[..]));
    }
}
