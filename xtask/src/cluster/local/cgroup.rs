//! The cgroups of the local cluster: `redir-cluster/MACHINE/COMPONENT`. What runs is told by them and by nothing else, so
//! that no pid is kept in a file, none can be taken for another's, and `down` finds everything that a killed `up` started.
//!
//! Works with the version 1 hierarchies and with version 2; pods' own cgroups are the kubelet's, below their node's.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::plan::{ClusterMachine, NAME};

/// Between two looks at a cgroup that is being emptied.
const LOOK: Duration = Duration::from_millis(20);

/// Where the machine keeps its cgroups.
pub(super) struct NodeCgroups {
    /// Every hierarchy; with version 2 the only one.
    hierarchies: Vec<PathBuf>,
    /// The one that tells which processes there are.
    processes: PathBuf,
    /// The one that counts memory.
    memory: PathBuf,
}

impl NodeCgroups {
    pub(super) fn find() -> Result<NodeCgroups> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        from_mounts(&mounts).context(
            "neither cgroup version 1 with `pids` and `memory` nor version 2 is mounted below /sys/fs/cgroup: \
             the kubelet cannot work here",
        )
    }

    /// Makes a machine's cgroup in every hierarchy, ready for the kubelet to make others in it.
    pub(super) fn prepare(&self, machine: ClusterMachine) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let mut cgroup = hierarchy.clone();
            for part in [NAME.to_owned(), machine.to_string()] {
                allow_children(&cgroup);
                let parent = cgroup.clone();
                cgroup.push(part);
                fs::create_dir_all(&cgroup).with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
                inherit_cpuset(&parent, &cgroup)?;
            }
            allow_children(&cgroup);
        }
        Ok(())
    }

    /// The files that a process writes `0` to in order to join a component's cgroups.
    pub(super) fn doors(&self, machine: ClusterMachine, component: &str) -> Result<[PathBuf; 2]> {
        [&self.processes, &self.memory]
            .map(|hierarchy| {
                let cgroup = hierarchy.join(NAME).join(machine.to_string()).join(component);
                fs::create_dir_all(&cgroup).with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
                Ok(cgroup.join("cgroup.procs"))
            })
            .into_iter()
            .collect::<Result<Vec<_>>>()
            .map(|doors| doors.try_into().expect("two hierarchies give two doors"))
    }

    /// The processes of a component, and what they started.
    pub(super) fn processes(&self, machine: ClusterMachine, component: &str) -> Vec<i32> {
        processes_below(&self.processes.join(NAME).join(machine.to_string()).join(component))
    }

    /// Bytes of memory that everything together holds, the file cache not counted.
    pub(super) fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(self.memory.join(NAME).join("memory.stat")).ok()?;
        // Version 1 has `total_rss`, version 2 `anon`; both count what is below as well.
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find_map(|(name, value)| matches!(name, "total_rss" | "anon").then(|| value.parse().ok()).flatten())
    }

    /// Whether anything of the cluster is there.
    pub(super) fn exist(&self) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.join(NAME).exists())
    }

    /// Kills every process of the cluster, pods' as well, and removes all its cgroups.
    pub(super) fn end_all(&self) -> Result<()> {
        kill_all(&self.processes.join(NAME))?;
        self.hierarchies.iter().try_for_each(|hierarchy| remove(&hierarchy.join(NAME)))
    }
}

/// From the lines of `/proc/self/mounts`: source, place, type, options.
fn from_mounts(mounts: &str) -> Option<NodeCgroups> {
    let mut version_1 = Vec::new();
    let mut version_2 = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(place), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        match kind {
            "cgroup2" if place == "/sys/fs/cgroup" => version_2 = Some(PathBuf::from(place)),
            // Beside version 1, version 2 is one more hierarchy, without controllers.
            "cgroup" | "cgroup2" if place.starts_with("/sys/fs/cgroup/") => {
                version_1.push((PathBuf::from(place), options));
            }
            _ => (),
        }
    }
    if let Some(root) = version_2 {
        return Some(NodeCgroups { hierarchies: vec![root.clone()], processes: root.clone(), memory: root });
    }
    let with = |controller: &str| {
        let mut found = version_1.iter().filter(|(_, options)| options.split(',').any(|option| option == controller));
        found.next().map(|(place, _)| place.clone())
    };
    let (processes, memory) = (with("pids")?, with("memory")?);
    Some(NodeCgroups { hierarchies: version_1.into_iter().map(|(place, _)| place).collect(), processes, memory })
}

/// In version 2 a cgroup says which controllers its children have; one that cannot be had is the kubelet's to complain of.
fn allow_children(cgroup: &Path) {
    let Ok(controllers) = fs::read_to_string(cgroup.join("cgroup.controllers")) else { return };
    for controller in controllers.split_whitespace() {
        let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// In version 1 a new cpuset is empty, and nothing can run in it.
fn inherit_cpuset(parent: &Path, cgroup: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = cgroup.join(file);
        // Version 2 has the files too, and there empty means the parent's.
        if own.exists() && !cgroup.join("cgroup.controllers").exists() {
            let value = fs::read_to_string(parent.join(file)).with_context(|| format!("cannot read {file}"))?;
            fs::write(&own, value.trim()).with_context(|| format!("cannot write {}", own.display()))?;
        }
    }
    Ok(())
}

/// A cgroup and all below it, the deepest first.
fn tree(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut tree: Vec<PathBuf> = folders.flat_map(|entry| self::tree(&entry.path())).collect();
    tree.push(cgroup.to_owned());
    tree
}

fn processes_below(cgroup: &Path) -> Vec<i32> {
    let files = tree(cgroup).into_iter().filter_map(|cgroup| fs::read_to_string(cgroup.join("cgroup.procs")).ok());
    files.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

fn kill_all(cgroup: &Path) -> Result<()> {
    // Processes may start others while they are being killed, and the kernel takes a moment to take a namespace down.
    const LIMIT: Duration = Duration::from_secs(30);
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = processes_below(cgroup);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("processes {left:?} in {} do not end, although killed: look at `ps -o stat,wchan`", cgroup.display());
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(LOOK);
    }
}

fn remove(cgroup: &Path) -> Result<()> {
    // A cgroup is busy for a moment after its last process.
    const LIMIT: Duration = Duration::from_secs(10);
    let deadline = Instant::now() + LIMIT;
    while cgroup.exists() {
        let mut removed = Ok(());
        for cgroup in tree(cgroup) {
            removed = fs::remove_dir(&cgroup).with_context(|| format!("cannot remove the cgroup {}", cgroup.display()));
        }
        // The last one is the cgroup itself, which goes only after all below it.
        if removed.is_err() {
            if Instant::now() >= deadline {
                return removed;
            }
            thread::sleep(LOOK);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_known_by_its_controllers() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = from_mounts(mounts).unwrap();
        assert_eq!(found.processes, Path::new("/sys/fs/cgroup/pids"));
        assert_eq!(found.memory, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(found.hierarchies.len(), 4);
    }

    #[test]
    fn version_2_is_one_hierarchy() {
        let found = from_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n").unwrap();
        assert_eq!(found.hierarchies, [Path::new("/sys/fs/cgroup")]);
        assert_eq!(found.processes, found.memory);
    }

    #[test]
    fn without_the_controllers_there_is_none() {
        assert!(from_mounts("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n").is_none());
        assert!(from_mounts("proc /proc proc rw 0 0\n").is_none());
    }
}
