//! What a pod's network can do to steering and to the agent's own legs: filters, NAT, offloads, sizes, odd tuples.
//! Each of these broke something once, in an experiment or elsewhere.
#![cfg(target_os = "linux")]

mod netfilter;
mod ports;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use redir_rig::{
    App, Host, Http, Listener, Namespace, Topology,
    pattern::Pattern,
    topology::{FAMILIES, Family},
    wait,
};
use redir_tests::{
    LOCAL, PORT, Pair, SOON, Scenario, USUAL, World, both, once, read_all, read_exactly, reserved, write,
};

const ALICE: &str = "x-user: alice";

/// Many connections, each with data both ways, all through the agent.
fn exchange(w: &World, app: &Listener, family: Family, connections: usize) -> Result<()> {
    for n in 0..connections {
        let pair = w.pair(w.client(), family, app).with_context(|| format!("connection {n}"))?;
        converse(pair, 100_000).with_context(|| format!("connection {n}"))?;
    }
    Ok(())
}

/// So many checked bytes both ways at once, then an orderly end.
fn converse(mut pair: Pair, length: usize) -> Result<()> {
    let (mut client, mut app) = (pair.client.try_clone()?, pair.app.try_clone()?);
    std::thread::scope(|scope| {
        let up = scope.spawn(move || one_way(&mut client, &mut app, length).context("client to app"));
        one_way(&mut pair.app, &mut pair.client, length).context("app to client")?;
        up.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })?;
    drop(pair.client);
    ensure!(read_all(&mut pair.app)?.is_empty());
    Ok(())
}

fn one_way(from: &mut TcpStream, to: &mut TcpStream, length: usize) -> Result<()> {
    let mut sender = from.try_clone()?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<()> {
            let (mut pattern, mut buffer, mut sent) = (Pattern::default(), vec![0; 250_000], 0);
            while sent < length {
                let n = buffer.len().min(length - sent);
                pattern.fill(sent as u64, &mut buffer[..n]);
                sender.write_all(&buffer[..n]).context("send")?;
                sent += n;
            }
            Ok(())
        });
        let (mut pattern, mut buffer, mut done) = (Pattern::default(), vec![0; 250_000], 0);
        while done < length {
            let n = match to.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.context("receive")?,
            };
            ensure!(n > 0, "closed after {done} bytes");
            ensure!(pattern.check(done as u64, &buffer[..n]), "wrong bytes near {done}");
            done += n;
        }
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?
    })
}

fn listen(w: &World, family: Family) -> Result<Listener> {
    Listener::new(&w.pod().namespace, (family.any(), PORT).into())
}

/// The usual traffic of both kinds, in both families.
fn requests(w: &World, times: usize) -> Result<()> {
    for family in FAMILIES {
        for n in 0..times {
            let mut http = w.http(w.client(), family)?;
            let unmatched = http.get("/", &[]).with_context(|| format!("request {n}"))?.text();
            ensure!(unmatched == format!("green {}\n", w.client().ip(family)), "{unmatched}");
            let matched = http.get("/", &[ALICE])?.text();
            ensure!(matched.starts_with("blue"), "{matched}");
        }
    }
    Ok(())
}

fn both_apps(w: &World) -> Result<(App, App)> {
    Ok((w.green()?, w.local(LOCAL, "blue")?))
}

const COOKIES: Scenario = Scenario { before: |t| t.pod().namespace.sysctl("net.ipv4.tcp_syncookies", "2"), ..USUAL };

both!(syn_cookies_always, COOKIES, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    requests(w, 20)?;
    w.counted("steer", "steered_cookie", 40.0)
});

// ICMP "too big" towards the pod is what this is about.
const NO_SNIFF: Scenario = Scenario { sniff: false, ..USUAL };

both!(a_smaller_mtu_on_the_way, NO_SNIFF, |w| {
    w.client().namespace.ip("link set eth0 mtu 1300\n")?;
    w.topology.gateway.namespace.ip("link set vclient mtu 1300\n")?;
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = listen(w, family)?;
        converse(w.pair(w.client(), family, &app)?, 20_000_000)?;
        converse(w.pair(w.client(), family, &app)?, 1_000)?;
    }
    Ok(())
});

/// Every veth of the topology with its namespace.
fn devices(t: &Topology) -> Vec<(&Namespace, &'static str)> {
    let mut all = vec![
        (&t.pod().namespace, "eth0"),
        (&t.node.namespace, "vweb-1"),
        (&t.node.namespace, "vgw"),
        (&t.gateway.namespace, "vnode"),
        (&t.gateway.namespace, "vclient"),
    ];
    all.push((&t.client.namespace, "eth0"));
    all
}

const LONG: Scenario = Scenario { limit: Duration::from_secs(100), ..USUAL };

// The node says "too big" about such packets to a router that takes them no larger than 64 KiB.
both!(big_tcp, Scenario { sniff: false, ..LONG }, |w| {
    for (namespace, device) in devices(&w.topology).into_iter().chain([(w.node(), "br0")]) {
        let big = namespace.ip(&format!("link set {device} gso_max_size 185000 gro_max_size 185000\n"));
        if let Err(error) = big {
            redir_rig::left_out(&format!("BIG TCP: this kernel refuses it: {error:#}"));
            return Ok(());
        }
    }
    // The pod's own look was before: put back below.
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = listen(w, family)?;
        converse(w.pair(w.client(), family, &app)?, 20_000_000)?;
    }
    w.pod().namespace.ip("link set eth0 gso_max_size 65536 gro_max_size 65536\n")?;
    let leaked: Vec<_> = w.sniff.take()?.into_iter().filter(|packet| !packet.contains("icmp")).collect();
    ensure!(leaked.is_empty(), "{leaked:?}");
    Ok(())
});

both!(no_segmentation_offload, LONG, |w| {
    // One segment a packet at most: what a device without GSO does.
    for (namespace, device) in devices(&w.topology) {
        namespace.ip(&format!("link set {device} gso_max_segs 1 gso_max_size 1600\n"))?;
    }
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = listen(w, family)?;
        converse(w.pair(w.client(), family, &app)?, 10_000_000)?;
    }
    w.pod().namespace.ip("link set eth0 gso_max_segs 65535 gso_max_size 65536\n")
});

const ECN: Scenario = Scenario {
    before: |t| {
        for host in [t.pod(), &t.client] {
            host.namespace.sysctl("net.ipv4.tcp_ecn", "1")?;
        }
        Ok(())
    },
    ..USUAL
};

both!(explicit_congestion_notification, ECN, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        exchange(w, &listen(w, family)?, family, 3)?;
    }
    let _apps = both_apps(w)?;
    requests(w, 2)
});

const PLAIN_TCP: Scenario = Scenario {
    before: |t| {
        t.pod().namespace.sysctl("net.ipv4.tcp_timestamps", "0")?;
        t.pod().namespace.sysctl("net.ipv4.tcp_sack", "0")?;
        t.pod().namespace.sysctl("net.ipv4.tcp_window_scaling", "0")
    },
    ..USUAL
};

both!(without_timestamps_sack_and_window_scaling, PLAIN_TCP, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        exchange(w, &listen(w, family)?, family, 5)?;
    }
    let _apps = both_apps(w)?;
    requests(w, 2)
});

both!(keepalive_probes_of_the_app_are_answered, USUAL, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = listen(w, family)?;
        let mut pair = w.pair(w.client(), family, &app)?;
        setsockopt(&pair.app, sockopt::KeepAlive, &true)?;
        setsockopt(&pair.app, sockopt::TcpKeepIdle, &1)?;
        setsockopt(&pair.app, sockopt::TcpKeepInterval, &1)?;
        setsockopt(&pair.app, sockopt::TcpKeepCount, &2)?;
        let sent = || -> Result<u64> {
            // The kernel counts the probes it sent.
            let text = w.pod().namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
            counter(&text, "TcpExt:", "TCPKeepAlive")
        };
        let before = sent()?;
        wait::until_true("four keepalive probes", SOON, || Ok(sent()? >= before + 4))?;
        write(&mut pair.app, b"alive")?;
        ensure!(read_exactly(&mut pair.client, 5)? == b"alive");
        write(&mut pair.client, b"too")?;
        ensure!(read_exactly(&mut pair.app, 3)? == b"too");
    }
    Ok(())
});

/// A counter of `/proc/net/netstat`: names in one line, values in the next.
fn counter(text: &str, table: &str, name: &str) -> Result<u64> {
    let mut lines = text.lines().filter(|l| l.starts_with(table));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let found = names.split(' ').zip(values.split(' ')).find(|(n, _)| *n == name);
    Ok(found.with_context(|| format!("no counter {name}"))?.1.parse()?)
}

both!(cold_neighbour_caches, USUAL, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    for family in FAMILIES {
        for host in [w.client(), &w.topology.peer, &w.topology.node] {
            w.pod().namespace.ip("neigh flush dev eth0\n")?;
            let mut http = w.http(host, family)?;
            ensure!(http.get("/", &[])?.text() == format!("green {}\n", host.ip(family)));
        }
    }
    Ok(())
});

both!(link_local_clients, USUAL, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    let link_local = |host: &Host| -> Result<std::net::Ipv6Addr> {
        let all = host.namespace.addresses("eth0")?;
        all.into_iter()
            .find_map(|a| match a {
                std::net::IpAddr::V6(a) if a.is_unicast_link_local() => Some(a),
                _ => None,
            })
            .context("no link-local address")
    };
    let (pod, peer) = (link_local(w.pod())?, link_local(&w.topology.peer)?);
    let scope = w.topology.peer.namespace.run(|| nix::net::if_::if_nametoindex("eth0"))??;
    let to = std::net::SocketAddrV6::new(pod, PORT, 0, scope);
    let mut http = Http::new(w.topology.peer.namespace.connect(to.into())?);
    ensure!(http.get("/", &[])?.text() == format!("green {peer}\n"));
    ensure!(http.get("/", &[ALICE])?.text().starts_with("blue"));
    Ok(())
});

both!(either_end_may_close_first, USUAL, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = listen(w, family)?;
        for host in [w.client(), &w.topology.peer] {
            // The client closes, the app still writes into it, then closes.
            let mut pair = w.pair(host, family, &app)?;
            drop(pair.client);
            ensure!(read_all(&mut pair.app)?.is_empty());
            let _ = pair.app.write_all(b"late");
            drop(pair.app);
            // The app closes first, then the client.
            let mut pair = w.pair(host, family, &app)?;
            drop(pair.app);
            ensure!(read_all(&mut pair.client)?.is_empty());
            drop(pair.client);
        }
    }
    // Late segments are what used to leak: they are looked for in the end, when all sockets are gone.
    wait::until_true("the agent's legs to end", SOON, || {
        let text = w.pod().namespace.output(&["ss", "-Htan", "state", "established"])?;
        Ok(!text.contains(":8080"))
    })?;
    w.sniff.silent()
});
