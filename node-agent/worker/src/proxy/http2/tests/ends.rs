//! How connections end: by the client, by the app, with the agent.

use bytes::Bytes;
use h2::{Reason, client, server};
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    super::{Ended, preface::PREFACE},
    rig::{Order, Pipes, Rig, get, post, rest, soon, whole},
};

fn closed(ended: &Ended) -> &'static str {
    match ended {
        Ended::Closed(why) => why,
        Ended::Reset(why) => panic!("reset: {why}"),
    }
}

fn reset(ended: &Ended) -> &'static str {
    match ended {
        Ended::Reset(why) => why,
        Ended::Closed(why) => panic!("closed: {why}"),
    }
}

#[tokio::test]
async fn an_app_that_goes_away_lets_what_is_under_way_end_and_the_client_is_told() {
    let mut rig = Rig::new().await;
    let (response, _) = rig.ask(get("/slow"), true).await;
    let (_, mut respond) = rig.arrival().await;
    rig.app.send(Order::Graceful).await.unwrap();
    // The client's connection takes no new requests once it has heard.
    assert_eq!(rig.refused().await.reason(), Some(Reason::NO_ERROR));
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    answer.send_data(Bytes::from_static(b"done"), true).unwrap();
    drop((respond, answer));
    assert_eq!(whole(response).await.1, b"done");
    soon(rig.client).await.unwrap().unwrap();
    assert_eq!(closed(&soon(rig.served).await.unwrap()), "app_closed");
}

#[tokio::test]
async fn an_apps_error_is_the_clients_error() {
    let mut rig = Rig::new().await;
    rig.works("/").await;
    rig.app.send(Order::Abrupt(Reason::ENHANCE_YOUR_CALM)).await.unwrap();
    let error = soon(rig.client).await.unwrap().unwrap_err();
    assert!(error.is_remote() && error.is_go_away());
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(closed(&soon(rig.served).await.unwrap()), "app_closed");
}

// A client leaves with its last stream once it has heard any GOAWAY: the first one has to be the one that says why.
#[tokio::test]
async fn an_apps_error_under_a_request_is_the_clients_error() {
    let mut rig = Rig::new().await;
    let (response, _) = rig.ask(get("/"), true).await;
    let (_request, _respond) = rig.arrival().await;
    rig.app.send(Order::Abrupt(Reason::ENHANCE_YOUR_CALM)).await.unwrap();
    assert!(soon(response).await.is_err());
    let error = soon(rig.client).await.unwrap().unwrap_err();
    assert!(error.is_remote() && error.is_go_away(), "{error:?}");
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(closed(&soon(rig.served).await.unwrap()), "app_closed");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_goes_with_an_error_and_goes_on_is_told_of_all_the_same() {
    const GOAWAY: u8 = 7;
    const HEADERS: u8 = 1;
    let mut pipes = Pipes::new().await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // GET http://web/
    let head = [0, 0, 8, HEADERS, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86, 0x41, 3, b'w', b'e', b'b'];
    pipes.client.write_all(&[&settings[..], &head].concat()).await.unwrap();
    pipes.app.write_all(&settings).await.unwrap();
    soon(pipes.app.read_exact(&mut [0; PREFACE.len()])).await.unwrap();
    frame(&mut pipes.app, HEADERS).await;
    let goaway = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 11];
    pipes.app.write_all(&goaway).await.unwrap();
    assert_eq!(frame(&mut pipes.client, GOAWAY).await, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    // 200, and the end.
    pipes.app.write_all(&[0, 0, 1, HEADERS, 5, 0, 0, 0, 1, 0x88]).await.unwrap();
    frame(&mut pipes.client, HEADERS).await;
    drop(pipes.app);
    assert_eq!(frame(&mut pipes.client, GOAWAY).await, [0, 0, 0, 1, 0, 0, 0, 11]);
}

/// The payload of the next frame of a kind.
async fn frame(from: &mut DuplexStream, kind: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        soon(from.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        soon(from.read_exact(&mut payload)).await.unwrap();
        if head[3] == kind {
            return payload;
        }
    }
}

#[tokio::test]
async fn an_app_that_vanishes_under_a_request_takes_the_client_with_it() {
    let mut rig = Rig::new().await;
    let (response, _) = rig.ask(get("/"), true).await;
    let (_request, _respond) = rig.arrival().await;
    rig.app.send(Order::Vanish).await.unwrap();
    assert!(soon(response).await.is_err());
    soon(rig.client).await.unwrap().ok();
    soon(rig.served).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_in_order_ends_the_app_in_order() {
    let mut rig = Rig::new().await;
    rig.works("/").await;
    drop(rig.requests);
    soon(rig.client).await.unwrap().unwrap();
    assert_eq!(closed(&soon(rig.served).await.unwrap()), "client_closed");
    assert!(soon(rig.arrived.recv()).await.is_none(), "the app's connection has ended");
}

#[tokio::test]
async fn a_client_that_vanishes_cancels_its_requests_at_the_app() {
    let mut rig = Rig::new().await;
    let (response, up) = rig.ask(post("/"), false).await;
    let (request, _respond) = rig.arrival().await;
    rig.client.abort();
    drop((response, up, rig.requests));
    assert!(soon(rest(request.into_body())).await.is_err());
    soon(rig.served).await.unwrap();
}

#[tokio::test]
async fn draining_says_goaway_and_waits_for_what_is_under_way() {
    let mut rig = Rig::new().await;
    let (response, mut up) = rig.ask(post("/"), false).await;
    let (request, mut respond) = rig.arrival().await;
    rig.draining.cancel();
    assert_eq!(rig.refused().await.reason(), Some(Reason::NO_ERROR));
    assert!(!rig.served.is_finished());
    up.send_data(Bytes::from_static(b"late"), true).unwrap();
    assert_eq!(rest(request.into_body()).await.unwrap().0, b"late");
    respond.send_response(Response::new(()), true).unwrap();
    drop(respond);
    whole(response).await;
    soon(rig.client).await.unwrap().unwrap();
    assert_eq!(closed(&soon(rig.served).await.unwrap()), "drained");
}

#[tokio::test]
async fn aborting_resets_what_is_under_way() {
    let mut rig = Rig::new().await;
    let (_response, _up) = rig.ask(post("/"), false).await;
    let (request, _respond) = rig.arrival().await;
    rig.abort.cancel();
    assert_eq!(reset(&soon(rig.served).await.unwrap()), "aborted");
    assert!(soon(rest(request.into_body())).await.is_err());

    let mut rig = Rig::new().await;
    rig.works("/").await;
    rig.abort.cancel();
    assert_eq!(closed(&soon(rig.served).await.unwrap()), "aborted");
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_and_ended() {
    let mut pipes = Pipes::new().await;
    let _app = tokio::spawn(server::handshake(pipes.app));
    // SETTINGS, then DATA on a stream that was never opened.
    pipes.client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, b'x']).await.unwrap();
    let mut got = Vec::new();
    soon(pipes.client.read_to_end(&mut got)).await.unwrap();
    // The last frame is GOAWAY with PROTOCOL_ERROR.
    let goaway = &got[got.len() - 17..];
    assert_eq!(goaway, [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(closed(&soon(pipes.served).await.unwrap()), "protocol_error");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_says_nothing_more_is_not_waited_for_for_ever() {
    let mut pipes = Pipes::new().await;
    let mut settings = [0; 9];
    soon(pipes.client.read_exact(&mut settings)).await.unwrap();
    assert_eq!(settings[3..5], [4, 0], "the client is answered");
    drop(pipes.client);
    soon(pipes.served).await.unwrap();
}

#[tokio::test]
async fn the_limit_of_open_streams_is_the_apps_and_never_more_than_ours() {
    for (announced, expected) in [(Some(7), 7), (Some(1_000_000), 4096), (None, 4096)] {
        let mut app = server::Builder::new();
        if let Some(announced) = announced {
            app.max_concurrent_streams(announced);
        }
        let mut rig = Rig::with(client::Builder::new(), app).await;
        rig.works("/").await;
        assert_eq!(rig.requests.current_max_send_streams(), expected);
    }
}
