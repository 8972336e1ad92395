//! Network namespaces without a name (they go with their last descriptor, however the test ends), and the sockets of
//! client, agent and app in them.

use std::fmt::Write as _;
use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
};
use redir_abi::Reason;
use redir_rig::wait;
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    super::maps::monotonic_nanos,
    super::{AttachMode, LinkLayer, PodDatapath, PodDevice, PodSpec},
};

pub(super) const APP_PORT: u16 = 8080;
/// How long anything may take here.
pub(super) fn patience() -> Duration {
    wait::scaled(Duration::from_secs(5))
}

/// A network namespace with `lo` up.
pub(super) struct TestNetns {
    fd: OwnedFd,
}

impl TestNetns {
    pub(super) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the datapath's tests need root: run `cargo xtask test`, or `sudo -E cargo test`"
        );
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        };
        let net = Self { fd: thread::spawn(make).join().unwrap() };
        net.sh("ip link set lo up");
        net
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Runs `work` on a thread in this namespace.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.fd, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command line in this namespace and returns what it printed.
    pub(super) fn sh(&self, line: &str) -> String {
        self.try_sh(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The same where this kernel may refuse it; the error is what it said.
    pub(super) fn try_sh(&self, line: &str) -> Result<String, String> {
        let done = self.run(|| Command::new("sh").args(["-ec", line]).output().unwrap());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
    }

    pub(super) fn index_of(&self, device: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(device).unwrap())
    }

    /// All that an admin's tools show of programs and filters here, and that must be as before in the end.
    pub(super) fn footprint(&self) -> String {
        let filters = "for d in $(ip -br link | cut -d' ' -f1 | cut -d@ -f1); do tc filter show dev $d ingress; tc filter show dev $d egress; done";
        let mut text = self.sh(&format!("bpftool net show; tc qdisc show; {filters}"));
        text.push_str(&self.run(links));
        text.lines().filter(|line| !line.trim().is_empty()).map(|line| format!("{line}\n")).collect()
    }
}

/// What Debian 12's bpftool does not show yet: TCX programs of every device, and `sk_lookup` programs of the namespace.
fn links() -> String {
    let mut text = String::new();
    if !redir_rig::tcx::exists().unwrap() {
        return text;
    }
    for device in nix::net::if_::if_nameindex().unwrap().iter() {
        let device = device.name().to_str().unwrap();
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) = SchedClassifier::query_tcx(device, side).unwrap();
            for program in programs {
                writeln!(text, "{device} {side:?}: {}", program.name_as_str().unwrap()).unwrap();
            }
        }
    }
    text
}

/// A pod and a client, joined by a veth pair: 10.77.0.2 and fd77::2 in the pod, .1 and ::1 at the client.
pub(super) struct PodAndClient {
    pub(super) pod: TestNetns,
    pub(super) client: TestNetns,
}

pub(super) const POD_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
pub(super) const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
pub(super) const POD_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));
pub(super) const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));

/// The two families, as (pod, client).
pub(super) const FAMILIES: [(IpAddr, IpAddr); 2] = [(POD_V4, CLIENT_V4), (POD_V6, CLIENT_V6)];

impl PodAndClient {
    pub(super) fn new() -> Self {
        let (pod, client) = (TestNetns::new(), TestNetns::new());
        let other = format!("/proc/{}/fd/{}", std::process::id(), pod.fd.as_raw_fd());
        client.sh(&format!("ip link add eth0 type veth peer name eth0 netns {other}"));
        let pair = Self { pod, client };
        pair.pod.sh("ip addr add 10.77.0.2/24 dev eth0; ip addr add fd77::2/64 dev eth0 nodad; ip link set eth0 up");
        pair.client.sh("ip addr add 10.77.0.1/24 dev eth0; ip addr add fd77::1/64 dev eth0 nodad; ip link set eth0 up");
        pair
    }

    pub(super) fn devices(&self) -> Vec<PodDevice> {
        vec![PodDevice { index: self.pod.index_of("eth0"), name: "eth0".into(), framing: LinkLayer::Ethernet }]
    }
}

/// The agent's two listeners in a pod, made as the guardian makes them.
pub(super) struct TestListeners {
    pub(super) v4: TcpListener,
    pub(super) v6: TcpListener,
    pub(super) port: u16,
}

impl TestListeners {
    pub(super) fn new(pod: &TestNetns) -> Self {
        pod.run(|| {
            let v4 = listener((Ipv4Addr::LOCALHOST, 0).into(), 1024);
            let port = v4.local_addr().unwrap().port();
            Self { v4, v6: listener((Ipv6Addr::LOCALHOST, port).into(), 1024), port }
        })
    }

    pub(super) fn of(&self, family: IpAddr) -> &TcpListener {
        if family.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

/// A listener that can stand for any address; call in the pod.
pub(super) fn listener(at: SocketAddr, backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    if at.is_ipv4() {
        socket.set_ip_transparent_v4(true).unwrap();
    } else {
        socket.set_only_v6(true).unwrap();
        socket.set_ip_transparent_v6(true).unwrap();
    }
    socket.bind(&at.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

/// The app: listens on every address of the pod.
pub(super) struct TestApp {
    pub(super) v4: TcpListener,
    pub(super) v6: TcpListener,
}

impl TestApp {
    pub(super) fn new(pod: &TestNetns) -> Self {
        pod.run(|| Self {
            v4: plain_listener((Ipv4Addr::UNSPECIFIED, APP_PORT).into()),
            v6: plain_listener((Ipv6Addr::UNSPECIFIED, APP_PORT).into()),
        })
    }

    pub(super) fn of(&self, family: IpAddr) -> &TcpListener {
        if family.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

pub(super) fn plain_listener(at: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    if at.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&at.into()).unwrap();
    socket.listen(256).unwrap();
    socket.into()
}

/// Loads a pod's datapath.
pub(super) fn load(
    pod: &TestNetns,
    devices: &[PodDevice],
    addresses: &[IpAddr],
    listeners: &TestListeners,
    attach: AttachMode,
) -> PodDatapath {
    let spec = PodSpec {
        netns: pod.fd.as_fd(),
        devices,
        addresses,
        agent_port: listeners.port,
        listener_v4: listeners.v4.as_fd(),
        listener_v6: Some(listeners.v6.as_fd()),
        attach,
    };
    PodDatapath::load(&spec, &mut || {}).unwrap()
}

/// The worker's heartbeat, mapped as the worker maps it.
pub(super) struct TestHeartbeat(std::ptr::NonNull<AtomicU64>);

#[expect(unsafe_code, reason = "shared memory with the programs")]
impl TestHeartbeat {
    pub(super) fn of(datapath: &PodDatapath) -> Self {
        let fd = datapath.heartbeat_fd().unwrap();
        let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping of a whole page; unmapped on drop.
        let at = unsafe { mmap(None, 4096.try_into().unwrap(), flags, MapFlags::MAP_SHARED, &fd, 0) }.unwrap();
        Self(at.cast())
    }

    /// Alive for two seconds from now.
    pub(super) fn beat(&self) {
        self.set(monotonic_nanos().unwrap());
    }

    pub(super) fn set(&self, nanos: u64) {
        // SAFETY: mapped until drop, aligned to a page.
        unsafe { self.0.as_ref() }.store(nanos, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "shared memory with the programs")]
impl Drop for TestHeartbeat {
    fn drop(&mut self) {
        // SAFETY: the mapping of `of`, which nobody else has.
        unsafe { munmap(self.0.cast(), 4096) }.unwrap();
    }
}

/// Counters since a moment.
pub(super) struct CounterDelta(Vec<(Reason, u64)>);

impl CounterDelta {
    pub(super) fn now(datapath: &PodDatapath) -> Self {
        Self(datapath.stats().unwrap())
    }

    /// Which counters have moved, and by how much.
    pub(super) fn moved(&self, datapath: &PodDatapath) -> Vec<(Reason, u64)> {
        let now = datapath.stats().unwrap();
        now.iter()
            .zip(&self.0)
            .map(|((reason, after), (_, before))| (*reason, after - before))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    pub(super) fn count(&self, datapath: &PodDatapath, reason: Reason) -> u64 {
        self.moved(datapath).iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
    }
}

/// Connects from a namespace; `from` chooses address and port.
pub(super) fn connect(net: &TestNetns, from: Option<SocketAddr>, to: SocketAddr) -> std::io::Result<TcpStream> {
    net.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
        }
        socket.connect_timeout(&to.into(), patience())?;
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(patience()))?;
        Ok(stream)
    })
}

/// The agent's leg to the app: bound to the pod's address, connected to the client's.
pub(super) fn upstream(
    datapath: &PodDatapath,
    pod: &TestNetns,
    pod_address: IpAddr,
    port: u16,
    client: IpAddr,
) -> std::io::Result<TcpStream> {
    upstream_between(datapath, pod, SocketAddr::new(pod_address, port), SocketAddr::new(client, APP_PORT))
}

/// The same with both ends in full, for addresses with a scope.
pub(super) fn upstream_between(
    datapath: &PodDatapath,
    pod: &TestNetns,
    from: SocketAddr,
    to: SocketAddr,
) -> std::io::Result<TcpStream> {
    pod.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        datapath.make_leg(socket.as_fd(), false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), wait::scaled(Duration::from_secs(2)))?;
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(patience()))?;
        Ok(stream)
    })
}

/// Accepts within the patience, or fails the test.
pub(super) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let readable = nix::poll::PollFlags::POLLIN;
    let mut fds = [nix::poll::PollFd::new(listener.as_fd(), readable)];
    let ready = nix::poll::poll(&mut fds, nix::poll::PollTimeout::try_from(patience()).unwrap()).unwrap();
    assert_eq!(ready, 1, "nobody connected within {:?}", patience());
    let (stream, peer) = listener.accept().unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    (stream, peer)
}

/// Waits until nobody listens on a port: a process that another test is just starting may still hold the listener.
pub(super) fn until_closed(net: &TestNetns, port: u16) {
    let start = Instant::now();
    while !net.sh(&format!("ss -Hltn 'sport = :{port}'")).is_empty() {
        assert!(start.elapsed() < patience(), "somebody still listens on {port}");
    }
}

/// Whether a connection waits to be accepted.
pub(super) fn is_waiting(listener: &TcpListener) -> bool {
    let mut fds = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap() == 1
}

/// Sends `bytes` one way and checks that they arrive.
pub(super) fn carries(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(move || from.write_all(bytes).unwrap());
        let mut got = vec![0; bytes.len()];
        to.read_exact(&mut got).unwrap();
        assert!(got == bytes, "{} bytes arrived changed", bytes.len());
    });
}

/// Makes the next close a reset.
pub(super) fn reset_on_close(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}
