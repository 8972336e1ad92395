//! How much memory the cgroups of a process allow it, with version 1 of cgroups as with version 2.
//!
//! Only reads `/proc` and the mounted cgroups. Called by `memory`, at the start of the worker.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Bytes from which a limit is none: version 1 writes the largest whole number of pages.
const UNLIMITED: u64 = 1 << 60;

/// The lowest limit, in bytes, of a process's cgroup and of those around it that can be seen; `None` if there is none.
/// `process` is its folder in `/proc`.
pub(crate) fn memory_ceiling(process: &Path) -> Option<u64> {
    let mounts = fs::read_to_string(process.join("mountinfo")).ok()?;
    let own = fs::read_to_string(process.join("cgroup")).ok()?;
    // A machine may have both, and the memory in either.
    let limits = mounts.lines().filter_map(CgroupMount::parse).filter_map(|mount| mount.lowest_limit(&own));
    limits.min().filter(|limit| *limit < UNLIMITED)
}

/// A mounted hierarchy that may limit memory.
#[derive(Debug, PartialEq)]
struct CgroupMount<'a> {
    version: CgroupVersion,
    /// The cgroup that is seen at the mount's place; in a container it may be the container's own.
    root: &'a str,
    place: &'a Path,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum CgroupVersion {
    One,
    Two,
}

impl<'a> CgroupMount<'a> {
    /// From a line of `/proc/PID/mountinfo`: `30 24 0:26 ROOT PLACE rw … - cgroup2 SOURCE OPTIONS`.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, place) = (mount.next()?, Path::new(mount.next()?));
        let mut file_system = file_system.split(' ');
        let version = match file_system.next()? {
            "cgroup2" => CgroupVersion::Two,
            "cgroup" if file_system.nth(1)?.split(',').any(|option| option == "memory") => CgroupVersion::One,
            _ => return None,
        };
        Some(Self { version, root, place })
    }

    /// `own` is the process's `/proc/PID/cgroup`.
    fn lowest_limit(&self, own: &str) -> Option<u64> {
        let cgroup = self.folder(own)?;
        match self.version {
            CgroupVersion::One => {
                // It counts what is around it as well, also what cannot be seen from here.
                let statistics = fs::read_to_string(cgroup.join("memory.stat")).ok()?;
                statistics.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit ")?.parse().ok())
            }
            CgroupVersion::Two => {
                let around = cgroup.ancestors().take_while(|folder| folder.starts_with(self.place));
                // `max` is no number, and the root has no such file.
                let limits = around.filter_map(|folder| fs::read_to_string(folder.join("memory.max")).ok());
                limits.filter_map(|limit| limit.trim().parse().ok()).min()
            }
        }
    }

    /// Where the process's cgroup is seen.
    fn folder(&self, own: &str) -> Option<PathBuf> {
        let path = own.lines().find_map(|line| {
            // `4:memory:/kubepods/pod…`; version 2 names no controllers.
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let is_meant = match self.version {
                CgroupVersion::One => controllers.split(',').any(|controller| controller == "memory"),
                CgroupVersion::Two => controllers.is_empty(),
            };
            is_meant.then_some(path)
        })?;
        Some(self.place.join(Path::new(path).strip_prefix(self.root).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use redir_rig::MemoryCgroup;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_container_sees_its_own_cgroup_at_the_mount() {
        let line = "41 33 0:29 /kubepods/pod1/c /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory";
        let mount = CgroupMount::parse(line).expect("it may limit memory");
        let own = "9:name=systemd:/x\n4:memory:/kubepods/pod1/c\n0::/";
        assert_eq!(mount.folder(own).as_deref(), Some(Path::new("/sys/fs/cgroup/memory")));
        // With version 2 a container has a namespace of cgroups, and is at the root of it.
        let mount = CgroupMount::parse("30 24 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate");
        let mount = mount.expect("it may limit memory");
        assert_eq!(mount.folder("0::/").as_deref(), Some(Path::new("/sys/fs/cgroup")));
        for other in [
            "41 33 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct",
            "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
        ] {
            assert_eq!(CgroupMount::parse(other), None);
        }
    }

    #[test]
    fn of_version_2_the_lowest_on_the_way_counts() {
        let hierarchy = tempfile::tempdir().expect("folder");
        let inner = hierarchy.path().join("slice/service");
        fs::create_dir_all(&inner).expect("made");
        let mount = CgroupMount { version: CgroupVersion::Two, root: "/", place: hierarchy.path() };
        let limit = |slice: &str, service: &str| {
            fs::write(hierarchy.path().join("slice/memory.max"), slice).expect("written");
            fs::write(inner.join("memory.max"), service).expect("written");
            mount.lowest_limit("0::/slice/service\n")
        };
        assert_eq!(limit("max\n", "1000\n"), Some(1000));
        assert_eq!(limit("900\n", "1000\n"), Some(900));
        assert_eq!(limit("max\n", "max\n"), None);
    }

    #[test]
    fn the_kernel_s_own_limit_is_read() {
        let Some(cgroup) = MemoryCgroup::new(128 * MIB).expect("a cgroup: run as root") else {
            redir_rig::left_out("a limit of the kernel's own: this container has a single cgroup");
            return;
        };
        let mut process = Command::new("sleep").arg("600").spawn().expect("a process");
        cgroup.enter(process.id().cast_signed()).expect("moved");
        let limit = memory_ceiling(Path::new(&format!("/proc/{}", process.id())));
        process.kill().expect("it runs");
        process.wait().expect("it ends");
        assert_eq!(limit, Some(128 * MIB));
    }
}
