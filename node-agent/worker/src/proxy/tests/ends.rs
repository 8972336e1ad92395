//! How connections end: resets, the app's end, server-first protocols, draining, and what an idle one costs.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::rig::{Behaviour, Developer, Rig, request, soon};
use crate::relay;

#[tokio::test]
async fn an_app_that_does_not_listen_is_a_reset() {
    let mut rig = Rig::new().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.app.address = gone.local_addr().unwrap();
    drop(gone);
    let mut client = rig.client().await;
    client.expect_reset().await;
    client.done().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_waited_for() {
    let mut rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.app.address = server.local_addr().unwrap();
    let mut client = rig.client().await;
    let (mut app, _) = soon(server.accept()).await.unwrap();
    app.write_all(b"220 ready\r\n").await.unwrap();
    let mut greeting = [0; 11];
    soon(client.socket.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    // Not looked at any more: what looks like a match goes to the app.
    client.send(request("/", Some("alice"))).await;
    let mut seen = vec![0; request("/", Some("alice")).len()];
    soon(app.read_exact(&mut seen)).await.unwrap();
    drop(app);
    assert_eq!(client.rest().await, b"");
    let access = client.done().await;
    assert_eq!(access.opaque, Some("server_first"));
}

#[tokio::test]
async fn a_reset_travels_from_the_client_to_the_app_and_back() {
    let mut rig = Rig::new().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.app.address = server.local_addr().unwrap();
    let client = rig.client().await;
    let (mut app, _) = soon(server.accept()).await.unwrap();
    relay::reset(&client.socket);
    client.done().await;
    let mut byte = [0];
    let error = soon(app.read(&mut byte)).await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let mut client = rig.client().await;
    let (app, _) = soon(server.accept()).await.unwrap();
    relay::reset(&app);
    drop(app);
    client.expect_reset().await;
    client.done().await;
}

#[tokio::test]
async fn a_reset_client_ends_a_matched_request_too() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Silent).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    client.send(request("/", Some("alice"))).await;
    alice.arrived(1).await;
    relay::reset(&client.socket);
    client.done().await;
}

/// A request that is cut must not look like a whole one to whoever gets it.
#[tokio::test]
async fn a_developers_leg_that_is_dropped_is_reset() {
    let rig = Rig::new().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alice = Developer::at(1, service.local_addr().unwrap()).await;
    let head = "POST / HTTP/1.1\r\nHost: web\r\nX-User: alice\r\nContent-Length: 10\r\n\r\n";
    for global in [false, true] {
        match global {
            false => rig.plan(&[("alice", &alice)], None),
            true => rig.plan(&[], Some(&alice)),
        }
        for sent in [head.to_owned() + "01234", head.to_owned() + "0123456789"] {
            let mut client = rig.client().await;
            client.send(&sent).await;
            let (mut served, _) = soon(service.accept()).await.unwrap();
            let mut heard = vec![0; sent.len()];
            soon(served.read_exact(&mut heard)).await.unwrap();
            // As when the agent ends at once: nothing of the connection is left but what its drop does.
            client.served.abort();
            let error = soon(served.read(&mut heard)).await.expect_err("a reset");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "global: {global}, {} bytes", sent.len());
        }
    }
}

#[tokio::test]
async fn a_request_that_met_the_end_of_an_intercept_too_is_sent_to_the_app() {
    let rig = Rig::new().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alice = Developer::at(1, service.local_addr().unwrap()).await;
    for reset in [false, true] {
        rig.plan(&[("alice", &alice)], None);
        let mut client = rig.client().await;
        let asked = request("/", Some("alice"));
        client.send(&asked).await;
        let (mut served, _) = soon(service.accept()).await.unwrap();
        let mut heard = vec![0; asked.len()];
        soon(served.read_exact(&mut heard)).await.unwrap();
        served.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nblue").await.unwrap();
        assert_eq!(client.answer().await.text(), "blue");
        client.send(&asked).await;
        soon(served.read_exact(&mut heard)).await.unwrap();
        rig.no_plan();
        if reset {
            relay::reset(&served);
        }
        drop(served);
        assert_eq!(client.answer().await.text(), "green");
        let access = client.done().await;
        assert_eq!((access.app_requests, access.developer_requests), (1, 1));
    }
}

/// As it came to the app, and with one address to the developer, however often it is sent there.
#[tokio::test]
async fn a_request_that_is_sent_again_tells_the_clients_address_once() {
    let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    for offer in ["", offer] {
        let rig = Rig::new().await;
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alice = Developer::at(1, service.local_addr().unwrap()).await.forwarding();
        rig.plan(&[("alice", &alice)], None);
        let mut client = rig.client().await;
        let asked = format!("GET / HTTP/1.1\r\nHost: web\r\n{offer}X-User: alice\r\n\r\n");
        let expected = "GET / HTTP/1.1\r\nHost: web\r\nX-User: alice\r\nX-Forwarded-For: 127.0.0.1\r\n\
                        X-Forwarded-Proto: http\r\nX-Forwarded-Host: web\r\n\r\n";
        let mut heard = vec![0; expected.len()];
        client.send(&asked).await;
        let (mut served, _) = soon(service.accept()).await.unwrap();
        for _ in 0..2 {
            soon(served.read_exact(&mut heard)).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&heard), expected);
            served.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nblue").await.unwrap();
            assert_eq!(client.answer().await.text(), "blue");
            client.send(&asked).await;
            soon(served.read_exact(&mut heard)).await.unwrap();
            // It is closed just when it is used again.
            drop(served);
            served = soon(service.accept()).await.unwrap().0;
        }
        soon(served.read_exact(&mut heard)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), expected);
        served.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nblue").await.unwrap();
        assert_eq!(client.answer().await.text(), "blue");
        client.send(&asked).await;
        soon(served.read_exact(&mut heard)).await.unwrap();
        rig.no_plan();
        drop(served);
        assert_eq!(client.answer().await.text(), "green");
        assert_eq!(rig.app.seen(), asked);
        client.done().await;
    }
}

/// An answer without a length that is cut must not look like a whole one, also while its request is still being sent.
#[tokio::test]
async fn an_answer_until_the_end_that_is_cut_before_its_requests_end_is_a_reset() {
    let rig = Rig::new().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alice = Developer::at(1, service.local_addr().unwrap()).await;
    rig.plan(&[("alice", &alice)], None);
    let head = "POST / HTTP/1.1\r\nHost: web\r\nX-User: alice\r\nContent-Length: 10\r\n\r\n";
    let sent = head.to_owned() + "01234";
    let mut client = rig.client().await;
    client.send(&sent).await;
    let (mut served, _) = soon(service.accept()).await.unwrap();
    let mut heard = vec![0; sent.len()];
    soon(served.read_exact(&mut heard)).await.unwrap();
    let part = "HTTP/1.0 200 OK\r\n\r\npart";
    served.write_all(part.as_bytes()).await.unwrap();
    client.read_at_least(part.len()).await;
    relay::reset(&served);
    drop(served);
    client.expect_reset().await;
    client.done().await;
}

/// It may have had its effect there, and would have it at the app as well.
#[tokio::test]
async fn a_request_with_an_effect_is_not_sent_to_the_app_after_a_developer_had_it() {
    let rig = Rig::new().await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alice = Developer::at(1, service.local_addr().unwrap()).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    let asked = request("/", Some("alice")).replace("GET", "DELETE");
    client.send(&asked).await;
    let (mut served, _) = soon(service.accept()).await.unwrap();
    let mut heard = vec![0; asked.len()];
    soon(served.read_exact(&mut heard)).await.unwrap();
    served.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nblue").await.unwrap();
    assert_eq!(client.answer().await.text(), "blue");
    client.send(&asked).await;
    soon(served.read_exact(&mut heard)).await.unwrap();
    rig.no_plan();
    drop(served);
    assert_eq!(client.rest().await, b"", "the client may try again");
    let access = client.done().await;
    assert_eq!((access.app_requests, access.developer_requests), (0, 2));
    assert_eq!(rig.app.seen(), "");
}

#[tokio::test]
async fn a_client_that_does_not_go_on_after_101_is_the_apps() {
    let mut rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.app.address = server.local_addr().unwrap();
    let mut client = rig.client().await;
    let asked = "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABk\r\n\r\n";
    client.send(asked).await;
    let (mut app, _) = soon(server.accept()).await.unwrap();
    let mut heard = vec![0; asked.len()];
    soon(app.read_exact(&mut heard)).await.unwrap();
    let switched = [&b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"[..], &SETTINGS];
    let switched = switched.concat();
    app.write_all(&switched).await.unwrap();
    drop(app);
    assert!(client.rest().await == switched, "the app's last words, and its end");
    let access = client.done().await;
    assert_eq!(access.opaque, Some("upgraded"));
}

/// Empty.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

#[tokio::test]
async fn the_apps_end_closes_the_client() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    for path in ["/close", "/last"] {
        let mut client = rig.client().await;
        assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
        assert_eq!(client.ask(path, None).await.text(), "green");
        assert_eq!(client.rest().await, b"");
        client.done().await;
    }
}

#[tokio::test]
async fn draining_closes_a_quiet_connection_and_aborting_resets_a_busy_one() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Silent).await;
    rig.plan(&[("alice", &alice)], None);
    let mut quiet = rig.client().await;
    assert_eq!(quiet.ask("/", None).await.text(), "green");
    let mut busy = rig.client().await;
    busy.send(request("/", Some("alice"))).await;
    alice.arrived(1).await;
    rig.draining.cancel();
    assert_eq!(quiet.rest().await, b"");
    quiet.done().await;
    assert!(!busy.served.is_finished());
    rig.abort.cancel();
    busy.expect_reset().await;
    busy.done().await;
}

#[test]
fn an_idle_connections_own_state_is_small() {
    let size = super::rig::served_size();
    println!("{size} bytes");
    assert!(size <= 1280, "the future of a connection has {size} bytes");
}
