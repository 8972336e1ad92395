//! One captured pod: its accept loop, which also writes the heartbeat, and its live connections.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Shared, heartbeat::Heartbeat, limit::Place};
use crate::{
    config::PodName,
    worker::{connection, relay::reset, upstream::Upstream},
};

/// How often the heartbeat is written; the programs take two seconds for stale.
const BEAT: Duration = Duration::from_millis(redir_abi::HEARTBEAT_EVERY_MILLIS);
/// An empty pod is released this long after its last port was disarmed: a handshake that was steered before must find
/// the listener, and its SYN-ACK may have to be sent twice.
const RELEASE_AFTER: Duration = Duration::from_millis(1200);

/// A pod's listening sockets.
pub(super) struct Listeners {
    v4: TcpListener,
    v6: Option<TcpListener>,
}

impl Listeners {
    /// Takes over the guardian's listeners; they are nonblocking already.
    pub(super) fn new(v4: std::net::TcpListener, v6: Option<std::net::TcpListener>) -> io::Result<Self> {
        Ok(Listeners { v4: TcpListener::from_std(v4)?, v6: v6.map(TcpListener::from_std).transpose()? })
    }

    async fn accept(&self) -> io::Result<TcpStream> {
        let v6 = async {
            match &self.v6 {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.v4.accept() => accepted.map(|(stream, _)| stream),
            accepted = v6 => accepted.map(|(stream, _)| stream),
        }
    }

    /// Whether a descriptor is to be had.
    fn descriptor_free(&self) -> bool {
        let probe: io::Result<OwnedFd> = self.v4.as_fd().try_clone_to_owned();
        probe.is_ok()
    }
}

/// A captured pod, shared with its connections.
pub(crate) struct Pod {
    name: PodName,
    upstream: Upstream,
    shared: Arc<Shared>,
    ports: Mutex<PortSets>,
    live: AtomicUsize,
    changed: Notify,
    abort: CancellationToken,
}

#[derive(Default)]
struct PortSets {
    armed: HashSet<u16>,
    /// Armed at some time in this capture: a connection to one of these may have been steered.
    ever: HashSet<u16>,
}

impl Pod {
    pub(super) fn new(name: PodName, upstream: Upstream, shared: Arc<Shared>) -> Self {
        let abort = shared.stop.abort.child_token();
        Pod {
            name,
            upstream,
            shared,
            ports: Mutex::default(),
            live: AtomicUsize::new(0),
            changed: Notify::new(),
            abort,
        }
    }

    /// Its name in the configuration.
    pub(crate) fn name(&self) -> &PodName {
        &self.name
    }

    /// Its legs to the app.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// What all pods share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Cancelled when the pod's connections must be reset.
    pub(crate) fn aborted(&self) -> &CancellationToken {
        &self.abort
    }

    pub(super) fn arm(&self, port: u16) {
        let mut ports = self.ports();
        ports.armed.insert(port);
        ports.ever.insert(port);
        self.changed.notify_one();
    }

    pub(super) fn disarm(&self, port: u16) {
        self.ports().armed.remove(&port);
        self.changed.notify_one();
    }

    pub(super) fn connections(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    pub(super) fn abort(&self) {
        self.ports().armed.clear();
        self.abort.cancel();
        self.changed.notify_one();
    }

    /// No port is armed and no connection is left.
    fn empty(&self) -> bool {
        self.ports().armed.is_empty() && self.connections() == 0
    }

    fn steered(&self, port: u16) -> bool {
        self.ports().ever.contains(&port)
    }

    fn ports(&self) -> MutexGuard<'_, PortSets> {
        // Two sets of numbers: no half-done state that a panic could leave.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live connection of a pod.
pub(crate) struct Live {
    pod: Arc<Pod>,
    _place: Place,
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.pod.live.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.pod.changed.notify_one();
        }
    }
}

/// Whether new connections come to the agent, and why not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steering {
    /// The heartbeat is written.
    On,
    /// The agent is at its limit, or drains.
    Passing,
    /// An accept failed for want of descriptors or memory: none is tried until the next beat.
    Starved,
}

/// Accepts until the pod is released. The listeners close when this returns or is dropped.
pub(super) async fn run(pod: &Arc<Pod>, listeners: Listeners, heartbeat: Heartbeat) {
    let mut tasks = JoinSet::new();
    tasks.spawn(pod.upstream.clone().refill());
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut steering = Steering::Passing;
    let mut empty_since: Option<Instant> = None;
    loop {
        tokio::select! {
            accepted = listeners.accept(), if steering != Steering::Starved => match accepted {
                Ok(client) => admit(pod, client, &mut tasks),
                Err(error) => steering = refused(pod, &error, &heartbeat, steering),
            },
            _ = beat.tick() => {
                steering = next(pod, &listeners, steering);
                if steering == Steering::On { heartbeat.beat() } else { heartbeat.lapse() }
            }
            () = pod.changed.notified() => {}
            () = pod.abort.cancelled(), if !pod.abort.is_cancelled() => {}
            Some(_) = tasks.join_next() => continue,
        }
        if steering == Steering::On && next(pod, &listeners, steering) != Steering::On {
            heartbeat.lapse();
        }
        empty_since = if pod.empty() { empty_since.or_else(|| Some(Instant::now())) } else { None };
        let over = pod.abort.is_cancelled() || empty_since.is_some_and(|since| since.elapsed() >= RELEASE_AFTER);
        if pod.empty() && over && release(pod).await {
            break;
        }
    }
    tasks.shutdown().await;
}

/// Asks the guardian to let the pod go; false if a port was armed meanwhile.
async fn release(pod: &Pod) -> bool {
    match pod.shared.broker.release(&pod.name).await {
        Ok(()) => {
            tracing::info!(pod = %pod.name, "released");
            true
        }
        Err(error) => {
            tracing::debug!(pod = %pod.name, %error, "not released");
            // With the guardian gone nobody answers any more: the capture ends all the same.
            pod.abort.is_cancelled()
        }
    }
}

/// What the next beat says.
fn next(pod: &Pod, listeners: &Listeners, now: Steering) -> Steering {
    let shared = &pod.shared;
    let starved = now == Steering::Starved && !listeners.descriptor_free();
    let passes = shared.stop.draining.is_cancelled()
        || pod.abort.is_cancelled()
        || shared.limit.passes(now != Steering::On);
    match (starved, passes) {
        (true, _) => Steering::Starved,
        (false, true) => Steering::Passing,
        (false, false) => Steering::On,
    }
}

/// An accept failed: without descriptors or memory new connections pass to the app, at once.
fn refused(pod: &Pod, error: &io::Error, heartbeat: &Heartbeat, now: Steering) -> Steering {
    pod.shared.metrics.accept_errors.inc();
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return now;
    }
    heartbeat.lapse();
    tracing::warn!(pod = %pod.name, %error, "could not accept: new connections pass to the app for now");
    Steering::Starved
}

/// Hands a steered connection to its own task; anything else is reset.
fn admit(pod: &Arc<Pod>, client: TcpStream, tasks: &mut JoinSet<()>) {
    let (Ok(peer), Ok(local)) = (client.peer_addr(), client.local_addr()) else { return };
    if !pod.steered(local.port()) {
        pod.shared.metrics.strays.inc();
        tracing::debug!(pod = %pod.name, client = %peer, "a connection that was not steered is reset");
        return reset(&client);
    }
    pod.live.fetch_add(1, Ordering::Relaxed);
    let live = Live { pod: pod.clone(), _place: pod.shared.limit.enter() };
    tasks.spawn(connection::serve(pod.clone(), client, peer, local, live));
}
