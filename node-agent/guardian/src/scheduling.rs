//! Whether a silent worker got the CPU that it wanted, from what the kernel counts for each of its threads.
//!
//! Reads `/proc/PID/task/*/schedstat` (Documentation/scheduler/sched-stats) and `stat`. A thread that is stopped, frozen or
//! waits for a lock wants no CPU. Called by the supervisor.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use nix::unistd::Pid;

/// What the threads of a process had got and waited for at some time.
#[derive(Debug)]
pub(super) struct SchedStats {
    at: Instant,
    threads: BTreeMap<u32, ThreadStats>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ThreadStats {
    /// Nanoseconds on a CPU.
    ran: u64,
    /// Nanoseconds in a run queue; the present wait is added only when it is over.
    waited: u64,
    /// It runs, or would if it were let.
    runnable: bool,
}

impl SchedStats {
    /// Looks at a process now.
    pub(super) fn of(pid: Pid, now: Instant) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let threads = tasks.filter_map(|task| {
            let tid = task.file_name().to_str()?.parse().ok()?;
            Some((tid, ThreadStats::of(&task.path())?))
        });
        Self { at: now, threads: threads.collect() }
    }

    /// Whether some thread has wanted a CPU since `before`, and for most of the time had none.
    pub(super) fn starved_since(&self, before: &Self) -> bool {
        let window = u64::try_from(self.at.duration_since(before.at).as_nanos()).unwrap_or(u64::MAX);
        self.threads.iter().any(|(tid, thread)| {
            before.threads.get(tid).is_some_and(|earlier| thread.lacked(*earlier, window) > window / 2)
        })
    }
}

impl ThreadStats {
    fn of(task: &Path) -> Option<Self> {
        let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
        let mut numbers = schedstat.split_whitespace().map(str::parse);
        let (ran, waited) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        // The name before the state may hold anything.
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let runnable = stat.rsplit_once(')')?.1.trim_start().starts_with('R');
        Some(Self { ran, waited, runnable })
    }

    /// Nanoseconds of the window in which it wanted a CPU and had none.
    fn lacked(self, before: Self, window: u64) -> u64 {
        let (ran, waited) = (self.ran.saturating_sub(before.ran), self.waited.saturating_sub(before.waited));
        if before.runnable && self.runnable && waited == 0 {
            // One single wait, which is not over.
            return window.saturating_sub(ran);
        }
        waited
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Child, Command},
        time::Duration,
    };

    use nix::sys::signal::{Signal, kill};

    use super::*;

    const WINDOW: u64 = 4_000_000_000;

    #[test]
    fn only_who_wanted_a_cpu_and_had_none_is_starved() {
        let thread = |ran, waited, runnable| ThreadStats { ran, waited, runnable };
        let start = thread(5, 7, true);
        let asleep = thread(5, 7, false);
        let lacked = |before: ThreadStats, after: ThreadStats| after.lacked(before, WINDOW) > WINDOW / 2;
        assert!(!lacked(asleep, thread(5, 7, false)), "waits for something else");
        assert!(!lacked(start, thread(5, 7, false)), "stopped, or in a lock");
        assert!(!lacked(start, thread(WINDOW, 9, true)), "spins on a CPU of its own");
        assert!(lacked(start, thread(5, 7, true)), "in the run queue all the time");
        assert!(lacked(asleep, thread(900, WINDOW - 900, false)), "ran now and then, long after it should have");
        assert!(!lacked(start, thread(WINDOW * 3 / 4, WINDOW / 4, true)), "shares a CPU");
    }

    struct KilledOnDrop(Child);

    impl Drop for KilledOnDrop {
        fn drop(&mut self) {
            self.0.kill().expect("ours");
            self.0.wait().expect("ours");
        }
    }

    fn spawn(command: &[&str]) -> (KilledOnDrop, Pid) {
        let child = Command::new(command[0]).args(&command[1..]).spawn().expect("coreutils and util-linux");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        (KilledOnDrop(child), pid)
    }

    /// Looks until the judgement is as expected; windows of a tenth of a second, on a machine with other things to do.
    fn becomes(pid: Pid, starved: bool) {
        for _ in 0..200 {
            let before = SchedStats::of(pid, Instant::now());
            std::thread::sleep(Duration::from_millis(100));
            let after = SchedStats::of(pid, Instant::now());
            if !before.threads.is_empty() && after.starved_since(&before) == starved {
                return;
            }
        }
        panic!("{pid} never was as expected (starved: {starved})");
    }

    #[test]
    fn real_processes_are_told_apart() {
        const SPIN: &str = "while :; do :; done";
        let (_busy, _) = spawn(&["taskset", "-c", "0", "sh", "-c", SPIN]);
        let (_starved, pid) = spawn(&["taskset", "-c", "0", "chrt", "-i", "0", "sh", "-c", SPIN]);
        becomes(pid, true);
        kill(pid, Signal::SIGSTOP).expect("ours");
        becomes(pid, false);
        let (_idle, pid) = spawn(&["sleep", "1000"]);
        becomes(pid, false);
    }
}
