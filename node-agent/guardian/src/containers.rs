//! Pods that the configuration names by a container: which process each of them is now.
//!
//! The controller says it, who has it from the container's runtime. Owns what of that is believed: the process is in the
//! cgroup of the container with that ID, of the runtime that the configuration names, and has not ended since it was looked at,
//! which a pidfd shows; another that gets its number is another's. Owns also that nothing else is entered: not the machine's own
//! network, and none that belongs to a user namespace other than the machine's and the process's. Called by `pods` and `check`.

mod cgroup;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use redir_config::{ContainerRef, NodeConfig, PodName};
use redir_ipc::{ContainerId, ContainerReport, ContainerState, RunningContainer};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    netns::{HostNamespaces, NetnsId, PodNetns},
    process::{has_ended, read},
};

/// The containers that the configuration names pods by.
#[derive(Debug)]
pub(super) struct Containers {
    proc: PathBuf,
    known: BTreeMap<PodName, KnownContainer>,
}

#[derive(Debug)]
struct KnownContainer {
    named: ContainerRef,
    /// What the controller says runs.
    claimed: Option<RunningContainer>,
    found: Result<ContainerProcess, String>,
    /// Why the runtime says no more.
    unheard: Option<String>,
}

/// The first process of a container.
#[derive(Debug)]
struct ContainerProcess {
    running: RunningContainer,
    pidfd: OwnedFd,
}

impl Containers {
    /// `proc` is the machine's `/proc`.
    pub(super) fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), known: BTreeMap::new() }
    }

    /// Forgets what a new configuration does not name, or names another container by.
    pub(super) fn note(&mut self, config: &NodeConfig) {
        self.known.retain(|pod, known| named(config, pod) == Some(&known.named));
    }

    /// Takes what the controller says. What the configuration does not name is not its to say.
    pub(super) fn take(&mut self, report: ContainerReport, config: &NodeConfig) {
        let ContainerReport { pod, container, state } = report;
        let Some(named) = named(config, &pod) else {
            tracing::debug!(%pod, "the controller speaks of what is no container in the configuration");
            return;
        };
        if container != *named {
            tracing::debug!(%pod, "the controller speaks of what an earlier configuration called the pod");
            return;
        }
        let before = self.known.remove(&pod).filter(|known| known.named == *named);
        let claimed = match state {
            ContainerState::Running(running) => Some(running),
            ContainerState::NotRunning(_) => None,
            ContainerState::Unknown(_) => before.as_ref().and_then(|known| known.claimed),
        };
        let (found, unheard) = match (state, before.map(|known| known.found)) {
            (ContainerState::Running(running), Some(Ok(process))) if process.running == running && process.runs() => {
                (Ok(process), None)
            }
            (ContainerState::Running(running), _) => (find(&self.proc, named, running), None),
            (ContainerState::NotRunning(reason), _) => (Err(reason), None),
            // The container goes on without its runtime.
            (ContainerState::Unknown(reason), Some(Ok(process))) => (Ok(process), Some(reason)),
            (ContainerState::Unknown(reason), _) => (Err(reason.clone()), Some(reason)),
        };
        if let Err(reason) = &found {
            tracing::warn!(%pod, reason, "the pod's container cannot be intercepted now");
        }
        self.known.insert(pod, KnownContainer { named: named.clone(), claimed, found, unheard });
    }

    /// Opens the network namespace of a pod's container; the error ends with the next step.
    pub(super) fn open(
        &mut self,
        home: &HostNamespaces,
        pod: &PodName,
        named: &ContainerRef,
    ) -> Result<PodNetns, String> {
        let Some(known) = self.known.get_mut(pod) else {
            return Err(format!("{} has not yet said how {named} stands; the agent asks it", named.runtime));
        };
        // What kept it from being found may be over, and the controller says nothing twice.
        if let (Err(_), Some(running)) = (&known.found, known.claimed) {
            known.found = find(&self.proc, named, running).map_err(|reason| known.unheard.clone().unwrap_or(reason));
        }
        let process = known.found.as_ref().map_err(Clone::clone)?;
        let netns = home.open(&netns_of(&self.proc, process));
        let users = NetnsId::of(&self.proc.join(format!("{}/ns/user", process.running.pid))).ok();
        // Asked after both were looked at: then they were this process's.
        if !process.runs() {
            let since = known.unheard.as_deref().unwrap_or("the agent looks again as soon as it starts");
            return Err(format!("the first process of {named} has ended; {since}"));
        }
        let netns = netns.map_err(|sentence| format!("{named}: {sentence}"))?;
        if !netns.owner().is_ok_and(|owner| [home.users(), users].contains(&Some(owner))) {
            return Err(format!(
                "the network of {named} belongs to a user namespace that is not its own; name the pod by `netns`"
            ));
        }
        Ok(netns)
    }

    /// The network namespace that a pod's container has now, if it runs.
    pub(super) fn netns_id(&self, pod: &PodName) -> Option<NetnsId> {
        let process = self.known.get(pod)?.found.as_ref().ok()?;
        let id = NetnsId::of(&netns_of(&self.proc, process)).ok()?;
        process.runs().then_some(id)
    }

    /// What becomes readable when a pod's container ends.
    pub(super) fn pidfd(&self, pod: &PodName) -> Option<io::Result<OwnedFd>> {
        let process = self.known.get(pod)?.found.as_ref().ok()?;
        Some(process.pidfd.try_clone())
    }

    /// Whether something was said of each container of the configuration.
    pub(super) fn are_all_known(&self, config: &NodeConfig) -> bool {
        config.containers().all(|(pod, _)| self.known.contains_key(pod))
    }
}

impl ContainerProcess {
    /// A pidfd is readable from its process's end on.
    fn runs(&self) -> bool {
        let mut wait = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut wait, PollTimeout::ZERO).is_ok_and(|ended| ended == 0)
    }
}

/// The process that the controller speaks of, if it is what it is said to be.
fn find(proc: &Path, named: &ContainerRef, running: RunningContainer) -> Result<ContainerProcess, String> {
    let RunningContainer { id, pid, .. } = running;
    if named.name.parse::<ContainerId>().is_ok_and(|named| named != id) {
        return Err(format!("{} answers for another ID than {named}; try again", named.runtime));
    }
    let ended = || format!("the first process of {named} has ended; the agent looks again as soon as it starts");
    // From here on the number is this process's, as long as it is seen to run at the end.
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(ended)?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from);
    let pidfd = pidfd.map_err(|error| if has_ended(&error) { ended() } else { unseen(named, &error) })?;
    let process = ContainerProcess { running, pidfd };
    let cgroup = read(&proc.join(format!("{}/cgroup", running.pid)));
    if !process.runs() {
        return Err(ended());
    }
    let cgroup = cgroup.map_err(|error| unseen(named, &error))?;
    if cgroup::container(&cgroup) == Some((named.runtime, id)) {
        return Ok(process);
    }
    Err(format!(
        "process {} is in no cgroup of {named}, whose it should be; run the container and the agent on this machine itself, \
         and the container with a cgroup of its own, or name the pod by `netns`",
        running.pid
    ))
}

fn netns_of(proc: &Path, process: &ContainerProcess) -> PathBuf {
    proc.join(format!("{}/ns/net", process.running.pid))
}

fn named<'a>(config: &'a NodeConfig, pod: &PodName) -> Option<&'a ContainerRef> {
    config.pod(pod)?.netns.container()
}

fn unseen(named: &ContainerRef, error: &io::Error) -> String {
    format!("cannot look at the first process of {named}: {error}; run the agent as root on this machine itself")
}

#[cfg(test)]
mod tests;
