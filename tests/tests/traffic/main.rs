//! Requests and connections of an intercepted pod, in both families, with TCX and with clsact.
#![cfg(target_os = "linux")]

mod connections;

use std::{
    net::Shutdown,
    time::{Duration, Instant},
};

use redir_rig::{
    App, Http, Listener,
    http::request,
    listener::reset,
    pattern::Pattern,
    topology::{FAMILIES, Family},
    wait,
};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, both, once, read_all, read_exactly, reserved, write};

const ALICE: &str = "x-user: alice";

both!(matched_requests_go_to_the_developer_and_others_to_the_app, USUAL, |w| {
    let green = w.green()?;
    let blue = w.local(LOCAL, "blue")?;
    let mut cli = w.alice()?;
    for family in FAMILIES {
        for host in [w.client(), &w.topology.peer, &w.topology.node] {
            let mut http = w.http(host, family)?;
            for _ in 0..3 {
                assert_eq!(http.get("/some?query=1", &[])?.text(), format!("green {}\n", host.ip(family)));
                assert_eq!(http.get("/some?query=1", &[ALICE])?.text(), "blue 127.0.0.1\n");
            }
            assert_eq!(http.get("/", &["x-user: bob"])?.text(), format!("green {}\n", host.ip(family)));
        }
    }
    // The client's address is kept and its port is the agent's; the developer's app saw all matched ones.
    assert!(green.clients().iter().all(|c| reserved(c.port())), "{:?}", green.clients());
    let own = w.pod().ip(Family::V4);
    assert_eq!(green.by_client().keys().filter(|client| **client != own).count(), 6, "beside the agent's own look");
    assert_eq!(blue.seen().len(), 18);
    assert!(blue.seen().iter().all(|s| s.line == "GET /some?query=1 HTTP/1.1"));
    let events = cli.wait_events("request", 18, SOON)?;
    assert!(events.iter().all(|e| e["path"] == "/some" && e["status"] == 200 && e["pod"] == "web-1"), "{events:?}");
    cli.leave()
});

both!(pipelined_requests_are_answered_in_order, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    for family in FAMILIES {
        let mut http = w.http(w.client(), family)?;
        let pattern = [false, true, true, false, true, false, false, true];
        let all: String = pattern
            .iter()
            .enumerate()
            .map(|(n, matched)| {
                let (number, user) = (format!("x-number: {n}"), if *matched { ALICE } else { "x-user: nobody" });
                request("GET", "/echo", &[&number, user])
            })
            .collect();
        http.send(all)?;
        for n in 0..pattern.len() {
            let echoed = http.response()?.text();
            assert!(echoed.contains(&format!("\r\nx-number: {n}")), "{n}: {echoed:?}");
        }
        // Both origins again, on the same connection.
        assert!(http.get("/", &[ALICE])?.text().starts_with("blue"));
        assert!(http.get("/", &[])?.text().starts_with("green"));
    }
    Ok(())
});

both!(bytes_arrive_as_they_were_sent, USUAL, |w| {
    let green = w.green()?;
    let blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    let odd = "GET /a/%2e%2E/b?x=1&x=2 HTTP/1.1\r\nHOST: Web\r\nx-Empty:\r\nCookie: a=1\r\ncookie: b=2\r\nX-Last:  two  spaces ";
    let matched = format!("{odd}\r\nX-USER: alice");
    let mut http = w.http(w.client(), Family::V4)?;
    // In pieces that end in the middle of names, values and line ends.
    for head in [odd, &matched] {
        for piece in (head.to_owned() + "\r\n\r\n").as_bytes().chunks(7) {
            http.send(piece)?;
        }
        assert_eq!(http.response()?.status, 200);
    }
    assert_eq!(green.seen()[0].head, odd);
    assert_eq!(blue.seen()[0].head, matched);
    Ok(())
});

both!(bodies_of_every_framing_pass, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    let mut bytes = vec![0; 100_000];
    Pattern::default().fill(0, &mut bytes);
    for family in FAMILIES {
        let mut http = w.http(w.client(), family)?;
        for header in [ALICE, "x-user: nobody", ALICE] {
            let version = if header == ALICE { "blue" } else { "green" };
            let chunked = http.get("/chunked", &[header])?;
            assert!(chunked.text().starts_with(version), "{chunked:?}");
            http.send(request("POST", "/upload", &[header, "content-length: 100000"]))?;
            http.send(&bytes)?;
            assert_eq!(http.response()?.text(), "whole 100000\n");
            http.send(request("POST", "/upload", &[header, "transfer-encoding: chunked"]))?;
            for piece in bytes.chunks(30_000) {
                http.send(format!("{:x};extension=1\r\n", piece.len()).replace(";extension=1", ""))?;
                http.send(piece)?;
                http.send("\r\n")?;
            }
            http.send("0\r\n\r\n")?;
            assert_eq!(http.response()?.text(), "whole 100000\n");
            assert_eq!(http.get("/status/204", &[header])?.status, 204);
            assert!(http.get("/", &[header])?.text().starts_with(version));
        }
        // The origin's close is the client's.
        for header in [ALICE, "x-user: nobody"] {
            let mut http = w.http(w.client(), family)?;
            let response = http.get("/close", &[header])?;
            assert_eq!(response.header("connection"), Some("close"));
            assert!(http.closed()?, "after Connection: close");
        }
    }
    Ok(())
});

both!(upgrades_stay_with_whoever_answered, USUAL, |w| {
    let green = w.green()?;
    let blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    for (headers, app) in [
        (&["upgrade: echo", "connection: upgrade", ALICE][..], &blue),
        (&["upgrade: echo", "connection: upgrade"], &green),
    ] {
        let before = app.seen().len();
        let mut http = w.http(w.client(), Family::V4)?;
        assert_eq!(http.get("/upgrade", headers)?.status, 101);
        // No longer HTTP, whatever it looks like.
        let text = request("GET", "/", &[ALICE]) + &request("GET", "/", &[]);
        http.send(&text)?;
        assert_eq!(read_exactly(&mut http.stream, text.len())?, text.as_bytes());
        assert_eq!(app.seen().len(), before + 1);
    }
    Ok(())
});

both!(connections_from_before_stay_with_the_app, USUAL, |w| {
    let green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let mut early = Vec::new();
    for family in FAMILIES {
        let mut http = w.http(w.client(), family)?;
        assert!(http.get("/", &[ALICE])?.text().starts_with("green"));
        early.push(http);
    }
    let _cli = w.alice()?;
    for (http, family) in early.iter_mut().zip(FAMILIES) {
        assert!(http.get("/", &[ALICE])?.text().starts_with("green"));
        assert!(w.get(family, &[ALICE])?.starts_with("blue"));
    }
    assert_eq!(green.clients().iter().filter(|c| !reserved(c.port())).count(), 2);
    Ok(())
});

both!(the_next_request_after_the_intercept_goes_to_the_app, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let cli = w.alice()?;
    let mut http = w.http(w.client(), Family::V4)?;
    assert!(http.get("/", &[ALICE])?.text().starts_with("blue"));
    cli.leave()?;
    assert!(http.get("/", &[ALICE])?.text().starts_with("green"));
    assert!(w.get(Family::V4, &[ALICE])?.starts_with("green"));
    // And the developer comes back.
    let _cli = w.alice()?;
    assert!(w.get(Family::V4, &[ALICE])?.starts_with("blue"));
    Ok(())
});

both!(probes_of_the_kubelet_go_to_the_app, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let probe = "user-agent: kube-probe/1.31";
    for flags in [&["--header", ALICE][..], &[]] {
        let cli = w.intercept(&w.alice, LOCAL, flags)?;
        for family in FAMILIES {
            assert!(w.get(family, &[probe, ALICE])?.starts_with("green"));
            assert!(w.get(family, &[ALICE])?.starts_with("blue"));
        }
        cli.leave()?;
    }
    Ok(())
});

both!(clients_inside_the_pod_are_steered_too, USUAL, |w| {
    let green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    let pod = w.pod();
    for family in FAMILIES {
        for at in [family.loopback(), pod.ip(family)] {
            let connect = || pod.namespace.connect_from((at, 0).into(), (at, PORT).into()).map(Http::new);
            assert_eq!(connect()?.get("/", &[])?.text(), format!("green {at}\n"));
            assert_eq!(connect()?.get("/", &[ALICE])?.text(), "blue 127.0.0.1\n");
            let mut http = connect()?;
            assert!(http.get("/", &[ALICE])?.text().starts_with("blue"));
            assert_eq!(http.get("/", &[])?.text(), format!("green {at}\n"));
            let last = green.seen().pop().expect("it was seen");
            assert_eq!(last.at.ip(), at, "the app is reached at the address that the client used");
        }
    }
    Ok(())
});

both!(odd_loopback_addresses_keep_their_meaning, USUAL, |w| {
    let green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    let pod = w.pod();
    for (from, to) in [("127.0.0.1", "127.0.0.5"), ("127.0.0.9", "10.210.1.11"), ("10.210.1.11", "127.0.0.1")] {
        let (from, to): (std::net::IpAddr, std::net::IpAddr) = (from.parse()?, to.parse()?);
        let mut http = Http::new(pod.namespace.connect_from((from, 0).into(), (to, PORT).into())?);
        assert_eq!(http.get("/", &[])?.text(), format!("green {from}\n"));
        assert_eq!(green.seen().pop().expect("it was seen").at.ip(), to);
        assert!(http.get("/", &[ALICE])?.text().starts_with("blue"));
    }
    Ok(())
});

both!(several_developers_share_a_port, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _orange = w.local(LOCAL + 1, "orange")?;
    let alice = w.alice()?;
    let bob = w.intercept(&w.bob, LOCAL + 1, &["--header", "x-user: bob"])?;
    for family in FAMILIES {
        let mut http = w.http(w.client(), family)?;
        for (header, version) in [(ALICE, "blue"), ("x-user: bob", "orange"), ("x-user: eve", "green"), (ALICE, "blue")]
        {
            assert!(http.get("/", &[header])?.text().starts_with(version), "{header}");
        }
    }
    bob.leave()?;
    // Bob takes all the rest: the filtered one still wins, whoever came first.
    let bob = w.intercept(&w.bob, LOCAL + 1, &[])?;
    for family in FAMILIES {
        for (header, version) in [(ALICE, "blue"), ("x-user: bob", "orange"), ("accept: */*", "orange")] {
            assert!(w.get(family, &[header])?.starts_with(version), "{header}");
        }
    }
    alice.leave()?;
    assert!(w.get(Family::V4, &[ALICE])?.starts_with("orange"));
    bob.leave()?;
    assert!(w.get(Family::V4, &[ALICE])?.starts_with("green"));
    Ok(())
});

both!(a_global_intercept_takes_every_protocol, USUAL, |w| {
    let green = w.green()?;
    let _cli = w.intercept_early(&w.alice, LOCAL, &[])?;
    let local = Listener::new(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into())?;
    for family in FAMILIES {
        // The client speaks first, half-closes, and gets its answer.
        let mut client = w.connect(w.client(), family)?;
        write(&mut client, b"anything\n")?;
        let (mut end, _) = local.accept()?;
        assert_eq!(read_exactly(&mut end, 9)?, b"anything\n");
        client.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(&mut end)?, b"");
        write(&mut end, b"still here")?;
        drop(end);
        assert_eq!(read_all(&mut client)?, b"still here");
        // The developer's service speaks first.
        let mut client = w.connect(w.client(), family)?;
        let (mut end, _) = local.accept()?;
        write(&mut end, b"220 ready\r\n")?;
        assert_eq!(read_exactly(&mut client, 11)?, b"220 ready\r\n");
    }
    assert!(green.seen().is_empty());
    Ok(())
});

const TWO_PODS: Scenario = Scenario { pods: 2, ..USUAL };

both!(labels_intercept_every_pod_that_has_them, TWO_PODS, |w| {
    let apps =
        w.topology.pods.iter().map(|p| App::start(&p.namespace, PORT, "green")).collect::<anyhow::Result<Vec<_>>>()?;
    let _blue = w.local(LOCAL, "blue")?;
    let arguments = w.arguments("app=web", "8080:3000", &["--header", ALICE]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut cli = w.alice.start(&w.topology.developer.namespace, &arguments)?;
    let live = cli.wait_events("live", 2, SOON)?;
    for pod in &w.topology.pods {
        assert!(live.iter().any(|event| event["pod"] == pod.name), "{live:?}");
        for family in FAMILIES {
            let mut http = Http::new(w.client().namespace.connect(pod.at(family, PORT))?);
            assert!(http.get("/", &[ALICE])?.text().starts_with("blue"));
            assert_eq!(http.get("/", &[])?.text(), format!("green {}\n", w.client().ip(family)));
        }
    }
    drop(apps);
    cli.leave()
});

once!(every_connection_has_an_access_line_and_is_counted, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    let mut http = w.http(w.client(), Family::V4)?;
    for header in [ALICE, "x-user: nobody", ALICE] {
        assert_eq!(http.get("/path?secret=1", &[header])?.status, 200);
    }
    drop(http);
    let client = format!("client={}", w.client().v4);
    let line = w.agent.process.wait_for_line("event=\"close\"", SOON)?;
    for field in ["pod=web-1", "port=8080", &client, "app_requests=1", "developer_requests=2", "opaque=\"no\""] {
        assert!(line.contains(field), "no {field} in {line}");
    }
    assert_eq!(w.agent.lines(&["event=\"open\"", &client]).len(), 1, "one event at open, one at close");
    assert_eq!(w.agent.lines(&["event=\"close\"", &client]).len(), 1);
    assert!(w.agent.lines(&["secret"]).is_empty());
    for (metric, labels, value) in [
        ("redir_requests_total", &["decision=\"app\""][..], 1.0),
        ("redir_requests_total", &["decision=\"developer\""], 2.0),
        ("redir_connections_total", &[], 1.0),
        ("redir_connections_open", &[], 0.0),
        ("redir_tunnels ", &[], 1.0),
        ("redir_intercepts ", &[], 1.0),
    ] {
        let got = w.metric(metric, labels)?;
        assert!((got - value).abs() < 0.5, "{metric}{labels:?} is {got} instead of {value}");
    }
    w.counted("steer", "steered", 1.0)?;
    let (status, _) = redir_rig::Agent::admin(w.node(), "/healthz")?;
    assert_eq!(status, 200);
    Ok(())
});
