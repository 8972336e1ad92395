//! `redir intercept --flush`: connections that the app had before are closed once they are idle, so that clients' pools
//! meet the agent.
#![cfg(target_os = "linux")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use redir_rig::{
    Http,
    http::request,
    topology::{FAMILIES, Family},
    wait,
};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, both};

const ALICE: &str = "x-user: alice";
/// `left` is told after half a minute.
const PATIENT: Scenario = Scenario { limit: Duration::from_secs(120), ..USUAL };
const ALLOWED: Scenario = Scenario {
    config: |config| config.developers.iter_mut().filter(|who| who.name == "alice").for_each(|who| who.flush = true),
    ..PATIENT
};

/// Idle connections of clients, each with a request behind it.
fn idle(w: &World, each: usize) -> Result<Vec<Http>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        for _ in 0..each {
            let mut http = w.http(w.client(), family)?;
            assert!(http.get("/", &[ALICE])?.text().starts_with("green"));
            all.push(http);
        }
    }
    Ok(all)
}

/// Whether the other end has closed or reset an idle connection, as a pool looks before it uses one.
fn is_stale(stream: &TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let stale = !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false)?;
    Ok(stale)
}

both!(idle_connections_from_before_are_closed_and_told, PATIENT, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let early = idle(w, 6)?;
    let mut cli = w.intercept(&w.alice, LOCAL, &["--flush"])?;
    let flushed = cli.wait_event("flushed", Duration::from_secs(60))?;
    assert_eq!((&flushed["closed"], &flushed["left"]), (&12.into(), &0.into()), "{flushed}");
    assert_eq!((&flushed["pod"], &flushed["port"], flushed["reason"].is_null()), (&"web-1".into(), &PORT.into(), true));
    for http in &early {
        wait::until_true("the client to learn of it", SOON, || is_stale(&http.stream))?;
    }
    // Everybody connects anew, and what they have now is not touched.
    let mut late: Vec<_> = FAMILIES.iter().map(|family| w.http(w.client(), *family)).collect::<Result<_>>()?;
    for http in &mut late {
        assert!(http.get("/", &[])?.text().starts_with("blue"));
    }
    cli.leave()
});

both!(a_filter_needs_a_right_for_it_and_the_right_is_enough, ALLOWED, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let mut early = idle(w, 2)?;
    // bob has it not, and nothing of him stays.
    let arguments = w.arguments("web-1", "8080:3000", &["--header", "x-user: bob", "--flush"]);
    let arguments: Vec<&str> = std::iter::once("intercept").chain(arguments.iter().map(String::as_str)).collect();
    let (code, _, said) = w.bob.run(&w.topology.developer.namespace, &arguments)?;
    ensure!(code != 0 && said.contains("flush = true"), "{code}: {said}");
    for http in &mut early {
        assert!(http.get("/", &[ALICE])?.text().starts_with("green"));
    }
    let mut cli = w.intercept(&w.alice, LOCAL, &["--header", ALICE, "--flush"])?;
    let flushed = cli.wait_event("flushed", Duration::from_secs(60))?;
    assert_eq!((&flushed["closed"], &flushed["left"]), (&4.into(), &0.into()), "{flushed}");
    for family in FAMILIES {
        let mut http = w.http(w.client(), family)?;
        assert!(http.get("/", &[])?.text().starts_with("green"));
        assert!(http.get("/", &[ALICE])?.text().starts_with("blue"));
    }
    cli.leave()
});

/// An app that thinks about each request for longer than a connection must be quiet to count as idle.
fn slow_app(w: &World) -> Result<()> {
    let at = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], PORT));
    let listener = w.pod().namespace.run(|| TcpListener::bind(at))??;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer_slowly(stream));
        }
    });
    Ok(())
}

fn answer_slowly(mut stream: TcpStream) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            (stream.read(&mut byte).ok()? == 1).then_some(())?;
            head.push(byte[0]);
        }
        head.clear();
        thread::sleep(THINKS);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ngreen").ok()?;
    }
}

const THINKS: Duration = Duration::from_millis(450);
/// Longer than a connection must be quiet to be closed.
const PAUSE: Duration = Duration::from_millis(700);

/// Requests that are sent before the first is answered.
const AHEAD: usize = 6;

/// One client of a pool: it looks at an idle connection before it uses it, and never sends a request twice.
fn pooled_client(w: &World, family: Family, stop: &AtomicBool, reconnects: &AtomicU32) -> Result<u32> {
    let mut answered = 0;
    let mut http = w.http(w.client(), family)?;
    while !stop.load(Ordering::Relaxed) {
        if is_stale(&http.stream)? {
            reconnects.fetch_add(1, Ordering::Relaxed);
            http = w.http(w.client(), family)?;
        }
        http.send(request("POST", "/order", &["content-length: 0"]))?;
        let response = http.response().with_context(|| format!("after {answered} answers"))?;
        ensure!(response.text() == "green", "{response:?}");
        answered += 1;
        thread::sleep(PAUSE);
    }
    Ok(answered)
}

both!(a_pool_under_load_loses_no_request, ALLOWED, |w| {
    slow_app(w)?;
    let _blue = w.local(LOCAL, "blue")?;
    let (stop, reconnects) = (AtomicBool::new(false), AtomicU32::new(0));
    let busy = Arc::new(AtomicBool::new(false));
    let w = &*w;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|n| {
                let (stop, reconnects) = (&stop, &reconnects);
                let client = move || {
                    thread::sleep(Duration::from_millis(90) * n);
                    pooled_client(w, FAMILIES[n as usize % 2], stop, reconnects)
                };
                scope.spawn(client)
            })
            .collect();
        // One that never rests: it has several requests under way all the time.
        let (restless, stop_it) = (busy.clone(), &stop);
        let restless = scope.spawn(move || -> Result<u32> {
            let mut http = w.http(w.client(), Family::V4)?;
            let mut answered = 0;
            http.send(request("GET", "/", &[]).repeat(AHEAD))?;
            while !stop_it.load(Ordering::Relaxed) {
                http.send(request("GET", "/", &[]))?;
                ensure!(http.response().context("the restless one's")?.text() == "green");
                answered += 1;
                restless.store(answered > 2, Ordering::Relaxed);
            }
            Ok(answered)
        });
        let during = || -> Result<()> {
            wait::until_true("everybody to be busy", SOON, || Ok(busy.load(Ordering::Relaxed)))?;
            let mut cli = w.intercept(&w.alice, LOCAL, &["--header", ALICE, "--flush"])?;
            let begin = Instant::now();
            let flushed = cli.wait_event("flushed", Duration::from_secs(60))?;
            ensure!(flushed["left"] == 1, "the one that never rests: {flushed} after {:?}", begin.elapsed());
            ensure!(flushed["closed"] == 12, "{flushed}");
            cli.leave()
        };
        let outcome = during();
        stop.store(true, Ordering::Relaxed);
        let mut answered = 0;
        for client in clients.into_iter().chain([restless]) {
            match client.join() {
                Ok(done) => answered += done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome?;
        if answered < 200 {
            bail!("{answered} answers are no load");
        }
        assert_eq!(reconnects.load(Ordering::Relaxed), 12, "each connected anew, once");
        Ok(())
    })
});
