//! Where a pod of Kubernetes has its network namespace: the kubelet writes the pod's UID into the names of its cgroups.
//!
//! Owns the search through the node's `/proc`, which may be mounted elsewhere (a container without hostPID). Trusts
//! neither a name nor an address alone: a namespace is the pod's if a process of its cgroup is in it and it holds one of
//! its addresses. Called by `pods`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{
    datapath::Pause,
    devices::Survey,
    netns::{Home, Netns, NetnsId},
    process::read,
};
use crate::config::PodName;

/// Finds pods, and remembers by which process.
#[derive(Debug)]
pub(super) struct Seeker {
    proc: PathBuf,
    found: BTreeMap<PodName, u32>,
}

impl Seeker {
    /// `proc` is the node's `/proc`.
    pub(super) fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), found: BTreeMap::new() }
    }

    /// The node's `/proc`.
    pub(super) fn proc(&self) -> &Path {
        &self.proc
    }

    /// Opens the network namespace of a pod; the error ends with the next step.
    pub(super) fn open(
        &mut self,
        home: &Home,
        pod: &PodName,
        ips: &[IpAddr],
        pause: Pause<'_>,
    ) -> Result<Netns, String> {
        let uid = uid(pod)?;
        let processes = self.processes(uid, pause)?;
        let Some(first) = processes.first() else {
            return Err(format!("no process of pod {pod} runs on this node; the agent looks again every second"));
        };
        if let Some(sandbox) = processes.iter().find_map(|pid| self.sandbox(*pid)) {
            return Err(format!(
                "the pod runs in {sandbox}, which has a network of its own inside; intercept a pod with the ordinary runtime"
            ));
        }
        let mut refusal = None;
        let mut seen = Vec::new();
        for pid in &processes {
            let path = self.netns_of(*pid);
            match NetnsId::of(&path) {
                Ok(id) if seen.contains(&id) => continue,
                Ok(id) => seen.push(id),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    refusal.get_or_insert(unreadable(&path, &error));
                    continue;
                }
            }
            match self.check(home, &path, ips) {
                Ok(netns) => {
                    self.found.insert(pod.clone(), *pid);
                    return Ok(netns);
                }
                Err(reason) => refusal = Some(reason),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            format!("process {first} of pod {pod} ended while it was looked at; the agent looks again every second")
        }))
    }

    /// Whether the pod is known to have another network namespace than this one: its sandbox was made anew. A pod whose
    /// processes have all ended keeps its namespace until there is another.
    pub(super) fn replaced(&mut self, home: &Home, pod: &PodName, id: NetnsId, ips: &[IpAddr]) -> bool {
        let Ok(uid) = uid(pod) else { return false };
        if self.found.get(pod).is_some_and(|pid| self.is_in(*pid, uid, id)) {
            return false;
        }
        let Ok(processes) = self.processes(uid, &mut || {}) else { return false };
        if let Some(pid) = processes.into_iter().find(|pid| self.is_in(*pid, uid, id)) {
            self.found.insert(pod.clone(), pid);
            return false;
        }
        self.open(home, pod, ips, &mut || {}).is_ok_and(|netns| netns.id() != id)
    }

    /// The pod is not armed any more.
    pub(super) fn forget(&mut self, pod: &PodName) {
        self.found.remove(pod);
    }

    /// The processes of a pod, oldest number first.
    fn processes(&self, uid: &str, pause: Pause<'_>) -> Result<Vec<u32>, String> {
        let proc = self.proc.display();
        let entries = fs::read_dir(&self.proc)
            .map_err(|error| format!("cannot read {proc}: {error}; mount the node's /proc there"))?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let all: Vec<u32> = pids.collect();
        let mut found = Vec::new();
        for some in all.chunks(PROCESSES) {
            pause();
            found.extend(some.iter().filter(|pid| self.belongs(**pid, uid)));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn belongs(&self, pid: u32, uid: &str) -> bool {
        read(&self.proc.join(format!("{pid}/cgroup"))).is_ok_and(|text| names(&text, uid))
    }

    fn is_in(&self, pid: u32, uid: &str, id: NetnsId) -> bool {
        NetnsId::of(&self.netns_of(pid)).is_ok_and(|now| now == id) && self.belongs(pid, uid)
    }

    fn netns_of(&self, pid: u32) -> PathBuf {
        self.proc.join(format!("{pid}/ns/net"))
    }

    /// The sandbox that a process of the pod belongs to, if it is one whose inside has its own network stack.
    fn sandbox(&self, pid: u32) -> Option<&'static str> {
        let comm = read(&self.proc.join(format!("{pid}/comm"))).ok()?;
        SANDBOXES.iter().find(|(name, _)| comm.trim_end().starts_with(name)).map(|(_, sandbox)| *sandbox)
    }

    fn check(&self, home: &Home, path: &Path, ips: &[IpAddr]) -> Result<Netns, String> {
        let netns = home.open(path)?;
        let survey = netns.within(home, Survey::of_intercepted).map_err(|error| {
            format!("cannot enter the pod's network namespace: {error}; give the agent CAP_SYS_ADMIN")
        })??;
        if ips.iter().any(|ip| survey.pod_addresses.contains(ip)) {
            return Ok(netns);
        }
        let mut wanted = String::new();
        for ip in ips {
            // Writing to a string cannot fail.
            write!(wanted, " {ip}").ok();
        }
        Err(format!(
            "the pod's network namespace holds none of its addresses ({}): its runtime keeps the network elsewhere; intercept a pod with the ordinary runtime",
            wanted.trim_start()
        ))
    }
}

/// The UID, which is the pod's key.
pub(super) fn uid(pod: &PodName) -> Result<&str, String> {
    let key = pod.key();
    let plain = key.len() >= SHORTEST_UID && key.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if plain { Ok(key) } else { Err(format!("{key} is no UID of a pod; look at the agent's version on this node")) }
}

/// Whether a process with this `/proc/PID/cgroup` belongs to the pod.
///
/// The kubelet's cgroupfs driver names the pod's cgroup `pod<uid>`, its systemd driver `kubepods-…-pod<uid>.slice` with
/// `_` for `-`; containerd and CRI-O put the containers' below it, in every hierarchy of cgroup v1 as in v2.
pub(super) fn names(cgroup: &str, uid: &str) -> bool {
    let slice = uid.replace('-', "_");
    let whole = |name: &str| {
        [uid, slice.as_str()].into_iter().any(|uid| {
            let rest = name.rsplit_once("pod").map(|(_, rest)| rest.strip_suffix(".slice").unwrap_or(rest));
            rest == Some(uid)
        })
    };
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| path.split('/').any(whole))
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("the agent may not look at {shown}; give it CAP_SYS_PTRACE and an AppArmor profile that lets it")
        }
        _ => format!("cannot look at {shown}: {error}; the agent tries again every second"),
    }
}

/// Looked at in one step: some ten microseconds each.
pub(super) const PROCESSES: usize = 512;
/// A mirror pod's is 32 digits without dashes, any other's 36 characters.
const SHORTEST_UID: usize = 32;
/// What the processes around such a sandbox are called; `/proc/PID/comm` has 15 characters.
const SANDBOXES: [(&str, &str); 6] = [
    ("runsc", "gVisor"),
    ("qemu-system", "a virtual machine (Kata)"),
    ("cloud-hyperviso", "a virtual machine (Kata)"),
    ("firecracker", "a virtual machine (Kata)"),
    ("dragonball", "a virtual machine (Kata)"),
    ("virtiofsd", "a virtual machine (Kata)"),
];

#[cfg(test)]
mod cgroup_tests;
#[cfg(test)]
mod tests;
