//! What is in a worker's reach, and who lives on where memory is used up. Needs root.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use redir_rig::{
    Agent, App, Certificate, MemoryCgroup, Namespace,
    agent::{AgentConfig, AgentFiles},
    left_out,
    topology::{Family, unique_prefix},
    wait,
};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, once};

const ALICE: &str = "x-user: alice";

/// Two pods, of both of which the agent has the app's certificate.
const TWO_CERTIFICATES: Scenario = Scenario {
    pods: 2,
    config: |config| {
        for pod in &mut config.pods {
            pod.tls = vec![(PORT, Certificate::new().expect("a certificate"))];
        }
    },
    ..USUAL
};

once!(only_the_keys_of_armed_ports_come_to_the_worker, TWO_CERTIFICATES, |w| {
    let [armed, other] = [0, 1].map(|pod| w.config.pods[pod].tls[0].1.clone());
    let worker = w.agent.worker()?;
    for certificate in [&armed, &other] {
        ensure!(!holds(worker, certificate.key())?, "nothing is armed");
    }
    ensure!(holds(w.agent.guardian()?, armed.key())?, "the guardian has read it: it would be found");
    let green = App::secure_on(&w.pod().namespace, &[([0; 4], PORT).into()], "green", armed.server()?)?;
    let _blue = w.local(LOCAL, "blue")?;
    let mut cli = w.start(&w.alice, LOCAL, &["--header", ALICE])?;
    cli.wait_live()?;
    // The very first connection is read: the key is there before the port is steered.
    let client = || redir_rig::tls::secure(w.connect(w.client(), Family::V4)?, armed.client(rustls::ALL_VERSIONS)?);
    ensure!(client()?.get("/", &[ALICE])?.text().starts_with("blue"));
    ensure!(client()?.get("/", &[])?.text().starts_with("green"));
    ensure!(holds(worker, armed.key())?, "it is in use");
    ensure!(!holds(worker, other.key())?, "the other pod is not intercepted");
    drop(cli);
    drop(green);
    Ok(())
});

/// Whether a process has the middle line of a key in its memory, which no other key has.
fn holds(pid: i32, key: &str) -> Result<bool> {
    let line = key.lines().nth(1).context("a key of several lines")?.as_bytes();
    let mut memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    for map in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().filter(|map| map.contains(" rw-p ")) {
        let (from, to) = map.split(' ').next().and_then(|range| range.split_once('-')).context("a range")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        memory.seek(SeekFrom::Start(from))?;
        // What has gone meanwhile holds nothing.
        if memory.read_exact(&mut bytes).is_ok() && bytes.windows(line.len()).any(|window| window == line) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The chart's.
const LIMIT: u64 = 256 << 20;
const PAGE: usize = 4096;

/// `None` in a container with a single cgroup.
fn cgroup() -> Result<Option<MemoryCgroup>> {
    let cgroup = MemoryCgroup::new(LIMIT)?;
    if cgroup.is_none() {
        left_out("the agent in a cgroup with a limit: none can be made here");
    }
    Ok(cgroup)
}

/// Fills it page by page with a file in memory, which no process has to answer for, until the kernel has ended one: what that
/// has left is enough for what follows.
fn fill(cgroup: &MemoryCgroup, file: &Path) -> Result<()> {
    let [shell, wrapper @ ..] = cgroup.wrapper();
    let cat = format!("exec cat > {}", file.display());
    let mut cat = Command::new(shell).args(wrapper).args(["sh", "-c", &cat]).stdin(Stdio::piped()).spawn()?;
    let mut input = cat.stdin.take().context("its input")?;
    // A page that is not read yet holds the next one up.
    fcntl(&input, FcntlArg::F_SETPIPE_SZ(i32::try_from(PAGE)?))?;
    let mut pages = 0..2 * LIMIT / PAGE as u64;
    while cgroup.killed()? == 0 && pages.next().is_some() {
        input.write_all(&[0; PAGE])?;
    }
    drop(input);
    cat.wait()?;
    Ok(())
}

/// A file system in memory.
struct Memory(tempfile::TempDir);

impl Memory {
    fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let none: Option<&str> = None;
        nix::mount::mount(none, folder.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), none)?;
        Ok(Self(folder))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// The agent from a copy of its program that was written in the cgroup, so that the pages of it count there.
fn start_in(cgroup: &MemoryCgroup, node: &Namespace, copy: &Path) -> Result<Agent> {
    let script = format!("cp \"$1\" {copy} && sync {copy} && shift && exec {copy} \"$@\"", copy = copy.display());
    let enter = cgroup.wrapper();
    let wrapper: Vec<&str> = enter.iter().map(String::as_str).chain(["sh", "-c", &script, "sh"]).collect();
    Agent::start_with(node, AgentFiles::new()?, &AgentConfig::without_pods(), &wrapper)
}

/// KiB of a process's file pages that are in memory.
fn file_pages(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).context("RssFile")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

#[test]
fn the_guardian_stays_in_memory_when_all_is_taken_back_that_can_be() -> Result<()> {
    let Some(cgroup) = cgroup()? else { return Ok(()) };
    let node = Namespace::new(format!("{}node", unique_prefix("t")))?;
    let folder = tempfile::tempdir()?;
    let mut agent = start_in(&cgroup, &node, &folder.path().join("agent"))?;
    let guardian = agent.guardian()?;
    let before = file_pages(guardian)?;
    if !cgroup.reclaim()? {
        left_out("memory is taken back on request: this kernel has no such request");
        return Ok(());
    }
    let after = file_pages(guardian)?;
    ensure!(after >= before, "{before} KiB of its program before, {after} KiB after");
    ensure!(agent.terminate(SOON)? == 0);
    Ok(())
}

#[test]
fn where_memory_is_used_up_the_worker_ends_and_the_guardian_starts_another() -> Result<()> {
    let Some(cgroup) = cgroup()? else { return Ok(()) };
    let node = Namespace::new(format!("{}node", unique_prefix("t")))?;
    let folder = tempfile::tempdir()?;
    let mut agent = start_in(&cgroup, &node, &folder.path().join("agent"))?;
    let (guardian, worker) = (agent.guardian()?, agent.worker()?);
    let score = |pid| -> Result<i32> { Ok(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim().parse()?) };
    ensure!(score(worker)? == (score(guardian)? + 200).min(1000), "{} {}", score(worker)?, score(guardian)?);
    let memory = Memory::mount()?;
    let file = memory.0.path().join("file");
    fill(&cgroup, &file)?;
    let line = agent.process.wait_for_line("the worker is dead", SOON)?;
    ensure!(line.contains("code=137"), "{line}");
    ensure!(agent.process.exited()?.is_none() && agent.guardian()? == guardian, "the guardian lives");
    fs::remove_file(file)?;
    wait::until_true("another worker", SOON, || Ok(agent.worker().is_ok_and(|pid| pid != worker)))?;
    agent.wait_ready(&node)?;
    ensure!(agent.terminate(SOON)? == 0, "{}", agent.process.log());
    Ok(())
}
