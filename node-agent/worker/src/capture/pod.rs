//! One captured pod: its accept loop, which also writes the heartbeat, and its live connections.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redir_tunnel::ClientKey;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    CaptureContext,
    heartbeat::MappedHeartbeat,
    passing::{PassingClients, PassingNotice},
    steering::{PassReason, SteeringState},
};
use crate::{
    broker::{BrokerError, LastProcess},
    misses::Cause,
    proxy::{self, AcceptedConnection, Shutdown},
    relay::reset,
    shares::{DESCRIPTORS_OF_POD, HeldDescriptors, PodShare},
    upstream::Upstream,
};
use redir_config::PodName;

/// How often the heartbeat is written; the programs take two seconds for stale.
const BEAT: Duration = Duration::from_millis(redir_abi::HEARTBEAT_EVERY_MILLIS);
/// An empty pod is released this long after its last port was disarmed: a handshake that was steered before must find
/// the listener, and its SYN-ACK may have to be sent twice.
const RELEASE_AFTER: Duration = Duration::from_millis(1200);
/// And this long after its last connection ended: the app's last segments (its FIN, a delayed ACK of up to 200 ms) are
/// for the agent's sockets, and would reach the client unreflected.
const LATE: Duration = Duration::from_millis(300);

/// How far a capture is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CaptureEnd {
    /// A connection that was steered may still arrive.
    Steered,
    /// None will, but some are there, or were a moment ago.
    Settled,
    /// Nothing of the pod's needs the agent any more.
    Releasable,
}

impl CaptureEnd {
    /// For how long no port was armed, and for how long there was no connection; None where that is not so.
    fn of(disarmed_for: Option<Duration>, empty_for: Option<Duration>) -> Self {
        if disarmed_for.is_none_or(|time| time < RELEASE_AFTER) {
            Self::Steered
        } else if empty_for.is_none_or(|time| time < LATE) {
            Self::Settled
        } else {
            Self::Releasable
        }
    }
}

/// A pod's listening sockets.
pub(super) struct CaptureListeners {
    v4: TcpListener,
    v6: Option<TcpListener>,
    /// The port of both.
    port: u16,
}

impl CaptureListeners {
    /// Takes over the guardian's listeners; they are nonblocking already.
    pub(super) fn new(v4: std::net::TcpListener, v6: Option<std::net::TcpListener>) -> io::Result<Self> {
        let port = v4.local_addr()?.port();
        Ok(CaptureListeners { v4: TcpListener::from_std(v4)?, v6: v6.map(TcpListener::from_std).transpose()?, port })
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let v6 = async {
            match &self.v6 {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.v4.accept() => accepted,
            accepted = v6 => accepted,
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
    shared: Arc<CaptureContext>,
    share: Arc<PodShare>,
    _descriptors: HeldDescriptors,
    ports: Mutex<ArmedPorts>,
    live: AtomicUsize,
    changed: Notify,
    abort: CancellationToken,
    /// Which of its processes the guardian watches for the pod's end.
    watched: Mutex<Option<LastProcess>>,
    /// Cancelled when the capture has ended: the pod is released.
    ended: CancellationToken,
}

struct ArmedPorts {
    armed: HashSet<u16>,
    /// When the last of them was disarmed; of a new capture, when it began.
    disarmed_at: Instant,
}

impl Pod {
    pub(super) fn new(name: PodName, upstream: Upstream, shared: Arc<CaptureContext>) -> Self {
        let abort = shared.stop.abort.child_token();
        Pod {
            name,
            upstream,
            share: Arc::new(shared.shares.pod()),
            _descriptors: shared.shares.descriptors().hold(DESCRIPTORS_OF_POD),
            shared,
            ports: Mutex::new(ArmedPorts { armed: HashSet::new(), disarmed_at: Instant::now() }),
            live: AtomicUsize::new(0),
            changed: Notify::new(),
            abort,
            watched: Mutex::new(None),
            ended: CancellationToken::new(),
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
    pub(crate) fn shared(&self) -> &Arc<CaptureContext> {
        &self.shared
    }

    /// Its part of the agent's connections.
    pub(super) fn share(&self) -> &PodShare {
        &self.share
    }

    /// The ports that are armed now.
    pub(super) fn armed(&self) -> Vec<u16> {
        self.ports().armed.iter().copied().collect()
    }

    /// Cancelled when the pod's connections must be reset.
    pub(crate) fn aborted(&self) -> &CancellationToken {
        &self.abort
    }

    pub(super) fn arm(&self, port: u16) {
        self.ports().armed.insert(port);
        self.changed.notify_one();
    }

    pub(super) fn disarm(&self, port: u16) {
        let mut ports = self.ports();
        if ports.armed.remove(&port) {
            ports.disarmed_at = Instant::now();
        }
        drop(ports);
        self.changed.notify_one();
    }

    pub(super) fn connections(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Notes which process the pod ends with, if it is to end; what was noted before.
    pub(super) fn watch_ending(&self, last: Option<LastProcess>) -> Option<LastProcess> {
        std::mem::replace(&mut self.watched.lock().unwrap_or_else(PoisonError::into_inner), last)
    }

    pub(super) fn abort(&self) {
        self.upstream.end();
        self.abort.cancel();
    }

    pub(super) fn end(&self) {
        self.upstream.end();
        self.ended.cancel();
    }

    /// Cancelled at the capture's end, if the pod's connections are being reset.
    pub(super) fn ending(&self) -> Option<CancellationToken> {
        self.abort.is_cancelled().then(|| self.ended.clone())
    }

    /// How long no port has been armed; `None` while one is.
    fn disarmed_for(&self) -> Option<Duration> {
        let ports = self.ports();
        ports.armed.is_empty().then(|| ports.disarmed_at.elapsed())
    }

    fn ports(&self) -> MutexGuard<'_, ArmedPorts> {
        // A set of numbers and a time: no half-done state that a panic could leave.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live connection of a pod.
struct Live {
    pod: Arc<Pod>,
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.pod.live.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.pod.changed.notify_one();
        }
    }
}

/// Accepts until the pod is released. The listeners close when it is, or at once when the pod is aborted.
pub(super) async fn run(pod: &Arc<Pod>, listeners: CaptureListeners, heartbeat: MappedHeartbeat) {
    let mut connections = JoinSet::new();
    let mut helpers = JoinSet::new();
    helpers.spawn(pod.upstream.clone().refill());
    let accepting = AcceptLoop::new(pod, listeners, heartbeat);
    tokio::select! {
        () = accepting.accept(&mut connections) => {}
        () = pod.abort.cancelled() => {
            // `accept` is dropped, and with it the listeners; the connections see the same token.
            while connections.join_next().await.is_some() {}
            // Its ports are disarmed by the registry; until then the guardian does not let it go.
            while !release(pod).await {
                tokio::select! {
                    () = tokio::time::sleep(BEAT) => {}
                    () = pod.changed.notified() => {}
                }
            }
        }
    }
    helpers.shutdown().await;
}

/// A pod's accept loop.
struct AcceptLoop<'p> {
    pod: &'p Arc<Pod>,
    /// None once the agent drains and nothing that was steered can still arrive.
    listeners: Option<CaptureListeners>,
    /// The listeners' own port: whoever dials it was not steered.
    own_port: u16,
    heartbeat: MappedHeartbeat,
    steering: SteeringState,
    clients: PassingClients,
    /// Whether developers know that all of the pod's connections pass, or some client's.
    pod_told: PassingNotice,
    clients_told: PassingNotice,
}

impl<'p> AcceptLoop<'p> {
    fn new(pod: &'p Arc<Pod>, listeners: CaptureListeners, heartbeat: MappedHeartbeat) -> Self {
        let steering = SteeringState::Passing(PassReason::Starting);
        pod.shared.metrics.pods_passing(PassReason::Starting.label()).inc();
        AcceptLoop {
            pod,
            own_port: listeners.port,
            listeners: Some(listeners),
            heartbeat,
            steering,
            clients: PassingClients::default(),
            pod_told: PassingNotice::new(Cause::PodPasses),
            clients_told: PassingNotice::new(Cause::ClientPasses),
        }
    }

    /// Ends when the pod is released.
    async fn accept(mut self, connections: &mut JoinSet<()>) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut empty_since: Option<Instant> = None;
        let mut guardian = self.pod.upstream.guardian_hangs();
        loop {
            let on = self.steering == SteeringState::On;
            tokio::select! {
                accepted = accept(self.listeners.as_ref()), if !self.starved() => match accepted {
                    Ok((client, peer)) => self.admit(client, peer, connections),
                    Err(error) => self.refused(&error),
                },
                _ = beat.tick() => self.beat(),
                () = self.pod.changed.notified() => {}
                () = Upstream::guardian_changed(&mut guardian) => self.beat(),
                () = self.clients.answered(self.pod) => self.beat(),
                () = self.pod.shared.stop.draining.cancelled(), if on => {}
                Some(_) = connections.join_next() => continue,
            }
            if self.steering == SteeringState::On && self.next() != SteeringState::On {
                self.beat();
            }
            empty_since = (self.pod.connections() == 0).then(|| empty_since.unwrap_or_else(Instant::now));
            let end = CaptureEnd::of(self.pod.disarmed_for(), empty_since.map(|since| since.elapsed()));
            // Nothing is steered here any more, and while draining nothing will be.
            if end != CaptureEnd::Steered && self.pod.shared.stop.draining.is_cancelled() {
                self.listeners = None;
            }
            if end == CaptureEnd::Releasable && release(self.pod).await {
                return;
            }
        }
    }

    /// Hands a steered connection to its own task; what was dialled to the listener itself is reset. A connection to any
    /// other port was steered, even if the answer that the guardian has armed this port is still under way.
    fn admit(&mut self, client: TcpStream, peer: SocketAddr, tasks: &mut JoinSet<()>) {
        let Ok(local) = client.local_addr() else { return };
        let pod = self.pod;
        if local.port() == self.own_port {
            pod.shared.metrics.strays.inc();
            tracing::debug!(pod = %pod.name, client = %peer, "a connection that was not steered is reset");
            return reset(&client);
        }
        pod.live.fetch_add(1, Ordering::Relaxed);
        let key = ClientKey::of(peer.ip());
        let live = Live { pod: pod.clone() };
        self.clients.entered(pod, key);
        let shared = &pod.shared;
        let accepted = AcceptedConnection {
            socket: client,
            client: peer,
            destination: local,
            pod: pod.name.clone(),
            upstream: pod.upstream.clone(),
            plans: shared.plans.clone(),
            tls: shared.tls.clone(),
            misses: shared.misses.clone(),
            metrics: shared.metrics.clone(),
            place: pod.share.enter(key),
            shutdown: Shutdown { draining: shared.stop.draining.clone(), abort: pod.aborted().clone() },
        };
        tasks.spawn(proxy::serve(accepted, live));
    }

    /// Writes the heartbeat, or lets it lapse.
    fn beat(&mut self) {
        let next = self.next();
        match next {
            SteeringState::On => self.heartbeat.beat(),
            SteeringState::Passing(_) => self.heartbeat.lapse(),
        }
        self.set(next);
        self.clients.renew(self.pod);
        let full = matches!(next, SteeringState::Passing(PassReason::Share | PassReason::Descriptors));
        self.pod_told.tell(self.pod, full);
        self.clients_told.tell(self.pod, !self.clients.is_empty());
    }

    fn starved(&self) -> bool {
        self.steering == SteeringState::Passing(PassReason::Descriptors)
    }

    /// What the next beat says.
    fn next(&self) -> SteeringState {
        let no_descriptor = || self.listeners.as_ref().is_some_and(|listeners| !listeners.descriptor_free());
        let shared_out = self.steering == SteeringState::Passing(PassReason::Share);
        if self.starved() && no_descriptor() {
            SteeringState::Passing(PassReason::Descriptors)
        } else if self.pod.shared.stop.draining.is_cancelled() {
            SteeringState::Passing(PassReason::Draining)
        } else if self.pod.share.share_state().passes(shared_out) {
            SteeringState::Passing(PassReason::Share)
        } else if self.clients.is_asking() {
            SteeringState::Passing(PassReason::Client)
        } else if self.pod.upstream.starved() {
            SteeringState::Passing(PassReason::Guardian)
        } else {
            SteeringState::On
        }
    }

    /// An accept failed: without descriptors or memory new connections pass to the app, at once.
    fn refused(&mut self, error: &io::Error) {
        self.pod.shared.metrics.accept_errors.inc();
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        self.heartbeat.lapse();
        self.set(SteeringState::Passing(PassReason::Descriptors));
        tracing::warn!(pod = %self.pod.name, %error, "could not accept: new connections pass to the app for now");
    }

    fn set(&mut self, steering: SteeringState) {
        let before = std::mem::replace(&mut self.steering, steering);
        if before == steering {
            return;
        }
        let metrics = &self.pod.shared.metrics;
        if let SteeringState::Passing(why) = before {
            metrics.pods_passing(why.label()).dec();
        }
        if let SteeringState::Passing(why) = steering {
            metrics.pods_passing(why.label()).inc();
        }
    }
}

impl Drop for AcceptLoop<'_> {
    fn drop(&mut self) {
        self.heartbeat.lapse();
        self.set(SteeringState::On);
        self.clients.end(self.pod);
    }
}

async fn accept(listeners: Option<&CaptureListeners>) -> io::Result<(TcpStream, SocketAddr)> {
    match listeners {
        Some(listeners) => listeners.accept().await,
        None => std::future::pending().await,
    }
}

/// Asks the guardian to let the pod go; false if a port is still armed, or was armed meanwhile.
async fn release(pod: &Pod) -> bool {
    match pod.shared.broker.release(&pod.name).await {
        Ok(()) => {
            tracing::info!(pod = %pod.name, "released");
            true
        }
        Err(error) => {
            tracing::debug!(pod = %pod.name, %error, "not released");
            // With the guardian gone nobody answers any more, and a worker that ends takes its listeners with it: the
            // capture ends all the same. One pod's abort is no such end: what is not released cannot be armed again.
            matches!(error, BrokerError::GuardianGone) && pod.abort.is_cancelled()
                || pod.shared.stop.abort.is_cancelled()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_released_only_when_nothing_can_come_late() {
        let [short, late, long] = [0, 300, 1200].map(Duration::from_millis);
        let almost = |time: Duration| Some(time.saturating_sub(Duration::from_millis(1)));
        // A handshake that was steered just before the port was disarmed still finds its listener.
        for disarmed in [None, Some(short), almost(long)] {
            assert_eq!(CaptureEnd::of(disarmed, Some(10 * long)), CaptureEnd::Steered, "{disarmed:?}");
        }
        // The app's last segments still find the agent's sockets, and reflect.
        for empty in [None, Some(short), almost(late)] {
            assert_eq!(CaptureEnd::of(Some(10 * long), empty), CaptureEnd::Settled, "{empty:?}");
        }
        assert_eq!(CaptureEnd::of(Some(long), Some(late)), CaptureEnd::Releasable);
    }
}
