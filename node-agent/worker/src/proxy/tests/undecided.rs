//! Heads that begin and do not end.

use std::time::Duration;

use redir_http::OpaqueReason;
use tokio::time::{Instant, advance, pause};

use super::rig::{Behaviour, Client, Developer, Rig};
use crate::memory::{self, Purpose};

/// The head of a request that is alice's, without its end.
const HEAD: &str = "GET / HTTP/1.1\r\nHost: web\r\nX-User: alice\r\n";

async fn intercepted() -> (Rig, Developer) {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    (rig, alice)
}

fn opaque(rig: &Rig, why: OpaqueReason) -> u64 {
    rig.metrics.opaque(why.as_str()).get()
}

/// What the port's developers are told.
fn told(rig: &Rig) -> Vec<String> {
    rig.misses.of(&rig.pod, 8080, true).into_iter().map(|miss| miss.cause).collect()
}

/// From now on time passes only where a test lets it: not by itself while the kernel delivers something, which tokio's
/// paused clock does unless something blocks.
fn stop_the_clock() -> std::sync::mpsc::Sender<()> {
    let (stands, goes_on) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || goes_on.recv());
    pause();
    stands
}

async fn finish(client: &mut Client) -> String {
    client.send("\r\n").await;
    client.answer().await.text().to_owned()
}

#[tokio::test]
async fn a_head_goes_on_unread_after_thirty_seconds_however_often_a_byte_comes() {
    let (rig, _alice) = intercepted().await;
    let mut client = rig.client().await;
    let _stands = stop_the_clock();
    let begun = Instant::now();
    client.send(HEAD).await;
    while opaque(&rig, OpaqueReason::HeadTooSlow) == 0 {
        client.send("X: y\r\n").await;
        // More than once: real bytes take real time.
        for _ in 0..10 {
            advance(Duration::from_millis(50)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(45), "the clock begins with the head");
    }
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(finish(&mut client).await, "green", "whoever it would have been for");
    assert_eq!(told(&rig), ["head_too_slow"]);
}

#[tokio::test]
async fn an_idle_connection_is_left_alone() {
    let (rig, _alice) = intercepted().await;
    let mut client = rig.client().await;
    let _stands = stop_the_clock();
    for _ in 0..3 {
        advance(Duration::from_secs(40)).await;
        assert_eq!(client.ask("/", None).await.text(), "green");
    }
    assert_eq!(client.done().await.opaque, None);
    assert_eq!(told(&rig), Vec::<String>::new());
}

/// In a process of its own: the budget is all connections'.
#[test]
fn without_memory_long_heads_go_on_unread_and_short_ones_are_waited_for() {
    if !memory::tests::alone(
        "proxy::tests::undecided::without_memory_long_heads_go_on_unread_and_short_ones_are_waited_for",
    ) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (rig, _alice) = intercepted().await;
        let (mut short, mut whole, mut long) = (rig.client().await, rig.client().await, rig.client().await);
        assert_eq!(short.ask("/", Some("alice")).await.text(), "blue");
        let all = memory::tests::exhaust(Purpose::Message);
        short.send(HEAD).await;
        long.send(format!("{HEAD}X: {}", "y".repeat(3000))).await;
        while opaque(&rig, OpaqueReason::MemoryScarce) == 0 {
            tokio::task::yield_now().await;
        }
        // One that is whole need not be waited for.
        let request = format!("{HEAD}X: {}\r\n\r\n", "y".repeat(3000));
        whole.send(request).await;
        assert_eq!(whole.answer().await.text(), "blue");
        assert_eq!(finish(&mut short).await, "blue");
        long.send("\r\n").await;
        assert_eq!(finish(&mut long).await, "green");
        assert_eq!(told(&rig), ["memory_scarce"]);
        drop(all);
        let mut again = rig.client().await;
        again.send(format!("{HEAD}X: {}\r\n", "y".repeat(100_000))).await;
        while memory::held() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(finish(&mut again).await, "blue");
        assert_eq!(memory::held(), 0, "it is given back");
    });
}

/// What a client sends behind a request that its developer is slow to answer stays with the client, since it cannot go to the
/// app yet.
#[tokio::test]
async fn behind_a_developer_s_slow_answer_no_more_than_little_is_read() {
    let rig = Rig::new().await;
    let mut silent = Developer::new(1, "blue", Behaviour::Silent).await;
    rig.plan(&[("alice", &silent)], None);
    let mut client = rig.client().await;
    client.send(format!("{HEAD}\r\n")).await;
    silent.arrived(1).await;
    client.send(format!("{HEAD}X: {}\r\n\r\n", "y".repeat(250_000))).await;
    // Whoever is served meanwhile is served after the socket was looked at.
    for _ in 0..3 {
        let mut other = rig.client().await;
        assert_eq!(other.ask("/", None).await.text(), "green");
        other.done().await;
    }
    let before = rig.metrics.bytes_received.get();
    rig.abort.cancel();
    client.done().await;
    let read = rig.metrics.bytes_received.get() - before;
    assert!(read > 0 && read < 10_000, "{read} bytes");
}

/// In a process of its own: the budget is all connections'.
#[test]
fn a_whole_head_that_waits_for_the_app_s_answer_goes_to_the_app_where_memory_is_scarce() {
    if !memory::tests::alone(
        "proxy::tests::undecided::a_whole_head_that_waits_for_the_app_s_answer_goes_to_the_app_where_memory_is_scarce",
    ) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (rig, _alice) = intercepted().await;
        let all = memory::tests::exhaust(Purpose::Message);
        // Whoever reads nothing keeps the app's answer outstanding.
        let mut client = rig.narrow_client().await;
        let head = format!("{HEAD}X: {}\r\n\r\n", "y".repeat(100_000));
        client.send(format!("GET /pour HTTP/1.1\r\nHost: web\r\n\r\n{head}")).await;
        while opaque(&rig, OpaqueReason::MemoryScarce) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(told(&rig), ["memory_scarce"]);
        drop(all);
    });
}
