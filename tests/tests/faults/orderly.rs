//! Orderly ends, of the agent, of a pod, of ports and of the developer's service.

use super::*;

/// Ports of the pod besides [`PORT`].
const FURTHER: [u16; 2] = [8081, 8082];

fn also(w: &World, port: u16) -> Result<Cli> {
    let ports = format!("{port}:{LOCAL}");
    let arguments = w.arguments("web-1", &ports, &["--header", ALICE]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    w.alice.intercept(&w.topology.developer.namespace, &arguments)
}

both!(further_ports_of_a_live_pod_come_and_go_without_a_reset, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _further = FURTHER.map(|port| App::start(&w.pod().namespace, port, "green"));
    let first = w.alice()?;
    let begin = Instant::now();
    let loads = FURTHER
        .iter()
        .zip(FAMILIES)
        .map(|(port, family)| Load::start(&w.client().namespace, w.pod().at(family, *port), RATE / 2, "/", &[]));
    let loads = loads.collect::<Result<Vec<_>>>()?;
    let mut first = Some(first);
    for round in 0..4 {
        let further = FURTHER.iter().map(|port| also(w, *port)).collect::<Result<Vec<_>>>()?;
        for (port, family) in FURTHER.iter().zip(FAMILIES) {
            // While its sockets run short on a busy machine, a pod's connections pass to the app.
            wait::until_true(format!("port {port} to be intercepted"), SOON, || {
                let mut http = Http::new(w.client().namespace.connect(w.pod().at(family, *port))?);
                Ok(http.get("/", &[ALICE])?.text().starts_with("blue"))
            })?;
        }
        // The last port that goes is another one each time, and in the last round the pod is released in between.
        let mut leaving: Vec<_> = further.into_iter().chain(first.take_if(|_| round == 3)).collect();
        leaving.rotate_left(round % 2);
        for cli in leaving {
            cli.leave()?;
        }
    }
    let again = also(w, FURTHER[0])?;
    for load in loads {
        load.wait_for(50, Instant::now())?;
        none_failed_since(&load.stop()?, begin, "further ports")?;
    }
    again.leave()
});

once!(what_the_file_no_longer_allows_the_guardian_takes_back_itself, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    let worker = w.agent.worker()?;
    // The worker would disarm the port by itself.
    send(worker, Signal::SIGSTOP)?;
    w.config.pods[0].ports = vec![PORT + 1];
    let text = w.config.text(&w.agent.key())?;
    w.agent.rewrite(&text)?;
    wait::until_true("the guardian to disarm the port", SOON, || {
        Ok(!w.agent.lines(&["disarmed: the configuration no longer allows it"]).is_empty())
    })?;
    send(worker, Signal::SIGCONT)?;
    wait::until_true("the app to get matched requests", SOON, || {
        Ok(w.get(Family::V4, &[ALICE])?.starts_with("green"))
    })?;
    w.before().restored(&w.pod().namespace, SOON)
});

both!(an_orderly_end_fails_nothing, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    for round in 0..3 {
        let begin = Instant::now();
        let load = load(w, FAMILIES[round % 2])?;
        let code = w.agent.terminate(Duration::from_secs(20))?;
        ensure!(code == 0, "the agent ended with {code}");
        let ended = Instant::now();
        w.before().restored(&w.pod().namespace, SOON)?;
        load.wait_for(100, ended)?;
        none_failed_since(&load.stop()?, begin, &format!("SIGTERM, round {round}"))?;
        w.agent.restart(&w.topology.node.namespace, &[])?;
        matched_again(w, Instant::now())?;
    }
    Ok(())
});

both!(an_orderly_end_lets_requests_in_flight_finish, USUAL, |w| {
    let (green, blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    let mut matched = w.http(w.client(), Family::V4)?;
    matched.send(redir_rig::http::request("GET", "/hold", &[ALICE]))?;
    let mut unmatched = w.http(w.client(), Family::V4)?;
    unmatched.send(redir_rig::http::request("GET", "/hold", &[]))?;
    let holding = |app: &App| app.seen().iter().any(|s| s.line.contains("/hold"));
    wait::until_true("both requests in flight", SOON, || Ok(holding(&green) && holding(&blue)))?;
    w.agent.signal(Signal::SIGTERM)?;
    wait::until_true("steering to stop first", SOON, || Ok(w.get(Family::V4, &[ALICE])?.starts_with("green")))?;
    green.release();
    blue.release();
    ensure!(unmatched.response()?.text().starts_with("green"));
    ensure!(matched.response()?.text().starts_with("blue"));
    ensure!(w.agent.process.exit_code(Duration::from_secs(20))? == 0);
    Ok(())
});

/// The watch on the pod's device ends with the device.
const RECREATED: Scenario = Scenario { sniff: false, ..UNDER_LOAD };

both!(a_recreated_pod_is_intercepted_again, RECREATED, |w| {
    let _blue = w.local(LOCAL, "blue")?;
    let mut green = w.green()?;
    let cli = w.alice()?;
    for round in 0..3 {
        // One connection inside, between requests, and in one round none.
        let mut inside = (round != 1).then(|| w.http(w.client(), Family::V4)).transpose()?;
        if let Some(http) = &mut inside {
            ensure!(http.get("/", &[ALICE])?.text().starts_with("blue"));
        }
        drop(green);
        w.recreate_pod()?;
        green = w.green()?;
        let (machine, there) = (Starvation::watch(), Instant::now());
        let load = load(w, FAMILIES[round % 2])?;
        let again = matched_again(w, there)?;
        machine.promise("pod recreated, resumed", again, RESUMED_WITHIN)?;
        load.wait_for(50, Instant::now())?;
        none_failed_since(&load.stop()?, there, &format!("pod recreated, round {round}, live again in {again:?}"))?;
        let (code, listed, _) = w.redir(&w.alice, &["list"])?;
        ensure!(code == 0 && !listed.contains("lost"), "{listed}");
    }
    // Another developer's intercept finds it as it should be.
    let _violet = w.local(LOCAL + 1, "violet")?;
    let bob = w.intercept(&w.bob, LOCAL + 1, &["--header", "x-user: bob"])?;
    ensure!(w.get(Family::V6, &["x-user: bob"])?.starts_with("violet"));
    ensure!(w.get(Family::V6, &[])?.starts_with("green"));
    bob.leave()?;
    cli.leave()
});

once!(a_local_service_that_is_down_is_a_502_with_a_reason, USUAL, |w| {
    let _green = w.green()?;
    let _cli = w.alice()?;
    for family in FAMILIES {
        let mut http = w.http(w.client(), family)?;
        let response = http.get("/", &[ALICE])?;
        ensure!(response.status == 502, "{response:?}");
        let reason = response.text();
        ensure!(reason.contains("alice") && reason.contains("3000") && reason.trim().lines().count() == 1, "{reason}");
        ensure!(response.header("content-type").is_some_and(|t| t.starts_with("text/plain")), "{response:?}");
        ensure!(w.get(family, &[])?.starts_with("green"));
    }
    // As soon as it is there, it is used.
    let _blue = w.local(LOCAL, "blue")?;
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("blue"));
    Ok(())
});

once!(a_local_service_may_be_restarted, USUAL, |w| {
    let _green = w.green()?;
    let _cli = w.alice()?;
    let mut http = w.http(w.client(), Family::V4)?;
    for version in ["blue", "orange", "violet"] {
        let local = w.local(LOCAL, version)?;
        // The same client connection: the developer's leg is opened again.
        wait::until_true("the new version", SOON, || Ok(http.get("/", &[ALICE])?.text().starts_with(version)))?;
        ensure!(http.get("/", &[])?.text().starts_with("green"));
        local.stop();
        // A request that meets the old service's end is closed with it, as without redir.
        wait::until_true("its end to arrive", SOON, || Ok(w.metric("redir_streams ", &[])? < 0.5))?;
    }
    Ok(())
});
