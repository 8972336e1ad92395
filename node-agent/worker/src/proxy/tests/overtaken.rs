//! Clients that speak on while an answer is on its way to them, and ends that come in an unusual order.

use std::{sync::atomic::Ordering, time::Duration};

use redir_wire::CloseCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::rig::{Behaviour, Client, Developer, Rig, request, soon};

/// An answer so long that its last part, one read of the agent, does not fit into the sockets' buffers.
const LONG: usize = 100_000;
/// The agent is at the last part once the client has read so much of it.
const LAST_PART: usize = 64_000;

fn long_post(user: Option<&str>) -> String {
    let user = user.map(|user| format!("X-User: {user}\r\n")).unwrap_or_default();
    format!("POST / HTTP/1.1\r\nHost: web\r\n{user}Content-Length: {LONG}\r\n\r\n{}", "x".repeat(LONG))
}

/// A client that has asked the app for a long answer and reads no further than into its last part.
async fn in_the_apps_last_part(rig: &Rig) -> Client {
    let mut client = rig.narrow_client().await;
    client.send(long_post(None)).await;
    client.read_at_least(LAST_PART).await;
    client
}

/// The same from a developer. All of it is in the agent first, so that its reads grow as they do from the app.
async fn in_the_developers_last_part(rig: &Rig, user: &str, developer: &Developer) -> Client {
    let mut client = rig.narrow_client().await;
    client.send(long_post(Some(user))).await;
    let tunnel = developer.intercept.tunnel.connection();
    soon(async {
        while tunnel.stats().udp_rx.bytes < LONG as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    client.read_at_least(LAST_PART).await;
    client
}

/// Lets the agent do what it can; it says nothing that could be waited for.
async fn agent_runs() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_ambiguous_request_does_not_cut_the_answer_before_it() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = in_the_developers_last_part(&rig, "alice", &alice).await;
    client.send("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello").await;
    agent_runs().await;
    assert_eq!(client.answer().await.body.len(), LONG);
    assert_eq!(client.answer().await.text(), "hello");
    client.done().await;
}

#[tokio::test]
async fn an_intercept_that_ends_does_not_cut_the_answer_under_way() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = in_the_developers_last_part(&rig, "alice", &alice).await;
    rig.no_plan();
    client.send(request("/", Some("alice"))).await;
    agent_runs().await;
    assert_eq!(client.answer().await.body.len(), LONG);
    assert_eq!(client.answer().await.text(), "green");
    client.done().await;
}

#[tokio::test]
async fn a_match_falls_back_to_the_app_also_while_the_apps_answer_is_under_way() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    alice.tunnel.close(CloseCode::Done).await;
    soon(alice.intercept.ended()).await;
    let mut client = in_the_apps_last_part(&rig).await;
    client.send(request("/", Some("alice"))).await;
    agent_runs().await;
    assert_eq!(client.answer().await.body.len(), LONG);
    assert_eq!(client.answer().await.text(), "green");
    client.done().await;
}

#[tokio::test]
async fn the_rest_of_a_body_never_begins_another_stream() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    client.send("POST /early HTTP/1.1\r\nHost: web\r\nX-User: alice\r\nContent-Length: 38\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "ok");
    agent_runs().await;
    let inner = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n..";
    assert_eq!(inner.len(), 39);
    client.send(&inner[..38]).await;
    // The connection goes on: the next request is one of its own.
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    assert!(!alice.service.seen().contains("smuggled"), "{}", alice.service.seen());
    assert_eq!(client.ask("/", None).await.text(), "green");
    client.done().await;
}

#[tokio::test]
async fn under_a_global_intercept_a_developers_half_close_leaves_the_other_direction_open() {
    let rig = Rig::new().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alice = Developer::at(1, service.local_addr().unwrap()).await;
    rig.plan(&[], Some(&alice));
    let mut client = rig.client().await;
    client.send("SSH-2.0-x\r\n").await;
    let (mut served, _) = soon(service.accept()).await.unwrap();
    served.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"");
    client.send("more").await;
    client.socket.shutdown().await.unwrap();
    let mut all = String::new();
    soon(served.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "SSH-2.0-x\r\nmore");
    drop(served);
    client.done().await;
    assert_eq!(rig.app.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_app_that_only_reads_gets_everything() {
    let mut rig = Rig::new().await;
    let sink = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.app.address = sink.local_addr().unwrap();
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    let (mut app, _) = soon(sink.accept()).await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"");
    client.send("<13>a line of syslog\n").await;
    client.socket.shutdown().await.unwrap();
    let mut all = String::new();
    soon(app.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "<13>a line of syslog\n");
    client.done().await;
}
