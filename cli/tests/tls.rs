//! TLS as `redir intercept` tells of it, and as it speaks it to the developer's own service.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;

use common::agent::{Session, soon, state};
use common::process::Redir;
use common::scene::{Scene, reset};
use redir_wire::{ClientTls, InterceptRequest, Liveness, PodTls, StreamCode, TlsHandling, ToDeveloper};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, crypto::ring, server::NoServerSessionStorage};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

fn with(request: &InterceptRequest, handling: TlsHandling) -> ToDeveloper {
    let mut state = state(request, 7, &[("web-1", Liveness::Live, "")]);
    state.pods[0].tls = Some(PodTls { handling, sentence: "this port speaks TLS: so it is; do that\u{1b}".into() });
    ToDeveloper::Intercept(state)
}

#[tokio::test]
async fn what_becomes_of_tls_is_an_event_and_told_once() {
    let mut scene = Scene::new().await;
    let (mut redir, mut session, request) = scene.live(&["--header", "x-user: alice"]).await;
    session.say(0, &with(&request, TlsHandling::Unread)).await;
    let event = redir.event("tls").await;
    assert_eq!((&event["pod"], &event["port"], &event["agent"]), (&"web-1".into(), &8080.into(), &"node-1".into()));
    assert_eq!((&event["state"], &event["local"]), (&"unread".into(), &Value::Null));
    assert_eq!(event["reason"], "this port speaks TLS: so it is; do that\\x1b");
    session.say(0, &with(&request, TlsHandling::Unread)).await;
    session.say(0, &with(&request, TlsHandling::Decrypted)).await;
    let event = redir.event("tls").await;
    assert_eq!((&event["state"], &event["local"]), (&"decrypted".into(), &"plaintext".into()));
}

#[tokio::test]
async fn people_are_told_what_their_service_gets() {
    for (flags, arrow, gets) in [
        (&[][..], "in plaintext, ", "your service gets plaintext (TLS with --local-tls)"),
        (&["--local-tls"], "over TLS, ", "your service gets TLS"),
    ] {
        let mut scene = Scene::new().await;
        let mut redir: Redir = scene.intercept(flags);
        let mut session: Session = scene.agent.accept().await;
        let (seq, request) = session.request().await;
        session.say(seq, &with(&request, TlsHandling::Decrypted)).await;
        let live = redir.line_with("live").await;
        assert!(live.contains(&format!("-> 127.0.0.1:{} {arrow}", scene.port())), "{live}");
        redir.line_with("curl -k https://10.0.0.2:8080/").await;
        let line = redir.line_with("tls").await;
        assert_eq!(line, format!("tls   web-1:8080: this port speaks TLS: so it is; do that\\x1b: {gets}"));
    }
}

/// A service of the developer's with a certificate that nobody would trust.
fn acceptor(protocols: &[&[u8]]) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["elsewhere.test".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    TlsAcceptor::from(Arc::new(config))
}

async fn accepted(scene: &Scene, acceptor: &TlsAcceptor) -> TlsStream<TcpStream> {
    soon("a handshake", acceptor.accept(scene.connection().await)).await.unwrap()
}

async fn read(service: &mut TlsStream<TcpStream>, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    soon("the request", service.read_exact(&mut bytes)).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_service_that_speaks_tls_gets_it_as_the_client_asked() {
    let mut scene = Scene::new().await;
    let (_redir, session, _) = scene.live(&["--local-tls"]).await;
    let acceptor = acceptor(&[b"h2", b"http/1.1"]);
    let named = ClientTls { server_name: Some("web.test".into()), alpn: Some(b"http/1.1".to_vec()) };
    for (tls, name, protocol) in [
        (Some(named), Some("web.test"), Some(&b"http/1.1"[..])),
        (Some(ClientTls::default()), None, None),
        // In clear through the tunnel: the service speaks TLS all the same.
        (None, None, None),
    ] {
        let (mut send, mut receive) = session.open_with(7, tls).await;
        send.write_all(b"ping").await.unwrap();
        let mut service = accepted(&scene, &acceptor).await;
        assert_eq!((service.get_ref().1.server_name(), service.get_ref().1.alpn_protocol()), (name, protocol));
        assert_eq!(read(&mut service, 4).await, b"ping");
        send.finish().unwrap();
        let mut rest = Vec::new();
        soon("the client's end", service.read_to_end(&mut rest)).await.expect("a close_notify");
        service.write_all(b"pong").await.unwrap();
        service.flush().await.unwrap();
        // Without a close_notify, as many a server ends.
        drop(service.into_inner());
        assert_eq!(soon("the answer", receive.read_to_end(100)).await.unwrap(), b"pong");
    }
}

#[tokio::test]
async fn much_passes_both_ways() {
    const MUCH: usize = 5_000_000;
    let mut scene = Scene::new().await;
    let (_redir, session, _) = scene.live(&["--local-tls"]).await;
    let acceptor = acceptor(&[]);
    let (mut send, mut receive) = session.open_with(7, Some(ClientTls::default())).await;
    let body: Vec<u8> = (0..=250).cycle().take(MUCH).collect();
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        send.write_all(&sent).await.unwrap();
        send.finish().unwrap();
    });
    let (mut from, mut to) = tokio::io::split(accepted(&scene, &acceptor).await);
    let echo = tokio::spawn(async move {
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
    });
    assert!(soon("the echo", receive.read_to_end(MUCH)).await.unwrap() == body);
    sending.await.unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn the_clients_own_tls_is_not_wrapped_again() {
    let mut scene = Scene::new().await;
    let (_redir, session, _) = scene.live(&["--local-tls"]).await;
    let (mut send, mut receive) = session.open(7).await;
    send.write_all(b"\x16\x03\x01\x00\x05hello").await.unwrap();
    let mut connection = scene.connection().await;
    let mut record = [0; 10];
    soon("the record", connection.read_exact(&mut record)).await.unwrap();
    assert_eq!(&record, b"\x16\x03\x01\x00\x05hello");
    connection.write_all(b"\x15").await.unwrap();
    drop(connection);
    assert_eq!(soon("the answer", receive.read_to_end(100)).await.unwrap(), b"\x15");
}

#[tokio::test]
async fn a_service_that_does_not_speak_tls_is_told_apart() {
    let mut scene = Scene::new().await;
    let (_redir, session, _) = scene.live(&["--local-tls"]).await;
    let (_send, mut receive) = session.open_with(7, Some(ClientTls::default())).await;
    let mut connection = scene.connection().await;
    connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    assert_eq!(reset(&mut receive).await, StreamCode::NoTls);
}
