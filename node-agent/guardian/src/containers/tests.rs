//! What a controller says of containers, whoever it is, in real namespaces. Which cgroup a process is in is made up.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Child, Command},
};

use redir_config::ContainerRuntime;
use redir_rig::{
    namespace::Namespace,
    topology::{Topology, unique_prefix},
};
use tempfile::TempDir;

use super::*;

struct Rig {
    proc: TempDir,
    topology: Topology,
    home: HostNamespaces,
    config: NodeConfig,
    containers: Containers,
    children: Vec<Child>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}

fn config(of_web: &str) -> NodeConfig {
    let text = format!(
        "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n[[pod]]\nname = \"web-1\"\n{of_web}\n\
         [[pod]]\nname = \"path\"\nnetns = \"/run/netns/a\"\n"
    );
    NodeConfig::parse(&text, Path::new("agent.toml")).expect("good")
}

fn id(digit: char) -> ContainerId {
    digit.to_string().repeat(64).parse().expect("an ID")
}

fn web() -> PodName {
    PodName::new("web-1").expect("good")
}

impl Rig {
    fn new() -> Self {
        let topology = Topology::new(&unique_prefix("t"), 2).expect("namespaces: run as root");
        let proc = tempfile::tempdir().expect("folder");
        let containers = Containers::new(proc.path());
        let home = HostNamespaces::new().expect("own namespace");
        Self { proc, topology, home, config: config("docker = \"web\""), containers, children: Vec::new() }
    }

    /// A process with this line of `/proc/PID/cgroup`.
    fn start(&mut self, namespace: impl Fn(&Topology) -> Option<&Namespace>, cgroup: &str) -> u32 {
        let start = || Command::new("sleep").arg("600").spawn();
        let child = match namespace(&self.topology) {
            Some(namespace) => namespace.run(start).expect("inside"),
            None => start(),
        };
        let child = child.expect("started");
        let (pid, folder) = (child.id(), self.proc.path().join(child.id().to_string()));
        self.children.push(child);
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).expect("written");
        symlink(format!("/proc/{pid}/ns"), folder.join("ns")).expect("linked");
        pid
    }

    fn docker(&mut self, pod: usize, digit: char) -> u32 {
        self.start(|topology| Some(&topology.pods[pod].namespace), &format!("/docker/{}", id(digit)))
    }

    fn end(&mut self, pid: u32) {
        let child = self.children.iter_mut().find(|child| child.id() == pid).expect("started");
        child.kill().and_then(|()| child.wait()).expect("ended");
    }

    fn say(&mut self, state: ContainerState) {
        let container = named(&self.config, &web()).expect("a container").clone();
        self.containers.take(ContainerReport { pod: web(), container, state }, &self.config);
    }

    fn say_runs(&mut self, pid: u32, digit: char) {
        self.say(ContainerState::Running(RunningContainer { id: id(digit), pid, started: 1 }));
    }

    fn open(&mut self) -> Result<NetnsId, String> {
        let named = named(&self.config, &web()).expect("a container").clone();
        self.containers.open(&self.home, &web(), &named).map(|netns| netns.id())
    }

    fn netns(&self, pod: usize) -> NetnsId {
        NetnsId::of(self.topology.pods[pod].namespace.path()).expect("there")
    }

    fn refused(&mut self, words: &[&str]) {
        let sentence = self.open().expect_err("refused");
        assert!(words.iter().all(|word| sentence.contains(word)), "{sentence}");
        assert_eq!(self.containers.netns_id(&web()), None, "{sentence}");
    }
}

#[test]
fn a_container_is_followed_from_one_process_to_the_next() {
    let mut rig = Rig::new();
    rig.refused(&["has not yet said how Docker container web stands"]);
    let first = rig.docker(0, 'a');
    rig.say_runs(first, 'a');
    assert_eq!(rig.open(), Ok(rig.netns(0)));
    assert_eq!(rig.containers.netns_id(&web()), Some(rig.netns(0)));
    rig.end(first);
    rig.refused(&["first process of Docker container web has ended", "as soon as it starts"]);
    rig.say(ContainerState::NotRunning("it does not run; start it".to_owned()));
    rig.refused(&["it does not run; start it"]);
    let second = rig.docker(1, 'b');
    rig.say_runs(second, 'b');
    assert_eq!(rig.open(), Ok(rig.netns(1)));
}

#[test]
fn a_number_that_another_process_has_now_is_not_the_containers() {
    let mut rig = Rig::new();
    let (first, other) = (rig.docker(0, 'a'), rig.docker(1, 'b'));
    rig.say_runs(first, 'a');
    assert_eq!(rig.open(), Ok(rig.netns(0)));
    rig.end(first);
    // As if the other had its number, and even its cgroup.
    let folder = rig.proc.path().join(first.to_string());
    fs::remove_file(folder.join("ns")).expect("removed");
    symlink(format!("/proc/{other}/ns"), folder.join("ns")).expect("linked");
    rig.refused(&["has ended"]);
    // Nor is it found anew by what the runtime said before it noticed.
    rig.say_runs(first, 'a');
    rig.refused(&["has ended"]);
}

#[test]
fn a_controller_that_was_taken_over_opens_no_process_but_a_containers_of_that_runtime() {
    let mut rig = Rig::new();
    let (web, another) = (rig.docker(0, 'a'), rig.docker(1, 'b'));
    for cgroup in [
        "/".to_owned(),
        "/system.slice/ssh.service".to_owned(),
        format!("/machine.slice/libpod-{}.scope", id('a')),
        format!("/docker/{}/docker/{}", id('b'), id('a')),
        format!("/kubepods/pod6fa459ea-ee8a-3ca4-894e-db77e160355e/{}", id('a')),
    ] {
        let pid = rig.start(|topology| Some(&topology.pods[1].namespace), &cgroup);
        rig.say_runs(pid, 'a');
        rig.refused(&["is in no cgroup of Docker container web", "netns"]);
    }
    rig.say_runs(another, 'a');
    rig.refused(&["is in no cgroup"]);
    rig.say_runs(i32::MAX.cast_unsigned(), 'a');
    rig.refused(&["has ended"]);
    // A whole ID in the configuration is checked as well.
    rig.config = config(&format!("docker = \"{}\"", id('a')));
    rig.containers.note(&rig.config);
    rig.say_runs(another, 'b');
    rig.refused(&["answers for another ID"]);
    rig.say_runs(web, 'a');
    assert_eq!(rig.open(), Ok(rig.netns(0)));
    // What is no container in the configuration is none for it to name.
    for pod in ["path", "unknown"] {
        let pod = PodName::new(pod).expect("good");
        let state = ContainerState::Running(RunningContainer { id: id('a'), pid: web, started: 1 });
        let container = rig.config.containers().next().expect("a container").1.clone();
        rig.containers.take(ContainerReport { pod: pod.clone(), container, state }, &rig.config);
        assert_eq!(rig.containers.netns_id(&pod), None);
    }
}

#[test]
fn the_nodes_own_network_and_a_strangers_are_refused() {
    let mut rig = Rig::new();
    let host = rig.start(|_| None, &format!("/docker/{}", id('a')));
    rig.say_runs(host, 'a');
    let sentence = rig.open().expect_err("the node's");
    assert!(sentence.contains("hostNetwork") && sentence.starts_with("Docker container web: "), "{sentence}");
    // Another's, which has a user namespace of its own.
    let mut owner = Command::new("unshare").args(["--user", "--net", "sleep", "600"]).spawn().expect("unshare");
    let net = format!("/proc/{}/ns/net", owner.id());
    let own = NetnsId::of(Path::new("/proc/self/ns/net")).expect("there");
    redir_rig::wait::until_true("a namespace", std::time::Duration::from_secs(20), || {
        Ok(NetnsId::of(Path::new(&net))? != own)
    })
    .expect("made");
    let folder = rig.proc.path().join(host.to_string());
    fs::remove_file(folder.join("ns")).expect("removed");
    fs::create_dir(folder.join("ns")).expect("made");
    symlink(&net, folder.join("ns/net")).expect("linked");
    symlink("/proc/self/ns/user", folder.join("ns/user")).expect("linked");
    let sentence = rig.open().expect_err("a stranger's");
    assert!(sentence.contains("belongs to a user namespace that is not its own"), "{sentence}");
    // One with user namespaces of its containers' own (userns-remap) is right.
    fs::remove_file(folder.join("ns/user")).expect("removed");
    symlink(format!("/proc/{}/ns/user", owner.id()), folder.join("ns/user")).expect("linked");
    assert!(rig.open().is_ok());
    owner.kill().and_then(|()| owner.wait()).expect("ended");
}

#[test]
fn what_could_not_be_found_is_looked_for_again() {
    let mut rig = Rig::new();
    let pid = rig.docker(0, 'a');
    let cgroup = rig.proc.path().join(format!("{pid}/cgroup"));
    let right = fs::read(&cgroup).expect("read");
    fs::write(&cgroup, "0::/\n").expect("written");
    rig.say_runs(pid, 'a');
    rig.refused(&["is in no cgroup"]);
    fs::write(&cgroup, right).expect("written");
    assert_eq!(rig.open(), Ok(rig.netns(0)));
}

#[test]
fn what_a_runtime_said_last_stays_in_force_while_it_is_away() {
    let mut rig = Rig::new();
    rig.say(ContainerState::Unknown("Docker does not run; start it".to_owned()));
    rig.refused(&["Docker does not run; start it"]);
    let pid = rig.docker(0, 'a');
    rig.say_runs(pid, 'a');
    rig.say(ContainerState::Unknown("Docker does not run; start it".to_owned()));
    assert_eq!(rig.open(), Ok(rig.netns(0)));
    rig.end(pid);
    rig.refused(&["has ended; Docker does not run; start it"]);
}

#[test]
fn another_name_in_the_configuration_forgets_the_earlier_container() {
    let mut rig = Rig::new();
    let pid = rig.docker(0, 'a');
    rig.say_runs(pid, 'a');
    rig.config = config("docker = \"web\"\nports = [80]");
    rig.containers.note(&rig.config);
    assert_eq!(rig.open(), Ok(rig.netns(0)));
    for other in ["docker = \"db\"", "podman = \"web\""] {
        rig.config = config(other);
        rig.containers.note(&rig.config);
        rig.refused(&["has not yet said"]);
        // What was on its way about the earlier one counts no more.
        let container = ContainerRef { runtime: ContainerRuntime::Docker, name: "web".to_owned() };
        for state in [
            ContainerState::Running(RunningContainer { id: id('a'), pid, started: 1 }),
            ContainerState::NotRunning("it is stopped".to_owned()),
        ] {
            rig.containers.take(ContainerReport { pod: web(), container: container.clone(), state }, &rig.config);
            rig.refused(&["has not yet said"]);
        }
    }
    assert_eq!(rig.config.containers().next().map(|(_, named)| named.runtime), Some(ContainerRuntime::Podman));
}
