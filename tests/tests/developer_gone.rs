//! How a developer goes: in order, killed, or with the whole machine. Unmatched requests never notice, and matched ones are
//! the app's again as soon as `docs/src/failures.md` says.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redir_rig::{
    Cli, Http, Load, LoadReport,
    agent::TUNNEL_PORT,
    topology::{FAMILIES, Family},
    wait,
};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, once, starvation::Starvation};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

const ALICE: &str = "x-user: alice";
/// Unmatched requests a second, each on a connection of its own.
const UNMATCHED: u32 = 200;
/// Matched ones.
const MATCHED: u32 = 100;
/// Longer than any state here takes on a machine at load 30.
const LATE: Duration = Duration::from_secs(60);

const UNDER_LOAD: Scenario = Scenario { limit: Duration::from_secs(240), ..USUAL };

fn load(w: &World, family: Family, rate: u32, headers: &[&str]) -> Result<Load> {
    let load = Load::start(&w.client().namespace, w.pod().at(family, PORT), rate, "/", headers)?;
    load.wait_for(20, Instant::now())?;
    Ok(load)
}

/// No request whose SYN was sent at `since` or later failed.
fn none_failed_since(report: &LoadReport, since: Option<Instant>, what: &str) -> Result<()> {
    let failed = report.failed(since, None);
    let shown: Vec<_> = failed.iter().take(5).map(|o| (since.map(|s| o.syn - s), o.took, &o.result)).collect();
    eprintln!("{what}: {:?}, slowest answer {:?}", report.by_answer(), report.slowest());
    ensure!(failed.is_empty(), "{what}: {} failed (SYN after, took, why): {shown:?}", failed.len());
    Ok(())
}

/// Alice's usual intercept, through a tunnel of this family.
fn intercept_over(w: &World, family: Family) -> Result<Cli> {
    let flags = w.agent_flags_over(family);
    let mut arguments = vec!["web-1", "--port", "8080:3000", "--header", ALICE];
    arguments.extend(flags.iter().map(String::as_str));
    w.alice.intercept(&w.topology.developer.namespace, &arguments)
}

fn tunnels_become(w: &World, count: f64) -> Result<()> {
    wait::until_true(format!("{count} tunnels"), LATE, || Ok((w.metric("redir_tunnels ", &[])? - count).abs() < 0.5))
}

once!(ctrl_c_fails_nothing, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    for family in FAMILIES {
        let unmatched = load(w, family, UNMATCHED, &[])?;
        let cli = intercept_over(w, family)?;
        cli.leave()?;
        ensure!(w.get(Family::V4, &[ALICE])?.starts_with("green"), "the next request goes to the app");
        unmatched.wait_for(50, Instant::now())?;
        none_failed_since(&unmatched.stop()?, None, "Ctrl-C")?;
    }
    Ok(())
});

/// The machine lives on, and its kernel answers the next packet with port unreachable.
fn killed(w: &mut World, family: Family, busy: bool) -> Result<()> {
    let what = format!("redir killed, tunnel over {family:?}, {}", if busy { "busy" } else { "idle" });
    let mut cli = intercept_over(w, family)?;
    let unmatched = load(w, Family::V4, UNMATCHED, &[])?;
    let matched = busy.then(|| load(w, Family::V6, MATCHED, &[ALICE])).transpose()?;
    let machine = Starvation::watch();
    let killed = Instant::now();
    cli.process.kill()?;
    tunnels_become(w, 0.0)?;
    machine.promise(&what, killed.elapsed(), Duration::from_millis(1500))?;
    let down = Instant::now();
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("green"), "the app has them again");
    if let Some(matched) = matched {
        matched.wait_for(50, down)?;
        let report = matched.stop()?;
        none_failed_since(&report, Some(down), &format!("matched, {what}"))?;
        let from_laptop = |o: &&redir_rig::load::Outcome| o.result.as_ref().is_ok_and(|body| body.starts_with("blue"));
        ensure!(report.outcomes.iter().filter(from_laptop).all(|o| o.syn < down), "the dead answer nobody");
    }
    none_failed_since(&unmatched.stop()?, None, &format!("unmatched, {what}"))?;
    w.before().restored(&w.pod().namespace, SOON)
}

once!(a_killed_redir_gives_its_requests_back, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    for family in FAMILIES {
        killed(w, family, true)?;
        killed(w, family, false)?;
    }
    Ok(())
});

once!(a_vanished_laptop_loses_new_requests_at_once_and_its_tunnel_later, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    let unmatched = load(w, Family::V4, UNMATCHED, &[])?;
    let matched = load(w, Family::V6, MATCHED, &[ALICE])?;
    let gateway = &w.topology.gateway.namespace;
    let (machine, gone) = (Starvation::watch(), Instant::now());
    gateway.ip("link set vdev down\n")?;
    let first = matched.wait_for_body("green", gone)?;
    machine.promise("laptop away, new matched requests go to the app", first.syn - gone, Duration::from_secs(2))?;
    tunnels_become(w, 0.0)?;
    machine.promise("laptop away, its tunnel counts as down", gone.elapsed(), Duration::from_secs(9))?;
    gateway.ip("link set vdev up\n")?;
    let back = Instant::now();
    cli.wait_event("lost", LATE)?;
    matched.wait_for_body("blue", back)?;
    machine.promise("laptop back, active again", back.elapsed(), Duration::from_secs(5))?;
    cli.wait_event("restored", LATE)?;
    let bypassed = cli.wait_event("bypassed", LATE)?;
    ensure!(bypassed["requests"].as_u64().is_some_and(|count| count > 0), "{bypassed}");
    let report = matched.stop()?;
    none_failed_since(&report, Some(first.syn), "matched, laptop away")?;
    for failed in report.failed(None, None) {
        let gateway_timeout = failed.result.as_ref().is_err_and(|why| why.starts_with("status 504"));
        // Those under way as well, and what is late on a busy machine.
        ensure!(gateway_timeout && failed.syn + failed.took > gone, "{failed:?}");
    }
    none_failed_since(&unmatched.stop()?, None, "unmatched, laptop away")?;
    cli.leave()
});

once!(a_short_absence_costs_no_tunnel_and_is_told, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    // On a connection that the developer had already, and on new ones.
    let mut kept = w.http(w.client(), Family::V4)?;
    ensure!(kept.get("/", &[ALICE])?.text().starts_with("blue"));
    let gateway = &w.topology.gateway.namespace;
    gateway.ip("link set vdev down\n")?;
    wait::until_true("new requests at the app", LATE, || {
        let mut http = w.http(w.client(), Family::V4)?;
        http.stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(http.get("/", &[ALICE]).is_ok_and(|answer| answer.text().starts_with("green")))
    })?;
    ensure!(kept.get("/", &[ALICE])?.text().starts_with("green"));
    ensure!(kept.get("/", &[])?.text().starts_with("green"));
    gateway.ip("link set vdev up\n")?;
    let told = cli.wait_event("bypassed", LATE)?;
    ensure!(told["requests"].as_u64().is_some_and(|count| count >= 2), "{told}");
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("blue") && kept.get("/", &[ALICE])?.text().starts_with("blue"));
    ensure!(cli.events("lost").is_empty(), "{}", cli.process.log());
    cli.leave()
});

/// So many packets in a hundred of the tunnel are lost, either way.
fn lose(w: &World, percent: u32) -> Result<()> {
    let rule = |port: &str| format!("udp {port} 7447 numgen random mod 100 < {percent} drop;");
    let table = format!(
        "table inet loss {{\n\
         chain arriving {{ type filter hook input priority 0; {} }}\n\
         chain leaving {{ type filter hook output priority 0; {} }}\n}}\n",
        rule("sport"),
        rule("dport")
    );
    w.topology.developer.namespace.output_with(&["nft", "-f", "-"], Some(&table)).map(drop)
}

fn lose_no_more(w: &World) -> Result<()> {
    w.topology.developer.namespace.output(&["nft", "delete", "table", "inet", "loss"]).map(drop)
}

/// A packet that says that nobody listens at `developer`, as its kernel would say it to the agent.
fn forged(agent: SocketAddr, developer: SocketAddr) -> Result<Vec<u8>> {
    let mut udp = [agent.port().to_be_bytes(), developer.port().to_be_bytes()].concat();
    udp.extend([0, 108, 0, 0]);
    let mut packet = match (agent.ip(), developer.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut quoted = vec![0x45, 0, 0, 128, 0, 1, 0x40, 0, 64, 17, 0, 0];
            quoted.extend([from.octets(), to.octets()].concat());
            [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut quoted = vec![0x60, 0, 0, 0, 0, 108, 17, 64];
            quoted.extend([from.octets(), to.octets()].concat());
            [&[1, 4, 0, 0, 0, 0, 0, 0][..], &quoted].concat()
        }
        mixed => anyhow::bail!("no packet has addresses of two families: {mixed:?}"),
    };
    packet.extend(udp);
    // What QUIC sent, as far as it is quoted: a forger knows nothing of it.
    packet.extend([0x40; 100]);
    if agent.is_ipv4() {
        let sum: u32 =
            packet.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two.get(1).copied().unwrap_or(0))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).context("a checksum")?;
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    Ok(packet)
}

fn forged_hints(w: &mut World, family: Family) -> Result<()> {
    const HINTS: usize = 1000;
    let cli = intercept_over(w, family)?;
    let (code, out, err) = w.redir(&w.alice, &["status", "-o", "json"])?;
    ensure!(code == 0, "{out}{err}");
    let lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tunnel = lines.into_iter().find(|line| line["event"] == "tunnel" && line["asking"] == false);
    let tunnel = tunnel.with_context(|| format!("no tunnel in {out}"))?;
    let developer: SocketAddr = tunnel["address"].as_str().context("an address")?.parse()?;
    let developer = SocketAddr::new(developer.ip().to_canonical(), developer.port());
    let agent = w.topology.node.at(family, TUNNEL_PORT);
    lose(w, 20)?;
    let (opened, probes) = (w.metric("redir_tunnels_opened_total", &[])?, w.metric("redir_tunnel_probes_total", &[])?);
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let raw = w.client().namespace.run(|| Socket::new(domain, Type::RAW, Some(protocol)))??;
    let packet = forged(agent, developer)?;
    let mut sent = 0;
    wait::until_true("the hints to be followed three times", LATE, || {
        for _ in 0..20 {
            raw.send_to(&packet, &SocketAddr::new(agent.ip(), 0).into())?;
            sent += 1;
        }
        Ok(sent >= HINTS && w.metric("redir_tunnel_probes_total", &[])? - probes > 2.5)
    })?;
    // Of the last one's pings nothing is known before the tunnel has carried something.
    for _ in 0..20 {
        ensure!(w.get(Family::V4, &[ALICE])?.starts_with("blue"), "the tunnel lives");
    }
    lose_no_more(w)?;
    let opened = w.metric("redir_tunnels_opened_total", &[])? - opened;
    ensure!(opened < 0.5 && cli.events("lost").is_empty(), "{opened} tunnels more: {}", cli.process.log());
    cli.leave()
}

once!(forged_hints_end_nothing_at_20_percent_loss, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    FAMILIES.into_iter().try_for_each(|family| forged_hints(w, family))
});

/// Clients with a connection each that they keep, and one request on it every tenth of a second.
struct Kept {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<BTreeMap<String, usize>>>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Kept {
    fn start(w: &World, clients: usize) -> Result<Self> {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<BTreeMap<String, usize>>>::default());
        let client = |number: usize| -> Result<_> {
            let mut http: Http = w.http(w.client(), FAMILIES[number % 2])?;
            let (stop, answers) = (stop.clone(), answers.clone());
            Ok(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = http.get("/", &[ALICE]).context("a kept connection")?;
                    ensure!(answer.status == 200, "a kept connection: {answer:?}");
                    let version = answer.text().split(' ').next().unwrap_or_default().to_owned();
                    *answers.lock().unwrap_or_else(PoisonError::into_inner).entry(version).or_default() += 1;
                    thread::sleep(Duration::from_millis(100));
                }
                Ok(())
            }))
        };
        let clients = (0..clients).map(client).collect::<Result<_>>()?;
        Ok(Self { stop, answers, clients })
    }

    fn end(self) -> Result<BTreeMap<String, usize>> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Stops a process and lets it go on, again and again: a machine that has no time for it.
struct Slowed {
    stop: Arc<AtomicBool>,
    pulses: Option<JoinHandle<()>>,
}

impl Slowed {
    fn begin(pid: i32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let pulses = thread::spawn(move || {
            let pid = Pid::from_raw(pid);
            while !stopped.load(Ordering::Relaxed) {
                for (signal, time) in [(Signal::SIGSTOP, 60), (Signal::SIGCONT, 40)] {
                    // It has ended, and so does the test.
                    kill(pid, signal).ok();
                    thread::sleep(Duration::from_millis(time));
                }
            }
        });
        Self { stop, pulses: Some(pulses) }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.pulses.take().map(JoinHandle::join);
    }
}

const LEAVING: Scenario = Scenario { limit: Duration::from_secs(900), ..USUAL };

/// Alice intercepts and leaves, so often, under matched requests; so many packets in a hundred are lost while she leaves.
fn leaving(w: &mut World, rounds: usize, clients: usize, loss: u32) -> Result<()> {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let slowed = Slowed::begin(w.agent.worker()?);
    let each = load(w, Family::V4, MATCHED, &[ALICE])?;
    let mut kept = None;
    for round in 0..rounds {
        let mut cli = w.alice()?;
        // A connection from before the first intercept is the app's for ever.
        if kept.is_none() {
            kept = Some(Kept::start(w, clients)?);
        }
        // Both kinds reach the developer before it ends.
        each.wait_for_body("blue", Instant::now())?;
        if round % 5 == 4 {
            let (code, out, err) = w.redir(&w.alice, &["leave", "web-1"])?;
            ensure!(code == 0, "{code} {out}{err}");
            ensure!(cli.process.exit_code(LATE)? == 0, "{}", cli.process.log());
        } else {
            lose(w, loss)?;
            cli.leave()?;
            lose_no_more(w)?;
        }
        ensure!(w.get(Family::V6, &[ALICE])?.starts_with("green"), "the next request goes to the app");
    }
    drop(slowed);
    let answers = kept.context("there were rounds")?.end()?;
    eprintln!("kept connections: {answers:?}");
    let enough = clients == 0 || answers.get("blue").is_some_and(|count| *count > rounds);
    ensure!(enough, "the developer had them too: {answers:?}");
    none_failed_since(&each.stop()?, None, "each on its own connection")
}

once!(leaving_fails_no_request, LEAVING, |w| leaving(w, 50, 10, 0));

// What the agent says last overtakes what it has sent before.
once!(leaving_fails_no_request_where_packets_are_lost, LEAVING, |w| leaving(w, 50, 0, 10));
