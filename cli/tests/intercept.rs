//! `redir intercept` against an agent's end on loopback: greeting, streams, refusals, redialling, the end.

#![cfg(unix)]

mod common;

use std::net::SocketAddr;

use common::agent::{Agent, Session, left, soon, state};
use common::process::Redir;
use common::scene::{Scene, let_go, reset};
use common::{Home, assert_one_sentence};
use redir_http::filter::{Condition, Mode, Subject, Test};
use redir_wire::{
    CloseCode, Ended, LeaveScope, Listening, Liveness, Miss, Refused, RefusedCode, StreamCode, ToAgent, ToDeveloper,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn the_wish_says_what_the_flags_say() {
    let mut scene = Scene::new().await;
    let flags = ["--header", "x-user: alice", "--not", "--cookie-regex", "sid=^$", "--any", "--preflight", "--probes"];
    let (mut redir, mut session, request) = scene.live(&flags).await;
    assert_eq!(request.selector, redir_wire::Selector::Pod("web-1".into()));
    assert_eq!((request.port, request.to.clone()), (8080, format!("127.0.0.1:{}", scene.port())));
    let filter = request.filter.as_ref().unwrap();
    let conditions = vec![
        Condition { subject: Subject::Header("x-user".into()), test: Test::Exact("alice".into()), negate: false },
        Condition { subject: Subject::Cookie("sid".into()), test: Test::Regex("^$".into()), negate: true },
    ];
    assert_eq!(*filter, redir_wire::Filter { mode: Mode::Any, conditions, preflights: true });
    assert_eq!(request.probes, redir_wire::Probes::Developer);

    redir.signal(nix::sys::signal::Signal::SIGINT);
    let_go(&mut session, &request).await;
    assert_eq!(redir.event("ended").await["reason"], "requests go to the app again");
    assert_eq!(redir.end().await, (Some(0), String::new()));
    let closed = soon("the close", session.connection.closed()).await;
    assert!(
        matches!(closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == CloseCode::Done.number())
    );
}

#[tokio::test]
async fn conditions_that_hardly_any_request_meets_are_told() {
    let mut scene = Scene::new().await;
    let mut redir = scene.intercept(&["--header", "x-user: alice", "--header", "x-user: bob"]);
    let told = redir.error_line().await;
    assert!(told.contains("header x-user = bob") && told.contains("--any"), "{told}");
    let (_, request) = scene.agent.accept().await.request().await;
    assert_eq!(request.filter.unwrap().conditions.len(), 2, "it may be meant");
}

#[tokio::test]
async fn streams_reach_the_service_and_only_for_own_intercepts() {
    let mut scene = Scene::new().await;
    let (mut redir, session, _) = scene.live(&[]).await;
    let (mut send, mut receive) = session.open(7).await;
    send.write_all(b"ping").await.unwrap();
    let mut connection = scene.connection().await;
    let mut request = [0; 4];
    soon("the request", connection.read_exact(&mut request)).await.unwrap();
    assert_eq!(&request, b"ping");
    connection.write_all(b"pong").await.unwrap();
    drop(connection);
    assert_eq!(soon("the answer", receive.read_to_end(100)).await.unwrap(), b"pong");

    let (_send, mut receive) = session.open(8).await;
    assert_eq!(reset(&mut receive).await, StreamCode::NotMine);

    drop(scene.service);
    let (_send, mut receive) = session.open(7).await;
    assert_eq!(reset(&mut receive).await, StreamCode::Refused);
    assert!(redir.child.try_wait().unwrap().is_none(), "a refused connection ended redir");
}

/// An agent ends its control stream first; the tunnel's close, which says the same, may come much later.
#[tokio::test]
async fn an_agent_that_ends_is_not_told_as_restarted() {
    let mut scene = Scene::new().await;
    let (mut redir, session, _) = scene.live(&[]).await;
    let _open = session.bye(CloseCode::Shutdown).await;
    let lost = redir.event("lost").await;
    assert!(lost["reason"].as_str().unwrap().contains("shutting down"), "{lost}");

    let mut scene = Scene::new().await;
    let (mut redir, session, _) = scene.live(&[]).await;
    let _open = session.bye(CloseCode::KeyRemoved).await;
    let (code, said) = redir.end().await;
    assert!(code == Some(1) && said.contains("no longer authorised"), "{code:?}: {said}");
}

#[tokio::test]
async fn a_lost_tunnel_is_redialled_with_the_same_token() {
    let mut scene = Scene::new().await;
    let (mut redir, session, request) = scene.live(&[]).await;
    session.connection.close(u32::try_from(CloseCode::Shutdown.number()).unwrap().into(), b"");
    let lost = redir.event("lost").await;
    assert!(lost["reason"].as_str().unwrap().contains("shutting down"), "{lost}");

    drop(session);
    scene.agent.restart().await;
    let mut session = scene.agent.accept().await;
    let (seq, again) = session.request().await;
    assert_eq!(again, request);
    session.grant(seq, &again, 9, &[("web-1", Liveness::Live, "")]).await;
    assert_eq!(redir.event("restored").await["pods"], serde_json::json!(["web-1"]));

    let (mut send, _receive) = session.open(9).await;
    send.write_all(b"x").await.unwrap();
    scene.connection().await;
    redir.signal(nix::sys::signal::Signal::SIGTERM);
    let_go(&mut session, &again).await;
    assert_eq!(redir.end().await.0, Some(0));
}

#[tokio::test]
async fn an_intercept_ended_elsewhere_ends_redir() {
    let mut scene = Scene::new().await;
    let (mut redir, mut session, request) = scene.live(&[]).await;
    let ended = Ended { id: 7, token: request.token, sentence: "left from alice@desktop".into() };
    session.say(0, &ToDeveloper::Ended(ended)).await;
    assert_eq!(redir.event("ended").await["reason"], "left from alice@desktop");
    assert_eq!(redir.end().await.0, Some(0));
}

#[tokio::test]
async fn what_is_refused_by_all_is_a_failure() {
    let mut scene = Scene::new().await;
    let mut redir = scene.intercept(&["-o", "json"]);
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    session.grant(seq, &request, 7, &[("web-1", Liveness::Refused, "the app does not listen; start it")]).await;
    let (code, text) = redir.end().await;
    assert_eq!(code, Some(1));
    assert_one_sentence(&text);
    assert!(text.contains("web-1: the app does not listen; start it"), "{text}");

    let mut redir = scene.intercept(&[]);
    let mut session = scene.agent.accept().await;
    let (seq, _) = session.request().await;
    let sentence = "there is no pod web-1; `redir list` shows those that can be intercepted".to_owned();
    session.say(seq, &ToDeveloper::Refused(Refused { code: RefusedCode::NoSuchPod, sentence })).await;
    let (code, text) = redir.end().await;
    assert_eq!(code, Some(1));
    assert_one_sentence(&text);
    assert!(text.contains("`redir list` shows"), "{text}");
}

#[tokio::test]
async fn an_agent_without_memory_for_the_answer_is_asked_again() {
    let mut scene = Scene::new().await;
    let (mut redir, session, request) = scene.live(&[]).await;
    session.connection.close(u32::try_from(CloseCode::Stalled.number()).unwrap().into(), b"");
    redir.event("lost").await;
    let mut session = scene.agent.accept().await;
    let (seq, again) = session.request().await;
    assert_eq!(again.token, request.token);
    let sentence = "the agent has no memory for the answer now; ask again in a moment".to_owned();
    session.say(seq, &ToDeveloper::Refused(Refused { code: RefusedCode::NoMemory, sentence })).await;
    let mut session = scene.agent.accept().await;
    let (seq, again) = session.request().await;
    session.grant(seq, &again, 7, &[("web-1", Liveness::Live, "")]).await;
    redir.event("restored").await;
}

#[tokio::test]
async fn a_pod_on_any_agent_is_enough() {
    let mut scene = Scene::new().await;
    let mut other = Agent::start(&[scene.home.pin()]);
    scene.home.write_config(&(scene.agent.config("node-1") + &other.config("node-2")));
    let mut redir = scene.intercept(&["-o", "json"]);
    let mut without = scene.agent.accept().await;
    let (seq, _) = without.request().await;
    let sentence = "there is no pod web-1".to_owned();
    without.say(seq, &ToDeveloper::Refused(Refused { code: RefusedCode::NoSuchPod, sentence })).await;
    let mut with = other.accept().await;
    let (seq, request) = with.request().await;
    with.grant(seq, &request, 1, &[("web-1", Liveness::Live, "")]).await;
    assert_eq!(redir.event("live").await["agent"], "node-2");
    redir.event("refused").await;
    redir.signal(nix::sys::signal::Signal::SIGINT);
    let_go(&mut with, &request).await;
    assert_eq!(redir.end().await.0, Some(0));
}

#[tokio::test]
async fn a_key_that_the_agent_does_not_know_is_told() {
    let scene = Scene::new().await;
    let stranger = Home::new();
    stranger.keygen();
    stranger.write_config(&scene.agent.config("node-1"));
    let mut redir = Redir::start(stranger.command(&["intercept", "web-1", "--port", "8080"]));
    let (code, text) = tokio::select! {
        end = redir.end() => end,
        () = scene.agent.turn_away() => panic!("the endpoint closed"),
    };
    assert_eq!(code, Some(1));
    let last = text.lines().last().unwrap();
    assert!(last.contains("does not know your key") && last.contains("redir keygen"), "{text}");
}

#[tokio::test]
async fn an_agent_with_another_key_is_told() {
    let scene = Scene::new().await;
    let address = scene.agent.address().to_string();
    let wrong = scene.home.pin().to_string();
    let mut redir = scene.intercept(&["--agent", &address, "--agent-key", &wrong]);
    let (code, text) = tokio::select! {
        end = redir.end() => end,
        () = scene.agent.turn_away() => panic!("the endpoint closed"),
    };
    assert_eq!(code, Some(1));
    assert_one_sentence(&text);
    assert!(text.contains("another key"), "{text}");
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_told() {
    let scene = Scene::new().await;
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = silent.local_addr().unwrap();
    let pin = scene.agent.pin().to_string();
    for (agent, expected) in [(address.to_string(), "does not answer"), ("host.invalid:7447".into(), "has no address")]
    {
        let mut redir = scene.intercept(&["--agent", &agent, "--agent-key", &pin]);
        let (code, text) = redir.end().await;
        assert_eq!(code, Some(1), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.contains(expected) && last.contains("check"), "{text}");
    }
}

#[tokio::test]
async fn the_command_ends_the_intercept_and_its_code_is_passed_on() {
    let mut scene = Scene::new().await;
    let fifo = scene.home.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("read line < '{}'; exit 7", fifo.display());
    let (mut redir, mut session, request) = scene.live(&["--", "sh", "-c", &script]).await;
    tokio::fs::write(&fifo, "go\n").await.unwrap();
    let_go(&mut session, &request).await;
    assert_eq!(redir.event("command").await["code"], 7);
    redir.event("ended").await;
    assert_eq!(redir.end().await.0, Some(7));
}

#[tokio::test]
async fn the_command_is_ended_with_the_intercept() {
    let mut scene = Scene::new().await;
    let fifo = scene.home.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("trap 'exit 9' TERM; echo ready; while :; do read line < '{}'; done", fifo.display());
    let (mut redir, mut session, request) = scene.live(&["--", "sh", "-c", &script]).await;
    redir.signal(nix::sys::signal::Signal::SIGTERM);
    let_go(&mut session, &request).await;
    assert_eq!(redir.end().await.0, Some(9));
}

#[tokio::test]
async fn a_command_that_ends_before_it_answers_intercepts_nothing() {
    let mut scene = Scene::new().await.without_service();
    for (own, passed_on) in [(5, 5), (0, 1)] {
        let mut redir = scene.intercept(&["-o", "json", "--", "sh", "-c", &format!("exit {own}")]);
        scene.list(&["web-1"]).await;
        assert_eq!(redir.event("command").await["state"], "started");
        assert_eq!(redir.event("command").await["code"], own);
        let (code, text) = redir.end().await;
        assert_eq!(code, Some(passed_on));
        assert!(
            text.contains(&format!("nothing was intercepted: your command ended before, with exit code {own}")),
            "{text}"
        );
    }

    let mut redir = scene.intercept(&["--", "/no/such/program"]);
    scene.list(&["web-1"]).await;
    let (code, text) = redir.end().await;
    assert_eq!(code, Some(1));
    assert_one_sentence(&text);
    assert!(text.contains("no program `/no/such/program`"), "{text}");
}

#[tokio::test]
async fn pods_that_come_back_are_waited_for() {
    let mut scene = Scene::new().await;
    let (mut redir, session, request) = scene.live(&[]).await;
    session.connection.close(u32::try_from(CloseCode::Shutdown.number()).unwrap().into(), b"");
    redir.event("lost").await;
    let mut session = scene.agent.accept().await;
    let (seq, _) = session.request().await;
    let sentence = "there is no pod web-1".to_owned();
    session.say(seq, &ToDeveloper::Refused(Refused { code: RefusedCode::NoSuchPod, sentence })).await;
    let mut session = scene.agent.accept().await;
    let (seq, again) = session.request().await;
    assert_eq!(again, request);
    session.grant(seq, &again, 8, &[("web-1", Liveness::Live, "")]).await;
    redir.event("restored").await;
}

/// What redir does within a few seconds, on a machine that may be too busy for them: once is enough, and whatever does not
/// work never does.
async fn once_in_five(what: &str, mut attempt: impl AsyncFnMut() -> bool) {
    let mut worked = false;
    for _ in 0..5 {
        worked = worked || attempt().await;
    }
    assert!(worked, "{what}: not in five attempts");
}

#[tokio::test]
async fn ctrl_c_waits_for_requests_under_way() {
    let mut scene = Scene::new().await;
    once_in_five("the answer of a request under way", async || {
        let (mut redir, mut session, request) = scene.live(&[]).await;
        let (mut send, mut receive) = session.open(7).await;
        send.write_all(b"x").await.unwrap();
        let mut connection = scene.connection().await;
        redir.signal(nix::sys::signal::Signal::SIGINT);
        let_go(&mut session, &request).await;
        soon("the request", connection.read_exact(&mut [0])).await.unwrap();
        connection.write_all(b"late").await.ok();
        drop(connection);
        let answer = soon("the answer", receive.read_to_end(100)).await;
        assert_eq!(redir.end().await.0, Some(0));
        answer.is_ok_and(|answer| answer == b"late")
    })
    .await;
}

/// With one Ctrl-C the request under way holds it for 3 s.
#[tokio::test]
async fn a_second_ctrl_c_waits_for_nothing() {
    let mut scene = Scene::new().await;
    once_in_five("an end within 2.5 s", async || {
        let (mut redir, mut session, request) = scene.live(&[]).await;
        let (mut send, _receive) = session.open(7).await;
        send.write_all(b"x").await.unwrap();
        let _connection = scene.connection().await;
        redir.signal(nix::sys::signal::Signal::SIGINT);
        let_go(&mut session, &request).await;
        let second = std::time::Instant::now();
        redir.signal(nix::sys::signal::Signal::SIGINT);
        assert_eq!(redir.end().await.0, Some(0));
        soon("the close", session.connection.closed()).await;
        second.elapsed() < std::time::Duration::from_millis(2500)
    })
    .await;
}

/// The agent decides some requests before it hears that the intercept ends: nobody else would answer them.
#[tokio::test]
async fn requests_decided_before_the_agent_heard_of_the_end_are_served() {
    let mut scene = Scene::new().await;
    once_in_five("the answers of late requests", async || {
        let (mut redir, mut session, request) = scene.live(&[]).await;
        let (mut kept_send, kept) = session.open(7).await;
        kept_send.write_all(b"x").await.unwrap();
        let kept_connection = scene.connection().await;
        redir.signal(nix::sys::signal::Signal::SIGINT);
        let said = session.next().await;
        assert_eq!(said.message, ToAgent::Leave(LeaveScope::Token(request.token)));
        let mut served = 0;
        for confirmed in [false, true] {
            if confirmed {
                session.say(said.seq, &left(&[Some(7)])).await;
            }
            served += usize::from(served_late(&scene, &session).await);
        }
        drop((kept_send, kept, kept_connection));
        assert_eq!(redir.end().await.0, Some(0));
        served == 2
    })
    .await;
}

/// Whether a request gets the service's answer, unless redir is gone already.
async fn served_late(scene: &Scene, session: &Session) -> bool {
    let Ok((mut send, mut receive)) = soon("a stream", session.try_open(7)).await else { return false };
    if send.write_all(b"x").await.is_err() {
        return false;
    }
    let answered = async {
        let mut connection = scene.connection().await;
        connection.read_exact(&mut [0]).await.ok()?;
        connection.write_all(b"answer").await.ok()
    };
    let answer = receive.read_to_end(100);
    tokio::pin!(answer);
    let answer = tokio::select! {
        Some(()) = answered => soon("the answer", answer).await,
        answer = &mut answer => answer,
    };
    answer.is_ok_and(|answer| answer == b"answer")
}

/// No command runs for nothing: not when no agent has the pod, nor when its port may not be intercepted.
#[tokio::test]
async fn the_command_is_not_started_without_a_pod() {
    let mut scene = Scene::new().await;
    let started = scene.home.path().join("started");
    let script = format!("touch '{}'", started.display());
    let mut redir = scene.intercept(&["--", "sh", "-c", &script]);
    scene.list(&["web-2"]).await;
    let (code, text) = redir.end().await;
    assert_eq!(code, Some(1));
    assert_one_sentence(&text);
    assert!(text.contains("nothing is intercepted") && text.contains("web-1") && text.contains("redir list"), "{text}");
    let arguments = ["intercept", "web-1", "--port", "80:1", "--", "sh", "-c", &script];
    let mut redir = Redir::start(scene.home.command(&arguments));
    scene.list(&["web-1"]).await;
    let (code, text) = redir.end().await;
    assert_eq!(code, Some(1));
    assert!(text.contains("port 80 of pod web-1 may not be intercepted; allowed are: 8080"), "{text}");
    assert!(!started.exists(), "the command was started");
}

#[tokio::test]
async fn an_end_before_anything_was_intercepted_claims_nothing() {
    let mut scene = Scene::new().await.without_service();
    let mut redir = scene.intercept(&["-o", "json"]);
    let mut session = scene.agent.accept().await;
    session.request().await;
    redir.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(redir.event("ended").await["reason"], "nothing was intercepted yet");
    assert_eq!(redir.end().await, (Some(0), String::new()));

    // The same while the agent was not asked for more than its pods.
    let mut redir = scene.intercept(&["-o", "json", "--", "true"]);
    let mut session = scene.agent.accept().await;
    session.next().await;
    redir.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(redir.event("ended").await["reason"], "nothing was intercepted yet");
    assert_eq!(redir.end().await, (Some(0), String::new()));
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_told_once_requests_come() {
    let mut scene = Scene::new().await.without_service();
    let mut redir = scene.intercept(&[]);
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    session.grant(seq, &request, 7, &[("web-1", Liveness::Refused, "no; start it")]).await;
    let (code, text) = redir.end().await;
    assert_eq!(code, Some(1));
    assert_one_sentence(&text);

    let mut redir = scene.intercept(&[]);
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    session.grant(seq, &request, 7, &[("web-1", Liveness::Live, "")]).await;
    let line = redir.error_line().await;
    assert!(line.contains("nothing answers on 127.0.0.1:") && line.contains("502"), "{line}");
}

#[tokio::test]
async fn an_app_that_is_not_there_is_an_event_and_so_is_what_is_missed() {
    let mut scene = Scene::new().await;
    let mut redir = scene.intercept(&["-o", "json", "--header", "x-user: alice"]);
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    assert!(!request.even_if_down && !request.forwarded);
    let with = |listening, miss: Option<&str>| {
        let mut state = state(&request, 7, &[("web-1", Liveness::Live, "")]);
        state.pods[0].earlier_connections = 0;
        state.pods[0].listening = listening;
        let miss = miss.map(|cause| Miss { cause: cause.into(), sentence: "so it is\u{1b}; do that".into() });
        state.pods[0].misses.extend(miss);
        ToDeveloper::Intercept(state)
    };
    session.say(seq, &with(Some(Listening::Nobody), None)).await;
    let live = redir.event("live").await;
    assert_eq!((&live["app"], live["curl"].is_null()), (&"nobody".into(), true));
    session.say(0, &with(Some(Listening::Yes), Some("newer_cause"))).await;
    let app = redir.event("app").await;
    assert_eq!((&app["state"], &app["port"], &app["pod"]), (&"listening".into(), &8080.into(), &"web-1".into()));
    assert_eq!(app["curl"], "curl -H 'x-user: alice' http://10.0.0.2:8080/");
    let missed = redir.event("not_intercepted").await;
    assert_eq!((&missed["cause"], &missed["reason"]), (&"newer_cause".into(), &"so it is\\x1b; do that".into()));
}

#[tokio::test]
async fn an_agent_that_does_not_know_what_is_asked_for_is_told_of() {
    let mut scene = Scene::new().await;
    let mut redir = scene.intercept(&["--forwarded"]);
    let mut session = scene.agent.accept().await;
    let (seq, request) = session.request().await;
    assert!(request.forwarded);
    let mut older = state(&request, 7, &[("web-1", Liveness::Live, "")]);
    older.forwarded = false;
    session.say(seq, &ToDeveloper::Intercept(older)).await;
    let told = redir.error_line().await;
    assert!(told.contains("node-1") && told.contains("does not know --forwarded"), "{told}");
}

#[tokio::test]
async fn each_connection_to_the_service_begins_with_the_clients_address() {
    for (flag, header) in [
        ("--proxy-protocol", &b"PROXY TCP4 10.0.0.9 10.0.0.2 4000 8080\r\n"[..]),
        ("--proxy-protocol=v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x09\x0a\0\0\x02\x0f\xa0\x1f\x90"),
    ] {
        let mut scene = Scene::new().await;
        let (_redir, session, _) = scene.live(&[flag]).await;
        for _ in 0..2 {
            let (mut send, _receive) = session.open(7).await;
            send.write_all(b"ping").await.unwrap();
            let mut connection = scene.connection().await;
            let mut bytes = vec![0; header.len() + 4];
            soon("the header", connection.read_exact(&mut bytes)).await.unwrap();
            assert_eq!(bytes, [header, b"ping"].concat(), "{}", bytes.escape_ascii());
        }
    }
}
