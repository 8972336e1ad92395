//! The worker, the guardian or both are killed.

use super::*;

both!(a_killed_worker_is_replaced_and_nobody_notices, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    for round in 0..3 {
        let load = load(w, FAMILIES[round % 2])?;
        let worker = w.agent.worker()?;
        let (machine, killed) = (Starvation::watch(), Instant::now());
        send(worker, Signal::SIGKILL)?;
        ended(worker)?;
        let complete = Instant::now();
        // Not before: what is waited for between the two would count.
        let again = matched_again(w, killed)?;
        machine.promise("worker killed, resumed", again, RESUMED_WITHIN)?;
        load.wait_for(200, complete)?;
        none_failed_since(&load.stop()?, complete, &format!("worker killed, round {round}, live again in {again:?}"))?;
    }
    Ok(())
});

both!(a_killed_agent_leaves_the_app_alone_and_comes_back, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    for round in 0..3 {
        let load = load(w, FAMILIES[round % 2])?;
        let worker = w.agent.worker()?;
        w.agent.signal(Signal::SIGKILL)?;
        w.listeners_gone()?;
        let complete = Instant::now();
        load.wait_for(200, complete)?;
        ensure!(w.get(Family::V4, &[ALICE])?.starts_with("green"), "nothing is steered without an agent");
        ended(worker)?;
        w.agent.process.wait(SOON)?;
        w.agent.restart(&w.topology.node.namespace, &[])?;
        let (machine, ready) = (Starvation::watch(), Instant::now());
        let again = matched_again(w, ready)?;
        machine.promise("agent started again, resumed", again, RESUMED_WITHIN)?;
        none_failed_since(&load.stop()?, complete, &format!("agent killed, round {round}, live again in {again:?}"))?;
    }
    Ok(())
});

both!(both_processes_killed_at_once, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    let load = load(w, Family::V4)?;
    let (guardian, worker) = (w.agent.guardian()?, w.agent.worker()?);
    send(guardian, Signal::SIGKILL)?;
    send(worker, Signal::SIGKILL)?;
    ended(worker)?;
    let complete = Instant::now();
    load.wait_for(200, complete)?;
    none_failed_since(&load.stop()?, complete, "both killed")?;
    w.agent.process.wait(SOON)?;
    if w.config.attach == "tcx" {
        // Links go with the processes that hold them.
        w.before().restored(&w.pod().namespace, SOON)?;
    }
    // Left-over clsact filters steer nothing, and go with the next agent.
    w.agent.restart(&w.topology.node.namespace, &[])?;
    matched_again(w, Instant::now()).map(drop)
});

both!(connections_inside_a_killed_agent_are_reset_on_both_sides, UNDER_LOAD, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = Listener::new(&w.pod().namespace, (family.any(), PORT).into())?;
        let mut pairs = (0..4).map(|_| w.pair(w.client(), family, &app)).collect::<Result<Vec<_>>>()?;
        // One has data under way from the client, one from the app; the others are idle.
        write(&mut pairs[0].client, vec![b'u'; 200_000])?;
        write(&mut pairs[1].app, vec![b'd'; 200_000])?;
        let worker = w.agent.worker()?;
        send(worker, Signal::SIGKILL)?;
        ended(worker)?;
        for (n, pair) in pairs.iter_mut().enumerate() {
            for (end, stream) in [("client", &mut pair.client), ("app", &mut pair.app)] {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                let result = read_all(stream);
                let Err(error) = result else { bail!("the {end}'s end of connection {n} looks whole") };
                let reset = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                ensure!(reset == Some(ErrorKind::ConnectionReset), "the {end}'s end of connection {n}: {error:#}");
            }
        }
        w.agent.wait_ready(&w.topology.node.namespace)?;
        wait::until_true("steering again", SOON, || {
            let client = w.connect(w.client(), family)?;
            let (_end, peer) = w.accept(&app, w.client(), family)?;
            Ok(peer.port() != client.local_addr()?.port())
        })?;
    }
    Ok(())
});

/// The agent as a container runs it: the first process of its PID namespace.
const CONTAINER: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
const PID_1: Scenario = Scenario { wrapper: CONTAINER, ..UNDER_LOAD };

both!(as_pid_1_the_worker_is_replaced, PID_1, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    let load = load(w, Family::V4)?;
    let (guardian, worker) = (w.agent.guardian()?, w.agent.worker()?);
    send(worker, Signal::SIGKILL)?;
    ended(worker)?;
    let complete = Instant::now();
    load.wait_for(200, complete)?;
    matched_again(w, complete)?;
    ensure!(w.agent.guardian()? == guardian && w.agent.worker()? != worker);
    none_failed_since(&load.stop()?, complete, "worker of PID 1 killed")
});

both!(as_pid_1_a_kill_leaves_nothing_that_changes_traffic, PID_1, |w| {
    let green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    let load = load(w, Family::V4)?;
    // Connections inside: their last packets must not leak, nor hang anybody.
    let mut inside = (0..10).map(|_| w.http(w.client(), Family::V4)).collect::<Result<Vec<_>>>()?;
    for http in &mut inside {
        ensure!(http.get("/", &[])?.status == 200);
    }
    let worker = w.agent.worker()?;
    w.agent.signal(Signal::SIGKILL)?;
    w.listeners_gone()?;
    let complete = Instant::now();
    load.wait_for(200, complete)?;
    ended(worker)?;
    for http in &mut inside {
        http.stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // They are between requests: a worker that hears of it before it is killed itself closes them in order.
        let result = http.closed();
        let reset = result.as_ref().is_err_and(|e| format!("{e:#}").contains("reset by peer"));
        ensure!(reset || matches!(result, Ok(true)), "{result:?}");
    }
    none_failed_since(&load.stop()?, complete, "PID 1 killed")?;
    w.agent.process.wait(SOON)?;
    wait::until_true("the app's connections to end", SOON, || Ok(green.open() == 0))?;
    if w.config.attach == "tcx" {
        w.before().restored(&w.pod().namespace, SOON)?;
    }
    w.agent.restart(&w.topology.node.namespace, CONTAINER)?;
    matched_again(w, Instant::now()).map(drop)
});
