//! What becomes of a connection when the agent's memory is used up; each in a process of its own, whose memory it is.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, pause, timeout},
};

use super::{
    super::{Ended, frames::tests::frame, limits},
    rig::{Pipes, Rig, get, post, pour, rest, soon},
};
use crate::memory::{self, Purpose};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;

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

#[tokio::test]
async fn headers_that_do_not_end_end_the_connection() {
    if !alone("headers_that_do_not_end_end_the_connection") {
        return;
    }
    let pipes = || async {
        let mut pipes = Pipes::new().await;
        pipes.client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        pipes.app.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        pipes.client.write_all(&frame(HEADERS, 0, 1, &[0, 1, b'a', 0].repeat(1000))).await.unwrap();
        pipes
    };
    let all = memory::tests::exhaust(Purpose::LongMessage);
    assert!(matches!(soon(pipes().await.served).await.unwrap(), Ended::Closed("flood") | Ended::Reset("flood")));
    drop(all);
    let pipes = pipes().await;
    // From here on time passes by itself whenever nothing else is to do.
    pause();
    let begun = Instant::now();
    assert!(matches!(pipes.served.await.unwrap(), Ended::Closed("flood") | Ended::Reset("flood")));
    assert!((28..=40).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(memory::held(), 0, "it is given back");
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
