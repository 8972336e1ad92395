//! One network namespace: made by `ip netns add`, entered by threads of our own, gone on drop.

use std::{
    fs::{self, File},
    future::Future,
    io::Write,
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{cleanup, process::Process, wait};

/// How long clients of the rig wait for anything before they call it failed; [`wait::scaled`] where it is applied.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long the kernel may hold an address whose last FIN is not acknowledged.
const LAST_ACK: Duration = Duration::from_secs(2);

/// A network namespace of our own. Drop ends the processes in it and deletes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    file: File,
    runtime: Mutex<Option<RuntimeThread>>,
}

#[derive(Debug)]
struct RuntimeThread {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Namespace {
    /// Makes the namespace `name`, with `lo` up and without the waits of duplicate address detection.
    /// `name` begins with `redir-<letters><pid>-` (see [`crate::topology::unique_prefix`]), else [`cleanup::sweep`] never finds it.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let path = Path::new(cleanup::NETNS_DIR).join(&name);
        let file = add(&name, &path)?;
        let namespace = Self { name, path, file, runtime: Mutex::new(None) };
        namespace.prepare()?;
        Ok(namespace)
    }

    /// Ends the processes in it, deletes it, and makes another, empty one of the same name.
    pub fn recreate(&mut self) -> Result<()> {
        self.stop_runtime();
        cleanup::remove_namespace(&self.name);
        self.file = add(&self.name, &self.path)?;
        self.prepare()
    }

    fn prepare(&self) -> Result<()> {
        self.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        self.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        self.ip("link set lo up\n")
    }

    fn stop_runtime(&mut self) {
        let running = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running {
            let _ = running.stop.send(());
            let _ = running.thread.join();
        }
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/run/netns/NAME`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The inode of the namespace, as `bpftool link` names it.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Runs `f` on a thread of its own inside the namespace. Sockets made there can be used anywhere.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", self.name))?;
                Ok(f())
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The namespace's own tokio runtime (one thread, inside the namespace): what is spawned on it makes its sockets there.
    pub fn handle(&self) -> Result<Handle> {
        let mut slot = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*slot {
            return Ok(running.handle.clone());
        }
        let started = start_runtime(&self.name, self.file.try_clone()?)?;
        let handle = started.handle.clone();
        *slot = Some(started);
        Ok(handle)
    }

    /// Runs a future inside the namespace to its end, at most `limit` ([`wait::scaled`]).
    pub fn block_on<T: Send + 'static>(
        &self,
        limit: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let (limit, (send, receive)) = (wait::scaled(limit), mpsc::channel());
        let task = self.handle()?.spawn(async move { send.send(future.await) });
        receive.recv_timeout(limit).map_err(|_| {
            task.abort();
            anyhow::anyhow!("a task in {} was not done in {limit:?}", self.name)
        })
    }

    /// `ip -n NAME -batch`: one command a line, without the leading `ip`.
    pub fn ip(&self, batch: &str) -> Result<()> {
        checked(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), Some(batch))
            .map(drop)
            .with_context(|| format!("in {}: ip {batch}", self.name))
    }

    /// Sets a sysctl of the namespace (`net.…`, with dots).
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.run(|| fs::write(&path, value))?.with_context(|| format!("{}: sysctl {key}={value}", self.name))
    }

    /// Reads a sysctl of the namespace.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let text = self.run(|| fs::read_to_string(&path))?.with_context(|| format!("{}: sysctl {key}", self.name))?;
        Ok(text.trim().to_owned())
    }

    /// Runs a command in the namespace to its end; its output, or an error with what it wrote.
    pub fn output(&self, command: &[&str]) -> Result<String> {
        self.output_with(command, None)
    }

    /// [`Namespace::output`] with text on the command's standard input.
    pub fn output_with(&self, command: &[&str], input: Option<&str>) -> Result<String> {
        let (program, arguments) = command.split_first().context("no command")?;
        self.run(|| checked(Command::new(program).args(arguments), input))?.with_context(|| format!("in {}", self.name))
    }

    /// Starts a long-running process in the namespace; `label` names its log.
    pub fn spawn(&self, label: &str, command: &mut Command) -> Result<Process> {
        self.run(|| Process::spawn(label, command))?
    }

    /// Connects from the namespace, with [`PATIENCE`] for the handshake, reads and writes.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.connect_with(to, wait::scaled(PATIENCE), |_| Ok(()))
    }

    /// Connects from a given address or port (0 = any). Where the last connection from there is still waiting for the
    /// acknowledgement of its FIN, it waits for that.
    pub fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
        wait::until(format!("{from} to be free"), LAST_ACK, || {
            let connected = self.connect_with(to, wait::scaled(PATIENCE), |socket| {
                socket.set_reuse_address(true)?;
                socket.bind(&from.into())
            });
            match connected {
                Err(error) if is_taken(&error) => Ok(None),
                other => other.map(Some),
            }
        })
    }

    /// Connects with a time of one's own and whatever must be done to the socket before.
    pub fn connect_with(
        &self,
        to: SocketAddr,
        limit: Duration,
        before: impl FnOnce(&Socket) -> std::io::Result<()> + Send,
    ) -> Result<TcpStream> {
        let connect = || -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            before(&socket)?;
            socket.connect_timeout(&to.into(), limit)?;
            let stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(wait::scaled(PATIENCE)))?;
            stream.set_write_timeout(Some(wait::scaled(PATIENCE)))?;
            Ok(stream)
        };
        self.run(connect)?.with_context(|| format!("connect to {to} from {}", self.name))
    }

    /// The namespace's addresses on `device`, as `ip` lists them (link-local ones too).
    pub fn addresses(&self, device: &str) -> Result<Vec<IpAddr>> {
        let text = self.output(&["ip", "-j", "addr", "show", "dev", device])?;
        let parsed: serde_json::Value = serde_json::from_str(&text)?;
        let infos = parsed[0]["addr_info"].as_array().cloned().unwrap_or_default();
        infos
            .iter()
            .map(|info| info["local"].as_str().context("address without local")?.parse().context("address"))
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.stop_runtime();
        cleanup::remove_namespace(&self.name);
        cleanup::namespace_gone(&self.name);
    }
}

fn add(name: &str, path: &Path) -> Result<File> {
    checked(Command::new("ip").args(["netns", "add", name]), None)?;
    cleanup::namespace_made(name);
    File::open(path).with_context(|| format!("open {}", path.display()))
}

fn start_runtime(name: &str, file: File) -> Result<RuntimeThread> {
    let (send, receive) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name(format!("ns-{name}")).spawn(move || {
        let runtime = setns(&file, CloneFlags::CLONE_NEWNET)
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?));
        drop(file);
        match runtime {
            Ok(runtime) => {
                let _ = send.send(Ok(runtime.handle().clone()));
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            }
            Err(e) => drop(send.send(Err(e))),
        }
    })?;
    let handle = receive.recv_timeout(wait::scaled(PATIENCE)).context("the namespace's runtime did not start")??;
    Ok(RuntimeThread { handle, stop, thread })
}

/// The tuple, or the port, is still in use.
fn is_taken(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::AddrInUse))
}

fn sysctl_path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

/// Runs a command to its end; its output, or an error with what it wrote.
pub fn checked(command: &mut Command, input: Option<&str>) -> Result<String> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {}", spelled(command)))?;
    if let Some(input) = input {
        let mut pipe = child.stdin.take().context("no pipe")?;
        if let Err(e) = pipe.write_all(input.as_bytes()) {
            ensure!(e.kind() == std::io::ErrorKind::BrokenPipe, "write to {}: {e}", spelled(command));
        }
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}: {}: {}", spelled(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as a person would type it; its environment is left out.
pub fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
