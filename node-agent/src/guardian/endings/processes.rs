//! The processes of a pod, as the node's `/proc` shows them.
//!
//! A process is a pod's if it is in the pod's network namespace and in one of its cgroups: not a runtime's helper that has
//! been put into the cgroup (CRI-O's conmon), nor a namespace of a container's own making. Where the namespace cannot be seen,
//! the cgroup alone counts. Decides nothing.

use std::{collections::BTreeMap, fs, io, path::Path};

use crate::{
    config::PodName,
    guardian::{
        datapath::Pause,
        netns::NetnsId,
        seek::{PROCESSES, names, read, uid},
    },
};

/// A process, which no other is mistaken for that gets its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    /// When it began, in ticks of the kernel's clock since the boot.
    began: u64,
    pid: u32,
}

impl Process {
    /// `None`: it has ended.
    fn of(proc: &Path, pid: u32) -> io::Result<Option<Self>> {
        let stat = unless_ended(Stat::read(proc, pid))?.filter(|stat| stat.runs);
        Ok(stat.map(|stat| Self { began: stat.began, pid }))
    }

    /// Whether it still runs. What cannot be read for another reason than its end counts as running.
    pub(super) fn runs(self, proc: &Path) -> bool {
        match unless_ended(Stat::read(proc, self.pid)) {
            Ok(stat) => stat.is_some_and(|stat| stat.runs && stat.began == self.began),
            Err(_) => true,
        }
    }

    /// Whether it looks like a sandbox's own process (`pause`). That has nothing open but `/dev/null`; where the runtime keeps
    /// its output (cri-dockerd) it has pipes, as an app has, and only its name is another. One that shows no descriptor at all
    /// may be an app whose first thread has ended.
    fn is_like_sandbox(self, proc: &Path) -> bool {
        let folder = proc.join(self.pid.to_string());
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
}

/// `None` where a process has ended that something was to be read of.
fn unless_ended<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if has_ended(&error) => Ok(None),
        read => read.map(Some),
    }
}

fn has_ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// What of `/proc/PID/stat` matters.
struct Stat {
    runs: bool,
    began: u64,
}

impl Stat {
    fn read(proc: &Path, pid: u32) -> io::Result<Self> {
        let text = read(&proc.join(format!("{pid}/stat")))?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no stat of a process"))
    }

    /// Behind the name, which may hold anything, come the state (the third field), the number of threads (the 20th) and the
    /// start (the 22nd). A first thread that has ended is a zombie as long as others run.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let threads: u32 = fields.get(17)?.parse().ok()?;
        let over = matches!(*fields.first()?, "Z" | "X") && threads <= 1;
        Some(Self { runs: !over, began: fields.get(19)?.parse().ok()? })
    }
}

/// A process of a pod.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) process: Process,
    cgroup: String,
}

/// The processes of some pods.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<PodName, Vec<Member>>);

impl Members {
    /// Goes through all processes of the node once.
    pub(super) fn list(proc: &Path, pods: &[(PodName, NetnsId)], pause: Pause<'_>) -> io::Result<Self> {
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
            && let Some(process) = Process::of(proc, pid)?
        {
            self.0.entry(pod.clone()).or_default().push(Member { process, cgroup });
        }
        Ok(())
    }

    /// Those of one pod.
    pub(super) fn take(&mut self, pod: &PodName) -> Vec<Member> {
        self.0.remove(pod).unwrap_or_default()
    }
}

/// Those of the containers: without the sandbox's own (`pause`), which the runtime ends only when all others have.
///
/// It is known by what it is: the pod's oldest process, alone in its cgroup, with nothing open that an app has. In doubt it is
/// none: a runtime may have no such process (CRI-O), and an app must not be taken for it in its grace period.
pub(super) fn without_sandbox(proc: &Path, mut members: Vec<Member>) -> Vec<Process> {
    members.sort_by_key(|member| member.process);
    let is_sandbox = members.split_first().is_some_and(|(oldest, others)| {
        others.iter().all(|other| other.cgroup != oldest.cgroup) && oldest.process.is_like_sandbox(proc)
    });
    members.into_iter().skip(usize::from(is_sandbox)).map(|member| member.process).collect()
}
