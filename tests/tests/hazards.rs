//! What a pod's network can do to steering and to the agent's own legs: filters, NAT, offloads, sizes, odd tuples.
//! Each of these broke something once, in an experiment or elsewhere.
#![cfg(target_os = "linux")]

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

const STRICT: Scenario = Scenario {
    before: |t| {
        for key in ["all", "eth0", "lo"] {
            t.pod().namespace.sysctl(&format!("net.ipv4.conf.{key}.rp_filter"), "1")?;
        }
        Ok(())
    },
    ..USUAL
};

both!(strict_reverse_path_filter, STRICT, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    requests(w, 5)
});

const NFT: Scenario = Scenario {
    before: |t| {
        t.pod()
            .namespace
            .output_with(
                &["nft", "-f", "-"],
                Some(
                    "table inet z {
                        chain n1 { type nat hook prerouting priority -100; tcp dport 9 redirect to 10; }
                        chain n2 { type nat hook postrouting priority 100; oifname eth0 masquerade; }
                        chain i { type filter hook input priority 0; ct state invalid counter drop; }
                        chain o { type filter hook output priority 0; ct state invalid counter drop; }
                        chain p { type filter hook prerouting priority 0; ct state invalid counter drop; }
                     }\n",
                ),
            )
            .map(drop)
    },
    ..USUAL
};

both!(nat_and_invalid_drop_by_nft, NFT, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        exchange(w, &listen(w, family)?, family, 20)?;
    }
    let _apps = both_apps(w)?;
    requests(w, 5)
});

const LEGACY: Scenario = Scenario {
    before: |t| {
        for iptables in ["iptables-legacy", "ip6tables-legacy"] {
            for rule in [
                "-t nat -A PREROUTING -p tcp --dport 9 -j REDIRECT --to-ports 10",
                "-t nat -A POSTROUTING -o eth0 -j MASQUERADE",
                "-A INPUT -m conntrack --ctstate INVALID -j DROP",
                "-A OUTPUT -m conntrack --ctstate INVALID -j DROP",
                "-t mangle -A PREROUTING -m conntrack --ctstate INVALID -j DROP",
                "-A INPUT -i eth0 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
            ] {
                let command: Vec<&str> = [iptables].into_iter().chain(rule.split(' ')).collect();
                t.pod().namespace.output(&command)?;
            }
        }
        Ok(())
    },
    ..USUAL
};

both!(nat_and_invalid_drop_by_iptables, LEGACY, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        exchange(w, &listen(w, family)?, family, 20)?;
    }
    let _apps = both_apps(w)?;
    requests(w, 5)
});

const COOKIES: Scenario = Scenario { before: |t| t.pod().namespace.sysctl("net.ipv4.tcp_syncookies", "2"), ..USUAL };

both!(syn_cookies_always, COOKIES, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    requests(w, 20)?;
    w.counted("steer", "steered_cookie", 40.0)
});

both!(time_wait_tuples_are_reused, USUAL, |w| {
    let (green, _blue) = both_apps(w)?;
    let _cli = w.alice()?;
    for family in FAMILIES {
        let from: SocketAddr = (w.client().ip(family), 45_000).into();
        for round in 0..6 {
            // `/close`: the server's side closes first, so its TIME_WAIT stays in the pod; the client comes again
            // from the same port at once, and is still looked at.
            let (header, version) = if round % 2 == 0 { ("x-user: nobody", "green") } else { (ALICE, "blue") };
            let mut http = Http::new(w.client().namespace.connect_from(from, w.pod().at(family, PORT))?);
            let response = http.get("/close", &[header]).with_context(|| format!("round {round}"))?;
            ensure!(response.text().starts_with(version), "round {round}: {response:?}");
            ensure!(http.closed()?);
        }
    }
    ensure!(green.clients().iter().all(|c| reserved(c.port())), "{:?}", green.clients());
    // This kernel has the companion program; where it is missing, these connections go to the app.
    w.counted("time_wait", "steered", 10.0)
});

both!(time_wait_from_before_the_intercept, USUAL, |w| {
    let _apps = both_apps(w)?;
    let close = |family, header| -> Result<String> {
        let from = (w.client().ip(family), 45_001).into();
        let mut http = Http::new(w.client().namespace.connect_from(from, w.pod().at(family, PORT))?);
        let text = http.get("/close", &[header])?.text();
        ensure!(http.closed()?);
        Ok(text)
    };
    for family in FAMILIES {
        ensure!(close(family, "x: y")?.starts_with("green"));
    }
    let _cli = w.alice()?;
    for family in FAMILIES {
        // The app's own TIME_WAIT: the connection works, whoever gets it, and nobody waits.
        let begin = Instant::now();
        let text = close(family, ALICE)?;
        ensure!(text.starts_with("blue") || text.starts_with("green"), "{text}");
        ensure!(begin.elapsed() < wait::scaled(Duration::from_secs(3)), "{:?}", begin.elapsed());
    }
    Ok(())
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

/// A legacy table, once looked at, stays registered: it is there before the first look.
const TABLES: Scenario = Scenario {
    before: |t| {
        for iptables in ["iptables-legacy", "ip6tables-legacy"] {
            t.pod().namespace.output(&[iptables, "-L", "-n"])?;
        }
        Ok(())
    },
    limit: Duration::from_secs(120),
    ..USUAL
};

both!(an_icmp_reject_in_the_pod_ends_the_leg_at_once, TABLES, |w| {
    let _apps = both_apps(w)?;
    let mut cli = w.alice()?;
    for (time, (family, iptables)) in (1..).zip([(Family::V4, "iptables-legacy"), (Family::V6, "ip6tables-legacy")]) {
        // The agent's legs come from these, the client's own packets do not.
        let rule = "INPUT -p tcp --dport 8080 -m multiport --sports 512:1023,10000:29999 -j REJECT";
        let command = |action| [iptables, action].into_iter().chain(rule.split(' ')).collect::<Vec<_>>();
        w.pod().namespace.output(&command("-I"))?;
        let begin = Instant::now();
        // The reset may come before the client has looked at its new connection.
        let ended = w.connect(w.client(), family).and_then(|mut client| read_all(&mut client));
        ensure!(ended.is_err() || ended.is_ok_and(|b| b.is_empty()));
        ensure!(begin.elapsed() < wait::scaled(Duration::from_secs(3)), "{:?}", begin.elapsed());
        // The way is found broken; not before may it be whole again, or the port would be taken back later.
        cli.wait_events("refused", time, SOON)?;
        w.pod().namespace.output(&command("-D"))?;
        ensure!(w.get(family, &[])?.starts_with("green"));
        wait::until_true("the port is intercepted again", SOON * 3, || {
            Ok(w.get(family, &[ALICE])?.starts_with("blue"))
        })?;
    }
    w.sniff.silent()
});

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

/// Service address → the pod itself, by the node: the pod's own packet comes back to it.
const HAIRPIN: Scenario = Scenario {
    before: |t| {
        t.node.namespace.output_with(
            &["nft", "-f", "-"],
            Some(
                "table ip t {
                    chain pre { type nat hook prerouting priority -100; ip daddr 10.96.0.10 tcp dport 80 dnat to 10.210.1.11:8080; }
                    chain post { type nat hook postrouting priority 100; ip saddr 10.210.1.11 ip daddr 10.210.1.11 masquerade; }
                 }\n",
            ),
        )?;
        t.node.namespace.output(&["bridge", "link", "set", "dev", "vweb-1", "hairpin", "on"]).map(drop)
    },
    ..USUAL
};

both!(a_pod_that_calls_its_own_service, HAIRPIN, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    let service: SocketAddr = ([10, 96, 0, 10], 80).into();
    for _ in 0..5 {
        let mut http = Http::new(w.pod().namespace.connect(service)?);
        // Masqueraded by the node: its address is what the app sees, as without redir.
        ensure!(http.get("/", &[])?.text() == format!("green {}\n", w.topology.node.v4));
        ensure!(http.get("/", &[ALICE])?.text().starts_with("blue"));
    }
    Ok(())
});

// Client ports in the reserved ranges cross the device by their own right.
const HIGH_PORTS: Scenario =
    Scenario { config: |c| c.more = "upstream_ports = \"high\"".into(), sniff: false, ..USUAL };

both!(clients_may_use_ports_of_the_reserved_range, HIGH_PORTS, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = listen(w, family)?;
        let mut open: Vec<Pair> = Vec::new();
        for n in 0..60_u16 {
            let port = 10_000 + n * 311;
            // The port of a live leg has its own test.
            if open.iter().any(|pair| pair.peer.port() == port) {
                continue;
            }
            let from = (w.client().ip(family), port).into();
            let client = w.client().namespace.connect_from(from, w.pod().at(family, PORT))?;
            let (app, peer) = w.accept(&app, w.client(), family)?;
            ensure!(peer.ip() == w.client().ip(family) && reserved(peer.port()), "{peer}");
            open.push(Pair { client, app, peer });
        }
        for (n, pair) in open.iter_mut().enumerate() {
            write(&mut pair.client, n.to_string() + "\n")?;
            ensure!(read_exactly(&mut pair.app, n.to_string().len())? == n.to_string().as_bytes());
        }
    }
    Ok(())
});

both!(a_live_client_on_a_reserved_port_is_not_harmed, HIGH_PORTS, |w| {
    let app = listen(w, Family::V4)?;
    // Straight to the app, from before the intercept, from ports that the agent may choose later.
    let mut direct = Vec::new();
    for n in 0..200_u16 {
        let from = (w.client().ip(Family::V4), 10_000 + n * 97).into();
        let client = w.client().namespace.connect_from(from, w.pod().at(Family::V4, PORT))?;
        direct.push((client, app.accept()?.0));
    }
    let _cli = w.alice()?;
    let mut steered = Vec::new();
    for _ in 0..300 {
        steered.push(w.pair(w.client(), Family::V4, &app)?);
    }
    for (client, end) in &mut direct {
        write(client, b"still")?;
        ensure!(read_exactly(end, 5)? == b"still");
        write(end, b"alive")?;
        ensure!(read_exactly(client, 5)? == b"alive");
    }
    for pair in &mut steered {
        write(&mut pair.app, b"x")?;
        ensure!(read_exactly(&mut pair.client, 1)? == b"x");
    }
    Ok(())
});

both!(a_client_port_that_is_a_live_leg_only_waits, HIGH_PORTS, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = listen(w, family)?;
        let mut pair = w.pair(w.client(), family, &app)?;
        let from: SocketAddr = (w.client().ip(family), pair.peer.port()).into();
        // The very tuple of the agent's leg: not answered, and the leg is unharmed.
        let second = w.client().namespace.connect_with(w.pod().at(family, PORT), Duration::from_millis(1200), |s| {
            s.set_reuse_address(true)?;
            s.bind(&from.into())
        });
        ensure!(second.is_err(), "the tuple has two owners");
        write(&mut pair.app, b"unharmed")?;
        ensure!(read_exactly(&mut pair.client, 8)? == b"unharmed");
        drop(pair.app);
        ensure!(read_all(&mut pair.client)?.is_empty());
        drop(pair.client);
        // Once it is gone, the client gets its port.
        let mut client = w.client().namespace.connect_from(from, w.pod().at(family, PORT))?;
        let (mut end, _) = w.accept(&app, w.client(), family)?;
        write(&mut client, b"now\n")?;
        ensure!(read_exactly(&mut end, 4)? == b"now\n");
    }
    Ok(())
});

const MANY: Scenario = Scenario { limit: Duration::from_secs(150), ..USUAL };

/// The agent's own look at the port would be one connection more, before the app is there or after.
const UNSEEN: Scenario = Scenario { config: |config| config.more = "probe_tls = false".into(), ..MANY };

once!(ports_that_run_short_let_new_connections_pass_to_the_app, UNSEEN, |w| {
    let _cli = w.alice()?;
    let green = App::start(&w.pod().namespace, PORT, "green")?;
    // 512 low ports and then the high range: more connections than the low range holds, all kept open, all served.
    let client = w.client().ip(Family::V4);
    let mut open = Vec::new();
    for n in 0..700 {
        let mut http = w.http(w.client(), Family::V4)?;
        let text = http.get("/", &[]).with_context(|| format!("connection {n}"))?.text();
        ensure!(text == format!("green {client}\n"), "connection {n}: {text}");
        open.push(http);
    }
    let ports: Vec<u16> = green.clients().iter().map(|c| c.port()).collect();
    ensure!(ports.iter().filter(|p| (512..=1023).contains(*p)).count() > 300, "the low range is used first");
    ensure!(ports.iter().any(|p| (10_000..=29_999).contains(p)), "the high range follows");
    // None was ever sent from another address.
    ensure!(green.by_client() == BTreeMap::from([(client, 700)]), "{:?}", green.by_client());
    // Clients end them, as clients do: that the app ends so many at once is no part of this.
    drop(open);
    wait::until_true("the last connection to end", SOON, || Ok(green.open() == 0))
});

const FEW_FILES: Scenario = Scenario { wrapper: &["prlimit", "--nofile=1200:1200"], ..MANY };

once!(an_agent_short_of_files_lets_new_connections_pass, FEW_FILES, |w| {
    let green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    let client = w.client().v4;
    let mut open = Vec::new();
    // Each costs the agent two files: more connections than it has files, all kept open, all served.
    for n in 0..900 {
        let mut http = w.http(w.client(), Family::V4)?;
        let text = http.get("/", &[]).with_context(|| format!("connection {n}"))?.text();
        ensure!(text == format!("green {client}\n"), "connection {n}: {text}");
        open.push(http);
    }
    let passed = green.clients().iter().filter(|c| !reserved(c.port())).count();
    ensure!(passed > 100 && passed < 900, "{passed} passed to the app");
    for http in &mut open {
        ensure!(http.get("/", &[])?.text().starts_with("green"), "every one still works");
    }
    // It recovers by itself.
    drop(open);
    wait::until_true("new connections to be looked at again", SOON, || {
        Ok(w.get(Family::V4, &[ALICE])?.starts_with("blue"))
    })
});

both!(many_short_connections, MANY, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    for path in ["/", "/close"] {
        for family in FAMILIES {
            let (to, own) = (w.pod().at(family, PORT), format!("green {}\n", w.client().ip(family)));
            let namespace = &w.client().namespace;
            let failures: Vec<_> = std::thread::scope(|scope| {
                let workers = (0..8).map(|_| {
                    scope.spawn(|| -> Result<()> {
                        for _ in 0..40 {
                            let mut http = Http::new(namespace.connect(to)?);
                            let text = http.get(path, &[])?.text();
                            ensure!(text == own, "{text}");
                        }
                        Ok(())
                    })
                });
                let workers: Vec<_> = workers.collect();
                workers.into_iter().filter_map(|t| t.join().expect("no panic").err()).collect()
            });
            ensure!(failures.is_empty(), "{path}: {failures:?}");
        }
    }
    Ok(())
});

/// Somebody else's filter: looks at everything and passes it on.
const CHAINED: Scenario = Scenario {
    before: |t| {
        t.pod().namespace.output(&["tc", "qdisc", "add", "dev", "eth0", "clsact"])?;
        for direction in ["ingress", "egress"] {
            let filter = ["tc", "filter", "add", "dev", "eth0", direction, "prio", "7", "protocol", "all"];
            t.pod().namespace.output(&[&filter[..], &["bpf", "bytecode", "1,6 0 0 0,"]].concat())?;
        }
        Ok(())
    },
    ..USUAL
};

both!(another_program_on_the_same_hook_stays, CHAINED, |w| {
    let _apps = both_apps(w)?;
    let cli = w.alice()?;
    requests(w, 2)?;
    cli.leave()
    // The last look compares the filters.
});

once!(a_pod_that_dials_the_agents_listener_is_turned_away, USUAL, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    let text = w.pod().namespace.output(&["ss", "-Htln4"])?;
    let port = text.lines().find_map(|l| l.split_whitespace().nth(3)?.strip_prefix("127.0.0.1:")?.parse::<u16>().ok());
    let port = port.context("no listener of the agent in the pod")?;
    ensure!(![15_001, 15_006, 15_008, 4143].contains(&port));
    let answered = w.pod().namespace.connect(([127, 0, 0, 1], port).into()).and_then(|mut stream| {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        read_all(&mut stream)
    });
    ensure!(answered.is_err() || answered.is_ok_and(|b| b.is_empty()), "nothing is served there");
    w.counted("filter", "syn", 1.0)?;
    requests(w, 1)
});
