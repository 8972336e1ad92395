//! What a developer is told of the requests and connections that came to them.

use redir_wire::{ConnectionBytes, RequestOutcome, StreamCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::rig::{Behaviour, Developer, Rig, request, soon};

/// A developer whose service the test plays, and the filter `x-user: alice`.
async fn played() -> (Rig, TcpListener, Developer) {
    let rig = Rig::new().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alice = Developer::at(1, service.local_addr().unwrap()).await;
    rig.plan(&[("alice", &alice)], None);
    (rig, service, alice)
}

/// The next connection to it, and the request's head read.
async fn asked(service: &TcpListener) -> TcpStream {
    let (mut socket, _) = soon(service.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(socket.read_u8()).await.unwrap());
    }
    socket
}

#[tokio::test]
async fn the_service_answers_and_the_agent_where_it_cannot() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Serve).await;
    let mut bob = Developer::new(2, "red", Behaviour::Refuse(StreamCode::Refused)).await;
    rig.plan(&[("alice", &alice), ("bob", &bob)], None);
    let mut client = rig.client().await;
    client.ask("/a?secret", Some("alice")).await;
    let event = alice.told().await;
    assert_eq!((event.path.as_str(), event.status, event.outcome), ("/a", 200, RequestOutcome::Answered));
    client.ask("/b", Some("bob")).await;
    let event = bob.told().await;
    let why = "the developer's service refused the connection".to_owned();
    assert_eq!((event.path.as_str(), event.status, event.outcome), ("/b", 502, RequestOutcome::Refused(why)));
    client.done().await;
    assert_eq!(rig.metrics.requests_refused.get(), 1);
}

#[tokio::test]
async fn a_client_that_gives_up_is_no_502() {
    let (rig, service, mut alice) = played().await;
    // With a FIN: the service sees it, and closes without an answer.
    let mut client = rig.client().await;
    client.send(request("/fin", Some("alice"))).await;
    let mut socket = asked(&service).await;
    client.socket.shutdown().await.unwrap();
    assert_eq!(soon(socket.read(&mut [0])).await.unwrap(), 0);
    drop(socket);
    let event = alice.told().await;
    assert_eq!((event.path.as_str(), event.status, event.outcome), ("/fin", 0, RequestOutcome::ClientLeft));
    client.done().await;

    // With a reset.
    let mut client = rig.client().await;
    client.send(request("/reset", Some("alice"))).await;
    let _socket = asked(&service).await;
    client.socket.set_zero_linger().unwrap();
    client.done().await;
    let event = alice.told().await;
    assert_eq!((event.path.as_str(), event.status, event.outcome), ("/reset", 0, RequestOutcome::ClientLeft));
}

#[tokio::test]
async fn a_service_that_is_down_is_no_client_that_left() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Refuse(StreamCode::Refused)).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    client.send(request("/", Some("alice"))).await;
    client.socket.shutdown().await.unwrap();
    let event = alice.told().await;
    assert!(event.status == 502 && matches!(event.outcome, RequestOutcome::Refused(_)), "{event:?}");
    client.done().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_told() {
    let (rig, service, mut alice) = played().await;
    let mut client = rig.client().await;
    client.send(request("/cut", Some("alice"))).await;
    let mut socket = asked(&service).await;
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes!").await.unwrap();
    client.read_at_least(10).await;
    drop(socket);
    let event = alice.told().await;
    assert_eq!((event.path.as_str(), event.status, event.outcome), ("/cut", 200, RequestOutcome::Cut));
    client.done().await;
}

#[tokio::test]
async fn a_connection_that_is_not_http_is_told_when_it_opens_and_with_its_bytes_when_it_ends() {
    let (rig, service, mut alice) = played().await;
    rig.plan(&[], Some(&alice));
    let mut client = rig.client().await;
    client.send("SSH-2.0-x\r\n").await;
    let (mut socket, _) = soon(service.accept()).await.unwrap();
    let mut said = [0; 11];
    soon(socket.read_exact(&mut said)).await.unwrap();
    socket.write_all(b"SSH").await.unwrap();
    client.read_at_least(3).await;
    let event = alice.told().await;
    assert_eq!((event.path.as_str(), event.outcome, event.bytes), ("", RequestOutcome::Answered, None));
    client.socket.shutdown().await.unwrap();
    assert_eq!(soon(socket.read(&mut said)).await.unwrap(), 0);
    drop(socket);
    client.done().await;
    let event = alice.told().await;
    assert_eq!(event.outcome, RequestOutcome::Answered);
    assert_eq!(event.bytes, Some(ConnectionBytes { received: 11, sent: 3 }));
    let counted = alice.intercept.requests.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(counted, 1, "one connection");
}

#[tokio::test]
async fn a_connection_that_is_not_http_says_why_it_was_refused() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Refuse(StreamCode::Refused)).await;
    rig.plan(&[], Some(&alice));
    let mut silent = rig.client().await;
    silent.expect_reset().await;
    silent.done().await;
    let event = alice.told().await;
    let why = "the developer's service refused the connection".to_owned();
    assert_eq!((event.outcome, event.bytes), (RequestOutcome::Refused(why), Some(ConnectionBytes::default())));
}
