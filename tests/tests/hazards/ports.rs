//! Tuples and ports: TIME_WAIT, the reserved ranges, and what is left when ports or files run short.

use super::*;

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
    w.counted("lookup", "steered", 10.0)
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

once!(a_pod_that_dials_the_agents_listener_is_turned_away, USUAL, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    let text = w.pod().namespace.output(&["ss", "-Htln4"])?;
    let port = text.lines().find_map(|l| l.split_whitespace().nth(3)?.strip_prefix("127.0.0.1:")?.parse::<u16>().ok());
    let port = port.context("no listener of the agent in the pod")?;
    ensure!(![15_001, 15_006, 15_008, 4143].contains(&port));
    let dialled = w.pod().namespace.connect(([127, 0, 0, 1], port).into());
    let kind = dialled.err().and_then(|error| Some(error.root_cause().downcast_ref::<std::io::Error>()?.kind()));
    ensure!(kind == Some(std::io::ErrorKind::ConnectionRefused), "not as where nobody listens: {kind:?}");
    w.counted("lookup", "agent_port", 1.0)?;
    requests(w, 1)
});
