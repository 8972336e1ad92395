//! HTTP/2 through the real agent: with prior knowledge, and agreed on in TLS that the agent decrypts.
#![cfg(target_os = "linux")]

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::{Ping, Reason};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redir_rig::{
    Certificate, Listener,
    http2::{HEADERS, PREFACE, SETTINGS, frame},
    topology::Family,
    wait,
};
use redir_tests::{
    LOCAL, PORT, SOON, Scenario, USUAL, World, both,
    http2::{Client, LIMIT, ODD, Origin, send_all, whole},
    once,
};
use tokio::{sync::oneshot, task::JoinHandle};

const ALICE: &str = "alice";
const BOB: &str = "bob";
/// Who answers whom.
const WHO: [(&str, &str); 2] = [(ALICE, "blue"), (BOB, "green")];

fn green(w: &World) -> Result<Origin> {
    // Both families.
    Origin::start(&w.pod().namespace, ([0u16; 8], PORT).into(), "green", None)
}

fn blue(w: &World) -> Result<Origin> {
    Origin::start(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue", None)
}

/// Runs what a client does, on the client's machine.
fn client<T: Send + 'static>(w: &World, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    w.client().namespace.block_on(LIMIT, work)?
}

/// Begins the same, for what happens meanwhile.
fn begin<T: Send + 'static>(
    w: &World,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    Ok(w.client().namespace.handle()?.spawn(work))
}

fn app(w: &World) -> SocketAddr {
    w.pod().at(Family::V4, PORT)
}

both!(streams_of_one_connection_are_decided_one_by_one, USUAL, |w| {
    let (green, blue) = (green(w)?, blue(w)?);
    let mut cli = w.alice()?;
    for family in [Family::V4, Family::V6] {
        let to = w.pod().at(family, PORT);
        client(w, async move {
            let mut client = Client::connect(to).await?;
            let mut under_way = Vec::new();
            for number in 0..40 {
                let (user, version) = WHO[number % 2];
                under_way.push((client.get(&format!("/{number}?q=1"), user).await?, version));
            }
            for (response, version) in under_way {
                let answer = whole(response).await?;
                ensure!(answer.version() == version && answer.body == version.as_bytes(), "{answer:?}");
                let trailers = answer.trailers.context("trailers")?;
                ensure!(trailers.get("x-end").is_some_and(|end| end == version), "{trailers:?}");
            }
            Ok(())
        })?;
    }
    for (origin, rest) in [(&blue, 0), (&green, 1)] {
        let seen = origin.seen();
        ensure!(seen.len() == 40, "{} requests", seen.len());
        for (index, seen) in seen.iter().enumerate() {
            ensure!(seen.line == format!("GET http://web/{}?q=1", (2 * index + rest) % 40), "{seen:?}");
            ensure!(seen.headers.len() == 1 && seen.headers["x-user"] == WHO[rest].0, "{seen:?}");
        }
    }
    let mut clients: Vec<_> = green.seen().iter().map(|seen| seen.client).collect();
    clients.dedup();
    let ips: Vec<_> = clients.iter().map(|client| client.ip().to_canonical()).collect();
    ensure!(
        ips == [w.client().ip(Family::V4), w.client().ip(Family::V6)],
        "one connection each, the client's: {ips:?}"
    );
    let events = cli.wait_events("request", 40, SOON)?;
    let mut paths: Vec<_> = events.iter().filter_map(|event| event["path"].as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    ensure!(paths.len() == 20 && !paths.contains(&"/1"), "{paths:?}");
    ensure!(events.iter().all(|event| event["status"] == 200 && event["method"] == "GET"), "{events:?}");
    // The next streams of the same connection are the app's once the intercept is over.
    let to = app(w);
    let (tell, told) = oneshot::channel();
    let (let_go, gone) = oneshot::channel();
    let going_on = begin(w, async move {
        let mut client = Client::connect(to).await?;
        ensure!(client.fetch("/", ALICE).await?.version() == "blue");
        ensure!(tell.send(()).is_ok());
        gone.await?;
        ensure!(client.fetch("/", ALICE).await?.version() == "green");
        Ok(())
    })?;
    client(w, async move { Ok(told.await?) })?;
    cli.interrupt()?;
    ensure!(let_go.send(()).is_ok(), "the client is gone");
    client(w, async move { going_on.await? })
});

once!(everything_of_a_stream_passes, USUAL, |w| {
    let (green, blue) = (green(w)?, blue(w)?);
    let _cli = w.alice()?;
    let to = app(w);
    client(w, async move {
        let mut client = Client::connect(to).await?;
        for (user, version) in WHO {
            // Both directions at once, piece by piece.
            let (response, mut send) = client.open("/echo", user).await?;
            let (head, mut body) = response.await?.into_parts();
            ensure!(head.headers["x-version"] == version, "{head:?}");
            for piece in ["one", "two", "three"] {
                send_all(&mut send, piece.into()).await?;
                let back = body.data().await.context("an echo")??;
                ensure!(back == piece, "{back:?}");
                body.flow_control().release_capacity(back.len())?;
            }
            send.send_trailers([(http::HeaderName::from_static("x-sum"), "11".parse()?)].into_iter().collect())?;
            ensure!(body.data().await.is_none());
            ensure!(body.trailers().await?.is_some_and(|trailers| trailers["x-sum"] == "11"));

            // A status alone, as gRPC refuses.
            let refused = client.fetch("/refused", user).await?;
            ensure!(refused.version() == version && refused.body.is_empty() && refused.trailers.is_none());
            ensure!(refused.head.headers()["grpc-status"] == "7");

            // The origin's code to the client, the client's to the origin.
            let reset = client.fetch("/reset", user).await.err().context("a reset")?;
            ensure!(reset.downcast_ref::<h2::Error>().and_then(h2::Error::reason) == Some(ODD), "{reset:?}");
            let (response, mut send) = client.open("/echo?mine", user).await?;
            response.await?;
            send.send_reset(ODD);

            // WebSocket over HTTP/2 (RFC 8441).
            let (response, mut send) = client.tunnel(user).await?;
            let (head, mut body) = response.await?.into_parts();
            ensure!(head.status == 200 && head.headers["x-version"] == version, "{head:?}");
            send_all(&mut send, "frame".into()).await?;
            ensure!(body.data().await.context("an echo")?? == "frame");
            send.send_data(Bytes::new(), true)?;
        }
        client.pings.ping(Ping::opaque()).await?;
        Ok(())
    })?;
    for origin in [green, blue] {
        wait::until_true("the client's code", SOON, || {
            Ok(origin.seen().iter().any(|seen| seen.line.ends_with("/echo?mine") && seen.reset == Some(ODD)))
        })?;
    }
    Ok(())
});

once!(a_stream_that_is_not_read_stalls_no_other, USUAL, |w| {
    const SIZE: usize = 4 << 20;
    let _origins = (green(w)?, blue(w)?);
    let _cli = w.alice()?;
    let to = app(w);
    client(w, async move {
        let mut client = Client::connect(to).await?;
        let mut stalled = Vec::new();
        for (user, _) in WHO {
            // Three from each, none of them read.
            for _ in 0..3 {
                stalled.push(client.get(&format!("/zeros/{SIZE}"), user).await?.await?.into_body());
            }
        }
        for stream in &mut stalled {
            let first = stream.data().await.context("data")??;
            stream.flow_control().release_capacity(first.len())?;
        }
        for _ in 0..50 {
            for (user, version) in WHO {
                let (response, mut send) = client.open("/echo", user).await?;
                send_all(&mut send, vec![7; 10_000].into()).await?;
                send.send_data(Bytes::new(), true)?;
                let answer = tokio::time::timeout(SOON, whole(response)).await.context("stalled")??;
                ensure!(answer.version() == version && answer.body == [7; 10_000]);
            }
        }
        for mut stream in stalled {
            let mut left = SIZE;
            while let Some(piece) = stream.data().await {
                let piece = piece?;
                stream.flow_control().release_capacity(piece.len())?;
                left = left.saturating_sub(piece.len());
            }
            ensure!(left < 64 * 1024, "{left} bytes are missing");
        }
        Ok(())
    })
});

once!(ends_are_passed_on, USUAL, |w| {
    let (green, _blue) = (green(w)?, blue(w)?);
    let _cli = w.alice()?;
    let to = app(w);
    // The app goes: what is under way is answered, by both, and the client hears of it.
    let held = begin(w, async move {
        let mut client = Client::connect(to).await?;
        let held = client.get("/hold", BOB).await?;
        let (echo, mut send) = client.open("/echo", ALICE).await?;
        let (_, mut body) = echo.await?.into_parts();
        ensure!(whole(held).await?.version() == "green");
        send_all(&mut send, "still".into()).await?;
        ensure!(body.data().await.context("an echo")?? == "still");
        send.send_data(Bytes::new(), true)?;
        ensure!(body.data().await.is_none());
        drop((body, send));
        client.ended().await?.context("a graceful end")
    })?;
    is_held(&green)?;
    green.end();
    client(w, async move { held.await? })
});

/// Waits for the request that is answered when the origin ends.
fn is_held(origin: &Origin) -> Result<()> {
    wait::until_true("the held request", SOON, || Ok(origin.seen().iter().any(|seen| seen.line.ends_with("/hold"))))
}

once!(a_draining_agent_lets_streams_end, USUAL, |w| {
    let (green, _blue) = (green(w)?, blue(w)?);
    let _cli = w.alice()?;
    let to = app(w);
    let held = begin(w, async move {
        let mut client = Client::connect(to).await?;
        let held = client.get("/hold", BOB).await?;
        ensure!(whole(held).await?.version() == "green");
        client.ended().await?.context("a graceful end")
    })?;
    is_held(&green)?;
    kill(Pid::from_raw(w.agent.guardian()?), Signal::SIGTERM)?;
    w.agent.process.wait_for_line("disarmed", SOON)?;
    green.end();
    client(w, async move { held.await? })?;
    wait::until_true("the agent to end", SOON, || Ok(w.agent.process.exited()?.is_some()))
});

/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;

/// `GET /` over `http`, without `:authority`, of alice's.
fn without_authority() -> Vec<u8> {
    let mut block = vec![0x82, 0x84, 0x86, 0x40, 6];
    block.extend(b"x-user");
    block.push(5);
    block.extend(b"alice");
    block
}

once!(a_request_without_authority_is_decided_and_passed_as_it_is, USUAL, |w| {
    let (_green, blue) = (green(w)?, blue(w)?);
    let _cli = w.alice()?;
    let mut client = w.connect(w.client(), Family::V4)?;
    client
        .write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, WHOLE, 1, &without_authority())].concat())?;
    wait::until_true("the request", SOON, || Ok(!blue.seen().is_empty()))?;
    let seen = blue.seen();
    ensure!(seen.len() == 1 && seen[0].line == "GET /" && seen[0].headers.len() == 1, "{seen:?}");
    Ok(())
});

/// A service that answers each stream, but goes away with the second of its first connection unanswered.
fn goes_away(service: &Listener) -> Result<()> {
    let mut first = true;
    loop {
        let (mut socket, _) = service.accept_within(LIMIT)?;
        let mut preface = [0; 24];
        if socket.read_exact(&mut preface).is_err() {
            // A look whether anybody listens.
            continue;
        }
        socket.write_all(&frame(SETTINGS, 0, 0, &[]))?;
        let (mut head, mut ended) = ([0; 9], 0);
        while socket.read_exact(&mut head).is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            io::copy(&mut Read::by_ref(&mut socket).take(length.into()), &mut io::sink())?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if !matches!(head[3], 0 | HEADERS) || head[4] & 1 == 0 {
                continue;
            }
            ended += 1;
            if first && ended == 2 {
                // GOAWAY: nothing was done with this one.
                socket.write_all(&frame(7, 0, 0, &[(stream - 2).to_be_bytes(), [0; 4]].concat()))?;
                break;
            }
            socket.write_all(&frame(HEADERS, WHOLE, stream, &[0x88]))?;
        }
        first = ended == 0;
    }
}

once!(a_stream_that_the_developers_service_refuses_is_sent_again, USUAL, |w| {
    let _green = green(w)?;
    let service = Listener::new(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into())?;
    std::thread::spawn(move || goes_away(&service));
    let mut cli = w.alice()?;
    let to = app(w);
    client(w, async move {
        let mut client = Client::connect(to).await?;
        for number in 0..4 {
            let (response, mut send) = client.open("/s/m", ALICE).await?;
            send_all(&mut send, "message".into()).await?;
            send.send_data(Bytes::new(), true)?;
            let answer = whole(response).await.with_context(|| format!("call {number}"))?;
            ensure!(answer.head.status() == 200, "call {number}: {:?}", answer.head);
        }
        Ok(())
    })?;
    let events = cli.wait_events("request", 4, SOON)?;
    ensure!(events.iter().all(|event| event["status"] == 200), "{events:?}");
    Ok(())
});

once!(floods_end_their_own_connection_alone, Scenario { limit: Duration::from_secs(120), ..USUAL }, |w| {
    let _origins = (green(w)?, blue(w)?);
    let _cli = w.alice()?;
    let get = [0x82, 0x84, 0x86, 0x41, 3, b'w', b'e', b'b'];
    let empty_data = |n: u32| match n {
        0 => frame(HEADERS, 4, 1, &[0x83, 0x84, 0x86, 0x41, 3, b'w', b'e', b'b']),
        _ => frame(0, 0, 1, &[]),
    };
    let rapid_reset = |n: u32| {
        let stream = 2 * n + 1;
        [frame(HEADERS, WHOLE, stream, &get), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let continuation = |n: u32| match n {
        0 => frame(HEADERS, 1, 1, &get),
        _ => frame(9, 0, 1, &[]),
    };
    // One long value in the table, named a thousand times.
    let bomb = |n: u32| {
        let mut block = vec![0x82, 0x84, 0x86, 0x40, 1, b'a', 0x7f, 0x81, 0x1e];
        block.extend(vec![b'v'; 4000]);
        block.extend(vec![0xbe; 4000]);
        frame(HEADERS, WHOLE, 2 * n + 1, &block)
    };
    type Next<'f> = &'f dyn Fn(u32) -> Vec<u8>;
    let floods: [(&str, Next<'_>); 6] = [
        ("rapid reset", &rapid_reset),
        ("CONTINUATION", &continuation),
        ("SETTINGS", &|_| frame(SETTINGS, 0, 0, &[])),
        ("PING", &|_| frame(6, 0, 0, &[0; 8])),
        ("empty DATA", &empty_data),
        ("HPACK bomb", &bomb),
    ];
    let to = app(w);
    for (name, next) in floods {
        let mut flood = w.connect(w.client(), Family::V4)?;
        let mut heard = flood.try_clone()?;
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            // A reset is an end as well.
            let _ = heard.read_to_end(&mut all);
        });
        flood.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())?;
        let ended = (0..1_000_000).find(|n| flood.write_all(&next(*n)).is_err());
        ensure!(ended.is_some(), "a flood of {name} goes on");
        reader.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
        client(w, async move {
            let mut client = Client::connect(to).await?;
            for (user, version) in WHO {
                ensure!(client.fetch("/", user).await?.version() == version);
            }
            Ok(())
        })
        .with_context(|| format!("after a flood of {name}"))?;
    }
    Ok(())
});

once!(a_server_that_does_not_speak_it_gets_what_came, USUAL, |w| {
    const ANSWER: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let _cli = w.intercept_early(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let app = Listener::new(&w.pod().namespace, (Family::V4.any(), PORT).into())?;
    let mut pair = w.pair(w.client(), Family::V4, &app)?;
    let sent = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, WHOLE, 1, &without_authority())].concat();
    pair.client.write_all(&sent)?;
    let mut heard = vec![0; PREFACE.len()];
    pair.app.read_exact(&mut heard)?;
    pair.app.write_all(ANSWER)?;
    let mut rest = vec![0; sent.len() - heard.len()];
    pair.app.read_exact(&mut rest)?;
    ensure!([heard, rest].concat() == sent);
    drop(pair.app);
    let mut answer = Vec::new();
    pair.client.read_to_end(&mut answer)?;
    ensure!(answer == ANSWER, "{answer:?}");
    Ok(())
});

/// The agent has the app's certificate.
const GIVEN: Scenario = Scenario {
    config: |config| config.pods[0].tls = vec![(PORT, Certificate::new().expect("a certificate"))],
    ..USUAL
};

once!(agreed_on_in_tls_it_is_decided_just_so, GIVEN, |w| {
    let certificate = w.config.pods[0].tls[0].1.clone();
    let mut server = certificate.server()?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let green = Origin::start(&w.pod().namespace, ([0u16; 8], PORT).into(), "green", Some(server))?;
    let (to, offered) = (app(w), certificate.client(rustls::ALL_VERSIONS)?);
    let own = Certificate::new()?;
    let mut local = own.server()?;
    local.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    for (secure, flags) in
        [(None, &["--header", "x-user: alice"][..]), (Some(local), &["--header", "x-user: alice", "--local-tls"])]
    {
        let blue = Origin::start(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue", secure)?;
        let cli = w.intercept(&w.alice, LOCAL, flags)?;
        let offered = offered.clone();
        client(w, async move {
            let mut client = Client::secure(to, offered).await?;
            let mut under_way = Vec::new();
            for number in 0..20 {
                let (user, version) = WHO[number % 2];
                under_way.push((client.get("/", user).await?, version));
            }
            for (response, version) in under_way {
                let answer = whole(response).await?;
                ensure!(answer.version() == version && answer.trailers.is_some(), "{answer:?}");
            }
            let large = client.fetch("/zeros/3000000", ALICE).await?;
            ensure!(large.body.len() == 3_000_000);
            Ok(())
        })?;
        ensure!(blue.seen().len() == 11);
        cli.leave()?;
    }
    let ips: Vec<_> = green.seen().iter().map(|seen| seen.client.ip().to_canonical()).collect();
    ensure!(ips.len() == 20 && ips.iter().all(|ip| *ip == w.client().ip(Family::V4)), "{ips:?}");
    Ok(())
});

// The code of an end is not lost: what the app says is what the client hears.
once!(an_abrupt_end_keeps_its_code, USUAL, |w| {
    let _cli = w.intercept_early(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let app = Listener::new(&w.pod().namespace, (Family::V4.any(), PORT).into())?;
    let to = self::app(w);
    let refused = begin(w, async move {
        let mut client = Client::connect(to).await?;
        ensure!(client.fetch("/", BOB).await.is_err());
        let ended = client.ended().await?;
        let code = ended.as_ref().err().and_then(h2::Error::reason);
        ensure!(code == Some(Reason::INADEQUATE_SECURITY), "{ended:?}");
        Ok(())
    })?;
    let (mut end, _) = w.accept(&app, w.client(), Family::V4)?;
    let mut preface = [0; 24];
    end.read_exact(&mut preface)?;
    end.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    let mut head = [0; 9];
    while head[3] != HEADERS {
        end.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        io::copy(&mut Read::by_ref(&mut end).take(length.into()), &mut io::sink())?;
    }
    // GOAWAY: the last stream that was looked at is 1.
    end.write_all(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 12]))?;
    end.shutdown(Shutdown::Write)?;
    client(w, async move { refused.await? })
});
