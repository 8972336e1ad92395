//! `redir intercept` against an agent that wants to use up the developer's machine.

#![cfg(target_os = "linux")]

mod common;

use std::time::Duration;

use common::agent::{soon, state};
use common::scene::Scene;
use redir_wire::{Liveness, StreamCode, ToDeveloper};
use tokio::time::timeout;

/// As many streams as it can, each with a client that begins a request: they are bounded, and so are connections and memory.
#[tokio::test]
async fn streams_are_bounded_with_what_they_hold() {
    let mut scene = Scene::new().await;
    let (redir, session, _) = scene.live(&[]).await;
    let mut open = Vec::new();
    while let Ok(stream) = timeout(Duration::from_secs(3), session.try_open(7)).await {
        let (mut send, receive) = stream.unwrap();
        send.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        open.push((send, receive));
        assert!(open.len() <= redir_tunnel::STREAMS as usize, "more than redir allows");
    }
    assert!(open.len() > 500, "only {} streams: this machine was too slow to say anything", open.len());
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", redir.child.id().unwrap())).unwrap().count();
    assert!(descriptors < open.len() + 64, "{descriptors} descriptors for {} streams", open.len());
    // 64 KiB each at most, beside redir itself.
    let resident = resident_kib(redir.child.id().unwrap());
    assert!(resident < 96 * 1024, "{resident} KiB");
    // QUIC tells of new room when an eighth is free.
    for (mut send, mut receive) in open.drain(..128) {
        send.reset(quinn_code(StreamCode::Gone)).unwrap();
        receive.stop(quinn_code(StreamCode::Gone)).unwrap();
    }
    soon("a place", session.try_open(7)).await.unwrap();
}

/// Messages without end, of ever new pods with long reasons, while nobody reads what redir prints.
#[tokio::test]
async fn messages_are_bounded_while_nobody_reads() {
    let mut scene = Scene::new().await;
    let (redir, mut session, request) = scene.live(&[]).await;
    let reason = "because of this; do that ".repeat(80);
    let before = resident_kib(redir.child.id().unwrap());
    for round in 0..120 {
        let names: Vec<String> = (0..300).map(|number| format!("pod-{round}-{number}")).collect();
        let pods: Vec<_> = names.iter().map(|name| (name.as_str(), Liveness::Refused, reason.as_str())).collect();
        session.say(0, &ToDeveloper::Intercept(state(&request, 7 + round, &pods))).await;
    }
    // Answered behind all of them.
    let (mut send, _receive) = session.open(7 + 119).await;
    send.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    scene.connection().await;
    let after = resident_kib(redir.child.id().unwrap());
    assert!(after < before + 48 * 1024, "{before} KiB, then {after} KiB after 70 MB of messages");
}

fn quinn_code(code: StreamCode) -> quinn::VarInt {
    quinn::VarInt::from_u64(code.number()).expect("a small number")
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("redir runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process with memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}
