//! The client's address on the developer's side: `--forwarded` and `--proxy-protocol`.
#![cfg(target_os = "linux")]

use std::{io::Read, net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};
use redir_rig::{
    Http, Listener, binaries,
    http::request,
    topology::{FAMILIES, Family},
};
use redir_tests::{
    LOCAL, PORT, SOON, USUAL, both,
    http2::{Client, LIMIT, Origin, whole},
    once, read_exactly, write,
};

const ALICE: &str = "x-user: alice";

both!(matched_requests_tell_the_clients_address_and_others_are_as_they_came, USUAL, |w| {
    let (green, blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let cli = w.intercept(&w.alice, LOCAL, &["--header", ALICE, "--forwarded"])?;
    let mut expected = (Vec::new(), Vec::new());
    for family in FAMILIES {
        for host in [w.client(), &w.topology.peer] {
            let client = host.ip(family);
            let mut http = w.http(host, family)?;
            let head = |user: &str| {
                format!(
                    "GET /a?b=c HTTP/1.1\r\nhOST: Web\r\nx-Empty:\r\nX-User: {user}\r\nX-forwarded-FOR: 10.1.1.1\r\nX-Last:  a "
                )
            };
            for _ in 0..2 {
                for user in ["alice", "bob", "alice"] {
                    // In pieces that end anywhere.
                    for piece in (head(user) + "\r\n\r\n").as_bytes().chunks(11) {
                        http.send(piece)?;
                    }
                    let answer = http.response()?.text();
                    ensure!(answer.starts_with(if user == "alice" { "blue" } else { "green" }), "{user}: {answer}");
                }
                expected.1.push(head("bob"));
                let line = "X-forwarded-FOR: 10.1.1.1\r\n";
                let told = format!(
                    "\r\nX-Forwarded-For: 10.1.1.1, {client}\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: Web"
                );
                expected.0.extend([(); 2].map(|()| head("alice").replace(line, "") + &told));
            }
            // Bodies stay where they are.
            http.send(request("POST", "/echo", &[ALICE, "content-length: 3"]) + "abc" + &request("GET", "/", &[]))?;
            ensure!(http.response()?.text().contains(&format!("X-Forwarded-For: {client}\r\n")));
            ensure!(http.response()?.text().starts_with("green"));
        }
    }
    let seen = |seen: Vec<redir_rig::app::Seen>| {
        seen.into_iter().filter(|seen| seen.line.contains("/a?b=c")).map(|seen| seen.head)
    };
    assert_eq!(seen(blue.seen()).collect::<Vec<_>>(), expected.0);
    assert_eq!(seen(green.seen()).collect::<Vec<_>>(), expected.1);
    cli.leave()
});

once!(without_conditions_every_request_tells_it, USUAL, |w| {
    let (green, blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let cli = w.intercept(&w.alice, LOCAL, &["--forwarded"])?;
    for family in FAMILIES {
        let mut http = w.http(w.client(), family)?;
        for _ in 0..3 {
            let echoed = http.get("/echo", &[])?.text();
            ensure!(echoed.contains(&format!("X-Forwarded-For: {}\r\n", w.client().ip(family))), "{echoed}");
        }
        let probe = http.get("/", &["user-agent: kube-probe/1.30"])?.text();
        ensure!(probe.starts_with("green"), "{probe}");
    }
    ensure!(blue.seen().len() == 6 && green.seen().iter().all(|seen| !seen.head.contains("Forwarded")));
    cli.leave()
});

both!(http2_requests_tell_it_stream_by_stream, USUAL, |w| {
    let green = Origin::start(&w.pod().namespace, ([0u16; 8], PORT).into(), "green", None)?;
    let blue = Origin::start(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue", None)?;
    let cli = w.intercept(&w.alice, LOCAL, &["--header", ALICE, "--forwarded"])?;
    for family in FAMILIES {
        let to = w.pod().at(family, PORT);
        w.client().namespace.block_on(LIMIT, async move {
            let mut client = Client::connect(to).await?;
            for number in 0..10 {
                let (user, version) = [("alice", "blue"), ("bob", "green")][number % 2];
                let answer = whole(client.get("/", user).await?).await?;
                ensure!(answer.version() == version, "{answer:?}");
            }
            Ok(())
        })??;
        let client = w.client().ip(family).to_string();
        let seen: Vec<_> = blue.seen().into_iter().rev().take(5).collect();
        for seen in &seen {
            ensure!(seen.headers.get("x-forwarded-for").is_some_and(|value| *value == *client), "{seen:?}");
            ensure!(seen.headers.get("x-forwarded-proto").is_some_and(|value| value == "http"), "{seen:?}");
        }
        ensure!(seen.len() == 5);
    }
    ensure!(green.seen().iter().all(|seen| !seen.headers.contains_key("x-forwarded-for")));
    cli.leave()
});

/// The first bytes that come to the developer's service; `redir`'s own look whether it runs brings none.
fn connection(service: &Listener) -> Result<std::net::TcpStream> {
    loop {
        let (stream, _) = service.accept()?;
        if stream.peek(&mut [0]).context("peek")? > 0 {
            return Ok(stream);
        }
    }
}

both!(a_connection_to_the_service_begins_with_the_clients_address, USUAL, |w| {
    let _green = w.green()?;
    let service = Listener::new(&w.topology.developer.namespace, SocketAddr::from(([127, 0, 0, 1], LOCAL)))?;
    for (flag, version) in [("--proxy-protocol", 1), ("--proxy-protocol=v1", 1), ("--proxy-protocol=v2", 2)] {
        let cli = w.intercept(&w.alice, LOCAL, &["--header", ALICE, flag])?;
        for family in FAMILIES {
            let mut http = w.http(w.client(), family)?;
            let (from, to) = (http.stream.local_addr()?, w.pod().at(family, PORT));
            ensure!(http.get("/", &[])?.text().starts_with("green"));
            let matched = request("GET", "/", &[ALICE]);
            http.send(&matched)?;
            let mut served = connection(&service)?;
            let header = header(version, from, to);
            let got = read_exactly(&mut served, header.len())?;
            ensure!(got == header, "{} instead of {}", got.escape_ascii(), header.escape_ascii());
            for number in 0..2 {
                if number > 0 {
                    http.send(&matched)?;
                }
                // Once a connection, and the request as it came.
                ensure!(read_exactly(&mut served, matched.len())? == matched.as_bytes());
                write(&mut served, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nblue")?;
                ensure!(http.response()?.text() == "blue");
                ensure!(http.get("/", &[])?.text().starts_with("green"));
            }
        }
        cli.leave()?;
    }
    Ok(())
});

/// The header, written down by hand.
fn header(version: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
    match (version, family) {
        (1, Family::V4) => format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into(),
        (1, Family::V6) => format!("PROXY TCP6 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into(),
        (_, family) => {
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
            header.extend(if family == Family::V4 { [0x11, 0, 12] } else { [0x21, 0, 36] });
            for address in [from, to] {
                match address {
                    SocketAddr::V4(v4) => header.extend(v4.ip().octets()),
                    SocketAddr::V6(v6) => header.extend(v6.ip().octets()),
                }
            }
            header.extend(from.port().to_be_bytes());
            header.extend(to.port().to_be_bytes());
            header
        }
    }
}

once!(the_header_comes_before_tls, USUAL, |w| {
    let _green = w.green()?;
    let service = Listener::new(&w.topology.developer.namespace, SocketAddr::from(([127, 0, 0, 1], LOCAL)))?;
    let _cli = w.intercept(&w.alice, LOCAL, &["--local-tls", "--proxy-protocol=v1"])?;
    let mut http = w.http(w.client(), Family::V4)?;
    let expected = header(1, http.stream.local_addr()?, w.pod().at(Family::V4, PORT));
    http.send(request("GET", "/", &[]))?;
    let mut served = connection(&service)?;
    ensure!(read_exactly(&mut served, expected.len())? == expected);
    let mut record = [0; 3];
    served.read_exact(&mut record)?;
    ensure!(record[..2] == [0x16, 3], "a handshake begins: {record:?}");
    Ok(())
});

once!(what_is_not_read_is_told_once, USUAL, |w| {
    let green = w.green()?;
    let held = w.http(w.client(), Family::V4)?;
    let mut cli = w.start(&w.alice, LOCAL, &["--header", ALICE])?;
    cli.wait_live()?;
    let cause = |event: &serde_json::Value| event["cause"].as_str().unwrap_or_default().to_owned();
    let first = cli.wait_event("not_intercepted", SOON)?;
    ensure!(cause(&first) == "earlier_connections" && first["port"] == PORT, "{first}");
    drop(held);
    for _ in 0..2 {
        let mut client = w.connect(w.client(), Family::V4)?;
        write(&mut client, "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n")?;
        write(&mut client, request("GET", "/", &[ALICE]))?;
        // The app takes it for a malformed request, and answers as it likes.
        drop(client);
    }
    let events = cli.wait_events("not_intercepted", 2, SOON)?;
    ensure!(cause(&events[1]) == "proxy_protocol", "{events:?}");
    let mut client = w.connect(w.client(), Family::V4)?;
    write(&mut client, format!("GET / HTTP/1.1\r\n{}", format!("x-a: {}\r\n", "b".repeat(4000)).repeat(66)))?;
    let events = cli.wait_events("not_intercepted", 3, SOON)?;
    ensure!(cause(&events[2]) == "head_too_long", "{events:?}");
    ensure!(cli.events("not_intercepted").len() == 3, "{events:?}");
    drop(green);
    cli.leave()
});

both!(clients_that_a_rule_in_the_pod_sends_here_are_told_of, USUAL, |w| {
    let _green = w.green()?;
    let mut cli = w.start(&w.alice, LOCAL, &[])?;
    cli.wait_live()?;
    let _blue = w.local(LOCAL, "blue")?;
    // Beside traffic that is intercepted, of which nobody is told. Of another client: a connection of the same one to the
    // other port may have its source port.
    let mut usual = w.http(&w.topology.peer, Family::V4)?;
    ensure!(usual.get("/", &[])?.text().starts_with("blue"));
    let rule = "table inet other { chain in { type nat hook prerouting priority -100; tcp dport 9090 redirect to :8080; }; }\n";
    w.pod().namespace.output_with(&["nft", "-f", "-"], Some(rule))?;
    let mut held = Vec::new();
    let told = redir_rig::wait::until("the detour to be told", SOON * 3, || {
        for family in FAMILIES {
            let mut http = Http::new(w.client().namespace.connect(w.pod().at(family, 9090))?);
            ensure!(http.get("/", &[])?.text().starts_with("green"), "behind the programs");
            held.push(http);
            if held.len() > 20 {
                held.remove(0);
            }
        }
        Ok(cli.events("not_intercepted").first().cloned())
    })?;
    ensure!(told["cause"] == "redirected" && told["port"] == PORT, "{told}");
    ensure!(usual.get("/", &[])?.text().starts_with("blue"));
    w.pod().namespace.output(&["nft", "delete", "table", "inet", "other"])?;
    drop(held);
    cli.leave()
});

once!(a_second_name_for_a_namespace_is_refused, USUAL, |w| {
    let _green = w.green()?;
    let cli = w.intercept(&w.alice, LOCAL, &["--header", ALICE])?;
    let folder = tempfile::tempdir()?;
    let netns = folder.path().join("alias-1");
    std::os::unix::fs::symlink(&w.config.pods[0].netns, &netns)?;
    let twin = redir_rig::PodEntry { name: "alias-1".into(), netns, ..w.config.pods[0].clone() };
    w.config.pods.push(twin);
    w.agent.rewrite(&w.config.text(&w.agent.key())?)?;
    let (code, _, err) = redir_rig::wait::until("the agent to know the second name", SOON, || {
        let flags = w.agent_flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let line = ["intercept", "alias-1", "--port", "8080:3000"];
        let (code, out, err) = w.bob.run(&w.topology.developer.namespace, &[&line[..], &flags].concat())?;
        Ok((!err.contains("no pod alias-1")).then_some((code, out, err)))
    })?;
    ensure!(code == 1 && err.contains("alias-1 has the same network namespace as web-1"), "{code}: {err}");
    let mut check = Command::new(binaries::find("redir-agent")?);
    let output = check.arg("check").arg("--config").arg(w.agent.config()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("warning: pods web-1 and alias-1 have the same network namespace"), "{text}");
    cli.leave()
});
