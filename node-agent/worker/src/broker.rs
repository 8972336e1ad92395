//! The worker's client of the guardian: asks for what only the guardian may do, and hears what it pushes.
//!
//! Owns the worker's end of the control socket and the duplicates of the TCX links. Decides nothing: what to arm is the
//! registry's, which connections need sockets is the upstream leg's. Requests are pipelined and answered by number; each
//! has a timeout; a dropped request is undone when its answer comes.

mod driver;
mod link_store;
mod network;
mod pending;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use link_store::LinkStore;
use network::PartialNetwork;
use pending::PendingRequests;
use redir_abi::Reason;
use redir_config::{NodeConfig, PodName, certificates::Certificates};
use redir_ipc::{self as ipc, FirstHand, HandedSockets, PodNetwork, PortDetour, Reply, Request};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

pub(crate) use driver::BrokerDriver;
pub(crate) use network::PodAddresses;
pub(crate) use redir_ipc::{AppListening, LastProcess, ListenerGate, RefusalCode};

/// What the guardian gives the worker before anything else.
pub struct WorkerBootstrap {
    /// The QUIC socket, bound, with large buffers.
    pub(crate) udp: UdpSocket,
    /// The agent's key, PKCS#8 DER.
    pub(crate) key: Vec<u8>,
    /// The configuration at the start.
    pub(crate) config: Arc<NodeConfig>,
    /// The apps' certificates at the start.
    pub(crate) certificates: Certificates,
    /// Where the text came from, for messages.
    pub(crate) config_file: PathBuf,
    /// The control socket, for [`start`].
    pub(crate) control: OwnedFd,
}

/// What the guardian says unasked.
#[derive(Debug)]
pub(crate) enum GuardianEvent {
    /// The configuration has changed (`[agent]` is as it was: it takes effect at the start only), or a certificate.
    Config(Arc<NodeConfig>),
    /// The link to a controller, which takes the place of the one before.
    Controller(OwnedFd),
    /// End: no new work; connections may go on for `drain`.
    Shutdown {
        /// How long.
        drain: Duration,
    },
    /// The pod's path names another network namespace: reset its connections, release it, arm it again.
    PodGone(PodName),
    /// The last process of a pod that is to end has ended: reset its connections while its link is there.
    PodEnded(PodName),
    /// The pod has these addresses now, beside those on `lo`.
    Readdressed(PodName, Vec<IpAddr>),
    /// The guardian is dead: close listeners, reset connections, exit within a second.
    GuardianGone,
}

/// An armed port.
#[derive(Debug)]
pub(crate) struct ArmedPort {
    /// The app's connections on the port from before, which stay with the app.
    pub(crate) earlier_connections: u32,
    /// Whether the app listens on the port; `None`: the kernel does not tell.
    pub(crate) app: Option<AppListening>,
    /// The pod's own addresses, without those on `lo`.
    pub(crate) pod_addresses: Vec<IpAddr>,
    /// With the pod's first port since the start or its release.
    pub(crate) first: Option<ArmedPod>,
}

/// What comes with a pod's first armed port. The listeners sit on the highest descriptors, which close first when the process dies.
#[derive(Debug)]
pub(crate) struct ArmedPod {
    /// On 127.0.0.1, in the pod's namespace, nonblocking. A connection to the listener's own port was not steered.
    pub(crate) listener4: TcpListener,
    /// On ::1, where the pod has IPv6.
    pub(crate) listener6: Option<TcpListener>,
    /// Map this, one page, and write `CLOCK_MONOTONIC` nanoseconds to its first u64.
    pub(crate) heartbeat: OwnedFd,
    /// Map this, and read there which legs were turned round.
    pub(crate) turned: OwnedFd,
    /// Who takes the pod's connections first.
    pub(crate) first_hand: FirstHand,
    /// All addresses of the namespace, loopback included: a peer with one of these is inside the pod.
    pub(crate) addresses: PodAddresses,
}

/// A socket for a leg to the app.
#[derive(Debug)]
pub(crate) struct LegSocket {
    /// Bound, not connected.
    pub(crate) socket: OwnedFd,
    /// By which its note of a turned SYN is found; never used twice in a pod.
    pub(crate) number: u64,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum BrokerError {
    /// The guardian said no.
    Refused {
        /// For code.
        code: RefusalCode,
        /// For people; names the next step.
        sentence: String,
    },
    /// No answer in time.
    Timeout,
    /// The guardian is dead.
    GuardianGone,
    /// The control socket or a descriptor failed.
    Io(io::Error),
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { sentence, .. } => f.write_str(sentence),
            Self::Timeout => f.write_str("the guardian did not answer in time; look at the node's load and try again"),
            Self::GuardianGone => f.write_str("the guardian has ended; the agent must be started again"),
            Self::Io(error) => write!(f, "talking to the guardian failed: {error}"),
        }
    }
}

impl std::error::Error for BrokerError {}

impl From<io::Error> for BrokerError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::GuardianGone,
            _ => Self::Io(error),
        }
    }
}

/// The handle; clones share the socket.
#[derive(Clone)]
pub(crate) struct Broker {
    shared: Arc<BrokerSocket>,
}

struct BrokerSocket {
    socket: AsyncFd<OwnedFd>,
    state: Mutex<BrokerState>,
    /// Something was asked: the driver looks anew until when an answer is due.
    asked: Notify,
    /// Whether the guardian hangs; set by the driver.
    hung: watch::Sender<bool>,
}

struct BrokerState {
    next_seq: u32,
    pending: PendingRequests,
    /// Pods whose listeners the worker has, until their release.
    held: HashSet<PodName>,
    networks: HashMap<PodName, PartialNetwork>,
    links: LinkStore,
    gone: bool,
}

/// What came for a request.
struct GuardianAnswer {
    reply: Reply,
    fds: Vec<OwnedFd>,
}

/// Takes the control socket over. Must be called inside a tokio runtime; the driver's `run` must be spawned.
pub(crate) fn start(
    control: OwnedFd,
    config_file: &Path,
) -> io::Result<(Broker, BrokerDriver, mpsc::Receiver<GuardianEvent>)> {
    let socket = register(control)?;
    let pending = PendingRequests::new(Instant::now());
    let (held, networks) = (HashSet::new(), HashMap::new());
    let state = BrokerState { next_seq: 1, pending, held, networks, links: LinkStore::new()?, gone: false };
    let (hung, _) = watch::channel(false);
    let broker =
        Broker { shared: Arc::new(BrokerSocket { socket, state: Mutex::new(state), asked: Notify::new(), hung }) };
    let (events, receiver) = mpsc::channel(EVENTS);
    Ok((broker.clone(), BrokerDriver::new(broker, events, config_file.to_owned()), receiver))
}

#[expect(unsafe_code, reason = "AsyncFd must be promised that its descriptor stays open")]
fn register(control: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    // SAFETY: an `OwnedFd` keeps its number and its file open until it is dropped, and `BrokerSocket` never takes it out.
    unsafe { AsyncFd::register_with_interest(control, interest) }.map_err(io::Error::from)
}

impl Broker {
    /// Says that the worker serves: from now on its death restarts it instead of ending the agent.
    pub(crate) async fn ready(&self) -> Result<(), BrokerError> {
        self.send(&Request::Ready.encode(0)).await
    }

    /// The control socket once more, for a sender that needs no runtime.
    pub(crate) fn control(&self) -> io::Result<OwnedFd> {
        self.shared.socket.get_ref().try_clone()
    }

    /// Attaches to the pod and lets legs to the port pass; `steer` gives its new connections to the pod's listeners.
    /// Dropped before its end, or failed, it is undone.
    pub(crate) async fn arm(&self, pod: &PodName, port: u16, first_hand: FirstHand) -> Result<ArmedPort, BrokerError> {
        let request = Request::Arm { pod: pod.clone(), port };
        self.state().forget_stale_network(pod);
        let undo = UndoArm { broker: self, pod, port, settled: false };
        let asked = self.ask(request, ARM_TIMEOUT).await;
        let GuardianAnswer { reply, fds } = match asked {
            Err(error @ BrokerError::Refused { .. }) => {
                undo.defuse();
                return Err(error);
            }
            asked => asked?,
        };
        let Reply::Armed(told) = reply else { return Err(unexpected(&reply)) };
        let (earlier_connections, app, pod_addresses) = (told.earlier, told.app, told.pod_addresses.clone());
        let first = self.adopt(pod, told, first_hand, fds)?;
        undo.defuse();
        Ok(ArmedPort { earlier_connections, app, pod_addresses, first })
    }

    /// Steers new connections of an armed port, once the way to the app was tried.
    pub(crate) async fn steer(&self, pod: &PodName, port: u16, gate: ListenerGate) -> Result<(), BrokerError> {
        self.done(Request::Steer { pod: pod.clone(), port, gate }, TIMEOUT).await
    }

    /// Listeners for legs that only try the way, until they are dropped; none where the kernel has no means to give them
    /// connections.
    pub(crate) async fn trial_listeners(&self, pod: &PodName) -> Result<Vec<TcpListener>, BrokerError> {
        let GuardianAnswer { reply, fds } = self.ask(Request::TrialListeners { pod: pod.clone() }, TIMEOUT).await?;
        match reply {
            Reply::TrialListeners(_) => Ok(fds.into_iter().map(TcpListener::from).collect()),
            other => Err(unexpected(&other)),
        }
    }

    /// Leaves new connections of the pod's port to the app. A port that is not armed is no error.
    pub(crate) async fn disarm(&self, pod: &PodName, port: u16) -> Result<(), BrokerError> {
        self.done(Request::Disarm { pod: pod.clone(), port }, ARM_TIMEOUT).await
    }

    /// Gives the pod back after its last connection; refused (`Busy`) while a port is armed.
    pub(crate) async fn release(&self, pod: &PodName) -> Result<(), BrokerError> {
        self.done(Request::Release { pod: pod.clone() }, ARM_TIMEOUT).await
    }

    /// Whether the guardian hangs: it owes an answer to a quick request, and has said nothing for [`pending::QUICK`].
    /// Without it new connections get no leg to their app.
    pub(crate) fn guardian_hangs(&self) -> watch::Receiver<bool> {
        self.shared.hung.subscribe()
    }

    /// Sockets for legs in the pod's namespace: nonblocking, TCP_NODELAY, bound to `bind` (its port is ignored) and each of
    /// `ports` (1 to 32, from the reserved ranges). Those `for_trial` are taken by the listeners for that. One result per
    /// port, in order.
    pub(crate) async fn sockets(
        &self,
        pod: &PodName,
        bind: SocketAddr,
        ports: &[u16],
        for_trial: bool,
    ) -> Result<Vec<io::Result<LegSocket>>, BrokerError> {
        let request = Request::Sockets { pod: pod.clone(), bind: bind.into(), ports: ports.to_vec(), for_trial };
        let GuardianAnswer { reply, fds } = self.ask(request, TIMEOUT).await?;
        let Reply::Sockets { errnos, first } = reply else { return Err(unexpected(&reply)) };
        let mut legs = fds.into_iter().zip(first..).map(|(socket, number)| LegSocket { socket, number });
        let one = |errno| match errno {
            // It was sent, and there was no room for it in this process.
            0 => legs.next().ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
        Ok(errnos.into_iter().map(one).collect())
    }

    /// Leaves new connections of one client to the app for a while (at most ten minutes).
    pub(crate) async fn bypass(&self, pod: &PodName, client: IpAddr, how_long: Duration) -> Result<(), BrokerError> {
        self.done(Request::Bypass { pod: pod.clone(), client, how_long }, TIMEOUT).await
    }

    /// The counters of the pod's programs, summed over the CPUs.
    pub(crate) async fn stats(&self, pod: &PodName) -> Result<Vec<(Reason, u64)>, BrokerError> {
        match self.ask(Request::Stats { pod: pod.clone() }, TIMEOUT).await?.reply {
            Reply::Stats { counters } => Ok(Reason::ALL.into_iter().zip(counters).collect()),
            other => Err(unexpected(&other)),
        }
    }

    /// Closes the connections that the app had on an armed port before, once they are idle: how many were closed, and how
    /// many were in use for half a minute.
    pub(crate) async fn flush(&self, pod: &PodName, port: u16) -> Result<(u32, u32), BrokerError> {
        match self.ask(Request::Flush { pod: pod.clone(), port }, FLUSH_TIMEOUT).await?.reply {
            Reply::Flushed { closed, left } => Ok((closed, left)),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether the app listens on an armed pod's port (`None`: the kernel does not tell), and how clients reach it there past
    /// the programs, if they do.
    pub(crate) async fn listening(
        &self,
        pod: &PodName,
        port: u16,
    ) -> Result<(Option<AppListening>, Option<PortDetour>), BrokerError> {
        match self.ask(Request::Listening { pod: pod.clone(), port }, TIMEOUT).await?.reply {
            Reply::Listening { app, detour } => Ok((app, detour)),
            other => Err(unexpected(&other)),
        }
    }

    /// The pod is to end: [`GuardianEvent::PodEnded`] says when its last process has. Without one it is not to end any more.
    pub(crate) async fn ending(&self, pod: &PodName, last: Option<LastProcess>) -> Result<(), BrokerError> {
        self.done(Request::Ending { pod: pod.clone(), last }, ARM_TIMEOUT).await
    }

    async fn done(&self, request: Request, limit: Duration) -> Result<(), BrokerError> {
        match self.ask(request, limit).await?.reply {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, request: Request, limit: Duration) -> Result<GuardianAnswer, BrokerError> {
        let (answer, receiver) = oneshot::channel();
        let (seq, message) = {
            let mut state = self.state();
            if state.gone {
                return Err(BrokerError::GuardianGone);
            }
            let seq = state.take_seq();
            state.pending.insert(seq, &request, answer, Instant::now());
            (seq, request.encode(seq))
        };
        self.shared.asked.notify_one();
        if let Err(error) = self.send(&message).await {
            self.state().pending.forget(seq);
            return Err(error);
        }
        match timeout(limit, receiver).await {
            Ok(Ok(GuardianAnswer { reply: Reply::Refused { code, sentence }, .. })) => {
                Err(BrokerError::Refused { code, sentence })
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(BrokerError::GuardianGone),
            // The entry stays until the answer still comes, which is then dropped.
            Err(_) => Err(BrokerError::Timeout),
        }
    }

    async fn send(&self, message: &[u8]) -> Result<(), BrokerError> {
        let send = async {
            self.shared.socket.async_io(Interest::WRITABLE, |socket| ipc::send(socket.as_fd(), message, &[])).await
        };
        Ok(timeout(TIMEOUT, send).await.map_err(|_| BrokerError::Timeout)??)
    }

    /// Puts the descriptors of a pod's first port where they belong.
    fn adopt(
        &self,
        pod: &PodName,
        told: ipc::ArmedReply,
        first_hand: FirstHand,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<ArmedPod>, BrokerError> {
        let mut fds = fds.into_iter();
        let mut next = || {
            let short = "no room for the descriptors of the pod; raise the agent's RLIMIT_NOFILE";
            fds.next().ok_or_else(|| io::Error::other(short))
        };
        let (listener4, listener6) = match told.handed {
            HandedSockets::Nothing => return Ok(None),
            HandedSockets::Ipv4 => (next()?, None),
            HandedSockets::Both => (next()?, Some(next()?)),
        };
        let listener4 = link_store::high(listener4)?.into();
        let listener6 = listener6.map(link_store::high).transpose()?.map(TcpListener::from);
        let (heartbeat, turned) = (next()?, next()?);
        let mut state = self.state();
        state.links.keep(pod, fds);
        state.held.insert(pod.clone());
        let network = state.networks.entry(pod.clone()).or_default();
        let addresses = network.armed(told.pod_addresses, told.loopback_addresses);
        Ok(Some(ArmedPod { listener4, listener6, heartbeat, turned, first_hand, addresses }))
    }

    fn state(&self) -> MutexGuard<'_, BrokerState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an `Arm` back whose asker has gone or failed: the requests follow it on the socket, so that the guardian has it
/// undone before it sees any later one.
struct UndoArm<'a> {
    broker: &'a Broker,
    pod: &'a PodName,
    port: u16,
    settled: bool,
}

impl UndoArm<'_> {
    /// The answer has reached its asker.
    fn defuse(mut self) {
        self.settled = true;
    }
}

impl Drop for UndoArm<'_> {
    fn drop(&mut self) {
        if self.settled || self.broker.state().gone {
            return;
        }
        let pod = || self.pod.clone();
        let release = (!self.broker.state().held.contains(self.pod)).then(|| Request::Release { pod: pod() });
        for request in [Some(Request::Disarm { pod: pod(), port: self.port }), release].into_iter().flatten() {
            // Where this fails the port stays armed, but its listeners are closed: its connections go to the app.
            if let Err(error) = ipc::send(self.broker.shared.socket.get_ref().as_fd(), &request.encode(0), &[]) {
                tracing::warn!(%error, pod = %self.pod, "taking an arm back failed");
            }
        }
    }
}

impl BrokerState {
    /// What was told of a pod that is about to be armed for the first time is of an arm that was taken back.
    fn forget_stale_network(&mut self, pod: &PodName) {
        if !self.held.contains(pod) {
            self.networks.remove(pod);
        }
    }

    /// Takes a part of a pod's changed network; with the last one, the event.
    fn network(&mut self, part: PodNetwork, links: Vec<OwnedFd>) -> Option<GuardianEvent> {
        let pod = part.pod.clone();
        if self.held.contains(&pod) {
            if part.first {
                self.links.clear(&pod);
            }
            self.links.keep(&pod, links.into_iter());
        }
        let addresses = self.networks.entry(pod.clone()).or_default().part(part)?;
        Some(GuardianEvent::Readdressed(pod, addresses))
    }

    /// Fails every waiting request: their senders are dropped.
    fn close(&mut self) {
        self.gone = true;
        self.pending.clear();
    }

    /// Numbers wrap after four billion requests; 0 is for messages without an answer.
    fn take_seq(&mut self) -> u32 {
        let seq = self.next_seq;
        self.next_seq = self.next_seq.checked_add(1).unwrap_or(1);
        seq
    }
}

fn unexpected(reply: &Reply) -> BrokerError {
    BrokerError::Io(io::Error::other(format!("the guardian's answer does not fit the question: {reply:?}")))
}

/// Receives the guardian's first message. Blocks up to ten seconds; called before any runtime exists.
pub fn bootstrap(control: OwnedFd, config_file: &Path) -> anyhow::Result<WorkerBootstrap> {
    driver::bootstrap(control, config_file)
}

/// An answer takes the guardian well under a millisecond; a loaded node may take longer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The first arm of a pod has the verifier read the programs, and the guardian arms one pod after the other.
const ARM_TIMEOUT: Duration = Duration::from_secs(60);
/// Half a minute, and what others of them take meanwhile.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(90);
/// Events are rare; when full, the driver waits and answers queue in the socket.
const EVENTS: usize = 16;

#[cfg(test)]
mod tests;
