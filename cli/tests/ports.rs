//! Where the requests of `redir intercept` go (`--port`, `--to`), and several ports with one command.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::agent::{Session, soon};
use common::assert_one_sentence;
use common::process::Redir;
use common::scene::{Scene, let_go, reset};
use redir_wire::{InterceptRequest, Liveness, StreamCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn start(scene: &Scene, arguments: &[&str]) -> Redir {
    Redir::start(scene.home.command(&[&["intercept", "web-1"], arguments].concat()))
}

/// The next tunnel's intercept request, granted as this number.
async fn granted(scene: &mut Scene, id: u64) -> (Session, InterceptRequest) {
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    session.grant(seq, &request, id, &[("web-1", Liveness::Live, "")]).await;
    (session, request)
}

/// Whatever only looks whether somebody listens sends nothing.
async fn connection(listener: &TcpListener) -> TcpStream {
    soon("a connection", async {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            if connection.peek(&mut [0]).await.unwrap() > 0 {
                return connection;
            }
        }
    })
    .await
}

/// A request on this intercept gets this listener's answer.
async fn reaches(session: &Session, id: u64, listener: &TcpListener) {
    let (mut send, mut receive) = session.open(id).await;
    send.write_all(b"ping").await.unwrap();
    let mut connection = connection(listener).await;
    let mut request = [0; 4];
    soon("the request", connection.read_exact(&mut request)).await.unwrap();
    assert_eq!(&request, b"ping");
    connection.write_all(b"pong").await.unwrap();
    drop(connection);
    assert_eq!(soon("the answer", receive.read_to_end(100)).await.unwrap(), b"pong");
}

/// Vite and others listen on ::1 alone.
#[tokio::test]
async fn a_service_on_the_ipv6_loopback_alone_gets_the_requests() {
    let mut scene = Scene::new().await.without_service();
    let service = TcpListener::bind("[::1]:0").await.unwrap();
    let address = service.local_addr().unwrap();
    let port = format!("8080:{}", address.port());
    let mut redir = start(&scene, &["--port", &port, "-o", "json"]);
    let (session, request) = granted(&mut scene, 7).await;
    assert_eq!(request.to, address.to_string());
    let live = redir.event("live").await;
    assert_eq!((&live["to"], &live["port"]), (&address.to_string().into(), &8080.into()));
    reaches(&session, 7, &service).await;

    // With one on 127.0.0.1 beside it, that one counts.
    let first = TcpListener::bind(("127.0.0.1", address.port())).await.unwrap();
    reaches(&session, 7, &first).await;
    drop((first, service));
    let (_send, mut receive) = session.open(7).await;
    assert_eq!(reset(&mut receive).await, StreamCode::Refused);
}

#[tokio::test]
async fn requests_go_where_to_says() {
    let mut scene = Scene::new().await;
    let port = scene.port();
    for to in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let mut redir = start(&scene, &["--port", "8080", "--to", &to, "-o", "json"]);
        let (mut session, request) = granted(&mut scene, 7).await;
        assert_eq!((request.port, request.to.as_str()), (8080, to.as_str()));
        assert_eq!(redir.event("live").await["to"], to);
        reaches(&session, 7, scene.service.as_ref().unwrap()).await;
        redir.signal(nix::sys::signal::Signal::SIGINT);
        let_go(&mut session, &request).await;
        assert_eq!(redir.end().await, (Some(0), String::new()));
    }

    let mut redir = start(&scene, &["--port", "8080", "--to", "no-such-host.invalid:80", "-o", "json"]);
    let (session, _) = granted(&mut scene, 7).await;
    assert_eq!(redir.event("service").await["to"], "no-such-host.invalid:80");
    let (_send, mut receive) = session.open(7).await;
    assert_eq!(reset(&mut receive).await, StreamCode::Unreachable);
}

#[tokio::test]
async fn each_port_is_an_intercept_of_its_own_and_all_end_together() {
    let mut scene = Scene::new().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = [format!("8080:{}", scene.port()), format!("9090:{}", other.local_addr().unwrap().port())];
    let flags = ["--port", &ports[0], "-p", &ports[1], "--header", "x-user: alice", "-o", "json"];
    let mut redir = start(&scene, &flags);
    let (first, first_request) = granted(&mut scene, 7).await;
    let (second, second_request) = granted(&mut scene, 8).await;
    let mut both = [(first, first_request, 7), (second, second_request, 8)];
    both.sort_by_key(|(_, request, _)| request.port);
    let mut live = [redir.event("live").await["port"].as_u64(), redir.event("live").await["port"].as_u64()];
    live.sort_unstable();
    assert_eq!(live, [Some(8080), Some(9090)]);
    let [(first, first_request, one), (second, second_request, two)] = &mut both;
    assert_eq!((first_request.port, second_request.port), (8080, 9090));
    assert!(first_request.token != second_request.token && first_request.filter == second_request.filter);
    reaches(first, *one, scene.service.as_ref().unwrap()).await;
    reaches(second, *two, &other).await;

    redir.signal(nix::sys::signal::Signal::SIGINT);
    for (session, request) in [(first, first_request), (second, second_request)] {
        let_go(session, request).await;
    }
    assert_eq!(redir.end().await, (Some(0), String::new()));
}

#[tokio::test]
async fn a_port_that_is_refused_ends_the_others() {
    let mut scene = Scene::new().await;
    let mut redir = start(&scene, &["--port", "8080", "--port", "9090"]);
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut session = scene.agent.accept().await;
        let (seq, request) = session.request().await;
        sessions.push((session, seq, request));
    }
    sessions.sort_by_key(|(.., request)| request.port);
    let (mut refused, seq, second) = sessions.pop().unwrap();
    let (mut session, first_seq, first) = sessions.pop().unwrap();
    session.grant(first_seq, &first, 7, &[("web-1", Liveness::Live, "")]).await;
    redir.line_with("live").await;
    refused.grant(seq, &second, 8, &[("web-1", Liveness::Refused, "the app does not listen; start it")]).await;
    let_go(&mut session, &first).await;
    let (code, text) = redir.end().await;
    assert_eq!(code, Some(1));
    let last = text.lines().last().unwrap();
    assert_one_sentence(&format!("{last}\n"));
    assert!(last.contains("port 9090: ") && last.contains("the app does not listen; start it"), "{text}");
}

#[tokio::test]
async fn a_command_is_ready_once_all_its_ports_answer() {
    let mut scene = Scene::new().await;
    let late = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let late_address = late.local_addr().unwrap();
    drop(late);
    let ports = [format!("8080:{}", scene.port()), format!("9090:{}", late_address.port())];
    let flags = ["--port", &ports[0], "--port", &ports[1], "-o", "json", "--", "sh", "-c", "sleep 600 & wait; exit 7"];
    let mut redir = start(&scene, &flags);
    scene.list_ports(&["web-1"], &[8080, 9090]).await;
    assert!(redir.error_line().await.contains(&format!("another process answers on 127.0.0.1:{}", scene.port())));
    assert_eq!(redir.event("command").await["state"], "started");
    let late = TcpListener::bind(late_address).await.unwrap();
    let ready = redir.event("command").await;
    let address = format!("127.0.0.1:{}", scene.port());
    assert_eq!(ready["state"], "ready");
    assert_eq!(ready["addresses"], serde_json::json!([address, late_address.to_string()]));
    assert_eq!(ready["taken"], serde_json::json!([address]));
    let (first, first_request) = granted(&mut scene, 7).await;
    let (second, second_request) = granted(&mut scene, 8).await;
    redir.event("live").await;
    redir.event("live").await;
    let at_9090 = if first_request.port == 9090 { (&first, 7) } else { (&second, 8) };
    reaches(at_9090.0, at_9090.1, &late).await;
    redir.signal(nix::sys::signal::Signal::SIGTERM);
    for (mut session, request) in [(first, first_request), (second, second_request)] {
        let_go(&mut session, &request).await;
    }
    assert_eq!(redir.end().await.0, Some(143), "the command's own");
}

/// No command is started for a port that nobody may intercept.
#[tokio::test]
async fn every_port_is_asked_for_before_the_command_is_started() {
    let mut scene = Scene::new().await;
    let mut redir = start(&scene, &["--port", "8080", "--port", "80", "--", "sh", "-c", "exit 3"]);
    scene.list(&["web-1"]).await;
    let (code, text) = redir.end().await;
    assert_eq!(code, Some(1));
    assert_one_sentence(&text);
    assert!(text.contains("port 80: ") && text.contains("allowed are: 8080"), "{text}");
}

/// What it asks for would match there again, and come back.
#[tokio::test]
async fn the_intercepted_port_itself_is_no_service() {
    let mut scene = Scene::new().await;
    let (_redir, session, _) = scene.live(&[]).await;
    let itself = (std::net::Ipv4Addr::LOCALHOST, scene.port()).into();
    let (_send, mut receive) = soon("a stream", session.try_open_to(itself, 7, None)).await.unwrap();
    assert_eq!(reset(&mut receive).await, StreamCode::Looped);
    // The same service is one like any other for whoever dialled another address.
    reaches(&session, 7, scene.service.as_ref().unwrap()).await;
}
