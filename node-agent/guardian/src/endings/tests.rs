//! A made-up `/proc` whose processes and namespaces are real: what tells a pod's processes from others is written, whether they run
//! is the kernel's to say. Needs root.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
};

use redir_rig::{
    topology::{Topology, unique_prefix},
    wait,
};
use tempfile::TempDir;

use super::*;

const UID: &str = "6fa459ea-ee8a-3ca4-894e-db77e160355e";
const LONG: Duration = Duration::from_secs(60);

struct FakeNode {
    proc: TempDir,
    topology: Topology,
    endings: PodEndings,
}

impl FakeNode {
    fn new() -> Self {
        let topology = Topology::new(&unique_prefix("e"), 2).expect("namespaces: run as root");
        Self { proc: tempfile::tempdir().expect("folder"), topology, endings: PodEndings::default() }
    }

    fn netns(&self, pod: usize) -> NetnsId {
        NetnsId::of(self.topology.pods[pod].namespace.path()).expect("there")
    }

    /// Shows a process as one of the pod's, in this cgroup of it.
    fn show(&self, process: &Child, cgroup: &str) {
        let (pid, folder) = (process.id(), self.proc.path().join(process.id().to_string()));
        fs::create_dir_all(folder.join("ns")).expect("made");
        fs::write(folder.join("cgroup"), format!("0::/kubepods/pod{UID}/{cgroup}\n")).expect("written");
        fs::write(folder.join("comm"), if cgroup == "sandbox" { "pause\n" } else { "app\n" }).expect("written");
        for file in ["stat", "fd", "ns/net"] {
            symlink(format!("/proc/{pid}/{file}"), folder.join(file)).expect("linked");
        }
    }

    /// A process that does nothing, in the pod's namespace.
    fn sleeper(&self, pod: usize) -> Child {
        self.start(pod, Command::new("sleep").arg("600"))
    }

    /// The same with nothing open but pipes that this test may have inherited itself.
    fn sandbox(&self, pod: usize) -> Child {
        let mut command = Command::new("sleep");
        self.start(pod, command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    fn start(&self, pod: usize, command: &mut Command) -> Child {
        self.topology.pods[pod].namespace.run(|| command.spawn()).expect("inside").expect("started")
    }

    fn watch(&mut self, last: LastProcess) {
        let netns = self.netns(0);
        self.endings.watch(pod(), netns, last, Instant::now());
    }

    fn look(&mut self) -> Vec<PodName> {
        let now = self.endings.next().unwrap_or_else(Instant::now);
        self.endings.look(self.proc.path(), now, &mut || {})
    }

    fn ends(&mut self) {
        wait::until_true("the pod's end to be seen", LONG, || Ok(self.look() == [pod()])).expect("seen");
        assert_eq!((self.look(), self.endings.next()), (Vec::new(), None), "told once");
    }

    fn goes_on(&mut self) {
        for _ in 0..3 {
            assert_eq!(self.look(), []);
        }
    }
}

fn pod() -> PodName {
    PodName::of_uid(UID, "shop", "web-1").expect("good")
}

fn kill(mut process: Child) {
    process.kill().expect("killed");
    process.wait().expect("reaped");
}

#[test]
fn a_pod_ends_with_the_last_process_of_its_containers_and_before_its_sandbox() {
    let mut node = FakeNode::new();
    let sandbox = node.sandbox(0);
    node.show(&sandbox, "sandbox");
    let (app, sidecar) = (node.sleeper(0), node.sleeper(0));
    node.show(&app, "app");
    node.show(&sidecar, "sidecar");
    node.watch(LastProcess::OfContainers);
    node.goes_on();
    kill(app);
    node.goes_on();
    // One that came after the others were listed.
    let late = node.sleeper(0);
    node.show(&late, "app");
    kill(sidecar);
    node.goes_on();
    kill(late);
    node.ends();

    // Where nothing else shows that no container is started again, the sandbox does.
    node.watch(LastProcess::OfSandbox);
    node.goes_on();
    kill(sandbox);
    node.ends();
}

#[test]
fn a_zombie_has_ended() {
    let mut node = FakeNode::new();
    let mut app = node.sleeper(0);
    node.show(&app, "app");
    node.watch(LastProcess::OfSandbox);
    node.goes_on();
    app.kill().expect("killed");
    node.ends();
    app.wait().expect("reaped");
}

#[test]
fn a_process_elsewhere_keeps_no_pod() {
    let mut node = FakeNode::new();
    // In the pod's cgroup, as a runtime's helper is.
    let helper = node.sleeper(1);
    node.show(&helper, "conmon");
    node.watch(LastProcess::OfSandbox);
    node.ends();
    kill(helper);
}

#[test]
fn the_oldest_process_is_no_sandbox_if_it_can_keep_a_connection_or_is_not_alone() {
    let mut node = FakeNode::new();
    // Its standard input is a socket.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
    let app = node.start(0, Command::new("sleep").arg("600").stdin(std::os::fd::OwnedFd::from(theirs)));
    node.show(&app, "app");
    node.watch(LastProcess::OfContainers);
    node.goes_on();
    kill(app);
    node.ends();
    drop(ours);

    let (parent, child) = (node.sleeper(0), node.sleeper(0));
    node.show(&parent, "app");
    node.show(&child, "app");
    node.watch(LastProcess::OfContainers);
    node.goes_on();
    kill(child);
    kill(parent);
    node.ends();
}

/// Where a runtime has no sandbox process, an app of one process is not taken for it in its grace period.
#[test]
fn an_app_without_any_socket_keeps_its_pod() {
    let mut node = FakeNode::new();
    let mut command = Command::new("sleep");
    let app = node.start(0, command.arg("600").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
    node.show(&app, "app");
    node.watch(LastProcess::OfContainers);
    node.goes_on();
    kill(app);
    node.ends();
}

/// Its first thread is a zombie without a namespace as long as another runs.
#[test]
fn a_process_whose_first_thread_has_ended_keeps_its_pod() {
    let mut node = FakeNode::new();
    let program = "import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)";
    let app = node.start(0, Command::new("python3").args(["-c", program]).stderr(Stdio::null()));
    let stat = format!("/proc/{}/stat", app.id());
    let is_zombie = || Ok(fs::read_to_string(&stat)?.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')));
    wait::until_true("the first thread to end", LONG, is_zombie).expect("ended");
    node.show(&app, "app");
    for last in [LastProcess::OfContainers, LastProcess::OfSandbox] {
        node.watch(last);
        node.goes_on();
    }
    kill(app);
    node.ends();
}

#[test]
fn a_number_that_another_process_has_now_keeps_no_pod() {
    let node = FakeNode::new();
    let mut app = node.sleeper(0);
    node.show(&app, "app");
    let members =
        PodProcesses::list(node.proc.path(), &[(pod(), node.netns(0))], &mut || {}).expect("listed").take(&pod());
    let [ref member] = members[..] else { panic!("{members:?}") };
    assert!(member.process.runs(node.proc.path()));
    // The same number with another start.
    let stat = node.proc.path().join(format!("{}/stat", app.id()));
    let text = fs::read_to_string(&stat).expect("read");
    let began = text.split_ascii_whitespace().nth(21).expect("when it began").to_owned();
    fs::remove_file(&stat).expect("removed");
    fs::write(&stat, text.replace(&format!(" {began} "), " 1 ")).expect("written");
    assert!(!member.process.runs(node.proc.path()));
    app.kill().expect("killed");
    app.wait().expect("reaped");
}
