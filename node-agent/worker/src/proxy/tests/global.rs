//! Connections under a global intercept, alone and beside a filter.

use redir_wire::{CloseCode, StreamCode};
use std::sync::atomic::Ordering;

use super::rig::{Behaviour, Developer, Rig, request, soon};

const PROBE: &str = "GET /healthz HTTP/1.1\r\nHost: web\r\nUser-Agent: kube-probe/1.30\r\n\r\n";

#[tokio::test]
async fn everything_goes_to_the_developer_but_the_probe() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[], Some(&alice));
    let mut client = rig.client().await;
    assert_eq!(client.ask("/", None).await.text(), "blue");
    assert_eq!(client.ask("/", Some("bob")).await.text(), "blue");
    client.done().await;
    assert_eq!(rig.app.connections.load(Ordering::Relaxed), 0);
    assert_eq!(alice.intercept.requests.load(Ordering::Relaxed), 1, "one event for the connection");

    let mut kubelet = rig.client().await;
    kubelet.send(PROBE).await;
    assert_eq!(kubelet.answer().await.text(), "green");
    kubelet.done().await;
    assert_eq!(rig.app.seen(), PROBE);
}

#[tokio::test]
async fn beside_a_filter_the_rest_is_the_global_developers() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    let bob = Developer::new(2, "red", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], Some(&bob));
    let mut client = rig.client().await;
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    assert_eq!(client.ask("/", None).await.text(), "red");
    client.send(PROBE).await;
    assert_eq!(client.answer().await.text(), "green");
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    client.done().await;
}

#[tokio::test]
async fn a_refusing_developer_is_a_502_for_http_and_a_reset_for_the_rest() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Refuse(StreamCode::Refused)).await;
    rig.plan(&[], Some(&alice));
    let mut silent = rig.client().await;
    silent.expect_reset().await;
    silent.done().await;
    alice.arrived(1).await;
    let mut other = rig.client().await;
    // The refusal may be faster than the bytes: either way this client never spoke HTTP.
    drop(other.socket.try_write(b"SSH-2.0-x\r\n"));
    other.expect_reset().await;
    other.done().await;
}

#[tokio::test]
async fn a_silent_developer_whose_tunnel_is_lost_is_a_504() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Silent).await;
    rig.plan(&[], Some(&alice));
    let mut client = rig.client().await;
    client.send(request("/", None)).await;
    alice.arrived(1).await;
    alice.tunnel.close(CloseCode::Done).await;
    let answer = client.answer().await;
    assert!(answer.head.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{}", answer.head);
    assert_eq!(client.rest().await, b"");
    client.done().await;
}

#[tokio::test]
async fn a_tunnel_that_is_down_leaves_the_connection_to_the_app() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[], Some(&alice));
    alice.tunnel.close(CloseCode::Done).await;
    soon(alice.intercept.ended()).await;
    let mut client = rig.client().await;
    assert_eq!(client.ask("/", None).await.text(), "green");
    client.done().await;
}
