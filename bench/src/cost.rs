//! What processes cost: time on a CPU, of theirs and of the whole machine, and their share of memory.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use redir_rig::process;

/// The CPU of whatever stands between client and app.
pub const MIDDLE: usize = 1;
/// The other CPU, of load and app, where both ends together would hide what the middle can do.
pub const ENDS: usize = 0;

/// A process and all its descendants.
pub fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        all.extend(process::children(all[at]));
        at += 1;
    }
    all
}

/// Nanoseconds on a CPU since the start, of all threads of all these (`schedstat`, exact where `stat` counts ticks).
pub fn cpu_time(pids: &[i32]) -> u64 {
    let threads = pids.iter().flat_map(|pid| threads(*pid));
    let first = |text: String| text.split(' ').next()?.parse::<u64>().ok();
    threads.filter_map(|tid| fs::read_to_string(format!("/proc/{tid}/schedstat")).ok().and_then(first)).sum()
}

/// The machine's CPUs at a moment.
#[derive(Debug, Clone, Copy)]
pub struct MachineTime {
    at: Instant,
    /// Ticks of all CPUs in which nothing ran.
    idle: u64,
    cpus: u32,
}

impl MachineTime {
    /// Now.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal. The time in which a CPU sleeps is measured; what it does when it
        // does not is guessed from where the timer's interrupt finds it, which a load at a fixed rate may always dodge.
        let idle = [3, 4, 7].iter().filter_map(|at| ticks.get(*at)).sum();
        let cpus = text.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        Ok(Self { at: Instant::now(), idle, cpus: u32::try_from(cpus)? })
    }

    /// Nanoseconds that its CPUs were busy since.
    pub fn busy_since(&self, before: &Self) -> u64 {
        let all = (self.at - before.at) * self.cpus;
        let idle = Duration::from_nanos((self.idle - before.idle) * NANOSECONDS_A_TICK);
        u64::try_from(all.saturating_sub(idle).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Proportional set size in bytes.
pub fn memory(pids: &[i32]) -> Result<u64> {
    pids.iter().try_fold(0, |sum, pid| {
        let text =
            fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("memory of {pid}"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).context("no Pss")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().context("Pss")?;
        Ok(sum + kibibytes * 1024)
    })
}

/// Puts every thread of these processes on one CPU.
pub fn pin(pids: &[i32], cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    for tid in pids.iter().flat_map(|pid| threads(*pid)) {
        // A thread may have ended meanwhile.
        let _ = sched_setaffinity(Pid::from_raw(tid), &set);
    }
    Ok(())
}

fn threads(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// USER_HZ is 100 on every architecture that Rust's Linux targets have.
const NANOSECONDS_A_TICK: u64 = 10_000_000;
