//! Developers who leave, or do not answer for a while.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{
    http2,
    rig::{Behaviour, Developer, Rig, request, soon},
};

/// Waits until so many streams to a developer are open.
async fn streams_become(alice: &Developer, count: u64) {
    soon(async {
        while alice.intercept.tunnel.streams().0 != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_leg_on_which_nothing_is_under_way_is_closed_when_its_intercept_ends() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    streams_become(&alice, 1).await;
    rig.no_plan();
    alice.intercept.ending.begin();
    streams_become(&alice, 0).await;
    assert_eq!(client.ask("/", Some("alice")).await.text(), "green", "the client's connection goes on");
    client.done().await;
}

#[tokio::test]
async fn a_request_under_way_is_finished_after_its_intercept_ended() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nx-user: alice\r\nContent-Length: 6\r\n\r\nhal").await;
    streams_become(&alice, 1).await;
    let over = alice.intercept.ending.over();
    rig.no_plan();
    alice.intercept.ending.begin();
    client.send("ves").await;
    assert_eq!(client.answer().await.text(), "halves");
    streams_become(&alice, 0).await;
    client.send(request("/", Some("alice"))).await;
    assert_eq!(client.answer().await.text(), "green");
    client.done().await;
    assert!(!over.is_cancelled());
    drop(alice);
    soon(over.cancelled()).await;
}

#[tokio::test]
async fn a_connection_that_is_wholly_a_developers_ends_between_requests_when_he_leaves() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[], Some(&alice));
    let (mut idle, mut busy) = (rig.client().await, rig.client().await);
    assert_eq!(idle.ask("/", None).await.text(), "blue");
    assert_eq!(busy.ask("/", None).await.text(), "blue");
    busy.send("POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nhal").await;
    rig.no_plan();
    alice.intercept.ending.begin();
    assert_eq!(idle.rest().await, b"", "a FIN, as a server's that ends what is kept alive");
    idle.done().await;
    // Its client is in the middle of something, for as long as it likes.
    busy.send("ves").await;
    assert_eq!(busy.answer().await.text(), "halves");
    assert_eq!(busy.rest().await, b"");
    busy.done().await;
    streams_become(&alice, 0).await;
}

/// Its end is the connection's: a FIN in its middle would make half of it look whole.
#[tokio::test]
async fn a_leaving_developers_answer_without_a_length_is_not_ended_where_it_pauses() {
    let rig = Rig::new().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alice = Developer::at(1, service.local_addr().unwrap()).await;
    rig.plan(&[], Some(&alice));
    let mut client = rig.client().await;
    client.send(request("/", None)).await;
    let (mut served, _) = soon(service.accept()).await.unwrap();
    let mut asked = vec![0; request("/", None).len()];
    soon(served.read_exact(&mut asked)).await.unwrap();
    served.write_all(b"HTTP/1.1 200 OK\r\n\r\nha").await.unwrap();
    client.read_at_least(21).await;
    rig.no_plan();
    alice.intercept.ending.begin();
    // Longer than what is taken for the end of an answer that says its own.
    assert!(timeout(Duration::from_secs(2), client.socket.read_u8()).await.is_err(), "nothing, and no end");
    served.write_all(b"lves").await.unwrap();
    drop(served);
    assert_eq!(client.rest().await, b"HTTP/1.1 200 OK\r\n\r\nhalves");
    client.done().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_was_said_is_not_the_developers_who_left() {
    for probes_to_app in [true, false] {
        let rig = Rig::new().await;
        let alice = Developer::new(1, "blue", Behaviour::Serve).await;
        let mut plan = rig.planned(&[], Some(&alice));
        plan.probes_to_app = probes_to_app;
        rig.set(plan);
        let mut silent = rig.client().await;
        streams_become(&alice, 1).await;
        rig.no_plan();
        alice.intercept.ending.begin();
        streams_become(&alice, 0).await;
        assert_eq!(silent.ask("/", None).await.text(), "green");
        let access = silent.done().await;
        assert_eq!((access.app_requests, access.developer_requests), (1, 0));
    }
}

#[tokio::test]
async fn who_does_not_answer_gets_no_new_request() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut kept = rig.client().await;
    assert_eq!(kept.ask("/", Some("alice")).await.text(), "blue");
    alice.intercept.tunnel.set_unanswered(true);
    let mut fresh = rig.client().await;
    for client in [&mut kept, &mut fresh] {
        assert_eq!(client.ask("/", Some("alice")).await.text(), "green");
    }
    assert_eq!(alice.intercept.bypassed.load(Ordering::Relaxed), 2);
    alice.intercept.tunnel.set_unanswered(false);
    for client in [&mut kept, &mut fresh] {
        assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    }
    assert_eq!(alice.intercept.bypassed.load(Ordering::Relaxed), 2);
    for client in [kept, fresh] {
        let access = client.done().await;
        assert_eq!(access.app_requests, 1);
    }
}

#[tokio::test]
async fn who_does_not_answer_gets_no_new_connection() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[], Some(&alice));
    alice.intercept.tunnel.set_unanswered(true);
    let mut client = rig.client().await;
    assert_eq!(client.ask("/", None).await.text(), "green");
    client.done().await;
    assert_eq!(alice.intercept.bypassed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn over_http2_who_does_not_answer_gets_no_new_stream() {
    let (rig, _app, _blue, alice) = http2::world().await;
    let mut client = http2::Client::new(&rig).await;
    assert_eq!(client.ask("/a", Some("alice")).await, (200, "blue /a".into()));
    alice.intercept.tunnel.set_unanswered(true);
    assert_eq!(client.ask("/b", Some("alice")).await, (200, "green /b".into()));
    assert_eq!(alice.intercept.bypassed.load(Ordering::Relaxed), 1);
    alice.intercept.tunnel.set_unanswered(false);
    assert_eq!(client.ask("/c", Some("alice")).await, (200, "blue /c".into()));
    let access = client.done().await;
    assert_eq!((access.app_requests, access.developer_requests), (1, 2));
}

#[tokio::test]
async fn over_http2_a_leg_without_streams_is_closed_when_its_intercept_ends() {
    let (rig, _app, _blue, alice) = http2::world().await;
    let mut client = http2::Client::new(&rig).await;
    assert_eq!(client.ask("/a", Some("alice")).await, (200, "blue /a".into()));
    streams_become(&alice, 1).await;
    rig.no_plan();
    alice.intercept.ending.begin();
    streams_become(&alice, 0).await;
    assert_eq!(client.ask("/b", Some("alice")).await, (200, "green /b".into()));
    client.done().await;
}

#[tokio::test]
async fn over_http2_the_leg_of_a_global_intercept_is_closed_when_that_ends() {
    let (rig, _app, _blue, alice) = http2::world().await;
    rig.plan(&[], Some(&alice));
    let mut client = http2::Client::new(&rig).await;
    assert_eq!(client.ask("/a", None).await, (200, "blue /a".into()));
    streams_become(&alice, 1).await;
    rig.no_plan();
    alice.intercept.ending.begin();
    streams_become(&alice, 0).await;
    assert_eq!(client.ask("/b", None).await, (200, "green /b".into()));
    client.done().await;
}
