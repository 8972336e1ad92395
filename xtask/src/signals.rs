//! Ctrl-C, SIGTERM and SIGHUP: remembered, and passed on to the process groups that xtask started, so that no command
//! leaves anything running. The commands themselves look at [`interrupted`] where they wait.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

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
            thread::spawn(|| {
                thread::sleep(GRACE);
                stop(Signal::SIGKILL);
            });
        }
    });
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
        let _ = killpg(Pid::from_raw(self.group), signal);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.group);
    }
}

fn stop(signal: Signal) {
    for &group in GROUPS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = killpg(Pid::from_raw(group), signal);
    }
}
