//! Requests under filters: who answers, in which order, with which bytes.

use std::sync::atomic::Ordering;

use redir_wire::{CloseCode, StreamCode};
use tokio::io::AsyncWriteExt;

use super::rig::{Behaviour, Developer, Rig, request, soon};

#[tokio::test]
async fn each_request_of_a_kept_connection_is_decided_by_itself() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    for _ in 0..3 {
        assert_eq!(client.ask("/", None).await.text(), "green");
        assert_eq!(client.ask("/a?secret=1", Some("alice")).await.text(), "blue");
        assert_eq!(client.ask("/", Some("bob")).await.text(), "green");
    }
    assert_eq!(rig.app.connections.load(Ordering::Relaxed), 1, "one leg to the app");
    assert_eq!(alice.service.connections.load(Ordering::Relaxed), 1, "one leg to the developer");
    assert_eq!(alice.intercept.requests.load(Ordering::Relaxed), 3);
    let access = client.done().await;
    assert_eq!((access.app_requests, access.developer_requests), (6, 3));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_bytes_go_untouched() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    let odd = "GET /odd HTTP/1.1\r\nhOsT:  web \r\nX-Empty:\r\nx-user: Alice\r\n\r\n";
    let all = [request("/1", None), request("/2", Some("alice")), odd.to_owned(), request("/4", Some("alice"))];
    client.send(all.concat()).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(client.answer().await.text().to_owned());
    }
    assert_eq!(answers, ["green", "blue", "green", "blue"]);
    assert_eq!(rig.app.seen(), [all[0].as_str(), odd].concat());
    assert_eq!(alice.service.seen(), [all[1].as_str(), &all[3]].concat());
    client.done().await;
}

#[tokio::test]
async fn heads_in_pieces_are_waited_for() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    let ambiguous = "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello";
    for (bytes, name) in
        [(request("/", None), "green"), (request("/", Some("alice")), "blue"), (ambiguous.into(), "hello")]
    {
        for piece in bytes.as_bytes().chunks(7) {
            client.send(piece).await;
            // So that the agent reads the pieces one by one: it answers nothing, but it runs when this task does not.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(client.answer().await.text(), name);
    }
    client.done().await;
}

#[tokio::test]
async fn two_developers_on_one_connection() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    let bob = Developer::new(2, "red", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice), ("bob", &bob)], None);
    let mut client = rig.client().await;
    for (user, name) in [(Some("bob"), "red"), (Some("alice"), "blue"), (None, "green"), (Some("bob"), "red")] {
        assert_eq!(client.ask("/", user).await.text(), name);
    }
    client.done().await;
}

#[tokio::test]
async fn bodies_of_twenty_megabytes_come_back_from_both() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    let body: Vec<u8> = (0..20_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for user in ["X-User: alice\r\n", ""] {
        client.send(format!("POST / HTTP/1.1\r\nHost: web\r\n{user}Content-Length: {}\r\n\r\n", body.len())).await;
        client.send(&body).await;
        assert!(client.answer().await.body == body, "the body came back changed");
    }
    let access = client.done().await;
    assert!(access.tally.received.load(Ordering::Relaxed) > 40_000_000);
    assert!(access.tally.sent.load(Ordering::Relaxed) > 40_000_000);
}

#[tokio::test]
async fn a_refusing_developer_is_a_502_with_a_sentence_and_the_connection_goes_on() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Refuse(StreamCode::Refused)).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    let answer = client.ask("/", Some("alice")).await;
    assert!(answer.head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{}", answer.head);
    assert!(answer.head.contains("Content-Type: text/plain"));
    assert_eq!(
        answer.text(),
        "redir: the developer's service refused the connection (intercept of alice to 127.0.0.1:3000)\n"
    );
    assert_eq!(client.ask("/", None).await.text(), "green");
    assert!(client.ask("/", Some("alice")).await.head.starts_with("HTTP/1.1 502"));
    client.done().await;
}

#[tokio::test]
async fn pipelined_requests_to_a_refusing_developer_are_all_answered() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Refuse(StreamCode::Unreachable)).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    client.send([request("/1", Some("alice")), request("/2", Some("alice")), request("/3", None)].concat()).await;
    assert!(client.answer().await.head.starts_with("HTTP/1.1 502"));
    assert!(client.answer().await.head.starts_with("HTTP/1.1 502"));
    assert_eq!(client.answer().await.text(), "green");
    client.done().await;
}

#[tokio::test]
async fn a_tunnel_lost_before_the_answer_is_a_504_and_later_requests_go_to_the_app() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Silent).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    client.send(request("/", Some("alice"))).await;
    alice.arrived(1).await;
    rig.no_plan();
    alice.tunnel.close(CloseCode::Done).await;
    let answer = client.answer().await;
    assert!(answer.head.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{}", answer.head);
    assert_eq!(client.ask("/", Some("alice")).await.text(), "green");
    client.done().await;
}

#[tokio::test]
async fn a_tunnel_that_is_down_before_a_request_is_written_leaves_it_to_the_app() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    alice.tunnel.close(CloseCode::Done).await;
    soon(alice.intercept.ended()).await;
    assert_eq!(client.ask("/", Some("alice")).await.text(), "green");
    let access = client.done().await;
    assert_eq!((access.app_requests, access.developer_requests), (1, 0));
}

#[tokio::test]
async fn a_developer_that_restarted_between_requests_is_dialled_again() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    assert_eq!(client.ask("/last", Some("alice")).await.text(), "blue");
    // The app answers only after the FIN of the developer's leg is there: it came on the same path before.
    assert_eq!(client.ask("/", None).await.text(), "green");
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    alice.arrived(2).await;
    client.done().await;
}

#[tokio::test]
async fn a_developer_that_dies_without_an_answer_is_a_502() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    let answer = client.ask("/die", Some("alice")).await;
    assert!(answer.head.starts_with("HTTP/1.1 502"), "{}", answer.head);
    assert!(answer.text().contains("closed the connection without an answer"));
    client.done().await;
}

/// It gets the request twice at most, and then the client is told.
#[tokio::test]
async fn a_developer_that_dies_of_a_request_each_time_is_a_502() {
    let rig = Rig::new().await;
    let mut alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    let answer = client.ask("/die", Some("alice")).await;
    assert!(answer.head.starts_with("HTTP/1.1 502"), "{}", answer.head);
    alice.arrived(2).await;
    assert_eq!(alice.service.seen().matches("/die").count(), 2);
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    client.done().await;
}

#[tokio::test]
async fn a_developers_connection_close_is_honoured() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    assert_eq!(client.ask("/close", Some("alice")).await.text(), "blue");
    assert_eq!(client.rest().await, b"");
    client.done().await;
}

/// Without its offer of h2c this head is longer than with it, since its lists are written anew.
#[tokio::test]
async fn an_offer_of_h2c_in_a_long_list_is_withdrawn_and_given_back() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let head = "POST / HTTP/1.1\r\nHost: web\r\nX-User: alice\r\nConnection: Upgrade\r\n\
                Upgrade:h2c,a,b,c,d,e,f,g\r\nContent-Length: 4\r\n\r\n";
    let mut client = rig.client().await;
    client.send(head.to_owned() + "body").await;
    assert_eq!(client.answer().await.text(), "body");
    assert!(alice.service.seen().contains("\r\nUpgrade: a, b, c, d, e, f, g\r\n"), "{}", alice.service.seen());
    // Who cannot be reached leaves it to the app, as it came.
    alice.tunnel.close(CloseCode::Done).await;
    soon(alice.intercept.ended()).await;
    let mut other = rig.client().await;
    other.send(head.to_owned() + "more").await;
    assert_eq!(other.answer().await.text(), "more");
    assert_eq!(rig.app.seen(), head.to_owned() + "more");
    drop(client);
    other.done().await;
}

#[tokio::test]
async fn an_intercept_that_ends_leaves_the_next_request_to_the_app() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    rig.no_plan();
    assert_eq!(client.ask("/", Some("alice")).await.text(), "green");
    rig.plan(&[("alice", &alice)], None);
    assert_eq!(client.ask("/", Some("alice")).await.text(), "blue");
    client.done().await;
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_answer() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    for (user, name) in [(Some("alice"), "blue"), (None, "green")] {
        let mut client = rig.client().await;
        client.send(request("/", user)).await;
        client.socket.shutdown().await.unwrap();
        assert_eq!(client.answer().await.text(), name);
        assert_eq!(client.rest().await, b"");
        client.done().await;
    }
}

#[tokio::test]
async fn what_is_not_http_goes_to_the_app_as_it_is() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    // A head that two parsers could read differently: the app is the only judge.
    let twice = "GET / HTTP/1.1\r\nHost: web\r\nX-User: alice\r\nX-User : alice\r\n\r\n";
    client.send(twice).await;
    assert_eq!(client.answer().await.text(), "green");
    assert_eq!(rig.app.seen(), twice);
    let access = client.done().await;
    assert!(access.opaque.is_some());
}

#[tokio::test]
async fn only_what_a_developer_gets_tells_the_clients_address() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await.forwarding();
    rig.plan(&[("alice", &alice)], None);
    let mut client = rig.client().await;
    let matched =
        "POST /a HTTP/1.1\r\nHost: web\r\nX-User: alice\r\nX-Forwarded-For: 10.1.1.1\r\nContent-Length: 5\r\n\r\nbytes";
    let other = matched.replace("alice", "bob");
    for _ in 0..2 {
        // In one piece and in many: what the client sends behind a head is not part of it.
        client.send(matched).await;
        assert_eq!(client.answer().await.text(), "bytes");
        client.send(&other).await;
        assert_eq!(client.answer().await.text(), "bytes");
        for byte in matched.as_bytes() {
            client.send([*byte]).await;
        }
        assert_eq!(client.answer().await.text(), "bytes");
    }
    let head = "POST /a HTTP/1.1\r\nHost: web\r\nX-User: alice\r\nContent-Length: 5\r\nX-Forwarded-For: 10.1.1.1, 127.0.0.1\r\n\
                X-Forwarded-Proto: http\r\nX-Forwarded-Host: web\r\n\r\n";
    assert_eq!(alice.service.seen().matches(head).count(), 4, "{}", alice.service.seen());
    assert_eq!(rig.app.seen().replace("bytes", ""), other.replace("bytes", "").repeat(2));
    client.done().await;
}

#[tokio::test]
async fn a_request_that_falls_back_reaches_the_app_as_it_came() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await.forwarding();
    rig.plan(&[("alice", &alice)], None);
    alice.tunnel.close(CloseCode::Done).await;
    soon(alice.intercept.ended()).await;
    let mut client = rig.client().await;
    assert_eq!(client.ask("/", Some("alice")).await.text(), "green");
    assert_eq!(rig.app.seen(), request("/", Some("alice")));
    client.done().await;
}

#[tokio::test]
async fn a_global_intercept_that_tells_addresses_reads_every_request() {
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await.forwarding();
    rig.plan(&[], Some(&alice));
    let mut client = rig.client().await;
    for _ in 0..3 {
        assert_eq!(client.ask("/", None).await.text(), "blue");
    }
    let probe = "GET /healthz HTTP/1.1\r\nHost: web\r\nUser-Agent: kube-probe/1.30\r\n\r\n";
    client.send(probe).await;
    assert_eq!(client.answer().await.text(), "green");
    assert_eq!(rig.app.seen(), probe);
    assert_eq!(alice.service.seen().matches("X-Forwarded-For: 127.0.0.1\r\n").count(), 3, "{}", alice.service.seen());
    client.done().await;
}

#[tokio::test]
async fn what_a_proxy_in_front_says_first_is_told_and_goes_to_the_app() {
    for first in [&b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c123456789012"] {
        let mut rig = Rig::new().await;
        let sink = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        rig.app.address = sink.local_addr().unwrap();
        let alice = Developer::new(1, "blue", Behaviour::Serve).await;
        rig.plan(&[("alice", &alice)], None);
        let mut client = rig.client().await;
        let (mut app, _) = soon(sink.accept()).await.unwrap();
        let sent = [first, request("/", Some("alice")).as_bytes()].concat();
        client.send(&sent).await;
        let mut got = vec![0; sent.len()];
        soon(tokio::io::AsyncReadExt::read_exact(&mut app, &mut got)).await.unwrap();
        assert_eq!(got, sent);
        let told: Vec<_> = rig.misses.of(&rig.pod, 8080, true).into_iter().map(|miss| miss.cause).collect();
        assert_eq!(told, ["proxy_protocol"]);
        drop(app);
    }
}
