//! Pods in the kernel's own cgroups, of version 1 and of version 2, whichever of them the machine itself uses. Needs root.

use std::process::Command;

use nix::{
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
};
use redir_rig::{
    namespace::checked,
    process::Process,
    topology::{Topology, unique_prefix},
};
use tempfile::TempDir;

use super::*;

/// The pod that is looked for, and another. Each version has its own: both tests look through the machine's one `/proc`.
fn uids(version: u8) -> [String; 2] {
    [1, 2].map(|pod| format!("0c4e2a51-6d0e-4f0b-9d2f-5b9f6f0f7{version}1{pod}"))
}

/// A hierarchy that is mounted for the test, and the cgroups that it made there.
struct CgroupFixture {
    place: TempDir,
    made: Vec<PathBuf>,
}

impl CgroupFixture {
    /// Version 2 is one hierarchy for the whole machine; of version 1 this is one without controllers.
    fn mount(version: u8) -> Self {
        // In this thread's own namespace of mounts, which goes with it.
        unshare(CloneFlags::CLONE_NEWNS).expect("mounts: run as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts: run as root");
        let place = tempfile::tempdir().expect("folder");
        let name = format!("none,name={}", unique_prefix("test"));
        let (kind, options) = if version == 1 { ("cgroup", Some(name.as_str())) } else { ("cgroup2", None) };
        mount(None::<&str>, place.path(), Some(kind), MsFlags::empty(), options).expect("cgroups: run as root");
        Self { place, made: Vec::new() }
    }

    /// Makes a cgroup and those around it.
    fn cgroup(&mut self, path: &str) -> PathBuf {
        let mut cgroup = self.place.path().to_owned();
        for part in Path::new(path) {
            cgroup.push(part);
            if !cgroup.exists() {
                fs::create_dir(&cgroup).expect("made");
                self.made.push(cgroup.clone());
            }
        }
        cgroup
    }
}

impl Drop for CgroupFixture {
    fn drop(&mut self) {
        // The inner ones were made last. A cgroup is busy for a moment after its last process.
        for cgroup in self.made.iter().rev() {
            redir_rig::wait::until_true("the cgroup is gone", std::time::Duration::from_secs(10), || {
                Ok(fs::remove_dir(cgroup).is_ok())
            })
            .expect("nobody is in it");
        }
        umount(self.place.path()).expect("nobody uses it");
    }
}

/// As the kubelet and the runtime name a pod's cgroups, with either driver.
fn of_pod(uid: &str) -> [String; 2] {
    let slice = uid.replace('-', "_");
    [
        format!("kubepods/burstable/pod{uid}/8c1d"),
        format!(
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/cri-containerd-8c.scope"
        ),
    ]
}

fn join(cgroup: &Path, process: &Process) {
    fs::write(cgroup.join("cgroup.procs"), process.pid().to_string()).expect("moved");
}

fn pod_is_found(version: u8) {
    let [uid, another] = &uids(version);
    let topology = Topology::new(&unique_prefix("k"), 2).expect("namespaces: run as root");
    let home = HostNamespaces::new().expect("own namespace");
    let sleep = |pod: usize| {
        let namespace = &topology.pods[pod].namespace;
        namespace.spawn("sleep", Command::new("sleep").arg("600")).expect("started")
    };
    // Before the hierarchy, whose cgroups can go only after them.
    let mut hierarchy = CgroupFixture::mount(version);
    let above = unique_prefix("cg");
    for (own, others) in of_pod(uid).into_iter().zip(of_pod(another)) {
        let (process, other) = (sleep(0), sleep(1));
        join(&hierarchy.cgroup(&format!("{above}/{own}")), &process);
        join(&hierarchy.cgroup(&format!("{above}/{others}")), &other);
        let mut resolver = NetnsResolver::new(Path::new("/proc"));
        let ips = [topology.pods[0].v4.into()];
        let pod = PodName::of_uid(uid, "shop", "web-1").expect("good");
        let found = resolver.open(&home, &pod, &ips, &mut || {}).map(|netns| netns.id());
        assert_eq!(found, Ok(NetnsId::of(topology.pods[0].namespace.path()).expect("there")), "{own}");
        // An agent in a container may have a namespace of cgroups of its own, and sees others' from there.
        let agent = hierarchy.cgroup(&format!("{above}/kubepods/burstable/pod{another}-agent/1f"));
        let script = "echo $$ >$1/cgroup.procs && exec unshare --cgroup cat /proc/$2/cgroup";
        let mut seen = Command::new("sh");
        seen.args(["-c", script, "sh"]).arg(&agent).arg(process.pid().to_string());
        let seen = checked(&mut seen, None).expect("unshare");
        assert!(seen.contains("/../"), "it is seen from another cgroup: {seen}");
        assert!(super::names(&seen, uid) && !super::names(&seen, another), "{seen}");
    }
}

/// What a container with default capabilities can do: it makes cgroups below its own and names them as it likes.
fn pod_is_not_passed_for(version: u8) {
    let [uid, another] = &uids(version + 2);
    let topology = Topology::new(&unique_prefix("k"), 1).expect("namespaces: run as root");
    let home = HostNamespaces::new().expect("own namespace");
    let namespace = &topology.pods[0].namespace;
    let mut hierarchy = CgroupFixture::mount(version);
    let above = unique_prefix("cg");
    for (victim, attacker) in of_pod(uid).into_iter().zip(of_pod(another)) {
        let attacking = namespace.spawn("sleep", Command::new("sleep").arg("600")).expect("started");
        join(&hierarchy.cgroup(&format!("{above}/{attacker}/{victim}")), &attacking);
        let mut resolver = NetnsResolver::new(Path::new("/proc"));
        let mut open = |uid: &str| {
            let pod = PodName::of_uid(uid, "shop", "web-1").expect("good");
            resolver.open(&home, &pod, &[topology.pods[0].v4.into()], &mut || {}).map(|netns| netns.id())
        };
        let error = open(uid).expect_err("an attacker's");
        assert!(error.contains("no process"), "{victim}: {error}");
        assert_eq!(open(another), Ok(NetnsId::of(namespace.path()).expect("there")), "{attacker}");
    }
}

#[test]
fn a_nested_cgroup_passes_for_no_pod_in_version_1() {
    pod_is_not_passed_for(1);
}

#[test]
fn a_nested_cgroup_passes_for_no_pod_in_version_2() {
    pod_is_not_passed_for(2);
}

#[test]
fn a_pod_is_found_in_cgroups_of_version_1() {
    pod_is_found(1);
}

#[test]
fn a_pod_is_found_in_cgroups_of_version_2() {
    pod_is_found(2);
}
