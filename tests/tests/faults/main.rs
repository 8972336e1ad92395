//! What `docs/src/failures.md` promises: whatever ends or hangs, unmatched requests reach the app.
#![cfg(target_os = "linux")]

mod killed;
mod orderly;
mod worker;

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
const RESUMED_WITHIN: Duration = Duration::from_secs(3);

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
    wait::until_true("the intercept to resume", LATE, || Ok(w.get(Family::V4, &[ALICE])?.starts_with("blue")))?;
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
