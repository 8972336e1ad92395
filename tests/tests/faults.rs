//! What `docs/src/failures.md` promises: whatever ends or hangs, unmatched requests reach the app.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use redir_rig::{
    App, Cli, Http, Listener, Load, LoadReport,
    topology::{FAMILIES, Family},
    wait,
};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, both, once, read_all, starvation::Starvation, write};

const ALICE: &str = "x-user: alice";
/// Requests a second, each on a connection of its own.
const RATE: u32 = 200;
/// Longer than any state here takes on a machine at load 30.
const LATE: Duration = Duration::from_secs(60);
/// How soon an intercept is back where an agent, or a pod, is.
const TAKEN_UP: Duration = Duration::from_secs(3);

const UNDER_LOAD: Scenario = Scenario { limit: Duration::from_secs(120), ..USUAL };

fn load(w: &World, family: Family) -> Result<Load> {
    let load = Load::start(&w.client().namespace, w.pod().at(family, PORT), RATE, "/", &[])?;
    load.wait_for(50, Instant::now())?;
    Ok(load)
}

/// No request whose SYN was sent at `since` or later failed; those before, if any, are printed.
fn none_failed_since(report: &LoadReport, since: Instant, what: &str) -> Result<()> {
    let (before, after) = (report.failed(None, Some(since)), report.failed(Some(since), None));
    eprintln!(
        "{what}: {} requests, {} failed of those before the fault was complete, slowest answer {:?}",
        report.outcomes.len(),
        before.len(),
        report.slowest()
    );
    let shown: Vec<_> = after.iter().take(5).map(|o| (o.syn - since, o.took, &o.result)).collect();
    ensure!(after.is_empty(), "{what}: {} failed (SYN after the fault, took, why): {shown:?}", after.len());
    Ok(())
}

/// Waits until matched requests reach the developer again; how long that took from `since`.
fn matched_again(w: &World, since: Instant) -> Result<Duration> {
    wait::until_true("the intercept to be taken up again", LATE, || {
        Ok(w.get(Family::V4, &[ALICE])?.starts_with("blue"))
    })?;
    Ok(since.elapsed())
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

/// Waits until no thread of a process is left: the last one closes its files. Not by a walk through `task`, which ends early
/// when the thread that it stands at goes away meanwhile.
fn ended(pid: i32) -> Result<()> {
    wait::until_true(format!("the end of {pid}"), SOON, || {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Ok(true) };
        // Behind the name, from the third field on: the first thread's state, and how many there are as the twentieth.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let threads: u32 = fields.get(17).context("how many threads")?.parse()?;
        Ok(matches!(fields[0], "Z" | "X") && threads <= 1)
    })
}

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
        machine.promise("worker killed, taken up again", again, TAKEN_UP)?;
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
        machine.promise("agent started again, taken up again", again, TAKEN_UP)?;
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

both!(a_hung_worker_stalls_two_seconds_at_most, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    let load = load(w, Family::V4)?;
    let worker = w.agent.worker()?;
    send(worker, Signal::SIGSTOP)?;
    let limit = Instant::now() + Duration::from_secs(2);
    load.wait_for(300, limit)?;
    // The guardian ends it after 5 s, and the next one takes over.
    ended(worker)?;
    matched_again(w, Instant::now())?;
    none_failed_since(&load.stop()?, limit, "worker stopped")
});

both!(a_hung_agent_stalls_two_seconds_at_most, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    let load = load(w, Family::V6)?;
    let (guardian, worker) = (w.agent.guardian()?, w.agent.worker()?);
    send(guardian, Signal::SIGSTOP)?;
    send(worker, Signal::SIGSTOP)?;
    let limit = Instant::now() + Duration::from_secs(2);
    load.wait_for(200, limit)?;
    send(worker, Signal::SIGCONT)?;
    send(guardian, Signal::SIGCONT)?;
    matched_again(w, Instant::now())?;
    none_failed_since(&load.stop()?, limit, "agent stopped")
});

both!(a_hung_guardian_alone_fails_nobody, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    for family in FAMILIES {
        let begin = Instant::now();
        let load = load(w, family)?;
        load.wait_for(400, begin)?;
        let (guardian, worker) = (w.agent.guardian()?, w.agent.worker()?);
        send(guardian, Signal::SIGSTOP)?;
        let stopped = Instant::now();
        wait::until_true("new connections to pass to the app", SOON, || {
            Ok(w.get(family, &[ALICE])?.starts_with("green"))
        })?;
        eprintln!("{family:?}: new connections pass {:?} after the guardian was stopped", stopped.elapsed());
        // More than the pool holds, and for longer than the worker would wait for an answer.
        load.wait_for(1_000, Instant::now())?;
        ensure!(w.get(family, &[ALICE])?.starts_with("green"), "nothing is steered without the guardian");
        send(guardian, Signal::SIGCONT)?;
        let again = matched_again(w, Instant::now())?;
        load.wait_for(400, Instant::now())?;
        none_failed_since(&load.stop()?, begin, &format!("guardian stopped, {family:?}, live again in {again:?}"))?;
        ensure!(w.agent.worker()? == worker, "the worker is not blamed for the guardian's silence");
    }
    Ok(())
});

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

both!(an_app_that_accepts_late_is_waited_for, UNDER_LOAD, |w| {
    // Longer than any of the agent's own tries: only the clients' patience is left.
    const LATE: Duration = Duration::from_secs(12);
    const CLIENTS: usize = 6;
    let _cli = w.alice()?;
    for family in FAMILIES {
        let at = SocketAddr::new(family.any(), PORT);
        let app = w.pod().namespace.run(|| crowded(at))??;
        let connect = |_| {
            let mut http = w.http(w.client(), family)?;
            http.send(redir_rig::http::request("GET", "/", &[]))?;
            http.stream.set_nonblocking(true)?;
            Ok(http)
        };
        let clients = (0..CLIENTS).map(connect).collect::<Result<Vec<_>>>()?;
        let dialled = Instant::now();
        wait::until_true("the app to be late", SOON * 3, || {
            for (n, client) in clients.iter().enumerate() {
                let kind = client.stream.peek(&mut [0]).map_err(|error| error.kind());
                ensure!(kind == Err(ErrorKind::WouldBlock), "connection {n}: {kind:?} after {:?}", dialled.elapsed());
            }
            Ok(dialled.elapsed() > LATE)
        })?;
        // Every one arrives, at the latest with what the legs' kernel tries after 31.9 s.
        let mut arrived = 0;
        while arrived < CLIENTS {
            let (mut end, peer) = app.accept()?;
            // The agent's own look whether the app speaks TLS comes from the pod itself.
            if peer.ip().to_canonical() != w.pod().ip(family) {
                ensure!(peer.ip().to_canonical() == w.client().ip(family), "the app sees {peer}");
                ensure!(redir_tests::read_exactly(&mut end, 5)? == b"GET /");
                arrived += 1;
            }
        }
        eprintln!("{family:?}: {CLIENTS} connections arrived {:?} after they were dialled", dialled.elapsed());
    }
    Ok(())
});

/// A listener with room for as few connections as the kernel allows.
fn crowded(at: SocketAddr) -> Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(0)?;
    Ok(socket.into())
}

/// What `chrt` and `taskset` do to every thread of a process.
fn all_threads(pid: i32, command: &[&str]) -> Result<()> {
    let pid = pid.to_string();
    let (program, arguments) = command.split_first().context("no command")?;
    let status = Command::new(program).args(arguments).arg(&pid).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?} {pid}: {status}");
    Ok(())
}

/// A process that is killed at the end.
struct Spinner(Child);

impl Drop for Spinner {
    fn drop(&mut self) {
        // It has not been waited for, so the pid is ours.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

once!(a_worker_that_gets_no_cpu_is_not_killed_for_it, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    let begin = Instant::now();
    let load = load(w, Family::V4)?;
    let worker = w.agent.worker()?;
    // The least of the scheduler's weights beside the greatest, on one CPU.
    let spin = ["-c", "0", "nice", "-n", "-20", "sh", "-c", "while :; do :; done"];
    let spinner = Spinner(Command::new("taskset").args(spin).spawn().context("taskset: util-linux")?);
    all_threads(worker, &["taskset", "-a", "-c", "-p", "0"])?;
    all_threads(worker, &["chrt", "-a", "-i", "-p", "0"])?;
    wait::until_true("the guardian to see that it is starved", 3 * SOON, || {
        ensure!(w.agent.worker()? == worker, "the worker was killed");
        Ok(!w.agent.lines(&["the worker gets no CPU"]).is_empty())
    })?;
    all_threads(worker, &["chrt", "-a", "-o", "-p", "0"])?;
    drop(spinner);
    matched_again(w, Instant::now())?;
    ensure!(w.agent.worker()? == worker && w.agent.lines(&["it is killed"]).is_empty());
    none_failed_since(&load.stop()?, begin, "worker starved")
});

/// Stops one thread, as no signal can. The calling thread must take its end.
#[expect(unsafe_code, reason = "ptrace has no wrapper here")]
fn freeze(tid: i32) -> Result<()> {
    for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
        // SAFETY: both take a number and touch no memory of ours.
        let done = unsafe { libc::ptrace(request, tid, 0, 0) };
        ensure!(done == 0, "ptrace of {tid}: {}", std::io::Error::last_os_error());
    }
    waitpid(Pid::from_raw(tid), Some(WaitPidFlag::__WALL)).with_context(|| format!("stop {tid}"))?;
    Ok(())
}

once!(a_worker_whose_runtime_stands_still_is_replaced, UNDER_LOAD, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    let load = load(w, Family::V6)?;
    let worker = w.agent.worker()?;
    let mut frozen = Vec::new();
    for task in fs::read_dir(format!("/proc/{worker}/task"))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.trim() != "redir-alive" {
            let tid = task.file_name().to_string_lossy().parse()?;
            freeze(tid)?;
            frozen.push(tid);
        }
    }
    let limit = Instant::now() + Duration::from_secs(2);
    wait::until_true("its end", 3 * SOON, || {
        // A killed thread stays until the one that stopped it has taken its end.
        let left = |tid: &i32| {
            let ended = waitpid(Pid::from_raw(*tid), Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
            !matches!(ended, Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)) | Err(_))
        };
        frozen.retain(left);
        Ok(frozen.is_empty())
    })?;
    ended(worker)?;
    ensure!(!w.agent.lines(&["the runtime stands still"]).is_empty(), "its other thread lives, and says so");
    matched_again(w, Instant::now())?;
    ensure!(w.agent.worker()? != worker && !w.agent.lines(&["the worker is silent"]).is_empty());
    load.wait_for(50, limit)?;
    none_failed_since(&load.stop()?, limit, "runtime frozen")
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
        machine.promise("pod recreated, taken up again", again, TAKEN_UP)?;
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

once!(the_worker_has_no_rights, USUAL, |w| {
    let _green = w.green()?;
    let _cli = w.alice()?;
    let worker = w.agent.worker()?;
    let status = fs::read_to_string(format!("/proc/{worker}/status"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .with_context(|| name.to_owned())
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(field(set)? == "0000000000000000", "{set}: {}", field(set)?);
    }
    ensure!(field("NoNewPrivs")? == "1" && field("Seccomp")? == "2");
    ensure!(fs::read_dir(format!("/proc/{worker}/root/"))?.next().is_none(), "it sees a file");
    ensure!(field("Groups")?.is_empty(), "groups: {}", field("Groups")?);
    for ids in ["Uid", "Gid"] {
        ensure!(field(ids)?.split_whitespace().all(|id| id == "60744"), "{ids}: {}", field(ids)?);
    }
    // It holds no namespace, no program, nothing that leads into the pod but its sockets, maps and links.
    for fd in fs::read_dir(format!("/proc/{worker}/fd"))? {
        let target = fs::read_link(fd?.path())?.display().to_string();
        ensure!(
            !target.contains("net:[") && !target.contains("netns") && !target.contains("bpf-prog"),
            "holds {target}"
        );
    }
    ensure!(fs::metadata(format!("/proc/{worker}/ns/net"))?.ino_eq(&fs::metadata(w.node().path())?));
    // With such credentials the kernel lets nobody into a pod's namespace.
    let net = format!("--net={}", w.pod().namespace.path().display());
    let entered = w.node().output(&[
        "setpriv",
        "--reuid",
        "60744",
        "--regid",
        "60744",
        "--clear-groups",
        "--inh-caps",
        "-all",
        "--bounding-set",
        "-all",
        "--no-new-privs",
        "nsenter",
        &net,
        "true",
    ]);
    ensure!(entered.is_err_and(|e| format!("{e:#}").contains("not permitted")));
    Ok(())
});

trait SameInode {
    fn ino_eq(&self, other: &Self) -> bool;
}

impl SameInode for fs::Metadata {
    fn ino_eq(&self, other: &Self) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.ino() == other.ino()
    }
}

// Thousands of connections end at once, on several CPUs: where the agent's last two segments overtake each other, the app's
// TIME_WAIT answers the older one when the agent's socket is gone, and that ACK leaves the pod.
const ENDING_AT_ONCE: Scenario = Scenario { sniff: false, ..UNDER_LOAD };

once!(memory_stays_small, ENDING_AT_ONCE, |w| {
    const CONNECTIONS: usize = 2_500;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let both = [w.agent.guardian()?, w.agent.worker()?];
    let idle = both.iter().map(|pid| memory(*pid, "Rss:")).sum::<Result<u64>>()?;
    let anonymous = both.iter().map(|pid| memory(*pid, "Pss_Anon:")).sum::<Result<u64>>()?;
    let release = redir_rig::binaries::find("redir-agent")?.components().any(|c| c.as_os_str() == Path::new("release"));
    eprintln!(
        "idle agent, guardian and worker: {idle} KiB resident, {anonymous} KiB of it their own; release build: {release}"
    );
    // A debug build's code is several times as large; its own memory is bounded all the same.
    ensure!(if release { idle } else { anonymous } <= 20 * 1024, "{idle} KiB resident, {anonymous} KiB own");

    let _green = w.green()?;
    let _cli = w.alice()?;
    let mut open: Vec<Http> = Vec::with_capacity(CONNECTIONS + 500);
    let grow = |open: &mut Vec<Http>, to: usize| -> Result<u64> {
        while open.len() < to {
            let from = [w.client(), &w.topology.peer, &w.topology.developer][open.len() % 3];
            let mut http = w.http(from, Family::V4)?;
            ensure!(http.get("/", &[])?.text().starts_with("green"));
            open.push(http);
        }
        both.iter().map(|pid| memory(*pid, "Pss_Anon:")).sum()
    };
    let before = grow(&mut open, 500)?;
    grow(&mut open, 500 + CONNECTIONS)?;
    // Connections give back what they do not need when they rest, which takes a turn of each.
    wait::until_true("at most 8 KiB for each idle connection", SOON, || {
        let after = grow(&mut open, 0)?;
        let each = (after.saturating_sub(before) * 1024) / CONNECTIONS as u64;
        eprintln!("{each} bytes of the agent's memory for each idle connection ({before} KiB → {after} KiB)");
        Ok(each <= 8 * 1024)
    })
});

/// A line of `smaps_rollup`, KiB.
fn memory(pid: i32, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|l| l.strip_prefix(field)).with_context(|| field.to_owned())?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
