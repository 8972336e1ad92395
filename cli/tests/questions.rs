//! `redir list`, `status` and `leave` against an agent's end on loopback.

#![cfg(unix)]

mod common;

use common::agent::{Agent, Session, left};
use common::process::Redir;
use common::{Home, assert_one_sentence};
use redir_wire::{
    InterceptEntry, LeaveScope, Listing, Liveness, Owner, PodEntry, Refused, RefusedCode, Selector, StatusReport,
    ToAgent, ToDeveloper, TunnelStatus, UnixMillis,
};

async fn asked(arguments: &[&str], answer: impl FnOnce(&ToAgent) -> ToDeveloper) -> (Option<i32>, String, String) {
    let home = Home::new();
    let mut agent = Agent::start(&[home.keygen()]);
    home.write_config(&agent.config("node-1"));
    let mut redir = Redir::start(home.command(arguments));
    let mut session: Session = agent.accept().await;
    let question = session.next().await;
    session.say(question.seq, &answer(&question.message)).await;
    let mut text = String::new();
    while let Some(line) = redir.line().await {
        text.push_str(&line);
        text.push('\n');
    }
    let (code, errors) = redir.end().await;
    (code, text, errors)
}

fn entry(owner: Owner) -> InterceptEntry {
    InterceptEntry {
        id: 7,
        developer: "alice".into(),
        owner,
        pod: "web-1".into(),
        port: 8080,
        filter: "header x-user (exact)".into(),
        to: "127.0.0.1:3000".into(),
        since: UnixMillis(0),
        state: Liveness::Live,
        reason: String::new(),
        requests: 12,
        tls: None,
        listening: None,
    }
}

fn listing(question: &ToAgent) -> ToDeveloper {
    assert_eq!(question, &ToAgent::List);
    let labels = [("app".to_owned(), "web".to_owned())].into();
    let pod = PodEntry { name: "web-1".into(), labels, ports: vec![8080] };
    ToDeveloper::Listing(Listing { pods: vec![pod], intercepts: vec![entry(Owner::You)] })
}

#[tokio::test]
async fn list_shows_pods_and_intercepts() {
    let (code, text, errors) = asked(&["list"], listing).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    for words in ["POD", "web-1", "app=web", "8080", "alice (you)", "header x-user (exact)", "127.0.0.1:3000"] {
        assert!(text.contains(words), "{text} lacks {words}");
    }
    let (code, text, _) = asked(&["list", "-o", "json"], listing).await;
    assert_eq!(code, Some(0));
    let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[0]["labels"]["app"]), (&"pod".into(), &"web".into()));
    assert_eq!((&events[1]["event"], events[1]["id"].as_u64()), (&"intercept".into(), Some(7)));
}

#[tokio::test]
async fn status_shows_tunnels() {
    let report = |question: &ToAgent| {
        assert_eq!(question, &ToAgent::Status);
        let tunnel = TunnelStatus {
            address: "10.0.0.1:5000".into(),
            user: "alice".into(),
            since: UnixMillis(0),
            rtt_micros: 1500,
            sent_bytes: 1,
            received_bytes: 2,
            streams: 3,
            streams_total: 4,
            asking: true,
        };
        let (agent, software) = ("node-1".into(), "redir-agent 1".into());
        ToDeveloper::Status(StatusReport { agent, software, tunnels: vec![tunnel], intercepts: Vec::new() })
    };
    let (code, text, _) = asked(&["status"], report).await;
    assert_eq!(code, Some(0));
    for words in ["10.0.0.1:5000", "1.5 ms", "3 (4 so far)", "you intercept nothing"] {
        assert!(text.contains(words), "{text} lacks {words}");
    }
    let (_, text, _) = asked(&["status", "-o", "json"], report).await;
    let event: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!((&event["event"], event["rtt_ms"].as_f64()), (&"tunnel".into(), Some(1.5)));
}

#[tokio::test]
async fn leave_says_what_was_left() {
    let leaving = |expected: LeaveScope| {
        move |question: &ToAgent| {
            assert_eq!(question, &ToAgent::Leave(expected));
            left(&[Some(7)])
        }
    };
    let (code, text, _) =
        asked(&["leave", "web-1"], leaving(LeaveScope::Selector(Selector::Pod("web-1".into()), None))).await;
    assert_eq!((code, text.as_str()), (Some(0), "left  web-1:8080 on node-1\n"));
    let (code, text, _) = asked(&["leave", "7", "-o", "json"], leaving(LeaveScope::Id(7))).await;
    assert_eq!(code, Some(0));
    assert!(text.contains(r#""event":"left""#), "{text}");
    assert_eq!(asked(&["leave", "--all"], leaving(LeaveScope::All)).await.0, Some(0));
    for (given, told) in [([Some(3), Some(7)], "[3,7]"), ([None, None], "[]")] {
        let twice = move |_: &ToAgent| left(&given);
        assert_eq!(asked(&["leave", "web-1"], twice).await.1, "left  web-1:8080 on node-1 (2 intercepts)\n");
        let (_, text, _) = asked(&["leave", "web-1", "-o", "json"], twice).await;
        assert!(text.contains(&format!(r#""ids":{told}"#)), "{text}");
    }
}

#[tokio::test]
async fn leaving_nothing_is_a_failure() {
    let (code, _, errors) = asked(&["leave", "web-1"], |_: &ToAgent| left(&[])).await;
    assert_eq!(code, Some(1));
    assert_one_sentence(&errors);
    let nothing = |_: &ToAgent| left(&[]);
    let (code, _, errors) = asked(&["leave", "--all"], nothing).await;
    assert_eq!((code, errors.as_str()), (Some(0), "you intercept nothing\n"));
    let not_found = |_: &ToAgent| ToDeveloper::Refused(Refused { code: RefusedCode::NotFound, sentence: "no".into() });
    let (code, _, errors) = asked(&["leave", "7"], not_found).await;
    assert_eq!(code, Some(1));
    assert_one_sentence(&errors);
    assert!(errors.contains("number 7") && errors.contains("redir list"), "{errors}");
}
