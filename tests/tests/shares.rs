//! What one client, one key or one address may take of the agent: never another's share.
#![cfg(target_os = "linux")]

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use redir_rig::{Agent, App, Host, Http, agent::ADMIN, quic::half_handshake, topology::Family, wait};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, once};

const ALICE: &str = "x-user: alice";

/// Two pods, and an agent with so few file descriptors that it has room for some thousand connections.
const CROWDED: Scenario = Scenario {
    pods: 2,
    wrapper: &["prlimit", "--nofile=3000:3000"],
    // Hundreds of connections end at once, on several CPUs: see `ENDING_AT_ONCE` in `faults`.
    sniff: false,
    limit: Duration::from_secs(180),
    ..USUAL
};
/// More than it has room for.
const IDLE: usize = 1500;
/// So many at once: that the agent is slow to accept on this machine is no part of this.
const AT_ONCE: usize = 25;

/// Who answers a request of alice's on a new connection.
fn answers(from: &Host, to: SocketAddr) -> Result<String> {
    Ok(Http::new(from.namespace.connect(to)?).get("/", &[ALICE])?.text())
}

/// One client opens hundreds of connections to one pod and says nothing: neither another pod nor another client of the same pod
/// notices, and the developer hears of it, and when it is over.
fn idle_connections(w: &mut World, family: Family) -> Result<()> {
    let _green = [
        App::start(&w.topology.pods[0].namespace, PORT, "green")?,
        App::start(&w.topology.pods[1].namespace, PORT, "green")?,
    ];
    let _blue = w.local(LOCAL, "blue")?;
    let arguments = w.arguments("app=web", &format!("{PORT}:{LOCAL}"), &["--header", ALICE]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut cli = w.alice.start(&w.topology.developer.namespace, &arguments)?;
    cli.wait_events("live", 2, SOON)?;
    let [crowded, other] = [0, 1].map(|pod| w.topology.pods[pod].at(family, PORT));

    let mut idle = Vec::new();
    for number in 0..IDLE {
        idle.push(w.client().namespace.connect(crowded)?);
        if number % AT_ONCE == 0 {
            // Accepted behind all the others.
            answers(&w.topology.peer, crowded)?;
        }
    }
    let told = cli.wait_event("not_intercepted", SOON)?;
    ensure!(told["cause"] == "client_passes" && told["pod"] == "web-1", "{told}");
    ensure!(w.metric("redir_clients_passing", &[])? == 1.0);
    ensure!(w.metric("redir_bypasses_total", &["reason=\"share\""])? >= 1.0);
    ensure!(w.metric("redir_pods_passing", &["reason=\"share\""])? == 0.0);
    for _ in 0..20 {
        for (from, to) in [(w.client(), other), (&w.topology.peer, other), (&w.topology.peer, crowded)] {
            let who = answers(from, to)?;
            ensure!(who.starts_with("blue"), "{} to {to}: {who}", from.name);
        }
    }
    ensure!(answers(w.client(), crowded)?.starts_with("green"), "the client's own new connections pass");
    // Whatever they are, they are whole.
    for stream in idle.iter_mut().step_by(100) {
        let text = Http::new(stream.try_clone()?).get("/", &[])?.text();
        ensure!(text.starts_with("green"), "{text}");
    }
    drop(idle);
    wait::until_true("the client's connections to be looked at again", SOON, || {
        Ok(answers(w.client(), crowded)?.starts_with("blue"))
    })?;
    let told = cli.wait_event("intercepted_again", 3 * SOON)?;
    ensure!(told["cause"] == "client_passes" && told["pod"] == "web-1", "{told}");
    cli.leave()
}

once!(idle_connections_of_one_client_leave_everybody_else_intercepted, CROWDED, |w| idle_connections(w, Family::V4));
once!(the_same_over_ipv6, CROWDED, |w| idle_connections(w, Family::V6));

// A client with many addresses of one IPv6 network is one client.
once!(one_ipv6_network_is_one_client, CROWDED, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let mut cli = w.alice()?;
    let addresses = many_addresses(w, "fd10:3", 200)?;
    let crowded = w.pod().at(Family::V6, PORT);
    let mut idle = Vec::new();
    for (number, address) in addresses.iter().cycle().take(IDLE).enumerate() {
        idle.push(w.client().namespace.connect_from((*address, 0).into(), crowded)?);
        if number % AT_ONCE == 0 {
            answers(&w.topology.peer, crowded)?;
        }
    }
    ensure!(cli.wait_event("not_intercepted", SOON)?["cause"] == "client_passes");
    ensure!(w.metric("redir_clients_passing", &[])? == 1.0);
    ensure!(answers(&w.topology.peer, crowded)?.starts_with("blue"));
    ensure!(answers(w.client(), crowded)?.starts_with("green"), "of the same network");
    drop(idle);
    cli.leave()
});

/// So many more addresses of the client's, in its network or in networks of their own, that can be bound and answered.
fn many_addresses(w: &World, prefix: &str, count: usize) -> Result<Vec<IpAddr>> {
    let mut batch = String::new();
    let addresses: Vec<IpAddr> = (0..count)
        .map(|number| match prefix.split_once('*') {
            None => format!("{prefix}::7:{:x}", number + 1).parse(),
            Some((before, after)) => format!("{before}{:x}{after}::7", number + 1).parse(),
        })
        .collect::<Result<_, _>>()?;
    for address in &addresses {
        batch += &format!("addr add {address}/128 dev eth0 nodad\n");
    }
    w.client().namespace.ip(&batch)?;
    Ok(addresses)
}

/// A developer asks the agent while half handshakes come without end.
fn gets_in_beside(w: &World, sources: &[IpAddr], to: SocketAddr) -> Result<()> {
    // Twice as many as the agent has places for; then more each second than it takes to keep them taken.
    const FULL: usize = 512;
    const FLOODERS: usize = 8;
    let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    let flood = |first: usize| -> Result<()> {
        let sources = sources.iter().cycle().skip(first).step_by(FLOODERS);
        for source in sources.take_while(|_| !stop.load(Ordering::Relaxed)) {
            half_handshake(to, *source)?;
            begun.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let flood = |first| w.client().namespace.run(|| flood(first));
        let flooders: Vec<_> = (0..FLOODERS).map(|first| scope.spawn(move || flood(first))).collect();
        let asked = wait::until_true("the places to be taken", 6 * SOON, || Ok(begun.load(Ordering::Relaxed) >= FULL))
            .and_then(|()| {
                let mut quickest = SOON;
                for _ in 0..3 {
                    let began = Instant::now();
                    let (code, out, err) = w.redir(&w.alice, &["list"])?;
                    ensure!(code == 0 && out.contains("web-1"), "{code} after {:?}: {out}{err}", began.elapsed());
                    quickest = quickest.min(began.elapsed());
                }
                // A second on an idle machine: a packet that is lost is sent again.
                ensure!(quickest < Duration::from_secs(4), "the quickest of three took {quickest:?}");
                Ok(())
            });
        stop.store(true, Ordering::Relaxed);
        flooders.into_iter().try_for_each(|flooder| flooder.join().expect("no panic")?)?;
        asked
    })
}

const FLOOD: Scenario = Scenario { limit: Duration::from_secs(120), ..USUAL };

once!(half_handshakes_from_one_address_shut_nobody_out, FLOOD, |w| {
    let to = w.topology.node.at(Family::V4, redir_rig::agent::TUNNEL_PORT);
    gets_in_beside(w, &[w.client().ip(Family::V4)], to)
});

once!(half_handshakes_from_one_network_shut_nobody_out, FLOOD, |w| {
    let to = w.topology.node.at(Family::V6, redir_rig::agent::TUNNEL_PORT);
    gets_in_beside(w, &many_addresses(w, "fd10:3", 300)?, to)
});

once!(half_handshakes_from_many_networks_shut_nobody_out, FLOOD, |w| {
    let to = w.topology.node.at(Family::V6, redir_rig::agent::TUNNEL_PORT);
    w.topology.gateway.namespace.ip(&format!("route add fd20::/16 via {}\n", w.client().v6))?;
    w.node().ip("route add fd20::/16 via fd10:2::2\n")?;
    gets_in_beside(w, &many_addresses(w, "fd20:0:0:*", 600)?, to)
});

once!(one_key_has_a_bounded_number_of_tunnels, USUAL, |w| {
    let flags = w.agent_flags();
    let ports: Vec<String> = (9001..=9033).map(|port| format!("{port}:{LOCAL}")).collect();
    let ports = ports.iter().flat_map(|port| ["--port", port.as_str()]);
    let arguments = ["intercept", "web-1"].into_iter().chain(ports).chain(flags.iter().map(String::as_str));
    let (code, out, err) = w.alice.run(&w.topology.developer.namespace, &arguments.collect::<Vec<_>>())?;
    ensure!(code == 1 && err.contains("32 tunnels") && err.contains("end some"), "{code}: {out}{err}");
    let (code, out, err) = w.redir(&w.bob, &["list"])?;
    ensure!(code == 0, "another key: {code} {out}{err}");
    Ok(())
});

once!(a_probe_is_answered_while_half_requests_are_held, USUAL, |w| {
    let admin: SocketAddr = ADMIN.parse()?;
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..48 {
        let mut half = w.node().connect(admin)?;
        half.write_all(b"GET /healthz HTTP/1.1\r\nhost: ag")?;
        held.push(half);
    }
    let began = Instant::now();
    let (status, _) = Agent::admin(w.node(), "/healthz")?;
    // A half request may take five seconds: whoever waits for one waits longer.
    ensure!(status == 200 && began.elapsed() < Duration::from_secs(4), "{status} after {:?}", began.elapsed());
    Ok(())
});
