//! Pods that are to end: when their last process has ended, and their network is still there.
//!
//! Owns which processes such pods have left. The runtime takes a pod's link away some hundredths of a second after the last
//! process of its containers, and whoever holds a connection there by then hangs. A pidfd would tell sooner, but needs the
//! node's pid namespace, which the agent has not got: of each pod one process is looked at in the node's `/proc`, every
//! [`EVERY`]. Called by `pods`.

mod processes;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use self::processes::{PodProcesses, without_sandbox};
use super::{datapath::YieldPoint, netns::NetnsId, process::ProcessHandle};
use redir_config::PodName;
use redir_ipc::LastProcess;

/// The pods that are watched.
#[derive(Debug, Default)]
pub(super) struct PodEndings {
    pods: BTreeMap<PodName, PodEnding>,
    next: Option<Instant>,
}

#[derive(Debug)]
struct PodEnding {
    netns: NetnsId,
    last: LastProcess,
    /// Those that ran when they were listed last; others may have come since.
    processes: Vec<ProcessHandle>,
}

impl PodEnding {
    /// Whether one of its known processes runs. Looks at one of them, unless that one has ended.
    fn runs(&mut self, proc: &Path) -> bool {
        while self.processes.last().is_some_and(|process| !process.runs(proc)) {
            self.processes.pop();
        }
        !self.processes.is_empty()
    }
}

impl PodEndings {
    /// Watches a pod from now on.
    pub(super) fn watch(&mut self, pod: PodName, netns: NetnsId, last: LastProcess, now: Instant) {
        self.pods.insert(pod, PodEnding { netns, last, processes: Vec::new() });
        self.next = Some(now);
    }

    /// The pod is not armed any more, or not to end any more.
    pub(super) fn forget(&mut self, pod: &PodName) {
        self.pods.remove(pod);
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.filter(|_| !self.pods.is_empty())
    }

    /// Looks, if it is time; the pods whose last process has ended, which are watched no longer. However many pods have
    /// none of their known processes left, the node's are listed once.
    pub(super) fn look(&mut self, proc: &Path, now: Instant, pause: YieldPoint<'_>) -> Vec<PodName> {
        if self.next().is_none_or(|next| next > now) {
            return Vec::new();
        }
        let each = u32::try_from(self.pods.len()).unwrap_or(u32::MAX);
        self.next = Some(now + EVERY.max(EACH * each));
        let unknown =
            self.pods.iter_mut().filter_map(|(pod, ending)| (!ending.runs(proc)).then_some((pod, ending.netns)));
        let unknown: Vec<(PodName, NetnsId)> = unknown.map(|(pod, netns)| (pod.clone(), netns)).collect();
        if unknown.is_empty() {
            return Vec::new();
        }
        let began = Instant::now();
        let members = PodProcesses::list(proc, &unknown, pause);
        // Half of the guardian's time at most: pods whose processes come and go have all of the node's listed each time.
        self.next = self.next.max(Some(Instant::now() + began.elapsed()));
        let mut members = match members {
            Ok(members) => members,
            Err(error) => {
                tracing::debug!(%error, "the node's processes cannot be listed");
                self.next = Some(now + AGAIN);
                return Vec::new();
            }
        };
        let mut ended = Vec::new();
        for (pod, _) in unknown {
            let Some(ending) = self.pods.get_mut(&pod) else { continue };
            let left = members.take(&pod);
            ending.processes = match ending.last {
                LastProcess::OfContainers => without_sandbox(proc, left),
                LastProcess::OfSandbox => left.into_iter().map(|member| member.process).collect(),
            };
            if ending.processes.is_empty() {
                self.pods.remove(&pod);
                ended.push(pod);
            }
        }
        ended
    }
}

/// Well inside the time that a runtime takes from a container's last process to the removal of the link.
const EVERY: Duration = Duration::from_millis(10);
/// At least so long for each pod that is watched: a look takes some ten microseconds, and a node may end all its pods at once.
const EACH: Duration = Duration::from_micros(500);
/// After the processes could not be listed.
const AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
