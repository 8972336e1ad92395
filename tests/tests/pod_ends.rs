//! A pod ends while the agent holds its clients' connections: each must end while the pod's link is still there.
#![cfg(target_os = "linux")]

use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use redir_rig::{
    Cli, Http, Listener,
    topology::{FAMILIES, Family},
    wait,
};
use redir_tests::{
    LOCAL, PORT, SOON, Scenario, USUAL, World, both,
    http2::{Client, Origin, whole},
    starvation::Starvation,
    write,
};

const ALICE: &str = "x-user: alice";
const HTTP2: u16 = 1;
const RAW: u16 = 2;
/// Longer than any state here takes on a machine at load 30.
const LATE: Duration = Duration::from_secs(60);
/// A runtime takes the link away some hundredths of a second after the last process.
const BEFORE_THE_LINK_GOES: Duration = Duration::from_millis(100);
/// For twelve clients on two processors.
const EACH_CLIENT: Duration = Duration::from_millis(500);

/// How a client's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    InOrder,
    Reset,
}

type Ends = mpsc::Sender<(String, Instant, Result<Ended>)>;

/// Waits for the end of a connection beside the test.
fn wait_for_end(name: String, mut stream: TcpStream, ends: Ends) -> Result<()> {
    stream.set_read_timeout(Some(wait::scaled(LATE)))?;
    thread::spawn(move || {
        let ended = match stream.read(&mut [0; 64]) {
            Ok(0) => Ok(Ended::InOrder),
            Ok(_) => Err(anyhow::anyhow!("it was answered")),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Ended::Reset),
            Err(error) => Err(error.into()),
        };
        // The test has failed otherwise.
        ends.send((name, Instant::now(), ended)).ok();
    });
    Ok(())
}

/// HTTP/1: a matched request under way, and connections that are idle behind a matched and an unmatched one.
fn http1(w: &World, family: Family, ends: &Ends) -> Result<()> {
    let mut busy = w.connect(w.client(), family)?;
    write(&mut busy, format!("GET /hold HTTP/1.1\r\nhost: a\r\n{ALICE}\r\n\r\n"))?;
    wait_for_end(format!("HTTP/1 under way, {family:?}"), busy, ends.clone())?;
    for (headers, version) in [(&[ALICE][..], "blue"), (&[], "green")] {
        let stream = w.connect(w.client(), family)?;
        let answer = Http::new(stream.try_clone()?).get("/", headers)?.text();
        ensure!(answer.starts_with(version), "{answer}");
        wait_for_end(format!("HTTP/1 idle behind {version}, {family:?}"), stream, ends.clone())?;
    }
    Ok(())
}

/// HTTP/2: a connection with a matched stream under way, and an idle one.
fn http2(w: &World, to: SocketAddr, ends: &Ends) -> Result<()> {
    for path in ["/hold", "/"] {
        let mut client = w.client().namespace.block_on(LATE, async move {
            let mut client = Client::connect(to).await?;
            ensure!(client.fetch("/", "alice").await?.version() == "blue");
            Ok(client)
        })??;
        let (ends, name) = (ends.clone(), format!("HTTP/2 {path} to {to}"));
        w.client().namespace.handle()?.spawn(async move {
            let request = if path == "/hold" { client.get(path, "alice").await.ok() } else { None };
            let ended = match request {
                Some(response) => {
                    whole(response).await.err().map_or(Err(anyhow::anyhow!("answered")), |_| Ok(Ended::Reset))
                }
                None => client.ended().await.map(|end| if end.is_ok() { Ended::InOrder } else { Ended::Reset }),
            };
            ends.send((name, Instant::now(), ended)).ok();
        });
    }
    Ok(())
}

/// A connection of no protocol that the agent knows, held by the developer.
fn raw(w: &World, family: Family, developer: &Listener, ends: &Ends) -> Result<TcpStream> {
    let mut stream = w.client().namespace.connect(w.pod().at(family, PORT + RAW))?;
    write(&mut stream, "hello")?;
    let held = loop {
        let (mut held, _) = developer.accept()?;
        // redir's own look whether somebody answers says nothing.
        if held.read(&mut [0; 5])? > 0 {
            break held;
        }
    };
    wait_for_end(format!("raw, {family:?}"), stream, ends.clone())?;
    Ok(held)
}

fn intercept(w: &World, port: u16, flags: &[&str]) -> Result<Cli> {
    let ports = format!("{}:{}", PORT + port, LOCAL + port);
    let arguments = w.arguments("web-1", &ports, flags);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    w.alice.intercept(&w.topology.developer.namespace, &arguments)
}

const LONG: Scenario = Scenario { limit: Duration::from_secs(180), ..USUAL };

both!(what_is_held_ends_with_the_process_that_the_pod_is_named_by, LONG, |w| {
    // The process whose namespace the file names, as a container's is.
    let mut owner = w.pod().namespace.spawn("owner", Command::new("sleep").arg("600"))?;
    w.config.pods[0].netns = format!("/proc/{}/ns/net", owner.pid()).into();
    w.agent.rewrite(&w.config.text(&w.agent.key())?)?;
    w.agent.process.wait_for_line("the configuration is read again", SOON)?;
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let any = |port: u16| SocketAddr::from(([0u16; 8], port));
    let _origins = (
        Origin::start(&w.pod().namespace, any(PORT + HTTP2), "green", None)?,
        Origin::start(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL + HTTP2).into(), "blue", None)?,
    );
    let _raw_apps = FAMILIES.map(|family| Listener::new(&w.pod().namespace, w.pod().at(family, PORT + RAW)));
    let raw_developer = Listener::new(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL + RAW).into())?;
    let _clis = (w.alice()?, intercept(w, HTTP2, &["--header", ALICE])?, intercept(w, RAW, &[])?);

    let (ends, ended) = mpsc::channel();
    let mut held = Vec::new();
    for family in FAMILIES {
        http1(w, family, &ends)?;
        http2(w, w.pod().at(family, PORT + HTTP2), &ends)?;
        held.push(raw(w, family, &raw_developer, &ends)?);
    }
    let under_way = |w: &World| w.metric("redir_requests_total", &["decision=\"developer\""]);
    wait::until_true("the requests to be under way", LATE, || Ok(under_way(w)? >= 10.0))?;
    if let Ok(early) = ended.try_recv() {
        bail!("ended before the pod: {early:?}");
    }
    let (machine, killed) = (Starvation::watch(), Instant::now());
    owner.kill()?;
    let (mut first, mut last) = (None, killed);
    for _ in 0..6 * FAMILIES.len() {
        let (name, at, how) = ended.recv_timeout(wait::scaled(LATE)).context("a client hangs")?;
        let how = how.with_context(|| name.clone())?;
        eprintln!("{name}: {how:?} after {:?}", at - killed);
        let idle = name.contains("idle") || name.contains("HTTP/2 / ");
        ensure!(idle || how == Ended::Reset, "{name} ended as if it were whole");
        first = first.into_iter().chain([at]).min();
        last = last.max(at);
    }
    // The others only wait for their turn on this machine, each with a thread of its own.
    let first = first.context("nobody was told")? - killed;
    machine.promise("the pod's process killed, the first client told", first, BEFORE_THE_LINK_GOES)?;
    machine.promise("the pod's process killed, the last client told", last - killed, EACH_CLIENT)?;
    w.recreate_pod()
});
