//! Takes the processor away from a guest, as a busy host does to a virtual machine: it stands still for 12 ms of every 30 ms
//! for as long as a file is there, which a test in the guest makes and removes.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the guest stands still.
const STOLEN: Duration = Duration::from_millis(12);
/// From one pause to the next.
const PERIOD: Duration = Duration::from_millis(30);

pub(super) struct CpuSteal {
    wanted: PathBuf,
    qemu: Pid,
}

impl CpuSteal {
    pub(super) fn new(wanted: &Path, qemu: u32) -> CpuSteal {
        let qemu = Pid::from_raw(i32::try_from(qemu).expect("a process id is positive and fits"));
        CpuSteal { wanted: wanted.to_owned(), qemu }
    }

    /// Lets `time` pass, with pauses of the guest if they are wanted.
    pub(super) fn for_a_while(&mut self, time: Duration) {
        if !self.wanted.exists() {
            thread::sleep(time);
            return;
        }
        let end = Instant::now() + time;
        while Instant::now() < end {
            let _ = kill(self.qemu, Signal::SIGSTOP);
            thread::sleep(STOLEN);
            let _ = kill(self.qemu, Signal::SIGCONT);
            thread::sleep(PERIOD - STOLEN);
        }
    }
}
