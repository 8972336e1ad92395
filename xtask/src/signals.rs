//! Ctrl-C, SIGTERM and SIGHUP: remembered, and passed on to the process groups that xtask started, so that no command
//! leaves anything running. The commands themselves look at [`interrupted`] where they wait; what the rig made, the rig
//! removes on the same signals by itself.

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// 128 + SIGINT, as shells have it.
pub(crate) const INTERRUPTED_CODE: u8 = 130;

/// How long a child may take to clean up after itself before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Starts watching. Handlers, not a blocked mask: children inherit a mask, and would then not hear their own Ctrl-C.
pub(crate) fn watch() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build().context("cannot watch for signals")?;
    thread::spawn(move || runtime.block_on(forward()));
    Ok(())
}

async fn forward() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => (), _ = hangup.recv() => () }
        INTERRUPTED.store(true, Ordering::SeqCst);
        stop(Signal::SIGINT);
        thread::spawn(|| {
            thread::sleep(GRACE);
            stop(Signal::SIGKILL);
        });
    }
}

/// Whether the person asked to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Registers a process group to be stopped with xtask, until the guard is dropped.
pub(crate) fn guard(group: u32) -> ProcessGroupGuard {
    let group = i32::try_from(group).expect("a process id is positive and fits");
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(group);
    ProcessGroupGuard { group }
}

/// A process group that is stopped on Ctrl-C while this exists.
pub(crate) struct ProcessGroupGuard {
    group: i32,
}

impl ProcessGroupGuard {
    /// Sends a signal to the whole group; one that is gone already is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_group(self.group, signal);
    }
}

impl Drop for ProcessGroupGuard {
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
