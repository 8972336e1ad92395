//! The processes of a pod, as the node's `/proc` shows them.
//!
//! A process is a pod's if it is in the pod's network namespace and in one of its cgroups: not a runtime's helper that has
//! been put into the cgroup (CRI-O's conmon), nor a namespace of a container's own making. Where the namespace cannot be seen,
//! the cgroup alone counts. Decides nothing.

use std::{collections::BTreeMap, fs, io, path::Path};

use crate::{
    datapath::YieldPoint,
    netns::NetnsId,
    pod_netns::{PROCESSES, names, uid},
    process::{ProcessHandle, has_ended, read, unless_ended},
};
use redir_config::PodName;

/// Whether it looks like a sandbox's own process (`pause`). That has nothing open but `/dev/null`; where the runtime keeps
/// its output (cri-dockerd) it has pipes, as an app has, and only its name is another. One that shows no descriptor at all
/// may be an app whose first thread has ended.
fn is_like_sandbox(process: ProcessHandle, proc: &Path) -> bool {
    let folder = proc.join(process.pid().to_string());
    let Ok(descriptors) = fs::read_dir(folder.join("fd")) else { return false };
    let is_pause = read(&folder.join("comm")).is_ok_and(|name| name.trim_end() == "pause");
    let mut count = 0;
    let harmless = descriptors.into_iter().all(|entry| {
        count += 1;
        let target = entry.and_then(|entry| fs::read_link(entry.path()));
        target.is_ok_and(|target| {
            let target = target.as_os_str().as_encoded_bytes();
            target == b"/dev/null" || is_pause && target.starts_with(b"pipe:")
        })
    });
    harmless && count > 0
}

/// A process of a pod.
#[derive(Debug)]
pub(super) struct PodProcess {
    pub(super) process: ProcessHandle,
    cgroup: String,
}

/// The processes of some pods.
#[derive(Debug, Default)]
pub(super) struct PodProcesses(BTreeMap<PodName, Vec<PodProcess>>);

impl PodProcesses {
    /// Goes through all processes of the node once.
    pub(super) fn list(proc: &Path, pods: &[(PodName, NetnsId)], pause: YieldPoint<'_>) -> io::Result<Self> {
        let entries = fs::read_dir(proc)?;
        let pids: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        let mut members = Self::default();
        for some in pids.chunks(PROCESSES) {
            pause();
            for pid in some {
                members.see(proc, pods, *pid)?;
            }
        }
        Ok(members)
    }

    fn see(&mut self, proc: &Path, pods: &[(PodName, NetnsId)], pid: u32) -> io::Result<()> {
        let netns = match NetnsId::of(&proc.join(format!("{pid}/ns/net"))) {
            Ok(netns) => Some(netns),
            // A first thread that has ended has none, though others may run, and a security module may hide it: then the
            // cgroup alone says whose process it is.
            Err(error) if has_ended(&error) || error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        let is_in = |other: NetnsId| netns.is_none_or(|netns| netns == other);
        if !pods.iter().any(|(_, other)| is_in(*other)) {
            return Ok(());
        }
        let cgroup = match unless_ended(read(&proc.join(format!("{pid}/cgroup")))) {
            // Nothing of it can be seen: it is the node's own.
            Err(error) if netns.is_none() && error.kind() == io::ErrorKind::PermissionDenied => None,
            cgroup => cgroup?,
        };
        let Some(cgroup) = cgroup else { return Ok(()) };
        let is_of = |pod: &PodName| uid(pod).is_ok_and(|uid| names(&cgroup, uid));
        if let Some((pod, _)) = pods.iter().find(|(pod, other)| is_in(*other) && is_of(pod))
            && let Some(process) = ProcessHandle::of(proc, pid)?
        {
            self.0.entry(pod.clone()).or_default().push(PodProcess { process, cgroup });
        }
        Ok(())
    }

    /// Those of one pod.
    pub(super) fn take(&mut self, pod: &PodName) -> Vec<PodProcess> {
        self.0.remove(pod).unwrap_or_default()
    }
}

/// Those of the containers: without the sandbox's own (`pause`), which the runtime ends only when all others have.
///
/// It is known by what it is: the pod's oldest process, alone in its cgroup, with nothing open that an app has. In doubt it is
/// none: a runtime may have no such process (CRI-O), and an app must not be taken for it in its grace period.
pub(super) fn without_sandbox(proc: &Path, mut members: Vec<PodProcess>) -> Vec<ProcessHandle> {
    members.sort_by_key(|member| member.process);
    let is_sandbox = members.split_first().is_some_and(|(oldest, others)| {
        others.iter().all(|other| other.cgroup != oldest.cgroup) && is_like_sandbox(oldest.process, proc)
    });
    members.into_iter().skip(usize::from(is_sandbox)).map(|member| member.process).collect()
}
