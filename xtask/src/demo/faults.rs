//! The scenes in which the agent is killed under a stream of requests. Counted as the fault table says: a request fails
//! the count if its SYN was sent after the killed process was gone; connections that were inside it are told apart.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redir_rig::topology::Family;
use redir_rig::{Cli, Load, LoadReport};

use super::figures::DemoTimes;
use super::story::{Story, precise};
use super::world::{DemoWorld, HEADER, PODS, PORT};

/// Requests a second, each on a connection of its own.
const RATE: u32 = 250;
/// Requests to see before and after the kill: two seconds' worth.
const SPAN: usize = 500;
/// How long the agent may take to be back before the demo gives up.
const LIMIT: Duration = Duration::from_secs(20);

/// The worker alone dies; its guardian starts another.
pub(super) fn worker_killed(story: &mut Story, world: &mut DemoWorld, times: &mut DemoTimes) -> Result<Cli> {
    story.scene(
        "kill -9 of the agent's worker, under a stream of requests",
        &format!("{RATE} requests/s without the header, each on a new connection, never retried, 15 s of patience"),
    );
    let mut intercept = world.intercept(story, &["app=web", "--port", "8080:3000", "--header", HEADER])?;
    intercept.wait_events("live", PODS, LIMIT)?;
    let load = start(world)?;
    let worker = world.agent()?.worker()?;
    let gone = kill_and_wait(&[worker])?;
    let back = until_intercepted(world, &intercept, gone)?;
    times.worker_back = Some(back);
    load.wait_for(SPAN, gone)?;
    tell(story, &load.stop()?, gone);
    story.say(&format!("intercepted again {} after the kill, by itself", precise(back)));
    Ok(intercept)
}

/// Both processes die, as when the container is killed; then somebody starts the agent anew.
pub(super) fn agent_killed(
    story: &mut Story,
    world: &mut DemoWorld,
    intercept: Cli,
    times: &mut DemoTimes,
) -> Result<Cli> {
    story.scene(
        "kill -9 of the whole agent, under the same stream",
        "nobody is there to clean up: what is left in the pods' namespaces?",
    );
    let load = start(world)?;
    let gone = kill_and_wait(&[world.agent()?.guardian()?, world.agent()?.worker()?])?;
    let restored = world.restored();
    let clean = story.must(restored.is_ok(), &format!("after kill -9: {restored:?}"));
    let to = world.topology.pod().at(Family::V4, PORT);
    let alone =
        story.check("with the header, while no agent runs", &world.ask(to, &[HEADER]), &world.green(Family::V4));
    load.wait_for(SPAN, gone)?;
    let restarted = Instant::now();
    world.restart_agent()?;
    let back = until_intercepted(world, &intercept, restarted)?;
    times.agent_back = Some(back);
    tell(story, &load.stop()?, gone);
    story.say(&format!("{clean} nothing is left in the pods; with the header: {}", alone.line()));
    story.say(&format!(
        "intercepted again {} after the agent was started anew; redir intercept kept running",
        precise(back)
    ));
    Ok(intercept)
}

fn start(world: &DemoWorld) -> Result<Load> {
    let to = world.topology.pod().at(Family::V4, PORT);
    let load = Load::start(&world.topology.client.namespace, to, RATE, "/", &[])?;
    load.wait_for(SPAN, Instant::now())?;
    Ok(load)
}

/// SIGKILL to each, at once; the moment when the last of them held no socket any more.
fn kill_and_wait(pids: &[i32]) -> Result<Instant> {
    for &pid in pids {
        kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill -9 {pid}"))?;
    }
    let began = Instant::now();
    while !pids.iter().all(|&pid| dead(pid)) {
        ensure!(began.elapsed() < LIMIT, "{pids:?} did not die");
        std::thread::yield_now();
    }
    Ok(Instant::now())
}

/// Files are closed when the last thread is gone, and a process whose first thread has ended looks like a zombie before.
fn dead(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name in parentheses may hold anything; the state follows the last of them.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    })
}

fn until_intercepted(world: &DemoWorld, intercept: &Cli, since: Instant) -> Result<Duration> {
    let to = world.topology.pod().at(Family::V4, PORT);
    while !world.ask(to, &[HEADER]).is_ok_and(|answer| answer.starts_with("orange")) {
        ensure!(since.elapsed() < LIMIT, "not intercepted again after {LIMIT:?}: {}", intercept.process.log());
    }
    Ok(since.elapsed())
}

fn tell(story: &mut Story, report: &LoadReport, gone: Instant) {
    let failed = report.failed(Some(gone), None);
    let inside = report.failed(None, Some(gone)).len();
    let strangers: Vec<_> =
        report.by_answer().into_keys().filter(|key| key != "green" && !key.starts_with("failed")).collect();
    let mark = story.must(failed.is_empty(), &format!("requests failed after the kill: {failed:?}"));
    let app = story.must(strangers.is_empty(), &format!("answers that are not the app's: {strangers:?}"));
    let slowest = precise(report.slowest());
    story.say(&format!(
        "{mark} {} requests, {} failed   {app} all answers from the app   slowest {slowest}",
        report.outcomes.len(),
        failed.len()
    ));
    if inside > 0 {
        let were = if inside == 1 { "connection was" } else { "connections were" };
        story.say(&format!("  {inside} {were} inside the agent when it died: reset, once (not in the count)"));
    }
}
