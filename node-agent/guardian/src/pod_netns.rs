//! Where a pod of Kubernetes has its network namespace: the kubelet writes the pod's UID into the names of its cgroups.
//!
//! Owns the search through the node's `/proc`, which may be mounted elsewhere (a container without hostPID). Trusts
//! neither a name nor an address alone: a namespace is the pod's if a process of its cgroup is in it, if it is owned by the
//! node's user namespace or by that of the pod's sandbox, and if it holds one of the pod's addresses. Only one may be so.
//! Called by `pods`.

mod cgroup;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use self::cgroup::SHORTEST_UID;
pub(super) use self::cgroup::{is_pod, names};
use super::{
    datapath::YieldPoint,
    devices::NetnsSurvey,
    netns::{HostNamespaces, NetnsId, PodNetns},
    process::{ProcessHandle, read},
};
use redir_config::PodName;

/// Finds pods, and remembers by which process.
#[derive(Debug)]
pub(super) struct NetnsResolver {
    proc: PathBuf,
    found: BTreeMap<PodName, u32>,
}

impl NetnsResolver {
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
        home: &HostNamespaces,
        pod: &PodName,
        ips: &[IpAddr],
        pause: YieldPoint<'_>,
    ) -> Result<PodNetns, String> {
        let uid = uid(pod)?;
        let processes = self.processes(uid, pause)?;
        let Some(first) = processes.first() else {
            return Err(format!("no process of pod {pod} runs on this node; the agent looks again every second"));
        };
        if let Some(machine) = processes.iter().find_map(|pid| self.virtual_machine(*pid)) {
            return Err(format!(
                "the pod runs in {machine}, which has a network of its own inside; intercept a pod with the ordinary runtime"
            ));
        }
        let (candidates, unreadable) = self.candidates(home, &processes);
        let (pid, netns) = self.choose(home, pod, &candidates, ips, pause).map_err(|refusal| {
            let refusal = unreadable.or(refusal).unwrap_or_else(|| {
                format!("process {first} of pod {pod} ended while it was looked at; the agent looks again every second")
            });
            match processes.iter().find_map(|pid| self.looks_like(*pid)) {
                Some(sandbox) => format!("{refusal} (it looks like {sandbox}, which has a network of its own inside)"),
                None => refusal,
            }
        })?;
        self.found.insert(pod.clone(), pid);
        Ok(netns)
    }

    /// The one namespace that is the pod's; else why the first of them is not, if there is one.
    fn choose(
        &self,
        home: &HostNamespaces,
        pod: &PodName,
        candidates: &[(u32, NetnsId)],
        ips: &[IpAddr],
        pause: YieldPoint<'_>,
    ) -> Result<(u32, PodNetns), Option<String>> {
        let owners = self.owners(home, candidates);
        let (mut found, mut refusal) = (None, None);
        for (pid, _) in candidates {
            pause();
            match self.check(home, &self.netns_of(*pid), &owners, ips) {
                Ok(_) if found.is_some() => return Err(Some(several(pod))),
                Ok(netns) => found = Some((*pid, netns)),
                Err(reason) => drop(refusal.get_or_insert(reason)),
            }
        }
        found.ok_or(refusal)
    }

    /// The namespaces that the pod's processes are in, each by the oldest of them, the node's own last; and why one could not
    /// be looked at.
    fn candidates(&self, home: &HostNamespaces, processes: &[u32]) -> (Vec<(u32, NetnsId)>, Option<String>) {
        let mut candidates: Vec<(u32, NetnsId)> = Vec::new();
        let mut refusal = None;
        for pid in processes {
            let path = self.netns_of(*pid);
            match NetnsId::of(&path) {
                Ok(id) if candidates.iter().any(|(_, seen)| *seen == id) => {}
                Ok(id) if candidates.len() < MOST_NAMESPACES => candidates.push((*pid, id)),
                // The pod's own is among the oldest.
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => drop(refusal.get_or_insert(unreadable(&path, &error))),
            }
        }
        candidates.sort_by_key(|(_, id)| home.is_forbidden(*id));
        (candidates, refusal)
    }

    /// The user namespaces that may own the pod's network: the node's, and that of the pod's sandbox, which is the oldest of
    /// its processes outside the node's network (`hostUsers: false`).
    fn owners(&self, home: &HostNamespaces, candidates: &[(u32, NetnsId)]) -> Vec<NetnsId> {
        let sandbox = candidates.first().and_then(|(pid, _)| NetnsId::of(&self.namespace(*pid, "user")).ok());
        [home.users(), sandbox].into_iter().flatten().collect()
    }

    /// Whether the pod is known to have another network namespace than this one: its sandbox was made anew. A pod whose
    /// processes have all ended keeps its namespace until there is another.
    pub(super) fn replaced(&mut self, home: &HostNamespaces, pod: &PodName, id: NetnsId, ips: &[IpAddr]) -> bool {
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

    /// The processes of a pod, the oldest first.
    fn processes(&self, uid: &str, pause: YieldPoint<'_>) -> Result<Vec<u32>, String> {
        let proc = self.proc.display();
        let entries = fs::read_dir(&self.proc)
            .map_err(|error| format!("cannot read {proc}: {error}; mount the node's /proc there"))?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let all: Vec<u32> = pids.collect();
        let mut found = Vec::new();
        for some in all.chunks(PROCESSES) {
            pause();
            let of_pod = some.iter().filter(|pid| self.belongs(**pid, uid));
            found.extend(of_pod.filter_map(|pid| ProcessHandle::of(&self.proc, *pid).ok()?));
        }
        found.sort_unstable();
        Ok(found.into_iter().map(ProcessHandle::pid).collect())
    }

    fn belongs(&self, pid: u32, uid: &str) -> bool {
        read(&self.proc.join(format!("{pid}/cgroup"))).is_ok_and(|text| names(&text, uid))
    }

    fn is_in(&self, pid: u32, uid: &str, id: NetnsId) -> bool {
        NetnsId::of(&self.netns_of(pid)).is_ok_and(|now| now == id) && self.belongs(pid, uid)
    }

    fn netns_of(&self, pid: u32) -> PathBuf {
        self.namespace(pid, "net")
    }

    fn namespace(&self, pid: u32, kind: &str) -> PathBuf {
        self.proc.join(format!("{pid}/ns/{kind}"))
    }

    /// The virtual machine that a pod runs in, if one of its processes is the machine's: it has such a name, and sees the
    /// node's files, as no container's process does.
    fn virtual_machine(&self, pid: u32) -> Option<&'static str> {
        let machine = self.looks_like(pid).filter(|sandbox| *sandbox == MACHINE)?;
        let files = NetnsId::of(&self.namespace(pid, "mnt")).ok()?;
        (NetnsId::of(&self.namespace(1, "mnt")).ok()? == files).then_some(machine)
    }

    /// The sandbox with a network stack inside that a process is called like. Everybody can call a process so.
    fn looks_like(&self, pid: u32) -> Option<&'static str> {
        let comm = read(&self.proc.join(format!("{pid}/comm"))).ok()?;
        SANDBOXES.iter().find(|(name, _)| comm.trim_end().starts_with(name)).map(|(_, sandbox)| *sandbox)
    }

    fn check(
        &self,
        home: &HostNamespaces,
        path: &Path,
        owners: &[NetnsId],
        ips: &[IpAddr],
    ) -> Result<PodNetns, String> {
        let netns = home.open(path)?;
        // Before anything is done inside: whoever owns it can do there what they like.
        if !netns.owner().is_ok_and(|owner| owners.contains(&owner)) {
            return Err(format!(
                "{} belongs to a user namespace that a process of the pod has made; the agent enters only the pod's own network",
                path.display()
            ));
        }
        let survey = netns.within(home, NetnsSurvey::of_intercepted).map_err(|error| {
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

fn several(pod: &PodName) -> String {
    format!(
        "several network namespaces of pod {pod} hold an address of it, so it is not certain which is its own; end the process \
         in it that has made another"
    )
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
/// What the processes around such a sandbox are called; `/proc/PID/comm` has 15 characters.
const SANDBOXES: [(&str, &str); 6] = [
    ("runsc", "gVisor"),
    ("qemu-system", MACHINE),
    ("cloud-hyperviso", MACHINE),
    ("firecracker", MACHINE),
    ("dragonball", MACHINE),
    ("virtiofsd", MACHINE),
];
const MACHINE: &str = "a virtual machine (Kata)";
/// Network namespaces of one pod that are looked at, the oldest processes' first: each takes a millisecond.
const MOST_NAMESPACES: usize = 64;

#[cfg(test)]
mod cgroup_tests;
#[cfg(test)]
mod tests;
