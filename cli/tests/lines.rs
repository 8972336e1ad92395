//! The lines and events of `redir intercept`: what a pod, a request and a connection look like.

#![cfg(unix)]

mod common;

use common::agent::state;
use common::process::Redir;
use common::scene::{Scene, let_go};
use redir_wire::{Conflict, ConnectionBytes, Liveness, RequestEvent, RequestOutcome, Takes, ToDeveloper, UnixMillis};

#[tokio::test]
async fn text_is_for_people() {
    let mut scene = Scene::new().await;
    let mut redir = scene.intercept(&["--header", "x-user: alice"]);
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    let pods = [("web-1", Liveness::Live, ""), ("web-2", Liveness::Refused, "the app does not listen")];
    session.grant(seq, &request, 7, &pods).await;
    let live = redir.line_with("live").await;
    assert!(live.contains("web-1:8080 -> 127.0.0.1:") && live.contains("header x-user: alice"), "{live}");
    redir.line_with("curl -H 'x-user: alice' http://10.0.0.2:8080/").await;
    redir.line_with("missed  web-1:8080: 3 connections opened before stay with the app").await;
    redir.line_with("refused  web-2 on node-1: the app does not listen").await;
    session.say(0, &ToDeveloper::Request(request_event("/a\u{1b}[2J", 200))).await;
    let line = redir.line_with("GET").await;
    assert!(line.contains("  GET /a\\x1b[2J  200  12.3 ms  web-1"), "{line}");
    let mut conflicting = state(&request, 7, &pods);
    let with = |developer: &str, id| Conflict {
        id: Some(id),
        pod: "web-1".into(),
        developer: developer.into(),
        since: UnixMillis(0),
        takes: Takes::Everything,
    };
    conflicting.conflicts.push(with("bob", 3));
    conflicting.overlaps.push(with("carol", 9));
    session.say(0, &ToDeveloper::Intercept(conflicting)).await;
    let line = redir.line_with("conflict").await;
    assert!(line.contains("bob (intercept 3) gets every request that you want") && line.contains("since"), "{line}");
    let line = redir.line_with("overlap").await;
    assert!(line.contains("carol (intercept 9)") && line.contains("gets nothing while you intercept"), "{line}");
    session.say(0, &ToDeveloper::Intercept(state(&request, 7, &pods))).await;
    redir.line_with("free  web-1: bob (intercept 3)").await;
    redir.line_with("over  web-1: carol (intercept 9)").await;
}

fn request_event(path: &str, status: u16) -> RequestEvent {
    RequestEvent {
        intercept: 7,
        when: UnixMillis(1_795_460_584_005),
        method: "GET".into(),
        path: path.into(),
        status,
        micros: 12_345,
        pod: "web-1".into(),
        client: "10.0.0.9:4000".into(),
        missed: 0,
        outcome: redir_wire::RequestOutcome::Answered,
        grpc_status: None,
        bytes: None,
    }
}

#[tokio::test]
async fn requests_are_events() {
    let mut scene = Scene::new().await;
    let (mut redir, mut session, _) = scene.live(&[]).await;
    session.say(0, &ToDeveloper::Request(request_event("/a?", 0))).await;
    let event = redir.event("request").await;
    assert_eq!((&event["outcome"], &event["port"]), (&"answered".into(), &8080.into()));
    assert_eq!((&event["method"], &event["path"], &event["pod"]), (&"GET".into(), &"/a?".into(), &"web-1".into()));
    assert_eq!((event["status"].is_null(), event["ms"].as_f64()), (true, Some(12.345)));
}

/// `script` gives the command a terminal.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_utf8_terminal_shows_what_was_typed() {
    let mut scene = Scene::new().await;
    let intercept = format!("intercept web-1 --port 8080:{} --header 'x-user: zo\u{eb}'", scene.port());
    let line = format!("'{}' {intercept}", env!("CARGO_BIN_EXE_redir"));
    for (locale, live, try_line) in [
        ("C.UTF-8", "header x-user: zo\u{eb} ", "curl -H 'x-user: zo\u{eb}' http://10.0.0.2:8080/"),
        ("C", r"header x-user: zo\xc3\xab ", r"curl -H $'x-user: zo\xc3\xab' http://10.0.0.2:8080/"),
    ] {
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env("HOME", scene.home.path()).env_remove("XDG_CONFIG_HOME");
        command
            .env_remove("LC_ALL")
            .env_remove("LC_CTYPE")
            .env("LANG", locale)
            .env("NO_COLOR", "1")
            .env("USER", "alice");
        let mut redir = Redir::start(command);
        let mut session = scene.agent.accept().await;
        let (seq, request) = session.request().await;
        session.grant(seq, &request, 7, &[("web-1", Liveness::Live, "")]).await;
        let told = redir.line_with("live").await;
        assert!(told.contains(live), "{told}");
        let told = redir.line_with("try").await;
        assert!(told.contains(try_line), "{told}");
    }
}

/// A port that is another protocol's gets no line to try.
#[tokio::test]
async fn no_curl_line_for_a_database() {
    let mut scene = Scene::new().await;
    let port = format!("5432:{}", scene.port());
    let mut redir = Redir::start(scene.home.command(&["intercept", "web-1", "--port", &port, "-o", "json"]));
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    session.grant(seq, &request, 7, &[("web-1", Liveness::Live, "")]).await;
    assert!(redir.event("live").await["curl"].is_null());
}

#[tokio::test]
async fn connections_are_told_apart_and_a_flood_is_cut() {
    let connection = |bytes| RequestEvent { method: String::new(), bytes, ..request_event("", 0) };
    let mut scene = Scene::new().await;
    let (mut redir, mut session, _) = scene.live(&[]).await;
    session.say(0, &ToDeveloper::Request(connection(None))).await;
    let event = redir.event("connection").await;
    assert_eq!((&event["state"], event["received"].is_null()), (&"open".into(), true));
    let bytes = Some(ConnectionBytes { received: 5, sent: 7 });
    let refused = RequestEvent { outcome: RequestOutcome::Refused("no".into()), ..connection(bytes) };
    session.say(0, &ToDeveloper::Request(refused)).await;
    let event = redir.event("connection").await;
    assert_eq!((&event["state"], &event["sent"], &event["reason"]), (&"closed".into(), &7.into(), &"no".into()));

    let mut redir = scene.intercept(&[]);
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    session.grant(seq, &request, 7, &[("web-1", Liveness::Live, "")]).await;
    for _ in 0..500 {
        session.say(0, &ToDeveloper::Request(connection(bytes))).await;
    }
    let first = redir.line_with("connection  ").await;
    assert!(first.contains("received 5 B, sent 7 B"), "{first}");
    let mut shown = 1;
    let mut left_out = 0;
    while shown + left_out < 500 {
        let line = redir.line().await.unwrap();
        match line.strip_prefix('(') {
            Some(rest) => left_out += rest.split(' ').next().unwrap().parse::<u64>().unwrap(),
            None => shown += 1,
        }
    }
    assert!(shown < 100, "{shown} lines of 500");
}

#[tokio::test]
async fn a_reader_that_leaves_ends_the_intercept() {
    let mut scene = Scene::new().await;
    let (mut redir, mut session, request) = scene.live(&[]).await;
    redir.close_output();
    session.say(0, &ToDeveloper::Request(request_event("/", 200))).await;
    let_go(&mut session, &request).await;
    assert_eq!(redir.end().await.0, Some(0));
}
