//! Connections to a port that speaks TLS: decrypted where the certificate is given, else passed on as they came.

use std::{
    io,
    sync::{Arc, Mutex, atomic::Ordering},
};

use redir_wire::ClientTls;
use rustls::{
    ClientConfig, ServerConfig, SupportedProtocolVersion,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, client::TlsStream, server};

use super::rig::{Behaviour, Client, Developer, Rig, Service, request, soon};
use crate::{
    relay,
    tls::{
        Finding,
        testing::{Certificate, client, mutual, provider, server},
    },
};

const BOTH: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];
const ALL: &[&SupportedProtocolVersion] = rustls::ALL_VERSIONS;

/// An app that speaks TLS, and the agent with its certificate.
async fn decrypting(certificate: &Certificate) -> Rig {
    let mut rig = Rig::new().await;
    rig.app = Service::secure("green", server(certificate)).await;
    rig.give(&[&certificate.pair]);
    rig
}

/// The same with an app that the test plays.
async fn played(certificate: &Certificate) -> (Rig, TcpListener, TlsAcceptor) {
    let mut rig = Rig::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.app.address = listener.local_addr().unwrap();
    rig.give(&[&certificate.pair]);
    (rig, listener, TlsAcceptor::from(Arc::new(server(certificate))))
}

/// A client and the app's end of its connection, both decrypted.
async fn through(
    rig: &Rig,
    certificate: &Certificate,
    app: &(TcpListener, TlsAcceptor),
) -> (Client<TlsStream<TcpStream>>, server::TlsStream<TcpStream>) {
    let secured = async { rig.client().await.secure(client(certificate, ALL)).await.unwrap() };
    let accepted = async { soon(app.1.accept(soon(app.0.accept()).await.unwrap().0)).await.unwrap() };
    tokio::join!(secured, accepted)
}

/// The certificate that the client was shown.
fn shown(client: &Client<TlsStream<TcpStream>>) -> &CertificateDer<'static> {
    &client.socket.get_ref().1.peer_certificates().unwrap()[0]
}

#[tokio::test]
async fn requests_of_one_connection_are_decided_one_by_one() {
    let certificate = Certificate::new();
    let rig = decrypting(&certificate).await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    for versions in BOTH {
        let mut client = rig.client().await.secure(client(&certificate, versions)).await.unwrap();
        for (user, answer) in
            [(None, "green"), (Some("alice"), "blue"), (Some("bob"), "green"), (Some("alice"), "blue")]
        {
            assert_eq!(client.ask("/", user).await.text(), answer);
        }
        assert_eq!(shown(&client), &certificate.der);
        assert_eq!(client.socket.get_ref().1.protocol_version(), Some(versions[0].version));
        let access = client.done().await;
        assert_eq!((access.app_requests, access.developer_requests, access.opaque), (2, 2, None));
    }
    assert_eq!(rig.app.seen().matches("GET / ").count(), 4, "byte by byte what does not match, and nothing else");
    assert_eq!(rig.app.connections.load(Ordering::Relaxed), 2, "one for each client connection");
    let named = ClientTls { server_name: Some("web.test".into()), alpn: None };
    assert_eq!(*alice.header.lock().unwrap(), Some(named));
    assert_eq!(rig.finding(), Some(Finding::Tls));
}

/// Notes what the app was offered.
#[derive(Debug)]
struct Noting(Arc<CertifiedKey>, Mutex<Vec<Offered>>);

/// A name, and protocols.
type Offered = (Option<String>, Vec<Vec<u8>>);

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let protocols = hello.alpn().map(|protocols| protocols.map(<[u8]>::to_vec).collect()).unwrap_or_default();
        self.1.lock().unwrap().push((hello.server_name().map(str::to_owned), protocols));
        Some(self.0.clone())
    }
}

#[tokio::test]
async fn the_app_is_offered_what_the_client_offers_and_the_client_gets_what_it_chose() {
    let certificate = Certificate::new();
    let mut rig = Rig::new().await;
    let noting = Arc::new(Noting(certificate.pair.certified().unwrap(), Mutex::default()));
    let mut app = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(ALL)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(noting.clone());
    app.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    rig.app = Service::secure("green", app).await;
    rig.give(&[&certificate.pair]);
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut config = client(&certificate, ALL);
    config.alpn_protocols = vec![b"http/1.0".to_vec(), b"http/1.1".to_vec()];
    let mut named = rig.client().await.secure(config).await.unwrap();
    assert_eq!(named.ask("/", Some("alice")).await.text(), "blue");
    assert_eq!(named.socket.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "the server's favourite");
    assert_eq!(alice.header.lock().unwrap().clone().unwrap().alpn, Some(b"http/1.1".to_vec()));
    named.done().await;

    let mut silent = client(&certificate, ALL);
    silent.enable_sni = false;
    let mut silent = rig.client().await.secure(silent).await.unwrap();
    assert_eq!(silent.ask("/", None).await.text(), "green");
    assert_eq!(silent.socket.get_ref().1.alpn_protocol(), None);
    silent.done().await;
    let offered = std::mem::take(&mut *noting.1.lock().unwrap());
    let both = vec![b"http/1.0".to_vec(), b"http/1.1".to_vec()];
    assert_eq!(offered, [(Some("web.test".to_owned()), both), (None, vec![])]);

    let mut foreign = client(&certificate, ALL);
    foreign.alpn_protocols = vec![b"smtp".to_vec()];
    let refused = rig.client().await.secure(foreign).await.err().expect("the app's own alert");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    assert_eq!(rig.finding(), Some(Finding::Refused));
}

#[tokio::test]
async fn a_version_that_the_app_refuses_stays_refused() {
    let certificate = Certificate::new();
    let mut rig = decrypting(&certificate).await;
    let strict = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der.clone()], certificate.private())
        .unwrap();
    rig.app = Service::secure("green", strict).await;
    let refused = rig.client().await.secure(client(&certificate, &[&TLS12])).await.err().expect("the app's own alert");
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    let mut newer = rig.client().await.secure(client(&certificate, ALL)).await.unwrap();
    assert_eq!(newer.ask("/", None).await.text(), "green");
}

#[tokio::test]
async fn an_app_with_another_certificate_is_left_alone() {
    let (own, given) = (Certificate::new(), Certificate::new());
    let mut rig = decrypting(&given).await;
    rig.app = Service::secure("green", server(&own)).await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    for global in [false, true] {
        match global {
            false => rig.plan(&[("alice", &alice)], None),
            true => rig.plan(&[], Some(&alice)),
        }
        let mut client = rig.client().await.secure(client(&own, ALL)).await.unwrap();
        assert_eq!(client.ask("/", Some("alice")).await.text(), "green", "nothing is read");
        assert_eq!(client.done().await.opaque, Some("tls_other_certificate"));
    }
    assert_eq!(rig.finding(), Some(Finding::OtherCertificate));
    assert_eq!(alice.service.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_old_certificate_still_counts_until_the_app_shows_the_new_one() {
    let (old, new) = (Certificate::new(), Certificate::new());
    let mut rig = decrypting(&old).await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    rig.give(&[&new.pair]);
    for certificate in [&old, &new] {
        rig.app = Service::secure("green", server(certificate)).await;
        let mut client = rig.client().await.secure(client(certificate, ALL)).await.unwrap();
        assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
        assert_eq!(shown(&client), &certificate.der);
    }
    rig.give(&[]);
    let mut unread = rig.client().await.secure(client(&new, ALL)).await.unwrap();
    assert_eq!(unread.ask("/", Some("alice")).await.text(), "green");
    assert_eq!(unread.done().await.opaque, Some("tls"));
}

#[tokio::test]
async fn an_app_that_asks_for_client_certificates_is_tried_once_and_left_alone() {
    for versions in BOTH {
        let certificate = Certificate::new();
        let mut rig = decrypting(&certificate).await;
        let (server, with) = mutual(&certificate, versions);
        rig.app = Service::secure("green", server).await;
        let alice = Developer::new(1, "blue", Behaviour::Serve).await;
        rig.plan(&[("alice", &alice)], None);
        for connections in [2, 3] {
            let mut client = rig.client().await.secure(with.clone()).await.unwrap();
            assert_eq!(client.ask("/", Some("alice")).await.text(), "green");
            assert_eq!(client.done().await.opaque, Some("tls_client_certificate"));
            assert_eq!(rig.app.connections.load(Ordering::Relaxed), connections);
        }
        assert_eq!(rig.finding(), Some(Finding::ClientCertificate));
        // With a new pod in its place it is tried again.
        rig.tls.forget(|pod, _| *pod == rig.pod);
        let client = rig.client().await.secure(with).await.unwrap();
        client.done().await;
        assert_eq!(rig.app.connections.load(Ordering::Relaxed), 5);
    }
}

#[tokio::test]
async fn without_a_certificate_bytes_pass_and_it_is_noted() {
    let certificate = Certificate::new();
    let mut rig = Rig::new().await;
    rig.app = Service::secure("green", server(&certificate)).await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await.secure(client(&certificate, ALL)).await.unwrap();
    assert_eq!(client.ask("/", Some("alice")).await.text(), "green");
    assert_eq!(client.done().await.opaque, Some("tls"));
    assert_eq!(rig.finding(), Some(Finding::Tls));
}

#[tokio::test]
async fn a_global_intercept_without_a_certificate_gets_the_clients_own_tls() {
    let certificate = Certificate::new();
    let rig = Rig::new().await;
    let service = Service::secure("blue", server(&certificate)).await;
    let alice = Developer::at(1, service.address).await;
    rig.plan(&[], Some(&alice));
    let mut client = rig.client().await.secure(client(&certificate, ALL)).await.unwrap();
    assert_eq!(client.ask("/", None).await.text(), "blue");
    assert_eq!(*alice.header.lock().unwrap(), None);
    assert_eq!(rig.finding(), Some(Finding::Tls));
    client.done().await;
}

#[tokio::test]
async fn a_global_intercept_with_a_certificate_gets_plaintext_and_the_app_its_probes() {
    const PROBE: &str = "GET /healthz HTTP/1.1\r\nHost: web\r\nUser-Agent: kube-probe/1.30\r\n\r\n";
    let certificate = Certificate::new();
    let rig = decrypting(&certificate).await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[], Some(&alice));
    let mut user = rig.client().await.secure(client(&certificate, ALL)).await.unwrap();
    assert_eq!(user.ask("/", None).await.text(), "blue");
    assert!(alice.header.lock().unwrap().is_some());
    user.done().await;
    assert_eq!(rig.app.seen(), "");
    let mut kubelet = rig.client().await.secure(client(&certificate, ALL)).await.unwrap();
    kubelet.send(PROBE).await;
    assert_eq!(kubelet.answer().await.text(), "green");
    kubelet.done().await;
    assert_eq!(rig.app.seen(), PROBE);
}

#[tokio::test]
async fn a_client_in_clear_is_read_in_clear() {
    let certificate = Certificate::new();
    let rig = Rig::new().await;
    rig.give(&[&certificate.pair]);
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    for (global, other) in [(None, "green"), (Some(&alice), "blue")] {
        match global {
            None => rig.plan(&[("alice", &alice)], None),
            Some(alice) => rig.plan(&[], Some(alice)),
        }
        let mut client = rig.client().await;
        assert_eq!(client.ask("/", None).await.text(), other);
        assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
        client.done().await;
    }
    assert_eq!(*alice.header.lock().unwrap(), None);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_although_a_certificate_is_given() {
    let certificate = Certificate::new();
    let (rig, listener, _) = played(&certificate).await;
    let mut client = rig.client().await;
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    app.write_all(b"220 ready\r\n").await.unwrap();
    let mut greeting = [0; 11];
    soon(client.socket.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    drop(app);
    assert_eq!(client.rest().await, b"");
    assert_eq!(client.done().await.opaque, Some("server_first"));
}

#[tokio::test]
async fn bytes_that_are_no_whole_offer_reach_the_app_as_they_came() {
    let certificate = Certificate::new();
    for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"\x16", b"\x16\x03\x01\x00\x05hello and more"] {
        let (rig, listener, _) = played(&certificate).await;
        let mut client = rig.client().await;
        client.send(bytes).await;
        client.socket.shutdown().await.unwrap();
        let (mut app, _) = soon(listener.accept()).await.unwrap();
        let mut seen = Vec::new();
        soon(app.read_to_end(&mut seen)).await.unwrap();
        assert_eq!(seen, bytes);
        app.write_all(b"\x15\x03\x01\x00\x02\x02\x32").await.unwrap();
        drop(app);
        assert_eq!(client.rest().await, b"\x15\x03\x01\x00\x02\x02\x32");
        client.done().await;
        assert_eq!(rig.finding(), Some(Finding::Tls), "what the certificate lets expect, and nothing else");
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_app_ends_it() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let rig = decrypting(&certificate).await;
    let client = rig.client().await;
    let refused = client.secure(client_of(&other)).await.err().expect("it does not trust the certificate");
    assert!(refused.to_string().contains("certificate"), "{refused}");
}

fn client_of(certificate: &Certificate) -> ClientConfig {
    client(certificate, ALL)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_both_ways() {
    const SIZE: usize = 6_000_000;
    let certificate = Certificate::new();
    let rig = decrypting(&certificate).await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let body: Vec<u8> = (0..=250).cycle().take(SIZE).collect();
    for user in ["nobody", "alice"] {
        let mut client = rig.client().await.secure(client(&certificate, ALL)).await.unwrap();
        client.send(format!("POST / HTTP/1.1\r\nHost: web\r\nX-User: {user}\r\nContent-Length: {SIZE}\r\n\r\n")).await;
        soon(client.send(&body)).await;
        soon(client.socket.flush()).await.unwrap();
        assert!(client.answer().await.body == body);
        client.done().await;
    }
}

#[tokio::test]
async fn an_upgraded_connection_stays_with_whoever_answered() {
    const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let certificate = Certificate::new();
    let (rig, listener, acceptor) = played(&certificate).await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let (mut client, mut app) = through(&rig, &certificate, &(listener, acceptor)).await;
    client.send(UPGRADE).await;
    let mut seen = vec![0; UPGRADE.len()];
    soon(app.read_exact(&mut seen)).await.unwrap();
    app.write_all(SWITCHED).await.unwrap();
    client.read_at_least(SWITCHED.len()).await;
    // What looks like a match is a frame now.
    client.send(request("/", Some("alice"))).await;
    let mut frame = vec![0; request("/", Some("alice")).len()];
    soon(app.read_exact(&mut frame)).await.unwrap();
    app.write_all(b"frame").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(client.rest().await, [SWITCHED, b"frame"].concat());
}

#[tokio::test]
async fn ends_are_passed_on_as_they_are() {
    let certificate = Certificate::new();
    let (rig, listener, acceptor) = played(&certificate).await;
    let app_side = (listener, acceptor);
    let head = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1000\r\n\r\nhalf";

    // The client's close_notify, and an answer after it.
    let (mut client, mut app) = through(&rig, &certificate, &app_side).await;
    client.send(request("/", None)).await;
    client.socket.shutdown().await.unwrap();
    let mut seen = Vec::new();
    soon(app.read_to_end(&mut seen)).await.expect("a close_notify");
    assert_eq!(String::from_utf8(seen).unwrap(), request("/", None));
    app.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end").await.unwrap();
    app.shutdown().await.unwrap();
    assert!(client.rest().await.ends_with(b"until the end"));

    // The client's FIN without one.
    let (mut client, mut app) = through(&rig, &certificate, &app_side).await;
    client.send(head).await;
    client.socket.flush().await.unwrap();
    let Client { socket, served, .. } = client;
    let (mut socket, _) = socket.into_inner();
    socket.shutdown().await.unwrap();
    let cut = soon(app.read_to_end(&mut Vec::new())).await.expect_err("no close_notify");
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    drop((app, socket));
    soon(served).await.unwrap();

    // The app's FIN without one, in an answer that only its end ends.
    let (mut client, mut app) = through(&rig, &certificate, &app_side).await;
    client.send(request("/", None)).await;
    let mut seen = vec![0; request("/", None).len()];
    soon(app.read_exact(&mut seen)).await.unwrap();
    app.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of i").await.unwrap();
    app.flush().await.unwrap();
    drop(app.into_inner());
    let cut = soon(client.socket.read_to_end(&mut Vec::new())).await.expect_err("no close_notify");
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);

    // The app's reset, and the client's.
    let (mut client, app) = through(&rig, &certificate, &app_side).await;
    relay::reset(app.get_ref().0);
    drop(app);
    let reset = soon(client.socket.read(&mut [0])).await.expect_err("a reset");
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    let (client, mut app) = through(&rig, &certificate, &app_side).await;
    relay::reset(client.socket.get_ref().0);
    client.done().await;
    let reset = soon(app.read(&mut [0])).await.expect_err("a reset");
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
}
