//! A made-up `/proc` whose namespaces are real. Needs root.

use std::{os::unix::fs::symlink, process::Command, time::Duration};

use redir_rig::{
    process::Process,
    topology::{Topology, unique_prefix},
    wait,
};
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
        // kind's nodes are containers themselves.
        format!("0::/docker/4f2a/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/cri-8c.scope"),
        format!("1:name=systemd:/docker/4f2a/kubelet/kubepods/besteffort/pod{UID}/8c1d\n0::/docker/4f2a"),
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
        format!("0::/kubepods/xpod{UID}/8c1d"),
    ] {
        assert!(!names(&cgroup, UID), "{cgroup}");
    }
}

#[test]
fn what_a_container_makes_below_its_own_cgroup_names_no_pod() {
    let (own, other) = (UID.replace('-', "_"), OTHER.replace('-', "_"));
    for cgroup in [
        format!("0::/kubepods/burstable/pod{UID}/8c1d/pod{OTHER}/x"),
        format!("0::/../../pod{UID}/8c1d/kubepods/pod{OTHER}"),
        format!("0::/kubepods.slice/kubepods-pod{own}.slice/cri-8c.scope/kubepods.slice/kubepods-pod{other}.slice/x"),
        format!("4:memory:/kubepods/pod{UID}/8c1d/pod{OTHER}\n3:cpu:/kubepods/pod{UID}/8c1d\n0::/"),
    ] {
        assert!(names(&cgroup, UID) && !names(&cgroup, OTHER), "{cgroup}");
    }
    // Who is in the cgroups of two pods is neither's.
    let both = format!("2:memory:/kubepods/pod{UID}/8c1d\n1:cpu:/kubepods/pod{OTHER}/8c1d");
    assert!(!names(&both, UID) && !names(&both, OTHER));
}

struct ProcFixture {
    proc: TempDir,
    topology: Topology,
    home: HostNamespaces,
    resolver: NetnsResolver,
}

impl ProcFixture {
    fn new() -> Self {
        let topology = Topology::new(&unique_prefix("k"), 2).expect("namespaces: run as root");
        let proc = tempfile::tempdir().expect("folder");
        let resolver = NetnsResolver::new(proc.path());
        Self { proc, topology, home: HostNamespaces::new().expect("own namespace"), resolver }
    }

    fn process(&self, pid: u32, uid: &str, comm: &str, netns: &Path) {
        let folder = self.proc.path().join(pid.to_string());
        fs::create_dir_all(folder.join("ns")).expect("made");
        fs::write(folder.join("cgroup"), format!("0::/kubepods/pod{uid}/c\n")).expect("written");
        fs::write(folder.join("comm"), format!("{comm}\n")).expect("written");
        // The higher its number, the later it has begun.
        let stat = format!("{pid} ({comm}) S 1{} 1 0 {pid} 0\n", " 0".repeat(15));
        fs::write(folder.join("stat"), stat).expect("written");
        symlink(netns, folder.join("ns/net")).expect("linked");
    }

    /// The namespaces of a process are another's.
    fn shares(&self, pid: u32, of: &str, kinds: &[&str]) {
        let folder = self.proc.path().join(pid.to_string()).join("ns");
        fs::create_dir_all(&folder).expect("made");
        for kind in kinds {
            symlink(format!("/proc/{of}/ns/{kind}"), folder.join(kind)).expect("linked");
        }
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
        self.resolver.open(&self.home, &web(), ips, &mut || {}).map(|netns| netns.id())
    }
}

fn web() -> PodName {
    PodName::of_uid(UID, "shop", "web-1").expect("good")
}

#[test]
fn a_pod_is_found_by_its_uid_and_its_address_together() {
    let mut node = ProcFixture::new();
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
    let mut node = ProcFixture::new();
    node.process(10, UID, "nginx", Path::new("/proc/self/ns/net"));
    let error = node.open(&["127.0.0.1".parse().expect("address")]).expect_err("refused");
    assert!(error.contains("hostNetwork"), "{error}");
}

/// A process in a network namespace that holds an address, made by `unshare` with these options.
fn with_network(options: &[&str], ip: IpAddr) -> Process {
    let script = format!(
        "ip link add eth0 type veth peer name other && ip addr add {ip}/32 dev eth0 && ip link set eth0 up && echo ready && \
         exec sleep 600"
    );
    let mut unshare = Command::new("unshare");
    unshare.args(options).args(["--net", "sh", "-c", &script]);
    let mut process = Process::spawn("unshare", &mut unshare).expect("started");
    process.wait_for_line("ready", Duration::from_secs(60)).expect("a namespace with an address");
    process
}

fn netns_of(process: &Process) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", process.pid()))
}

const ITS_OWN_USERS: [&str; 2] = ["--user", "--map-root-user"];

#[test]
fn a_namespace_that_a_container_owns_is_not_entered_and_hides_nothing() {
    let mut node = ProcFixture::new();
    let ips = node.ip(0);
    let nested = with_network(&ITS_OWN_USERS, ips[0]);
    let its = nested.pid().to_string();
    node.process(10, UID, "pause", &node.netns(1));
    node.shares(10, "self", &["user"]);
    node.process(11, UID, "chrome", &netns_of(&nested));
    node.shares(11, &its, &["user"]);
    // It is all there is: the pod's own namespace holds no address yet.
    let error = node.open(&ips).expect_err("a container's");
    assert!(error.contains("holds none of its addresses"), "{error}");
    node.ends(10);
    node.process(10, UID, "pause", &node.netns(0));
    node.shares(10, "self", &["user"]);
    assert_eq!(node.open(&ips), Ok(NetnsId::of(&node.netns(0)).expect("there")));
}

#[test]
fn a_pod_with_users_of_its_own_is_found_and_not_mistaken_for_another_of_its_making() {
    let mut node = ProcFixture::new();
    let ips = node.ip(0);
    let (sandbox, nested) = (with_network(&ITS_OWN_USERS, ips[0]), with_network(&ITS_OWN_USERS, ips[0]));
    node.process(10, UID, "pause", &netns_of(&sandbox));
    node.shares(10, &sandbox.pid().to_string(), &["user"]);
    node.process(11, UID, "nginx", &netns_of(&sandbox));
    node.process(12, UID, "chrome", &netns_of(&nested));
    node.shares(12, &nested.pid().to_string(), &["user"]);
    assert_eq!(node.open(&ips), Ok(NetnsId::of(&netns_of(&sandbox)).expect("there")));
    // A runtime's helper on the node's own network is older, and is no sandbox.
    node.process(9, UID, "conmon", Path::new("/proc/self/ns/net"));
    node.shares(9, "self", &["user"]);
    assert_eq!(node.open(&ips), Ok(NetnsId::of(&netns_of(&sandbox)).expect("there")));
    node.ends(10);
    node.ends(11);
    assert!(node.open(&ips).is_ok(), "the oldest that is left stands for the sandbox");
}

#[test]
fn two_namespaces_with_the_pods_address_are_refused_and_others_are_not_in_the_way() {
    let mut node = ProcFixture::new();
    let ips = node.ip(0);
    // As Docker in a privileged container makes them.
    let nested = with_network(&[], "172.17.0.2".parse().expect("address"));
    node.process(10, UID, "pause", &node.netns(0));
    node.process(11, UID, "dockerd", &netns_of(&nested));
    assert_eq!(node.open(&ips), Ok(NetnsId::of(&node.netns(0)).expect("there")));
    let twin = with_network(&[], ips[0]);
    node.process(12, UID, "sh", &netns_of(&twin));
    let error = node.open(&ips).expect_err("not certain");
    assert!(error.contains("several network namespaces") && error.contains("web-1"), "{error}");
    // What is armed stays so.
    let id = NetnsId::of(&node.netns(0)).expect("there");
    assert!(!node.resolver.replaced(&node.home, &web(), id, &ips));
}

#[test]
fn a_sandbox_with_a_network_inside_is_refused_and_a_name_alone_is_not() {
    for (comm, word) in [("runsc-sandbox", "gVisor"), ("qemu-system-x86", "Kata"), ("cloud-hyperviso", "Kata")] {
        let mut node = ProcFixture::new();
        let (with, without) = (node.netns(0), node.netns(1));
        let ips = node.ip(0);
        node.process(10, UID, "pause", &with);
        node.process(11, UID, comm, &with);
        assert!(node.open(&ips).is_ok(), "{comm}: everybody can call a process so");
        // gVisor takes the addresses off the pod's device.
        node.ends(10);
        node.ends(11);
        node.process(11, UID, comm, &without);
        let error = node.open(&ips).expect_err("refused");
        assert!(error.contains(word) && error.contains("holds none of its addresses"), "{error}");
    }
}

#[test]
fn a_virtual_machine_is_known_by_seeing_the_nodes_files() {
    let mut node = ProcFixture::new();
    let ips = node.ip(0);
    let contained =
        Process::spawn("unshare", Command::new("unshare").args(["--mount", "sleep", "600"])).expect("started");
    let own = |pid: &str| NetnsId::of(Path::new(&format!("/proc/{pid}/ns/mnt"))).expect("there");
    let its = contained.pid().to_string();
    wait::until_true("its own mounts", Duration::from_secs(60), || Ok(own(&its) != own("self"))).expect("unshare");
    node.shares(1, "self", &["mnt"]);
    node.process(10, UID, "qemu-system-x86", &node.netns(0));
    node.shares(10, &its, &["mnt"]);
    assert!(node.open(&ips).is_ok(), "a container with such a name");
    node.ends(10);
    node.process(10, UID, "qemu-system-x86", &node.netns(0));
    node.shares(10, "self", &["mnt"]);
    let error = node.open(&ips).expect_err("Kata");
    assert!(error.contains("Kata") && error.contains("ordinary runtime"), "{error}");
}

#[test]
fn a_new_sandbox_is_noticed_and_a_restarted_container_is_not_one() {
    let mut node = ProcFixture::new();
    let (old, new) = (node.netns(0), node.netns(1));
    let ips = [node.ip(0), node.ip(1)].concat();
    node.process(10, UID, "pause", &old);
    let id = node.open(&ips).expect("found");
    let replaced = |node: &mut ProcFixture| node.resolver.replaced(&node.home, &web(), id, &ips);
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
    let mut node = ProcFixture::new();
    let pod = PodName::new("pod").expect("good");
    assert!(node.resolver.open(&node.home, &pod, &[], &mut || {}).expect_err("refused").contains("no UID"));
}
