//! Ctrl-C, SIGTERM and SIGHUP: remembered, and passed on to the process groups that xtask started, so that no command
//! leaves anything running. The commands themselves look at [`interrupted`] where they wait, or leave what is to be
//! done with [`at_end`].

use std::collections::BTreeSet;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, geteuid};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static AT_END: OnceLock<fn()> = OnceLock::new();
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// 128 + SIGINT, as shells have it.
pub(crate) const INTERRUPTED_CODE: u8 = 130;

/// How long a child may take to clean up after itself before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Starts watching. Call it once, before any other thread exists: the signals are blocked here and taken by one thread.
/// Children are not concerned, the standard library gives them an empty mask.
pub(crate) fn watch() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().expect("blocking three ordinary signals is always allowed");
    thread::spawn(move || {
        while signals.wait().is_ok() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            stop(Signal::SIGINT);
            if let Some(clean_up) = AT_END.get() {
                clean_up();
                process::exit(INTERRUPTED_CODE.into());
            }
            thread::spawn(|| {
                thread::sleep(GRACE);
                stop(Signal::SIGKILL);
            });
        }
    });
}

/// From now on a signal calls this and then ends xtask at once. A second call changes nothing.
pub(crate) fn at_end(clean_up: fn()) {
    let _ = AT_END.set(clean_up);
}

/// Whether the person asked to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Registers a process group to be stopped with xtask, until the guard is dropped.
pub(crate) fn guard(group: u32) -> Guard {
    let group = i32::try_from(group).expect("a process id is positive and fits");
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(group);
    Guard { group }
}

/// A process group that is stopped on Ctrl-C as long as this lives.
pub(crate) struct Guard {
    group: i32,
}

impl Guard {
    /// Sends a signal to the whole group; one that is gone already is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_group(self.group, signal);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.group);
    }
}

fn stop(signal: Signal) {
    for &group in GROUPS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        signal_group(group, signal);
    }
}

fn signal_group(group: i32, signal: Signal) {
    let _ = killpg(Pid::from_raw(group), signal);
    if !geteuid().is_root() {
        // Tests that run as root through sudo are beyond our own reach; where sudo is not open either, none runs.
        let mut command = Command::new("sudo");
        command.args(["-n", "kill", "-s", signal.as_str().trim_start_matches("SIG"), "--", &format!("-{group}")]);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
