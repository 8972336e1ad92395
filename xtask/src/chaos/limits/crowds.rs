//! The crowds: who comes to the first pod, what they want, and what became of them. A new one is a row of [`CROWDS`].

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
use redir_rig::http2::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, frame};
use redir_rig::quic::half_handshake;
use redir_rig::topology::Family;
use redir_rig::{agent, wait};

use super::http2::{BEGIN, GET, Http2App};
use super::world::{PORT, PORT_HTTP2, Setting, World};

/// One of them.
pub(super) struct Crowd {
    pub(super) name: &'static str,
    pub(super) setting: Setting,
    /// Comes, and stays until most of it is dealt with; what became of it, in words.
    pub(super) come: fn(&World) -> Result<String>,
}

pub(super) const CROWDS: [Crowd; 8] = [
    Crowd { name: "heads", setting: Setting::Http1, come: heads },
    Crowd { name: "unread", setting: Setting::Http1, come: unread },
    Crowd { name: "tls", setting: Setting::Tls, come: tls },
    Crowd { name: "http2", setting: Setting::Empty, come: http2 },
    Crowd { name: "streams", setting: Setting::Empty, come: streams },
    Crowd { name: "idle", setting: Setting::Http1, come: idle },
    Crowd { name: "idle-http2", setting: Setting::Empty, come: idle_http2 },
    Crowd { name: "handshakes", setting: Setting::Http1, come: handshakes },
];

const CLIENTS: usize = 1000;
const LATER: Duration = Duration::from_secs(120);
const OPAQUE: (&str, &str) = ("redir_connections_opaque_total", "memory_scarce");
const FLOOD: (&str, &str) = ("redir_connections_closed_total", "flood");

/// All kinds of memory that clients can make an agent need, at the same time, held until the result is dropped: unfinished heads
/// and TLS, requests of HTTP/2 that wait, and answers that nobody reads.
pub(in crate::chaos) fn all_at_once(world: &World) -> Result<Vec<TcpStream>> {
    const HTTP2: usize = 20;
    const UNREAD: usize = 60;
    let mut crowd = begin(world, &unfinished_head(), CLIENTS)?;
    crowd.extend(begin(world, &unfinished_hello(), CLIENTS)?);
    reached(world, (OPAQUE.0, ""), 1800.0)?;
    let download = b"GET /download/50000000 HTTP/1.1\r\nhost: web\r\nx-user: alice\r\n\r\n";
    crowd.extend(begin(world, download, UNREAD)?);
    reached(world, ("redir_streams", ""), 20.0)?;
    let requests = requests(1000);
    for _ in 0..HTTP2 {
        let mut client = dial_port(world, PORT_HTTP2)?;
        // What is refused tells itself.
        let _ = client.write_all(&requests);
        crowd.push(client);
    }
    Ok(crowd)
}

fn unfinished_head() -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nhost: web\r\nx: {}", "y".repeat(255_000)).into_bytes()
}

/// Four records of a message of 64 KiB that lacks its end.
fn unfinished_hello() -> Vec<u8> {
    let record = [&[0x16, 3, 1, 0x3c, 0][..], &[0; 15 << 10]].concat();
    [&record[..5], &[1, 0, 0xff, 0xf0, 3, 3], &record[11..], &record, &record, &record].concat()
}

/// A connection of HTTP/2 with so many requests.
fn requests(count: u32) -> Vec<u8> {
    let requests = (0..count).flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &GET));
    BEGIN.iter().copied().chain(requests).collect()
}

fn heads(world: &World) -> Result<String> {
    let crowd = begin(world, &unfinished_head(), CLIENTS)?;
    let passed = reached(world, OPAQUE, 900.0)?;
    drop(crowd);
    Ok(format!("{passed} of {CLIENTS} went on unread"))
}

fn tls(world: &World) -> Result<String> {
    let crowd = begin(world, &unfinished_hello(), CLIENTS)?;
    // For want of memory; where they come slowly some for want of patience.
    let passed = reached(world, (OPAQUE.0, ""), 900.0)?;
    drop(crowd);
    Ok(format!("{passed} of {CLIENTS} went on unread"))
}

fn unread(world: &World) -> Result<String> {
    const TUNNELS: usize = 4;
    const EACH: usize = 60;
    let users: Vec<String> = (0..TUNNELS).map(|number| format!("x-user: tunnel-{number}")).collect();
    let tunnels: Vec<_> = users.iter().map(|user| world.intercept("web-1", user)).collect::<Result<_>>()?;
    let mut crowd = Vec::new();
    for user in &users {
        let request = format!("GET /download/50000000 HTTP/1.1\r\nhost: web\r\n{user}\r\n\r\n");
        crowd.extend(begin(world, request.as_bytes(), EACH)?);
    }
    let reset = reached(world, ("redir_connections_closed_total", "client_slow"), 20.0)?;
    drop((crowd, tunnels));
    Ok(format!("{reset} of {} were reset as too slow", TUNNELS * EACH))
}

fn http2(world: &World) -> Result<String> {
    const COUNT: usize = 200;
    silent_app(world)?;
    // Fields of one letter and no value, each named anew: four bytes of which a hundred become.
    let fields = [0, 1, b'a', 0].repeat(4000);
    let mut bytes = BEGIN.to_vec();
    bytes.extend(frame(HEADERS, 0, 1, &fields));
    (0..7).for_each(|_| bytes.extend(frame(CONTINUATION, 0, 1, &fields)));
    let crowd = begin_some(world, &bytes, COUNT)?;
    let ended = reached(world, FLOOD, 150.0)?;
    drop(crowd);
    Ok(format!("{ended} of {COUNT} connections were ended"))
}

fn streams(world: &World) -> Result<String> {
    const COUNT: usize = 20;
    const EACH: u32 = 4000;
    silent_app(world)?;
    let crowd = begin_some(world, &requests(EACH), COUNT)?;
    let refused = reached(world, ("redir_requests_total", "refused"), 1000.0)?;
    drop(crowd);
    Ok(format!("{refused} of {} requests were refused", COUNT * EACH as usize))
}

fn idle(world: &World) -> Result<String> {
    come_until_share(world, b"")
}

fn idle_http2(world: &World) -> Result<String> {
    silent_app(world)?;
    come_until_share(world, BEGIN)
}

/// More and more of them, which begin with these bytes, until the client has its share; then some more, which pass.
fn come_until_share(world: &World, bytes: &[u8]) -> Result<String> {
    const AT_ONCE: usize = 100;
    const MOST: usize = 15_000;
    let mut crowd = Vec::new();
    while world.metric("redir_clients_passing", "")? < 1.0 {
        ensure!(crowd.len() < MOST, "{} idle connections of one client, and none passes", crowd.len());
        crowd.extend(begin(world, bytes, AT_ONCE)?);
    }
    let share = crowd.len();
    crowd.extend(begin(world, bytes, CLIENTS)?);
    drop(crowd);
    Ok(format!("of {} of one client those behind the first {share} passed", share + CLIENTS))
}

/// An app of the first pod that answers the preface like a server of HTTP/2, reads, and says nothing more.
fn silent_app(world: &World) -> Result<()> {
    Http2App::start(&world.topology.pod().namespace, ([0, 0, 0, 0], PORT).into(), None).map(|_app| ())
}

/// A developer comes while one address begins handshakes without end.
fn handshakes(world: &World) -> Result<String> {
    const FLOODERS: usize = 8;
    // Twice as many as the agent has places for.
    const FULL: usize = 512;
    let to = world.topology.node.at(Family::V4, agent::TUNNEL_PORT);
    let client = &world.topology.client;
    let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begin = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            half_handshake(to, client.ip(Family::V4))?;
            begun.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let flood = || client.namespace.run(begin)?;
    let took = thread::scope(|scope| {
        let flooders: Vec<_> = (0..FLOODERS).map(|_| scope.spawn(flood)).collect();
        let full = wait::until_true("the places to be taken", LATER, || Ok(begun.load(Ordering::Relaxed) >= FULL));
        let came = Instant::now();
        let served = full.and_then(|()| world.intercept("web-1", "x-user: late")).map(|_cli| came.elapsed());
        stop.store(true, Ordering::Relaxed);
        for flooder in flooders {
            flooder.join().map_err(|_| anyhow!("a flooder panicked"))??;
        }
        served
    })?;
    Ok(format!("a developer got in within {took:.1?} beside {} of them", begun.into_inner()))
}

/// So many clients begin something and leave it at that.
fn begin(world: &World, bytes: &[u8], count: usize) -> Result<Vec<TcpStream>> {
    let begun = (0..count).map(|_| {
        let mut client = dial(world)?;
        client.write_all(bytes).context("the agent takes no more from a client")?;
        Ok(client)
    });
    begun.collect()
}

/// The same of clients whose connections may be ended meanwhile.
fn begin_some(world: &World, bytes: &[u8], count: usize) -> Result<Vec<TcpStream>> {
    let begun = (0..count).map(|_| {
        let mut client = dial(world)?;
        // What is refused tells itself.
        let _ = client.write_all(bytes);
        Ok(client)
    });
    begun.collect()
}

fn dial(world: &World) -> Result<TcpStream> {
    dial_port(world, PORT)
}

fn dial_port(world: &World, port: u16) -> Result<TcpStream> {
    let client = world.topology.client.namespace.connect(world.topology.pod().at(Family::V4, port))?;
    client.set_write_timeout(Some(LATER))?;
    // Who reads nothing shall not have the kernel take megabytes instead.
    setsockopt(&client, RcvBuf, &4096)?;
    Ok(client)
}

/// Waits until a figure is there, and gives it.
fn reached(world: &World, (name, label): (&str, &str), least: f64) -> Result<f64> {
    wait::until(format!("{least} of {name} {label}"), LATER, || {
        let count = world.metric(name, label)?;
        Ok((count >= least).then_some(count))
    })
}
