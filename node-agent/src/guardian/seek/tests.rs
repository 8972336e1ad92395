//! A made-up `/proc` whose namespaces are real. Needs root.

use std::os::unix::fs::symlink;

use redir_rig::topology::{Topology, unique_prefix};
use tempfile::TempDir;

use super::*;

const UID: &str = "6fa459ea-ee8a-3ca4-894e-db77e160355e";
const OTHER: &str = "16fd2706-8baf-433b-82eb-8c7fada847da";

#[test]
fn every_spelling_of_a_pod_s_cgroup_is_known() {
    let slice = UID.replace('-', "_");
    for cgroup in [
        format!("0::/kubepods/burstable/pod{UID}/8c1d"),
        format!("12:pids:/user.slice\n3:cpu,cpuacct:/kubepods/pod{UID}/8c1d\n1:name=systemd:/x"),
        format!(
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/cri-containerd-8c.scope"
        ),
        format!("0::/kubepods.slice/kubepods-pod{slice}.slice/crio-8c1d.scope"),
        format!("0::/n1/kubepods/besteffort/pod{UID}/8c1d"),
        // As a process of another cgroup namespace sees it.
        format!("0::/../../pod{UID}/8c1d"),
        format!("0::/../kubepods-burstable-pod{slice}.slice/cri-containerd-8c.scope"),
    ] {
        assert!(names(&cgroup, UID), "{cgroup}");
        assert!(!names(&cgroup, OTHER), "{cgroup}");
    }
    for cgroup in [
        String::new(),
        "0::/".to_owned(),
        format!("0::/kubepods/pod{UID}0/8c1d"),
        format!("0::/kubepods/{UID}"),
        format!("0::/system.slice/pod{UID}.service"),
        // A name of a controller is no path.
        format!("1:name=pod{UID}:/x"),
    ] {
        assert!(!names(&cgroup, UID), "{cgroup}");
    }
}

struct Node {
    proc: TempDir,
    topology: Topology,
    home: Home,
    seeker: Seeker,
}

impl Node {
    fn new() -> Self {
        let topology = Topology::new(&unique_prefix("k"), 2).expect("namespaces: run as root");
        let proc = tempfile::tempdir().expect("folder");
        let seeker = Seeker::new(proc.path());
        Self { proc, topology, home: Home::new().expect("own namespace"), seeker }
    }

    fn process(&self, pid: u32, uid: &str, comm: &str, netns: &Path) {
        let folder = self.proc.path().join(pid.to_string());
        fs::create_dir_all(folder.join("ns")).expect("made");
        fs::write(folder.join("cgroup"), format!("0::/kubepods/pod{uid}/c\n")).expect("written");
        fs::write(folder.join("comm"), format!("{comm}\n")).expect("written");
        symlink(netns, folder.join("ns/net")).expect("linked");
    }

    fn ends(&self, pid: u32) {
        fs::remove_dir_all(self.proc.path().join(pid.to_string())).expect("removed");
    }

    fn netns(&self, pod: usize) -> PathBuf {
        self.topology.pods[pod].namespace.path().to_owned()
    }

    fn ip(&self, pod: usize) -> [IpAddr; 1] {
        [self.topology.pods[pod].v4.into()]
    }

    fn open(&mut self, ips: &[IpAddr]) -> Result<NetnsId, String> {
        self.seeker.open(&self.home, &web(), ips, &mut || {}).map(|netns| netns.id())
    }
}

fn web() -> PodName {
    PodName::of_uid(UID, "shop", "web-1").expect("good")
}

#[test]
fn a_pod_is_found_by_its_uid_and_its_address_together() {
    let mut node = Node::new();
    let (first, second) = (node.netns(0), node.netns(1));
    let [ip] = node.ip(0);
    assert!(node.open(&[ip]).expect_err("nobody").contains("no process"));
    // Another pod has the address: it is not this one's, whoever asks.
    node.process(10, OTHER, "nginx", &first);
    assert!(node.open(&[ip]).expect_err("another's").contains("no process"));
    // A process of the pod in a namespace of its own making.
    node.process(11, UID, "dockerd", &second);
    let error = node.open(&[ip]).expect_err("no address");
    assert!(error.contains(&ip.to_string()) && error.contains("ordinary runtime"), "{error}");
    node.process(12, UID, "nginx", &first);
    assert_eq!(node.open(&[ip]), Ok(NetnsId::of(&first).expect("there")));
}

#[test]
fn the_node_s_own_namespace_is_refused() {
    let mut node = Node::new();
    node.process(10, UID, "nginx", Path::new("/proc/self/ns/net"));
    let error = node.open(&["127.0.0.1".parse().expect("address")]).expect_err("refused");
    assert!(error.contains("hostNetwork"), "{error}");
}

#[test]
fn sandboxes_with_a_network_of_their_own_are_refused() {
    for (comm, word) in [("runsc-sandbox", "gVisor"), ("qemu-system-x86", "Kata"), ("cloud-hyperviso", "Kata")] {
        let mut node = Node::new();
        let netns = node.netns(0);
        node.process(10, UID, "pause", &netns);
        node.process(11, UID, comm, &netns);
        let ips = node.ip(0);
        assert!(node.open(&ips).expect_err("refused").contains(word));
    }
}

#[test]
fn a_new_sandbox_is_noticed_and_a_restarted_container_is_not_one() {
    let mut node = Node::new();
    let (old, new) = (node.netns(0), node.netns(1));
    let ips = [node.ip(0), node.ip(1)].concat();
    node.process(10, UID, "pause", &old);
    let id = node.open(&ips).expect("found");
    let replaced = |node: &mut Node| node.seeker.replaced(&node.home, &web(), id, &ips);
    assert!(!replaced(&mut node));
    // The process by which it was found has ended, others have not; then none is left for a while.
    node.process(11, UID, "nginx", &old);
    node.ends(10);
    assert!(!replaced(&mut node));
    node.ends(11);
    assert!(!replaced(&mut node));
    // The number is another pod's now.
    node.process(11, OTHER, "nginx", &old);
    assert!(!replaced(&mut node));
    node.process(12, UID, "pause", &new);
    assert!(replaced(&mut node));
}

#[test]
fn only_a_uid_is_looked_for() {
    let mut node = Node::new();
    let pod = PodName::new("pod").expect("good");
    assert!(node.seeker.open(&node.home, &pod, &[], &mut || {}).expect_err("refused").contains("no UID"));
}
