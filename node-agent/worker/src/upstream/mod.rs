//! The agent's leg to the app: a socket in the pod's netns, marked and bound by the guardian, connected so that the app
//! sees the client's own address (the reflection swaps source and destination).
//!
//! Owns, per pod, the table of live ports and the pool of sockets that are bound already. Must not fall back to another
//! source address: an accepted connection that finds no port is reset. Called by `connection`, one leg per client
//! connection.

mod pool;
pub(crate) mod ports;
mod trial;
pub(crate) mod turned;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};

pub(crate) use self::trial::NotThrough;
use self::{
    pool::{BATCH, Pool, Pooled},
    ports::{BYPASS, Ports, Ranges},
    turned::{Note, Turned},
};
use crate::{
    broker::{Broker, BrokerError, LegSocket, PodAddresses},
    metrics::Metrics,
    shares::Descriptors,
};
use redir_config::PodName;
use redir_ipc::FirstHand;

/// Ports tried for one connection when they are in use or in TIME_WAIT.
const ATTEMPTS: u32 = 64;
/// A SYN without an answer in this time hits a tuple in use or a full backlog: another port is tried.
const NO_ANSWER: Duration = Duration::from_millis(300);
/// How many times.
const NO_ANSWER_RETRIES: u32 = 3;
/// How often a suspected way is tried at most.
const SUSPECT_AGAIN: Duration = Duration::from_secs(5);
/// The last try waits as long as a client of the app itself would: an app with a full backlog takes no SYN, and the kernel
/// repeats the leg's as it would repeat the client's (tcp_syn_retries: 127 s). A client that goes ends it.
const LAST_TRY: Duration = Duration::from_secs(120);
/// Sockets asked for at once when the pool has none for a client.
const CANDIDATES: usize = 8;
/// Sockets left in a pool that has to wait for the guardian, from which on new connections pass to the app: for those that
/// are under way to the listener.
const RESERVE: usize = 24;
/// How long such a pool waits before. Slow work keeps no quick request waiting for a quarter of that, but a busy machine may:
/// what passes to the app passes by its developer, and who is accepted meanwhile waits for a socket and loses nothing.
const SLOW: Duration = Duration::from_millis(200);
/// How long an accepted connection waits for a socket: as long as a client's SYN would be repeated (tcp_syn_retries).
const CLIENT_PATIENCE: Duration = Duration::from_secs(120);
/// Addresses whose pools are filled ahead: a pod with more of them waits for the guardian once for each of the others.
const EXPECTED: usize = 8;

/// Why there is no leg to the app. In each case the client is reset.
#[derive(Debug)]
pub(crate) enum UpstreamError {
    /// The app does not listen.
    Refused,
    /// Every port is taken for this client.
    NoPort,
    /// No answer from the app's netns.
    NoAnswer,
    /// Somebody outside the pod has answered: it was not turned round.
    NotTurned,
    /// The guardian gave no socket.
    Broker(String),
    /// Another error of the socket.
    Socket(io::Error),
}

impl UpstreamError {
    /// A bounded label for the access event and the metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            UpstreamError::Refused => "app_refused",
            UpstreamError::NoPort => "no_port",
            UpstreamError::NoAnswer => "app_no_answer",
            UpstreamError::NotTurned => "leg_not_turned",
            UpstreamError::Broker(_) => "no_socket",
            UpstreamError::Socket(_) => "app_unreachable",
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamError::Refused => f.write_str("the app does not listen"),
            UpstreamError::NoPort => f.write_str("no source port is left for this client"),
            UpstreamError::NoAnswer => f.write_str("the app's netns gave no answer"),
            UpstreamError::NotTurned => f.write_str("the connection to the app left the pod and was given up"),
            UpstreamError::Broker(why) => write!(f, "get a socket from the guardian: {why}"),
            UpstreamError::Socket(error) => write!(f, "connect to the app: {error}"),
        }
    }
}

/// An open leg to the app; its port is free for the client again when it is dropped.
#[derive(Debug)]
pub(crate) struct AppLeg {
    /// The connection.
    pub(crate) stream: TcpStream,
    _held: Option<Held>,
}

impl AppLeg {
    /// A leg that holds no port of a table.
    #[cfg(test)]
    pub(crate) fn unheld(stream: TcpStream) -> Self {
        AppLeg { stream, _held: None }
    }
}

/// The app of a pod cannot be reached through the agent any more.
#[derive(Debug)]
pub(crate) struct BrokenWay {
    /// Where.
    pub(crate) pod: PodName,
    /// For the developers; names the next step.
    pub(crate) reason: String,
}

/// What an upstream is made of.
pub(crate) struct UpstreamParts {
    /// Whose app.
    pub(crate) pod: PodName,
    /// Gives sockets.
    pub(crate) broker: Broker,
    /// Every address of the pod's netns.
    pub(crate) addresses: PodAddresses,
    /// Who takes the pod's connections first.
    pub(crate) first_hand: FirstHand,
    /// The notes of the pod's programs.
    pub(crate) turned: Turned,
    /// The source ports.
    pub(crate) ranges: Ranges,
    /// Orders the high ports.
    pub(crate) seed: u64,
    /// The figures.
    pub(crate) metrics: Arc<Metrics>,
    /// Counts the sockets of the pools.
    pub(crate) descriptors: Descriptors,
    /// Who hears that the way to the app is broken.
    pub(crate) broken: mpsc::Sender<BrokenWay>,
}

/// Upstream legs of one pod.
#[derive(Clone)]
pub(crate) struct Upstream(Arc<Shared>);

struct Shared {
    pod: PodName,
    broker: Broker,
    /// Every address of the netns: a peer with one of these is not reflected.
    addresses: PodAddresses,
    ports: Arc<Mutex<Ports>>,
    ranges: Ranges,
    pool: Pool,
    /// Since when the pool waits for sockets; not while it does not.
    waiting: Mutex<Option<tokio::time::Instant>>,
    /// Whether the guardian hangs.
    hung: watch::Receiver<bool>,
    turned: Turned,
    first_hand: FirstHand,
    /// Who hears that the way to the app is broken.
    broken: mpsc::Sender<BrokenWay>,
    suspicion: Mutex<Suspicion>,
    /// How many legs the pod had sent elsewhere when that was last asked.
    rerouted: AtomicU64,
    /// The pod has one pair of listeners for trials.
    trying: tokio::sync::Mutex<()>,
    /// The capture has ended: nothing is said of the way any more.
    ended: AtomicBool,
    metrics: Arc<Metrics>,
}

/// That the way to the app may be broken.
#[derive(Default)]
struct Suspicion {
    /// When it was last tried for that.
    tried: Option<Instant>,
    /// It is tried once more when it may be: there was a suspicion since.
    again: bool,
}

impl Suspicion {
    /// A suspicion at this time: how long to wait with a trial, or None if one waits already.
    fn raise(&mut self, now: Instant) -> Option<Duration> {
        let since = self.tried.map(|tried| now.saturating_duration_since(tried));
        let wait = since.map_or(Duration::ZERO, |since| SUSPECT_AGAIN.saturating_sub(since));
        if self.again {
            return None;
        }
        self.tried = Some(now + wait);
        self.again = !wait.is_zero();
        Some(wait)
    }
}

impl Upstream {
    /// The table and the (still empty) pool of one pod.
    pub(crate) fn new(parts: UpstreamParts) -> Self {
        let UpstreamParts { pod, broker, addresses, first_hand, turned, ranges, seed, metrics, descriptors, broken } =
            parts;
        let ports = Arc::new(Mutex::new(Ports::new(ranges, seed)));
        let hung = broker.guardian_hangs();
        Upstream(Arc::new(Shared {
            pod,
            broker,
            addresses,
            ports,
            ranges,
            pool: Pool::new(descriptors),
            waiting: Mutex::default(),
            hung,
            turned,
            first_hand,
            broken,
            suspicion: Mutex::default(),
            rerouted: AtomicU64::new(0),
            trying: tokio::sync::Mutex::default(),
            ended: AtomicBool::new(false),
            metrics,
        }))
    }

    /// Notes a client's own port for as long as the returned value lives.
    pub(crate) fn arrived(&self, client: SocketAddr) -> Arrival {
        lock(&self.0.ports).arrived(client.ip(), client.port());
        Arrival { ports: self.0.ports.clone(), client }
    }

    /// Keeps the pool filled; one task per pod runs this until the pod is released.
    pub(crate) async fn refill(self) {
        let shared = &self.0;
        loop {
            let (bind, missing) = shared.pool.wanting().await;
            let wanted = lock(&shared.ports).batch(missing);
            self.waits(Some(tokio::time::Instant::now()));
            let batches = wanted.chunks(BATCH).map(|ports| async {
                let sockets = self.until_answered(bind, ports).await?;
                Ok::<_, BrokerError>(shared.pool.put(bind, ports.iter().copied().zip(sockets)))
            });
            let bound = try_join_all(batches).await;
            self.waits(None);
            match bound {
                Ok(bound) => {
                    if bound.iter().sum::<usize>() == 0 {
                        // Without descriptors or free ports a pool that is low must not keep the guardian busy.
                        tokio::time::sleep(NO_ANSWER).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(pod = %shared.pod, %error, "the guardian gave no sockets for the pool");
                    // The pod may be about to be released, or armed anew.
                    tokio::time::sleep(NO_ANSWER).await;
                }
            }
        }
    }

    /// The pod's addresses that clients dial; a link-local one needs a scope, which only a client's address tells.
    pub(crate) fn dialled(&self) -> impl Iterator<Item = IpAddr> {
        let dialled = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        let addresses: Vec<_> = self.0.addresses.all().iter().copied().filter(dialled).collect();
        addresses.into_iter()
    }

    /// The pod has other addresses now: nothing is asked for at those that went.
    pub(crate) fn readdressed(&self) {
        self.0.pool.keep(|ip| ip.is_loopback() || self.0.addresses.contains(ip));
        self.expect();
    }

    /// Fills the pools of the first addresses that clients dial before their first connections need them.
    pub(crate) fn expect(&self) {
        self.dialled().take(EXPECTED).for_each(|local| self.0.pool.want(SocketAddr::new(local, 0)));
    }

    /// Opens the leg for the client's connection to `destination`, a local address of the pod.
    pub(crate) async fn connect(&self, client: SocketAddr, destination: SocketAddr) -> Result<AppLeg, UpstreamError> {
        let (bind, target) = self.ends(client, destination);
        self.bypass_if_crowded(client.ip());
        let (mut unanswered, mut missing) = (0, 0);
        for _ in 0..ATTEMPTS {
            // A firewall may let only one of the ranges pass: they take turns.
            let second = if unanswered % 2 == 1 { self.second_choice(client.ip(), bind).await } else { None };
            let found = match second {
                Some(found) => Some(found),
                None => self.socket(client.ip(), bind).await?,
            };
            let Some((socket, number, held)) = found else { continue };
            let patience = if unanswered < NO_ANSWER_RETRIES { NO_ANSWER } else { LAST_TRY };
            match timeout(patience, socket.connect(target)).await {
                Ok(Ok(stream)) => match self.0.turned.note(number) {
                    Note::Turned => return Ok(AppLeg { stream, _held: Some(held) }),
                    // An older leg's SYN may have come after, and taken the place of the note.
                    Note::Missing if missing == 0 => {
                        self.suspect(target.port());
                        missing += 1;
                    }
                    Note::Missing => {
                        self.broken(trial::left_the_pod(target.port()));
                        return Err(UpstreamError::NotTurned);
                    }
                    Note::Overwritten => {}
                },
                Ok(Err(error)) => match error.kind() {
                    io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => {}
                    io::ErrorKind::ConnectionRefused => return Err(self.refused(target.port())),
                    _ => {
                        self.suspect(target.port());
                        return Err(UpstreamError::Socket(error));
                    }
                },
                Err(_) if unanswered == NO_ANSWER_RETRIES => return Err(UpstreamError::NoAnswer),
                Err(_) => {
                    // A busy app, or a range that does not get through any more: the other one's turn.
                    self.suspect(target.port());
                    unanswered += 1;
                }
            }
            self.0.metrics.upstream_retries.inc();
        }
        Err(UpstreamError::NoPort)
    }

    /// Where the socket is bound and where it connects to: the client's address, which the reflection swaps into its
    /// source; a client inside the netns is not reflected and needs no swap.
    fn ends(&self, client: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
        let inside = client.ip().is_loopback() || self.0.addresses.contains(&client.ip());
        let (bind, target) = if inside { (client, destination) } else { (destination, client) };
        (with(bind, 0, client), with(target, destination.port(), client))
    }

    /// The app does not listen any more, or the pod has come to reject the agent.
    fn refused(&self, port: u16) -> UpstreamError {
        self.suspect(port);
        UpstreamError::Refused
    }

    fn broken(&self, reason: String) {
        let Shared { pod, broken, ended, .. } = &*self.0;
        if ended.load(Ordering::Acquire) {
            return;
        }
        // Full: it is heard of already.
        broken.try_send(BrokenWay { pod: pod.clone(), reason }).ok();
    }

    /// The capture ends: what a trial that is under way finds is of no pod any more.
    pub(crate) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
    }

    fn suspicion(&self) -> MutexGuard<'_, Suspicion> {
        // Two plain values: no half-done state that a panic could leave.
        self.0.suspicion.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the app may be broken, or the app be busy: it is tried, at most once in a while, without the app.
    fn suspect(&self, port: u16) {
        let Some(wait) = self.suspicion().raise(Instant::now()) else { return };
        let upstream = self.clone();
        // Not awaited by the connection; it ends with its own limits.
        tokio::spawn(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
                upstream.suspicion().again = false;
            }
            if !upstream.0.ended.load(Ordering::Acquire) {
                upstream.look_into(port).await;
            }
        });
    }

    /// Tries a way that is suspected to be broken.
    async fn look_into(&self, port: u16) {
        let rerouted = self.note_rerouted().await;
        match self.tried(port).await {
            Err(NotThrough::Broken(reason)) => self.broken(reason),
            Err(NotThrough::Untried(reason)) => {
                tracing::debug!(pod = %self.0.pod, port, %reason, "a suspected way could not be tried");
            }
            // Not all of them are: the program has left everything to the app since the first one.
            Ok(()) if rerouted => self.broken(trial::redirected(port)),
            Ok(()) => {}
        }
    }

    /// Whether the pod has sent legs elsewhere since this was last asked; not if the guardian does not say.
    async fn note_rerouted(&self) -> bool {
        let Some(rerouted) = trial::rerouted(&self.0).await else { return false };
        rerouted > self.0.rerouted.swap(rerouted, Ordering::Relaxed)
    }

    /// Tries the way to the app's port and back without the app, before it is steered: see [`Self::tried`]. What the pod has
    /// sent elsewhere until now is over.
    pub(crate) async fn try_way(&self, port: u16) -> Result<(), NotThrough> {
        self.tried(port).await?;
        self.note_rerouted().await;
        Ok(())
    }

    /// Tries the way from both ranges of source ports, and keeps to those that get through.
    async fn tried(&self, port: u16) -> Result<(), NotThrough> {
        let shared = &self.0;
        let _one_at_a_time = shared.trying.lock().await;
        let Some(through) = trial::run(shared, port).await? else { return Ok(()) };
        let ranges = shared.ranges.narrowed(through.low, through.high);
        if !lock(&shared.ports).set_ranges(ranges) {
            return Ok(());
        }
        shared.pool.empty();
        if ranges == shared.ranges {
            tracing::info!(pod = %shared.pod, ?ranges, "the pod lets all source ports pass again");
        } else {
            tracing::warn!(pod = %shared.pod, ?ranges, "the pod lets only some source ports pass: the others are not used");
        }
        Ok(())
    }

    /// A socket of the range that is not the first choice, whose port is held for the client.
    async fn second_choice(&self, client: IpAddr, bind: SocketAddr) -> Option<(TcpSocket, u64, Held)> {
        let wanted = lock(&self.0.ports).second_choice(client, CANDIDATES);
        if wanted.is_empty() {
            return None;
        }
        let sockets = self.0.broker.sockets(&self.0.pod, bind, &wanted, false).await.ok()?;
        let (port, leg) = wanted.into_iter().zip(sockets).find_map(|(port, leg)| Some((port, leg.ok()?)))?;
        lock(&self.0.ports).hold_one_of(client, std::iter::once(port))?;
        Some(self.held(client, port, leg))
    }

    /// A bound socket whose port is held for the client; None when the guardian could bind none of those asked for.
    async fn socket(&self, client: IpAddr, bind: SocketAddr) -> Result<Option<(TcpSocket, u64, Held)>, UpstreamError> {
        if let Some(found) = self.pooled(client, bind) {
            return Ok(Some(found));
        }
        let wanted = lock(&self.0.ports).candidates(client, CANDIDATES);
        if wanted.is_empty() {
            return Err(UpstreamError::NoPort);
        }
        // The client has been accepted: it waits as it would wait for the app.
        let given =
            timeout(CLIENT_PATIENCE, self.until_answered(bind, &wanted)).await.unwrap_or(Err(BrokerError::Timeout));
        let sockets = given.map_err(|error| UpstreamError::Broker(error.to_string()))?;
        self.0.pool.put(bind, wanted.into_iter().zip(sockets));
        Ok(self.pooled(client, bind))
    }

    /// Sockets of the guardian, however long it takes.
    async fn until_answered(&self, bind: SocketAddr, ports: &[u16]) -> Result<Vec<io::Result<LegSocket>>, BrokerError> {
        loop {
            match self.0.broker.sockets(&self.0.pod, bind, ports, false).await {
                // It has taken the broker's seconds, and the request still waits for its answer: there is no hurry.
                Err(BrokerError::Timeout) => {}
                answered => return answered,
            }
        }
    }

    fn waits(&self, since: Option<tokio::time::Instant>) {
        *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Whether new connections had better pass to the app: the guardian hangs, or is so slow that they might get no leg.
    pub(crate) fn starved(&self) -> bool {
        let waiting = *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let slow = waiting.is_some_and(|since| since.elapsed() >= SLOW);
        *self.0.hung.borrow() || slow && self.0.pool.fewest().is_some_and(|sockets| sockets < RESERVE)
    }

    /// Ends when the guardian has begun to hang, or answers again.
    pub(crate) async fn guardian_changed(hung: &mut watch::Receiver<bool>) {
        if hung.changed().await.is_err() {
            // The broker is gone, and with it the worker.
            std::future::pending::<()>().await;
        }
    }

    /// Tells of the guardian's hanging, for [`Self::guardian_changed`].
    pub(crate) fn guardian_hangs(&self) -> watch::Receiver<bool> {
        self.0.hung.clone()
    }

    fn pooled(&self, client: IpAddr, bind: SocketAddr) -> Option<(TcpSocket, u64, Held)> {
        let ranges = lock(&self.0.ports).ranges();
        let Pooled { port, leg, .. } =
            self.0.pool.take(bind, ranges, |offered| lock(&self.0.ports).hold_one_of(client, offered))?;
        Some(self.held(client, port, leg))
    }

    fn held(&self, client: IpAddr, port: u16, leg: LegSocket) -> (TcpSocket, u64, Held) {
        let held = Held { ports: self.0.ports.clone(), client, port };
        (TcpSocket::from_std_stream(leg.socket.into()), leg.number, held)
    }

    fn bypass_if_crowded(&self, client: IpAddr) {
        if !lock(&self.0.ports).bypass_due(client, Instant::now()) {
            return;
        }
        self.0.metrics.bypasses("ports").inc();
        // Not awaited by the connection.
        tokio::spawn(self.bypass(client, BYPASS));
    }

    /// Lets a client's new connections pass to the app for so long: a whole IPv6 network's by its own address. False if it could
    /// not be done. Ends with the broker's own timeout.
    pub(crate) fn bypass(&self, client: IpAddr, how_long: Duration) -> impl Future<Output = bool> + Send + use<> {
        let shared = self.0.clone();
        async move {
            let done = shared.broker.bypass(&shared.pod, client, how_long).await;
            if let Err(error) = &done {
                tracing::warn!(pod = %shared.pod, %error, "could not let a crowded client pass to the app");
            }
            done.is_ok()
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        tracing::debug!(pod = %self.pod, "the pod's upstream table is gone");
    }
}

/// A client's own port, noted in the table.
pub(crate) struct Arrival {
    ports: Arc<Mutex<Ports>>,
    client: SocketAddr,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        lock(&self.ports).left(self.client.ip(), self.client.port());
    }
}

/// A port held for a client.
struct Held {
    ports: Arc<Mutex<Ports>>,
    client: IpAddr,
    port: u16,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({}, {})", self.client, self.port)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.ports).release(self.client, self.port);
    }
}

/// The address with this port, and with the scope of the client's address if both are link-local.
fn with(address: SocketAddr, port: u16, client: SocketAddr) -> SocketAddr {
    let mut address = address;
    address.set_port(port);
    if let (SocketAddr::V6(v6), SocketAddr::V6(client)) = (&mut address, client)
        && client.scope_id() != 0
    {
        v6.set_scope_id(client.scope_id());
    }
    address
}

fn lock(ports: &Mutex<Ports>) -> MutexGuard<'_, Ports> {
    // The table has no half-done state that a panic could leave.
    ports.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::{AsFd, OwnedFd},
        path::Path,
    };

    use super::*;
    use crate::broker;
    use redir_ipc::{self as ipc, REQUEST_LEN, Reply, Request};

    fn upstream(broker: &Broker) -> Upstream {
        upstream_at(broker, Vec::new())
    }

    fn upstream_at(broker: &Broker, addresses: Vec<IpAddr>) -> Upstream {
        Upstream::new(UpstreamParts {
            descriptors: Descriptors::new(4096),
            pod: PodName::new("web-1").unwrap(),
            broker: broker.clone(),
            addresses: PodAddresses::from(addresses),
            first_hand: FirstHand::App,
            turned: Turned::map(&turned::nothing_noted().into()).unwrap(),
            ranges: Ranges::LowFirst,
            seed: 1,
            metrics: Arc::new(Metrics::new()),
            broken: mpsc::channel(1).0,
        })
    }

    #[test]
    fn a_suspicion_that_comes_too_soon_is_looked_into_once_more() {
        let (mut suspicion, start) = (Suspicion::default(), Instant::now());
        assert_eq!(suspicion.raise(start), Some(Duration::ZERO));
        let second = Duration::from_secs(1);
        assert_eq!(suspicion.raise(start + second), Some(SUSPECT_AGAIN - second));
        assert_eq!(suspicion.raise(start + 2 * second), None, "one waits already");
        suspicion.again = false;
        assert_eq!(suspicion.raise(start + SUSPECT_AGAIN + second), Some(SUSPECT_AGAIN - second));
        suspicion.again = false;
        assert_eq!(suspicion.raise(start + 4 * SUSPECT_AGAIN), Some(Duration::ZERO));
    }

    /// Says that every port is in use.
    async fn answer(guardian: OwnedFd) {
        let mut buffer = [0; REQUEST_LEN];
        loop {
            let Ok(REQUEST_LEN) = ipc::receive_plain(guardian.as_fd(), &mut buffer) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            if let Ok((seq, Request::Sockets { ports, .. })) = Request::decode(&buffer) {
                let reply = Reply::Sockets { errnos: vec![nix::libc::EADDRINUSE; ports.len()], first: 0 };
                ipc::send(guardian.as_fd(), &reply.encode(seq), &[]).unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guardian_that_does_not_answer_is_told_from_one_that_does() {
        let (guardian, ours) = ipc::pair().unwrap();
        let (broker, driver, _events) = broker::start(ours, Path::new("agent.toml")).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(driver.run());
        let upstream = upstream(&broker);
        let (client, destination) = ("192.0.2.1:4000".parse().unwrap(), "10.0.0.1:8080".parse().unwrap());
        assert!(!upstream.starved());
        let error = upstream.connect(client, destination).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Broker(_)), "{error}");
        assert!(upstream.starved());
        tasks.spawn(answer(guardian));
        let error = upstream.connect(client, destination).await.unwrap_err();
        assert!(matches!(error, UpstreamError::NoPort), "{error}");
        assert!(!upstream.starved());
    }

    /// Answers the first request for sockets, and then is at slow work for ever.
    async fn answer_once(guardian: &OwnedFd) {
        let mut buffer = [0; REQUEST_LEN];
        loop {
            let Ok(REQUEST_LEN) = ipc::receive_plain(guardian.as_fd(), &mut buffer) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            if let Ok((seq, Request::Sockets { ports, .. })) = Request::decode(&buffer) {
                let fd = std::fs::File::open("/dev/null").unwrap();
                let fds = vec![fd.as_fd(); ports.len()];
                return ipc::send(
                    guardian.as_fd(),
                    &Reply::Sockets { errnos: vec![0; ports.len()], first: 1 }.encode(seq),
                    &fds,
                )
                .unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_runs_dry_behind_slow_work_lets_its_own_pod_pass() {
        let (guardian, ours) = ipc::pair().unwrap();
        let (broker, driver, _events) = broker::start(ours, Path::new("agent.toml")).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(driver.run());
        let bind: SocketAddr = "10.0.0.1:0".parse().unwrap();
        let [upstream, other] = [(); 2].map(|()| upstream_at(&broker, vec![bind.ip()]));
        upstream.expect();
        tasks.spawn(upstream.clone().refill());
        answer_once(&guardian).await;
        let slow = broker.clone();
        tasks.spawn(async move {
            // Nobody answers it, so the guardian counts as busy and not as hung.
            let _ = slow.disarm(&PodName::new("web-2").unwrap(), 80).await;
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!upstream.starved(), "half a pool is left, and nobody takes from it");
        while upstream.0.pool.fewest().is_some_and(|sockets| sockets >= RESERVE) {
            upstream.pooled("192.0.2.1".parse().unwrap(), bind).unwrap();
        }
        assert!(upstream.starved());
        assert!(!other.starved());
    }
}
