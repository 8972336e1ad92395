//! Processes that own the network namespaces of the file's pods, where the file names one by `/proc/PID/ns/net`: such a pod
//! ends with that process.
//!
//! Owns a pidfd of each: whoever made the pod takes its link away as soon as the process has ended, which is sooner than
//! paths are looked at. What has become of the pod is for its path to say. Called by `pods`.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::config::PodName;

/// The processes that are waited for.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<PodName, OwnedFd>);

impl Owners {
    /// Waits for the end of the process that the path names, if it names one. Without a pidfd the path is looked at each
    /// second, as any other.
    pub(super) fn watch(&mut self, pod: &PodName, netns: &Path) {
        let Some(pid) = owner(netns) else { return };
        match pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from) {
            Ok(process) => drop(self.0.insert(pod.clone(), process)),
            Err(error) => tracing::debug!(%pod, %error, "the process of the pod is not waited for"),
        }
    }

    /// The pod is not armed any more.
    pub(super) fn forget(&mut self, pod: &PodName) {
        self.0.remove(pod);
    }

    /// What to poll for reading.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.values().map(AsFd::as_fd)
    }

    /// Waits no longer for those that have ended.
    pub(super) fn forget_ended(&mut self) {
        self.0.retain(|_, process| {
            let mut wait = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            // A poll that fails tells nothing: a process that has ended is still readable next time.
            poll(&mut wait, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
        });
    }
}

fn owner(netns: &Path) -> Option<Pid> {
    let pid = netns.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?;
    Pid::from_raw(pid.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_its_number_alone() {
        assert_eq!(owner(Path::new("/proc/4711/ns/net")).map(Pid::as_raw_nonzero).map(i32::from), Some(4711));
        for other in
            ["/proc/self/ns/net", "/proc/0/ns/net", "/proc/1/task/1/ns/net", "/run/netns/web-1", "/proc/1/ns/mnt"]
        {
            assert_eq!(owner(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_end_of_a_process_is_seen_once() {
        let mut process = std::process::Command::new("sleep").arg("600").spawn().expect("started");
        let (mut owners, pod) = (Owners::default(), PodName::new("web-1").expect("a name"));
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
