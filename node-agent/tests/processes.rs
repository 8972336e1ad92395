//! The two processes: what the worker may, and what becomes of each when the other ends. Needs root.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redir_rig::{
    agent::{Agent, AgentConfig, AgentFiles},
    namespace::Namespace,
    topology::unique_prefix,
    wait,
};

/// Debug builds on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Makes the agent PID 1, as in a container.
const AS_PID_1: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

fn node() -> Result<Namespace> {
    Namespace::new(format!("{}node", unique_prefix("t"))).context("namespaces: run as root")
}

fn start(node: &Namespace, wrapper: &[&str]) -> Result<Agent> {
    Agent::start_with(node, AgentFiles::new()?, &AgentConfig::without_pods(), wrapper)
}

/// `/proc/PID/status`, by key.
fn status(pid: i32) -> Result<BTreeMap<String, String>> {
    status_of(Path::new(&format!("/proc/{pid}/status")))
}

fn status_of(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(file)?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "))).collect())
}

fn alive(pid: i32) -> bool {
    status(pid).is_ok_and(|status| !status["State"].starts_with('Z'))
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

/// Waits for a worker other than `old`, that serves.
fn next_worker(agent: &mut Agent, node: &Namespace, old: i32) -> Result<i32> {
    wait::until_true("another worker", SOON, || Ok(agent.worker().is_ok_and(|pid| pid != old)))?;
    agent.wait_ready(node)?;
    agent.worker()
}

#[test]
fn the_worker_has_no_privilege() -> Result<()> {
    let node = node()?;
    let agent = start(&node, &[])?;
    let worker = agent.worker()?;
    let status = status(worker)?;
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[key], "0000000000000000", "{key}");
    }
    assert_eq!(status["Uid"], "60744 60744 60744 60744");
    assert_eq!(status["Gid"], "60744 60744 60744 60744");
    assert_eq!(status["Groups"], "");
    let environment = fs::read_to_string(format!("/proc/{worker}/environ"))?;
    assert!(environment.is_empty() || environment.starts_with("RUST_BACKTRACE="), "{environment}");
    let limits = fs::read_to_string(format!("/proc/{worker}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("core limit")?;
    assert!(core.contains(" 0 "), "{core}");
    let processes = limits.lines().find(|line| line.starts_with("Max processes")).context("limit of processes")?;
    assert!(processes.split_whitespace().any(|word| word == "2048"), "{processes}");
    Ok(())
}

#[test]
fn every_thread_of_the_worker_has_the_filter_and_there_is_no_file() -> Result<()> {
    let node = node()?;
    // All of root's, and what the DaemonSet has.
    for wrapper in [Vec::new(), with_the_charts_capabilities()] {
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        let mut agent = start(&node, &wrapper)?;
        let worker = agent.worker()?;
        let threads = fs::read_dir(format!("/proc/{worker}/task"))?.collect::<Result<Vec<_>, _>>()?;
        ensure!(threads.len() > 2, "{} threads", threads.len());
        for thread in threads {
            let status = status_of(&thread.path().join("status"))?;
            assert_eq!(status["Seccomp"], "2", "{}", status["Name"]);
            assert_eq!((&*status["NoNewPrivs"], &*status["CapEff"]), ("1", "0000000000000000"));
        }
        for seen in ["root", "cwd"] {
            assert_eq!(fs::read_dir(format!("/proc/{worker}/{seen}/"))?.count(), 0, "{seen}");
        }
        let mounts = fs::read_to_string(format!("/proc/{worker}/mountinfo"))?;
        ensure!(mounts.lines().count() == 1 && mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
        ensure!(fs::read_link(format!("/proc/{worker}/ns/mnt"))? != fs::read_link("/proc/self/ns/mnt")?);
        assert!(agent.lines(&["WARN"]).is_empty(), "{}", agent.process.log());
        assert_eq!(agent.terminate(SOON)?, 0);
    }
    Ok(())
}

/// `setpriv` with the DaemonSet's capabilities, and as `allowPrivilegeEscalation: false` has it.
fn with_the_charts_capabilities() -> Vec<String> {
    let objects = redir_manifests::render(&redir_manifests::Options::default()).expect("the chart");
    let agent = objects.iter().find(|object| object["kind"] == "DaemonSet").expect("the agents");
    let container = &agent["spec"]["template"]["spec"]["containers"][0];
    let added = container["securityContext"]["capabilities"]["add"].as_array().expect("a list");
    let names = added.iter().map(|name| format!(",+{}", name.as_str().expect("a name").to_lowercase()));
    let set = format!("-all{}", names.collect::<String>());
    ["setpriv", "--no-new-privs", "--inh-caps", &set, "--bounding-set", &set].map(str::to_owned).into()
}

/// A container whose runtime forbids mounting, as AppArmor's default profiles do.
#[test]
fn where_it_may_not_mount_the_agent_says_what_that_means_and_runs() -> Result<()> {
    let node = node()?;
    let without = ["setpriv", "--bounding-set=-sys_chroot", "--inh-caps=-sys_chroot"];
    let mut agent = start(&node, &without)?;
    let told = agent.lines(&["WARN", "CAP_SYS_CHROOT", "appArmorProfile"]);
    assert_eq!(told.len(), 1, "{}", agent.process.log());
    assert_eq!(status(agent.worker()?)?["Seccomp"], "2");
    assert_eq!(agent.terminate(SOON)?, 0);
    Ok(())
}

#[test]
fn the_worker_holds_no_descriptor_of_the_guardians() -> Result<()> {
    let node = node()?;
    let agent = start(&node, &[])?;
    for entry in fs::read_dir(format!("/proc/{}/fd", agent.worker()?))? {
        let target = fs::read_link(entry?.path())?.display().to_string();
        let expected = ["/dev/null", "socket:", "anon_inode:[event", "pipe:", "/memfd:redir-agent-config", "/proc/"];
        let log = target.contains("/redir-rig");
        assert!(log || expected.iter().any(|start| target.starts_with(start)), "{target}");
        assert!(!target.contains("net:[") && !target.contains("agent-key") && !target.contains("bpf"), "{target}");
    }
    Ok(())
}

/// The same credentials as the worker's, on a process that tries.
#[test]
fn the_workers_credentials_do_not_enter_a_pod() -> Result<()> {
    let node = node()?;
    let pod = Namespace::new(format!("{}pod", unique_prefix("t")))?;
    let agent = start(&node, &[])?;
    let fall = [
        "--reuid=60744",
        "--regid=60744",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ];
    let shown = Command::new("setpriv").args(fall).args(["cat", "/proc/self/status"]).output()?;
    let shown = String::from_utf8(shown.stdout)?;
    let worker = fs::read_to_string(format!("/proc/{}/status", agent.worker()?))?;
    let credentials = |text: &str| -> Vec<String> {
        let keys = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:"];
        text.lines().filter(|line| keys.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect()
    };
    assert_eq!(credentials(&shown), credentials(&worker));
    let path = format!("--net={}", pod.path().display());
    let tried = Command::new("setpriv").args(fall).args(["nsenter", &path, "true"]).output()?;
    let said = String::from_utf8_lossy(&tried.stderr);
    ensure!(!tried.status.success() && said.contains("Operation not permitted"), "{said}");
    Ok(())
}

#[test]
fn a_killed_worker_is_replaced_and_the_guardian_stays() -> Result<()> {
    for wrapper in [&[][..], &AS_PID_1] {
        let node = node()?;
        let mut agent = start(&node, wrapper)?;
        let guardian = agent.guardian()?;
        let mut worker = agent.worker()?;
        for _ in 0..3 {
            send(worker, Signal::SIGKILL)?;
            worker = next_worker(&mut agent, &node, worker)?;
            assert_eq!(agent.guardian()?, guardian);
        }
        assert_eq!(agent.lines(&["the worker is dead", "code=137"]).len(), 3);
        assert_eq!(agent.terminate(SOON)?, 0);
        assert!(!alive(worker));
    }
    Ok(())
}

/// As the kernel ends one that makes a call which its filter has for an intruder's.
#[test]
fn a_worker_that_was_taken_over_is_told_of() -> Result<()> {
    let node = node()?;
    let mut agent = start(&node, &[])?;
    let worker = agent.worker()?;
    send(worker, Signal::SIGSYS)?;
    next_worker(&mut agent, &node, worker)?;
    assert_eq!(agent.lines(&["ERROR", "only an intruder makes", "type=1326"]).len(), 1, "{}", agent.process.log());
    assert_eq!(agent.terminate(SOON)?, 0);
    Ok(())
}

#[test]
fn a_killed_guardian_takes_the_worker_along() -> Result<()> {
    for wrapper in [&[][..], &AS_PID_1] {
        let node = node()?;
        let mut agent = start(&node, wrapper)?;
        let worker = agent.worker()?;
        send(agent.guardian()?, Signal::SIGKILL)?;
        wait::until_true("the worker's end", Duration::from_secs(5), || Ok(!alive(worker)))?;
        agent.process.wait(SOON)?;
        // The same ports are free again.
        agent.restart(&node, wrapper)?;
        assert_eq!(agent.terminate(SOON)?, 0);
    }
    Ok(())
}

#[test]
fn a_stopped_worker_is_killed_after_five_seconds() -> Result<()> {
    let node = node()?;
    let mut agent = start(&node, &[])?;
    let worker = agent.worker()?;
    let stopped = Instant::now();
    send(worker, Signal::SIGSTOP)?;
    agent.process.wait_for_line("the worker is silent", SOON)?;
    let silent = stopped.elapsed();
    assert!((4700..7000).contains(&silent.as_millis()), "{silent:?}");
    next_worker(&mut agent, &node, worker)?;
    assert_eq!(agent.terminate(SOON)?, 0);
    Ok(())
}

#[test]
fn a_guardian_that_was_stopped_does_not_blame_the_worker() -> Result<()> {
    let node = node()?;
    let mut agent = start(&node, &[])?;
    let (guardian, worker) = (agent.guardian()?, agent.worker()?);
    for pid in [guardian, worker] {
        send(pid, Signal::SIGSTOP)?;
    }
    let stopped = Instant::now();
    wait::until_true("six seconds", SOON, || Ok(stopped.elapsed() > Duration::from_secs(6)))?;
    for pid in [guardian, worker] {
        send(pid, Signal::SIGCONT)?;
    }
    agent.wait_ready(&node)?;
    assert_eq!(agent.worker()?, worker);
    assert_eq!(agent.terminate(SOON)?, 0);
    assert!(agent.lines(&["silent"]).is_empty());
    Ok(())
}

#[test]
fn sigterm_and_ctrl_c_end_both_gracefully() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for wrapper in [&[][..], &AS_PID_1] {
            let node = node()?;
            let mut agent = start(&node, wrapper)?;
            let worker = agent.worker()?;
            // Ctrl-C in a terminal reaches the worker as well.
            send(worker, signal)?;
            agent.signal(signal)?;
            assert_eq!(agent.process.exit_code(SOON)?, 0, "{}", agent.process.log());
            assert!(!alive(worker));
            assert!(agent.lines(&["the worker is dead"]).is_empty());
        }
    }
    Ok(())
}

#[test]
fn a_worker_that_does_not_end_is_killed_after_the_drain_time() -> Result<()> {
    let node = node()?;
    let mut agent = start(&node, &[])?;
    let worker = agent.worker()?;
    send(worker, Signal::SIGSTOP)?;
    let asked = Instant::now();
    assert_eq!(agent.terminate(SOON)?, 137);
    // Drain 1 s + 5 s, or five seconds of silence, whichever is first.
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    assert!(!alive(worker));
    Ok(())
}

#[test]
fn a_second_signal_ends_at_once() -> Result<()> {
    let node = node()?;
    let mut agent = start(&node, &[])?;
    let worker = agent.worker()?;
    send(worker, Signal::SIGSTOP)?;
    agent.signal(Signal::SIGTERM)?;
    agent.process.wait_for_line("SIGTERM: ending within", SOON)?;
    let asked = Instant::now();
    agent.signal(Signal::SIGINT)?;
    agent.process.wait(SOON)?;
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(!alive(worker));
    Ok(())
}

#[test]
fn the_file_is_read_again_when_it_changes_and_on_sighup() -> Result<()> {
    let node = node()?;
    let mut agent = start(&node, &[])?;
    let text = fs::read_to_string(agent.config())?;
    let pod = |name: &str| format!("{text}\n[[pod]]\nname = \"{name}\"\nnetns = \"/run/netns/redir-{name}\"\n");

    agent.rewrite(&pod("one"))?;
    agent.process.wait_for_line("the configuration is read again", SOON)?;

    agent.rewrite(&format!("{}ports = [0]\n", pod("two")))?;
    let line = agent.process.wait_for_line("the last good configuration stays in use", SOON)?;
    assert!(line.contains("agent.toml:") && line.contains("pod[0].ports[0]: 0 is no port"), "{line}");

    agent.signal(Signal::SIGHUP)?;
    let again = |log: &str| (log.matches("the last good configuration").count() > 1).then_some(());
    agent.process.wait_for("the second report", SOON, again)?;

    agent.rewrite(&pod("three").replace("drain = \"1s\"", "drain = \"2s\""))?;
    agent.process.wait_for_line("takes effect when the agent is started again", SOON)?;
    assert_eq!(agent.terminate(SOON)?, 0);
    Ok(())
}

/// In a container the agent is everybody's last parent.
#[test]
fn as_pid_1_it_reaps_orphans() -> Result<()> {
    let node = node()?;
    let mut wrapper = AS_PID_1.to_vec();
    // The shell is PID 1, leaves a child behind, and becomes the agent.
    wrapper.extend(["sh", "-c", "(exec sleep 0.1) & exec \"$@\"", "sh"]);
    let mut agent = start(&node, &wrapper)?;
    let guardian = agent.guardian()?;
    let only_the_worker = || {
        let children = redir_rig::process::children(guardian);
        Ok(children.len() == 1)
    };
    wait::until_true("the orphan to be reaped", SOON, only_the_worker)?;
    assert_eq!(agent.terminate(SOON)?, 0);
    Ok(())
}
