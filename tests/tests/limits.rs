//! The agent in a memory cgroup, as its chart limits it, and clients that want more memory of it than there is: the worker
//! lives, other connections live, and whoever asks the app is answered by it.
#![cfg(target_os = "linux")]

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use redir_rig::{
    Agent, App, Certificate, Cli, Http, MemoryCgroup, left_out,
    topology::{FAMILIES, Family},
    wait,
};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, http2::Origin, once};
use socket2::SockRef;

const MIB: u64 = 1 << 20;
/// Half of what the chart gives the agent.
const LIMIT: u64 = 128 * MIB;
const CLIENTS: usize = 1000;
/// On a busy machine, with a debug build.
const LATER: Duration = Duration::from_secs(120);

/// The second pod is the others'.
const CROWDED: Scenario = Scenario { pods: 2, sniff: false, limit: Duration::from_secs(300), ..USUAL };
/// The agent has the first pod's certificate.
const SECURE: Scenario = Scenario { config: |config| config.pods[0].tls = vec![(PORT, certificate())], ..CROWDED };

fn certificate() -> Certificate {
    Certificate::new().expect("a certificate")
}

/// The agent in its cgroup, an intercept of each pod, and a connection that others have open to the second one.
struct Squeezed {
    cgroup: MemoryCgroup,
    worker: i32,
    alice: Cli,
    _bob: Cli,
    bystander: Http,
    _apps: Vec<App>,
}

impl Squeezed {
    /// `None` where memory cannot be limited.
    fn new(w: &mut World) -> Result<Option<Self>> {
        let Some(cgroup) = MemoryCgroup::new(LIMIT)? else {
            left_out("an agent with little memory: this container has a single cgroup");
            return Ok(None);
        };
        w.agent.terminate(Duration::from_secs(30))?;
        let wrapper = cgroup.wrapper();
        w.agent.restart(&w.topology.node.namespace, &wrapper.each_ref().map(String::as_str))?;
        let apps = vec![App::start(&w.topology.pods[1].namespace, PORT, "green")?, w.local(LOCAL, "blue")?];
        let alice = w.alice()?;
        let arguments = w.arguments("web-2", "8080:3000", &["--header", "x-user: alice"]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut bob = w.bob.start(&w.topology.developer.namespace, &arguments)?;
        bob.wait_live()?;
        let mut bystander = Http::new(w.client().namespace.connect(w.topology.pods[1].at(Family::V4, PORT))?);
        ensure!(bystander.get("/", &[])?.text().starts_with("green"));
        let worker = w.agent.worker()?;
        Ok(Some(Self { cgroup, worker, alice, _bob: bob, bystander, _apps: apps }))
    }

    /// Nobody has lost anything.
    fn all_well(&mut self, w: &World) -> Result<()> {
        ensure!(self.cgroup.killed()? == 0, "the kernel has killed for want of memory");
        ensure!(w.agent.worker()? == self.worker, "the worker is another one: {:?}", w.agent.lines(&["WARN"]));
        // More of a head than each connection may hold at any time.
        let cookie = format!("cookie: {}", "y".repeat(4 << 10));
        for (header, answer) in [("x-user: nobody", "green"), ("x-user: alice", "blue")] {
            ensure!(
                self.bystander.get("/", &[header, &cookie])?.text().starts_with(answer),
                "{header} of the other pod"
            );
        }
        ensure!(self.cgroup.peak()? <= LIMIT);
        Ok(())
    }
}

/// So many clients begin something and leave it at that.
fn begin(w: &World, bytes: &[u8], clients: usize) -> Result<Vec<TcpStream>> {
    let begun = (0..clients).map(|_| {
        let mut client = w.connect(w.client(), Family::V4)?;
        client.set_write_timeout(Some(LATER))?;
        // Who reads nothing shall not have the kernel take megabytes instead.
        SockRef::from(&client).set_recv_buffer_size(4096)?;
        client.write_all(bytes).context("a client's beginning")?;
        Ok(client)
    });
    begun.collect()
}

/// A request to the first pod on a connection of its own; its app may have much to do with what was passed on to it.
fn ask(w: &World, family: Family, header: &str) -> Result<String> {
    let client = w.connect(w.client(), family)?;
    client.set_read_timeout(Some(LATER))?;
    Ok(Http::new(client).get("/", &[header])?.text())
}

fn unread(w: &World, why: &str) -> Result<f64> {
    w.metric("redir_connections_opaque_total", &[&format!("reason=\"{why}\"")])
}

/// What the worker has resident, in bytes.
fn resident(w: &World) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", w.agent.worker()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")).context("VmRSS")?.parse()?;
    Ok(kib << 10)
}

once!(unfinished_heads_leave_memory_to_the_others, CROWDED, |w| {
    let _green = w.green()?;
    let Some(mut squeezed) = Squeezed::new(w)? else { return Ok(()) };
    let before = resident(w)?;
    let head = format!("GET / HTTP/1.1\r\nhost: web\r\nx: {}", "y".repeat(255_000));
    let clients = begin(w, head.as_bytes(), CLIENTS)?;
    wait::until_true("most of them to go on unread", LATER, || Ok(unread(w, "memory_scarce")? > 900.0))?;
    squeezed.all_well(w)?;
    for family in FAMILIES {
        ensure!(ask(w, family, "x-user: nobody")?.starts_with("green"));
        ensure!(ask(w, family, "x-user: alice")?.starts_with("blue"), "a request that is whole is decided");
    }
    let told = squeezed.alice.wait_event("not_intercepted", SOON)?;
    ensure!(told["cause"] == "memory_scarce", "{told}");
    drop(clients);
    let bound = before + 24 * MIB;
    wait::until_true("the memory to come back", LATER, || Ok(resident(w)? < bound))
        .with_context(|| format!("{before} resident before, {:?} after", resident(w)))?;
    squeezed.all_well(w)
});

once!(unread_answers_of_all_tunnels_have_one_bound, CROWDED, |w| {
    const TUNNELS: usize = 4;
    const STALLED: usize = 60;
    let _green = w.green()?;
    let Some(mut squeezed) = Squeezed::new(w)? else { return Ok(()) };
    let before = resident(w)?;
    let mut tunnels = Vec::new();
    for number in 0..TUNNELS {
        // Of several keys: each has its part, and all together have one bound.
        let key = [&w.alice, &w.bob][number % 2];
        tunnels.push(w.intercept(key, LOCAL, &["--header", &format!("x-user: tunnel-{number}")])?);
    }
    let mut stalled = Vec::new();
    for number in 0..TUNNELS {
        let request = format!("GET /download/50000000 HTTP/1.1\r\nhost: web\r\nx-user: tunnel-{number}\r\n\r\n");
        stalled.extend(begin(w, request.as_bytes(), STALLED)?);
    }
    wait::until_true("the slowest to be reset", LATER, || {
        Ok(w.metric("redir_connections_closed_total", &["reason=\"client_slow\""])? >= 8.0)
    })?;
    squeezed.all_well(w)?;
    ensure!(ask(w, Family::V4, "x-user: nobody")?.starts_with("green"));
    ensure!(ask(w, Family::V4, "x-user: alice")?.starts_with("blue"), "the other tunnel is not stalled");
    // A quarter of the limit for what is unread, and what else the worker needs.
    let held = resident(w)?.saturating_sub(before);
    ensure!(held < 72 * MIB, "{held} bytes more than before");
    drop(stalled);
    squeezed.all_well(w)
});

once!(unfinished_tls_leaves_memory_to_the_others, SECURE, |w| {
    let _green = w.green()?;
    let Some(mut squeezed) = Squeezed::new(w)? else { return Ok(()) };
    // Four records of a message of 64 KiB that lacks its end.
    let record = [&[0x16, 3, 1, 0x3c, 0][..], &[0; 15 << 10]].concat();
    let mut hello = [&record[..5], &[1, 0, 0xff, 0xf0, 3, 3], &record[11..]].concat();
    (0..3).for_each(|_| hello.extend_from_slice(&record));
    let clients = begin(w, &hello, CLIENTS)?;
    // For want of memory, or of patience where they come slowly.
    wait::until_true("most of them to go on unread", LATER, || {
        Ok(unread(w, "memory_scarce")? + unread(w, "tls")? > 900.0)
    })?;
    squeezed.all_well(w)?;
    ensure!(ask(w, Family::V4, "x-user: nobody")?.starts_with("green"), "in clear");
    drop(clients);
    squeezed.all_well(w)
});

once!(unfinished_http2_heads_leave_memory_to_the_others, CROWDED, |w| {
    const H2_CLIENTS: usize = 200;
    let _green = Origin::start(&w.pod().namespace, ([0u16; 8], PORT).into(), "green", None)?;
    let Some(mut squeezed) = Squeezed::new(w)? else { return Ok(()) };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // Fields of one letter and no value, each named anew and put into no table: four bytes of which a hundred become.
    let fields = [0, 1, b'a', 0].repeat(4000);
    for number in 0..8 {
        let (kind, length) = (if number == 0 { 1 } else { 9 }, u32::try_from(fields.len())?.to_be_bytes());
        bytes.extend([length[1], length[2], length[3], kind, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(&fields);
    }
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..H2_CLIENTS {
        let mut client = w.connect(w.client(), Family::V4)?;
        client.set_write_timeout(Some(LATER))?;
        // Whose connection is ended cannot write all of it.
        let _ = client.write_all(&bytes);
        clients.push(client);
    }
    // A block that began with the connection goes to the app as it came, a later one is kept as it came; neither holds what it
    // would become.
    let ended = || w.metric("redir_connections_closed_total", &["reason=\"flood\""]);
    let unread = || w.metric("redir_connections_opaque_total", &["reason=\"memory_scarce\""]);
    wait::until_true("most of them to find no room", LATER, || Ok(ended()? + unread()? > 150.0))?;
    squeezed.all_well(w)?;
    // Those that are waited for are not waited for without end.
    let all = || Ok(ended()? + unread()? >= H2_CLIENTS as f64);
    wait::until_true("none of them to be waited for", LATER, all)
        .with_context(|| format!("{:?}", Agent::metrics(w.node())))?;
    ensure!(begun.elapsed() > Duration::from_secs(25), "some had room: {:?}", begun.elapsed());
    drop(clients);
    squeezed.all_well(w)
});
