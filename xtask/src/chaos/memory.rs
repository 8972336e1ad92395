//! What an agent has resident, before, at and after a peak, and what a request costs it: the figures by which its allocator was
//! chosen.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use redir_rig::topology::Family;
use redir_rig::{Http, cleanup, wait};

use super::limits::crowds;
use super::limits::world::{PORT, Setting, World};
use crate::ui;

#[derive(Args)]
#[command(after_help = LESSON)]
pub(crate) struct Options {
    /// How often to play it
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: usize,
    /// The programs are built and this process is root
    #[arg(long, hide = true)]
    prepared: bool,
}

const LESSON: &str = "\
Each round starts an agent, asks 5,000 requests of each kind, lets 2,000 heads
and ClientHellos begin that never end, 60 clients come that read no answer, and
20 of HTTP/2 with 1,000 requests each, and then lets all of them go.

resident  MiB of guardian and worker at the start, then of the worker at the
          peak and so many seconds after the last connection has ended
CPU       of the worker, in microseconds for each request on a kept connection

  cargo xtask chaos memory --rounds 3

Ctrl-C removes everything.";

/// Memory of the agent's cgroup: the chart's.
const MEMORY: u64 = 256 << 20;
/// Seconds after the last connection has ended.
const AFTER: [u64; 4] = [1, 5, 15, 30];
const REQUESTS: u32 = 5_000;
const LATER: Duration = Duration::from_secs(120);

impl Options {
    pub(super) fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// What was typed, without what is for this program alone.
    pub(super) fn arguments(&self) -> Vec<String> {
        ["chaos", "memory", "--rounds"].map(str::to_owned).into_iter().chain([self.rounds.to_string()]).collect()
    }
}

pub(super) fn play(options: &Options) -> Result<()> {
    cleanup::on_signals();
    let after = AFTER.map(|seconds| format!("+{seconds} s"));
    println!(
        "{}",
        ui::bold(&format!(
            "{:<9} {:<8} {:<8} {:<8} {:<8} {:<8} {:<8} {:<10} matched",
            "guardian", "worker", "peak", after[0], after[1], after[2], after[3], "unmatched"
        ))
    );
    for _ in 0..options.rounds {
        round()?;
    }
    Ok(())
}

fn round() -> Result<()> {
    let world = World::new(Setting::All, MEMORY)?;
    let (guardian, worker) = (resident(world.guardian()?)?, resident(world.worker()?)?);
    let [unmatched, matched] = ["x-user: nobody", "x-user: alice"].map(|header| cost(&world, header));
    let (unmatched, matched) = (unmatched?, matched?);
    let open = world.metric("redir_connections_open", "")?;
    let crowd = crowds::all_at_once(&world)?;
    let peak = resident(world.worker()?)?;
    drop(crowd);
    wait::until_true("the crowd's connections to end", LATER, || {
        Ok(world.metric("redir_connections_open", "")? <= open)
    })?;
    let ended = Instant::now();
    let mut after = Vec::new();
    for seconds in AFTER {
        thread::sleep(Duration::from_secs(seconds).saturating_sub(ended.elapsed()));
        after.push(resident(world.worker()?)?);
    }
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    let [one, five, fifteen, thirty] = [0, 1, 2, 3].map(|at| mib(after[at]));
    println!(
        "{:<9} {:<8} {:<8} {one:<8} {five:<8} {fifteen:<8} {thirty:<8} {unmatched:<10.1} {matched:.1}",
        mib(guardian),
        mib(worker),
        mib(peak)
    );
    Ok(())
}

/// CPU time of the worker for one request, in microseconds.
fn cost(world: &World, header: &str) -> Result<f64> {
    let stream = world.topology.client.namespace.connect(world.topology.pod().at(Family::V4, PORT))?;
    let mut connection = Http::new(stream);
    connection.get("/", &[header])?;
    let before = cpu(world.worker()?)?;
    for _ in 0..REQUESTS {
        connection.get("/", &[header])?;
    }
    Ok((cpu(world.worker()?)? - before).as_secs_f64() * 1e6 / f64::from(REQUESTS))
}

/// What a process has used of CPUs, in all its threads.
fn cpu(process: i32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanos += statistics.split(' ').next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// In KiB.
fn resident(process: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
