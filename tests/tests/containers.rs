//! Pods that are named by a container of a real Docker or Podman, which start, end and get other names. Needs root, and what
//! `cargo xtask test` installs: the daemons, and busybox for an image.
#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::{IpAddr, SocketAddr},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use redir_rig::{Http, Namespace, binaries, cleanup, process::Process, wait};
use redir_tests::{LOCAL, Scenario, USUAL, World, once};
use tempfile::TempDir;

const ALICE: &str = "x-user: alice";
/// Runtimes take seconds on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const LONG: Scenario = Scenario { limit: Duration::from_secs(600), sniff: false, ..USUAL };
/// More than root may have here without CAP_SYS_RESOURCE is asked for by default.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
const APP: [&str; 6] = ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h"];

/// A container runtime of the test's own, in the node's network.
struct Runtime {
    kind: Kind,
    node: PathBuf,
    folder: TempDir,
    daemon: Option<Process>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Docker,
    Podman,
}

impl Runtime {
    fn new(kind: Kind, node: &Namespace) -> Result<Self> {
        let folder = cleanup::directory("runtime")?;
        let mut runtime = Self { kind, node: node.path().to_owned(), folder, daemon: None };
        runtime.start(node)?;
        runtime.import()?;
        Ok(runtime)
    }

    fn key(&self) -> &'static str {
        match self.kind {
            Kind::Docker => "docker",
            Kind::Podman => "podman",
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// The daemon, which answers when this returns.
    fn start(&mut self, node: &Namespace) -> Result<()> {
        let host = format!("unix://{}", self.socket().display());
        let mut command = match self.kind {
            Kind::Docker => {
                let mut command = Command::new(program("dockerd").context("no dockerd")?);
                command.args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--userland-proxy=false"]);
                command.args(["--storage-driver", "vfs", "--bip", "172.30.99.1/24", "--live-restore", "-H", &host]);
                command.arg("--data-root").arg(self.path("data")).arg("--exec-root").arg(self.path("exec"));
                command.arg("--pidfile").arg(self.path("pid"));
                command
            }
            Kind::Podman => {
                let mut command = self.command();
                command.args(["system", "service", "--time", "0", &host]);
                command
            }
        };
        self.daemon = Some(node.spawn(self.key(), &mut command)?);
        let socket = self.socket();
        let daemon = self.daemon.as_mut().context("it was started")?;
        wait::until_true("the runtime to answer", SOON, || {
            ensure!(daemon.exited()?.is_none(), "it has ended: {}", daemon.log());
            let ping =
                Command::new("curl").args(["-sf", "--unix-socket"]).arg(&socket).arg("http://d/_ping").output()?;
            Ok(ping.status.success())
        })
    }

    /// Its containers stay.
    fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("it runs")?;
        daemon.signal(nix::sys::signal::Signal::SIGTERM)?;
        daemon.wait(SOON)?;
        for left in [self.socket(), self.path("pid")] {
            fs::remove_file(left).ok();
        }
        Ok(())
    }

    fn command(&self) -> Command {
        match self.kind {
            Kind::Docker => {
                let mut command = Command::new("docker");
                command.arg("-H").arg(format!("unix://{}", self.socket().display()));
                command
            }
            Kind::Podman => {
                let mut command = Command::new("podman");
                command.arg("--root").arg(self.path("data")).arg("--runroot").arg(self.path("run"));
                command.arg("--tmpdir").arg(self.path("tmp"));
                command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
                // crun refuses a machine with both versions of cgroups.
                command.arg("--runtime").arg(program("runc").unwrap_or_else(|| "/usr/sbin/runc".into()));
                command
            }
        }
    }

    /// Runs a command of the runtime's to its end, in the node's network.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let command = self.command();
        let program = [command.get_program()].into_iter().chain(command.get_args());
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net={}", self.node.display())).args(program).args(arguments);
        let output = inside.output()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{} {}: {out}{err}", self.key(), arguments.join(" "));
        Ok(out.trim().to_owned())
    }

    /// An image of busybox and a page.
    fn import(&self) -> Result<()> {
        let root = self.path("root");
        for page in ["green", "other"] {
            fs::create_dir_all(root.join(page))?;
            fs::write(root.join(page).join("index.html"), page)?;
        }
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        let (root, archive) = (root.display().to_string(), self.path("root.tar").display().to_string());
        let tar = Command::new("tar").args(["-C", &root, "-cf", &archive, "."]).status()?;
        ensure!(tar.success(), "tar");
        self.run(&["import", &archive, "app:1"]).map(drop)
    }

    /// A container whose app answers with the name of the page.
    fn app(&self, name: &str, network: &str, page: &str) -> Result<()> {
        let arguments = ["run", "-d", "--name", name, "--network", network];
        let page = format!("/{page}");
        self.run(&[&arguments[..], &LIMITS, &["app:1"], &APP, &[&page]].concat()).map(drop)
    }

    /// At once: an app that is process 1 does not listen to SIGTERM.
    fn remove(&self, name: &str) -> Result<()> {
        let at_once: &[&str] = match self.kind {
            Kind::Docker => &[],
            Kind::Podman => &["-t", "0"],
        };
        self.run(&[&["rm", "-f"], at_once, &[name]].concat()).map(drop)
    }

    fn pid(&self, name: &str) -> Result<u32> {
        let pid = self.run(&["inspect", "-f", "{{.State.Pid}}", name])?;
        pid.parse().with_context(|| format!("no pid: {pid}"))
    }

    fn address(&self, name: &str) -> Result<SocketAddr> {
        let ip = self.run(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", name])?;
        Ok(SocketAddr::new(ip.parse::<IpAddr>().with_context(|| format!("no address: {ip}"))?, 8080))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Podman removes no container whose network another has.
        for _ in 0..2 {
            let all = self.run(&["ps", "-aq"]).unwrap_or_default();
            all.split_whitespace().for_each(|id| drop(self.remove(id)));
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(nix::sys::signal::Signal::SIGTERM).ok();
            daemon.wait(Duration::from_secs(20)).ok();
        }
        // What a daemon that was ended early has left, the innermost first.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounted = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for path in mounted.filter(|path| Path::new(path).starts_with(self.folder.path())) {
            let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// The agent's file, with the first pod named by a container and more pods behind it.
fn text(w: &World, runtime: &Runtime, more: &[(&str, &str)]) -> Result<String> {
    let key = runtime.key();
    let netns = format!("netns = \"{}\"", w.config.pods[0].netns.display());
    let text = w.config.text(&w.agent.key())?.replace(&netns, &format!("{key} = \"web\""));
    let more: String = more
        .iter()
        .map(|(pod, name)| format!("[[pod]]\nname = \"{pod}\"\nlabels = {{ app = \"web\" }}\n{key} = \"{name}\"\n"))
        .collect();
    Ok(format!("{text}{more}[runtimes]\n{key} = \"{}\"\n", runtime.socket().display()))
}

fn get(w: &World, at: SocketAddr, headers: &[&str]) -> Result<String> {
    let stream = w.node().connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(Http::new(stream).get("/", headers)?.text())
}

/// Requests of alice's come to her, and others to the app, of which both must have started by then.
fn is_intercepted(w: &World, runtime: &Runtime, name: &str) -> Result<()> {
    wait::until_true(format!("requests to {name} to come to alice"), SOON, || {
        let Ok(at) = runtime.address(name) else { return Ok(false) };
        Ok(get(w, at, &[ALICE]).is_ok_and(|text| text.starts_with("blue")))
    })?;
    let text = get(w, runtime.address(name)?, &[])?;
    ensure!(text.starts_with("green"), "{text}");
    Ok(())
}

/// The process that reads what the runtime says has nothing.
fn controller_is_confined(w: &World, runtime: &Runtime) -> Result<()> {
    let children = redir_rig::process::children(w.agent.guardian()?);
    let status = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let controller = children.into_iter().find(|pid| status(*pid).contains("\nUid:\t60745\t60745\t60745\t60745\n"));
    let controller = controller.context("a controller of its own uid")?;
    for line in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Seccomp:\t2", "NoNewPrivs:\t1", "Threads:\t1"]
    {
        ensure!(status(controller).contains(line), "{line}: {}", status(controller));
    }
    ensure!(fs::read_dir(format!("/proc/{controller}/root/"))?.count() == 0, "it has files");
    for fd in fs::read_dir(format!("/proc/{controller}/fd"))? {
        let path = fd?.path();
        let target = fs::read_link(&path)?.display().to_string();
        if target.starts_with("pipe:")
            && path.file_name().is_some_and(|name| !["0", "1", "2"].iter().any(|std| name == *std))
        {
            let flags = fs::read_to_string(format!(
                "/proc/{controller}/fdinfo/{}",
                path.file_name().context("a number")?.display()
            ))?;
            let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).context("flags")?.trim().to_owned();
            let mode = u32::from_str_radix(&flags, 8)? & 3;
            ensure!(mode == 0, "a pipe that can be written to: {flags}");
        }
    }
    // The control socket is the guardian's other end, and the signals' pair of the runtime of tasks its own.
    let strangers = sockets_to_others(w, controller, w.agent.guardian()?)?;
    ensure!(strangers.is_empty(), "it has sockets to others than the guardian: {strangers:?}");
    // Where there is one, it is found: here it is this test's own.
    let stream = w.node().run(|| UnixStream::connect(runtime.socket()))??;
    let own = fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd()))?;
    let test = std::process::id().cast_signed();
    let found = sockets_to_others(w, test, test)?;
    ensure!(found.contains(&own.display().to_string()), "{found:?} is without {}", own.display());
    Ok(())
}

/// The sockets of a process but for those whose other end is its own or this other process's.
fn sockets_to_others(w: &World, pid: i32, other: i32) -> Result<Vec<String>> {
    let sockets = |pid: i32| -> Result<BTreeSet<String>> {
        let targets = fs::read_dir(format!("/proc/{pid}/fd"))?.map(|fd| Ok(fs::read_link(fd?.path())?));
        // A descriptor that is closed meanwhile is none of them.
        let targets = targets.filter_map(|target: Result<PathBuf>| target.ok());
        Ok(targets.map(|target| target.display().to_string()).filter(|target| target.starts_with("socket:")).collect())
    };
    let own = sockets(pid)?;
    let known: BTreeSet<String> = own.union(&sockets(other)?).cloned().collect();
    // Each line ends with a socket's path and inode, and its peer's.
    let listed = w.node().output(&["ss", "-xanH"])?;
    let ends = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace().rev();
        let (peer, _, inode) = (words.next()?, words.next()?, words.next()?);
        Some((format!("socket:[{inode}]"), format!("socket:[{peer}]")))
    });
    let peers: BTreeMap<String, String> = ends.collect();
    let is_known = |socket: &String| peers.get(socket).is_some_and(|peer| known.contains(peer));
    Ok(own.into_iter().filter(|socket| !is_known(socket)).collect())
}

/// Whatever becomes of a container, its name is followed.
fn followed(w: &mut World, kind: Kind, network: &str) -> Result<()> {
    let mut runtime = Runtime::new(kind, &w.topology.node.namespace)?;
    w.agent.rewrite(&text(w, &runtime, &[])?)?;
    w.agent.process.wait_for_line("has no container web", SOON).context("the new configuration")?;
    let _blue = w.local(LOCAL, "blue")?;
    let mut early = w.start(&w.bob, LOCAL, &["--header", "x-user: bob"])?;
    ensure!(early.process.exit_code(SOON)? == 1, "none is there yet");
    ensure!(early.process.log().contains("has no container web"), "{}", early.process.log());
    controller_is_confined(w, &runtime)?;

    runtime.app("web", network, "green")?;
    w.agent.process.wait_for_line("the pod's container runs", SOON)?;
    let cli = w.alice()?;
    is_intercepted(w, &runtime, "web").context("started")?;
    let first = runtime.pid("web")?;
    runtime.run(&["restart", "-t", "0", "web"])?;
    ensure!(runtime.pid("web")? != first, "another process");
    is_intercepted(w, &runtime, "web").context("restarted")?;
    runtime.run(&["stop", "-t", "0", "web"])?;
    runtime.run(&["start", "web"])?;
    is_intercepted(w, &runtime, "web").context("stopped and started")?;
    runtime.remove("web")?;
    runtime.app("web", network, "green")?;
    is_intercepted(w, &runtime, "web").context("another container of the same name")?;

    // A name goes from one container to the next.
    runtime.run(&["rename", "web", "old"])?;
    runtime.app("web", network, "green")?;
    is_intercepted(w, &runtime, "web").context("renamed")?;
    wait::until_true("the old one to be let go of", SOON, || {
        Ok(get(w, runtime.address("old")?, &[ALICE]).is_ok_and(|text| text.starts_with("green")))
    })?;

    // Its runtime is away: what it said last stays in force, and what happened meanwhile is found.
    let at = runtime.address("web")?;
    runtime.stop()?;
    w.agent.process.wait_for_line("the agent does not hear from", SOON)?;
    ensure!(get(w, at, &[ALICE])?.starts_with("blue"), "while the runtime is away");
    runtime.start(&w.topology.node.namespace)?;
    w.agent.process.wait_for_line("is heard again", SOON)?;
    is_intercepted(w, &runtime, "web").context("the runtime is back")?;

    refused(w, &runtime)?;
    cli.leave()
}

/// Networks that are not the container's own.
fn refused(w: &mut World, runtime: &Runtime) -> Result<()> {
    let sleep = |name: &str, network: &str| {
        let run = ["run", "-d", "--name", name, "--network", network];
        runtime.run(&[&run[..], &LIMITS, &["app:1", "/bin/busybox", "sleep", "600"]].concat())
    };
    sleep("host", "host")?;
    sleep("side", "container:web")?;
    w.agent.rewrite(&text(w, runtime, &[("host-1", "host"), ("side-1", "side")])?)?;
    let flags = w.agent_flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for (pod, words) in
        [("host-1", "(hostNetwork), which redir never touches"), ("side-1", "same network namespace as web-1")]
    {
        wait::until_true(format!("{pod} to be refused: {words}"), SOON, || {
            let line = ["intercept", pod, "--port", "8080:3001"];
            let (_, _, err) = w.bob.run(&w.topology.developer.namespace, &[&line[..], &flags].concat())?;
            Ok(err.contains(words))
        })?;
    }
    let output =
        Command::new(binaries::find("redir-agent")?).arg("check").arg("--config").arg(w.agent.config()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in ["pod web-1: ", "pods web-1 and side-1 have the same network namespace"] {
        ensure!(text.contains(line), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    ensure!(!text.contains("pod web-1: not now"), "{text}");
    Ok(())
}

/// From the path, whoever has installed it.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn need(name: &str) -> Result<()> {
    for name in [name, "runc"] {
        ensure!(program(name).is_some(), "{name} is not in the path; run `cargo xtask test`, which installs it");
    }
    Ok(())
}

once!(containers_of_docker_are_followed_by_name, LONG, |w| {
    need("dockerd")?;
    followed(w, Kind::Docker, "bridge")
});

once!(containers_of_podman_are_followed_by_name, LONG, |w| {
    need("podman")?;
    followed(w, Kind::Podman, "podman")
});
