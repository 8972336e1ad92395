//! Processes that own the network namespaces of the file's pods, where the file names one by `/proc/PID/ns/net`: such a pod
//! ends with that process.
//!
//! Owns a pidfd of each: whoever made the pod takes its link away as soon as the process has ended, which is sooner than
//! paths are looked at. What has become of the pod is for its path to say. Owns also when each of them began: a number
//! that another process has got since names another's network. Called by `pods`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::process::ProcessHandle;
use redir_config::{NodeConfig, PodName};

/// The processes that the file names.
#[derive(Debug, Default)]
pub(super) struct NetnsOwners {
    /// Those that are waited for.
    waited: BTreeMap<PodName, OwnedFd>,
    /// Each as it was when its number was first met in the file.
    first: BTreeMap<u32, ProcessHandle>,
}

impl NetnsOwners {
    /// Waits for the end of the process that the path names, if it names one. Without a pidfd the path is looked at each
    /// second, as any other.
    pub(super) fn watch(&mut self, pod: &PodName, netns: &Path) {
        let Some(pid) = owner(netns).and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return };
        match pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from) {
            Ok(process) => drop(self.waited.insert(pod.clone(), process)),
            Err(error) => tracing::debug!(%pod, %error, "the process of the pod is not waited for"),
        }
    }

    /// Waits for the end of a process that is known by its pidfd.
    pub(super) fn watch_process(&mut self, pod: &PodName, process: OwnedFd) {
        self.waited.insert(pod.clone(), process);
    }

    /// Takes the processes of a new configuration; those that it named before stay who they were.
    pub(super) fn note(&mut self, config: &NodeConfig) {
        let named: BTreeSet<u32> = config.pods.iter().filter_map(|pod| owner(pod.netns.path()?)).collect();
        self.first.retain(|pid, _| named.contains(pid));
        for pid in named {
            if let Ok(Some(process)) = ProcessHandle::of(Path::new(PROC), pid) {
                self.first.entry(pid).or_insert(process);
            }
        }
    }

    /// Whether the process that a path names is still the one it named first. To be asked after the path was opened. The
    /// error ends with the next step.
    pub(super) fn confirm(&mut self, netns: &Path) -> Result<(), String> {
        let Some(pid) = owner(netns) else { return Ok(()) };
        let now = ProcessHandle::of(Path::new(PROC), pid);
        let now = now.map_err(|error| format!("cannot look at process {pid}: {error}; try again"))?;
        let first = now.map(|process| *self.first.entry(pid).or_insert(process));
        if now.is_some() && first == now {
            return Ok(());
        }
        Err(format!(
            "process {pid} has ended, and its number may be another container's now; correct the pod's netns in the agent's \
             configuration (`docker inspect -f '{{{{.NetworkSettings.SandboxKey}}}}'` prints a path that is never another's)"
        ))
    }

    /// The pod is not armed any more.
    pub(super) fn forget(&mut self, pod: &PodName) {
        self.waited.remove(pod);
    }

    /// The worker is dead, and no pod is armed any more.
    pub(super) fn forget_all(&mut self) {
        self.waited.clear();
    }

    /// What to poll for reading.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.waited.values().map(AsFd::as_fd)
    }

    /// Waits no longer for those that have ended.
    pub(super) fn forget_ended(&mut self) {
        self.waited.retain(|_, process| {
            let mut wait = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            // A poll that fails tells nothing: a process that has ended is still readable next time.
            poll(&mut wait, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
        });
    }
}

/// The process that a path names.
fn owner(netns: &Path) -> Option<u32> {
    let pid = netns.to_str()?.strip_prefix(PROC)?.strip_prefix('/')?.strip_suffix("/ns/net")?;
    pid.parse().ok().filter(|pid| *pid > 0)
}

const PROC: &str = "/proc";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_its_number_alone() {
        assert_eq!(owner(Path::new("/proc/4711/ns/net")), Some(4711));
        for other in
            ["/proc/self/ns/net", "/proc/0/ns/net", "/proc/1/task/1/ns/net", "/run/netns/web-1", "/proc/1/ns/mnt"]
        {
            assert_eq!(owner(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_end_of_a_process_is_seen_once() {
        let mut process = std::process::Command::new("sleep").arg("600").spawn().expect("started");
        let (mut owners, pod) = (NetnsOwners::default(), PodName::new("web-1").expect("a name"));
        owners.watch(&pod, Path::new(&format!("/proc/{}/ns/net", process.id())));
        owners.forget_ended();
        assert_eq!(owners.descriptors().count(), 1);
        process.kill().expect("killed");
        let mut wait: Vec<_> = owners.descriptors().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        assert_eq!(poll(&mut wait, PollTimeout::from(60_000_u16)), Ok(1));
        owners.forget_ended();
        assert_eq!(owners.descriptors().count(), 0);
        process.wait().expect("reaped");
    }
}
