//! The tunnels of the developers that are connected to this agent.
//!
//! Owns the QUIC endpoint, one session task for each tunnel, the hub that
//! keeps the registry, and the executor that arms.
//! Must not decide which intercept wins (the registry's), nor touch a client's connection (the capture's).
//! Called by the worker's start and shutdown.

mod endings;
mod executor;
mod farewell;
pub(crate) mod flushes;
mod hub;
mod keys;
mod listening;
mod session;
#[cfg(test)]
mod tests;
mod tls_probes;

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use redir_tunnel::{AgentEndpoint, Authorised, Identity};
use redir_wire::{Bye, CloseCode};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Broker, capture::PodCaptures, control::Policy, misses::Misses, plan::Plans, tls::Tls,
    tunnel_handle::counters::TunnelCounters,
};
use redir_config::PodName;
use redir_link::InterceptReports;

use self::hub::{HubCommand, HubOutputs, TunnelHub};

/// What the tunnels need from the worker.
pub(crate) struct TunnelParts {
    /// The QUIC socket.
    pub(crate) udp: UdpSocket,
    /// Bytes that developers' tunnels may hold of what their clients leave unread.
    pub(crate) unread: u64,
    /// The agent's key.
    pub(crate) identity: Identity,
    /// The policy; a change that removes a key ends its tunnels.
    pub(crate) policy: watch::Receiver<Policy>,
    /// Arms and disarms.
    pub(crate) broker: Broker,
    /// Is told what was armed.
    pub(crate) captures: PodCaptures,
    /// Where the decisions go.
    pub(crate) plans: Plans,
    /// What is known of TLS.
    pub(crate) tls: Tls,
    /// Which connections are not read, and why.
    pub(crate) misses: Misses,
}

/// The running tunnels.
pub(crate) struct TunnelService {
    endpoint: Arc<AgentEndpoint>,
    hub: mpsc::Sender<HubCommand>,
    counters: Arc<TunnelCounters>,
    reports: watch::Sender<InterceptReports>,
    closing: CancellationToken,
    /// The task that owns all sessions.
    sessions: JoinSet<()>,
    tasks: JoinSet<()>,
}

/// Starts serving; inside a tokio runtime.
pub(crate) fn start(parts: TunnelParts) -> anyhow::Result<TunnelService> {
    let TunnelParts { udp, unread, identity, policy, broker, captures, plans, tls, misses } = parts;
    let (ops, requested) = mpsc::unbounded_channel();
    let (tls_probes, unseen) = mpsc::unbounded_channel();
    let (flushes, to_flush) = mpsc::unbounded_channel();
    let (armed, watched) = watch::channel(BTreeSet::new());
    let captured = armed.subscribe();
    let outputs = HubOutputs { ops, tls_probes, flushes, armed, reports: watch::Sender::new(InterceptReports::new()) };
    let mut tunnels =
        start_with((udp, unread), &identity, policy.clone(), plans, (tls.clone(), misses.clone()), outputs)?;
    tunnels.tasks.spawn(listening::run(broker.clone(), misses, watched, tunnels.hub.clone()));
    tunnels.tasks.spawn(endings::run(broker.clone(), captures.clone(), policy.clone(), captured));
    tunnels.tasks.spawn(flushes::run(broker.clone(), to_flush, tunnels.hub.clone()));
    tunnels.tasks.spawn(executor::run(broker, captures.clone(), policy, requested, tunnels.hub.clone()));
    tunnels.tasks.spawn(tls_probes::run(captures, tls, unseen));
    Ok(tunnels)
}

/// As [`start`]; what is to be armed goes to `outputs`, at most one for each pod at a time.
fn start_with(
    (udp, unread): (UdpSocket, u64),
    identity: &Identity,
    policy: watch::Receiver<Policy>,
    plans: Plans,
    (tls, misses): (Tls, Misses),
    outputs: HubOutputs,
) -> anyhow::Result<TunnelService> {
    let authorised = Authorised::default();
    authorised.replace(policy.borrow().keys());
    let endpoint = AgentEndpoint::start(udp, identity, authorised.clone())
        .context("cannot serve tunnels on the UDP socket; check `listen` in the configuration")?;
    let endpoint = Arc::new(endpoint);
    let counters = Arc::new(TunnelCounters::default());
    let (hub, commands) = mpsc::channel(COMMANDS);
    let mut tasks = JoinSet::new();
    let about = session::AgentIntroduction { agent: agent_name(), software: redir_link::SOFTWARE };
    let reports = outputs.reports.clone();
    let hub_task =
        TunnelHub::new(policy.clone(), authorised, plans, counters.clone(), outputs, (tls, misses), about.clone());
    tasks.spawn(hub_task.run(commands));
    let (closing, mut sessions) = (CancellationToken::new(), JoinSet::new());
    let accept =
        session::accept(endpoint.clone(), closing.clone(), policy, hub.clone(), counters.clone(), about, unread);
    sessions.spawn(accept);
    Ok(TunnelService { endpoint, hub, counters, reports, closing, sessions, tasks })
}

impl TunnelService {
    /// The pod has another network namespace: its ports are disarmed and armed anew.
    pub(crate) async fn rearm(&self, pod: &PodName) {
        self.tell(HubCommand::Rearm(pod.clone())).await;
    }

    /// The pod's app cannot be reached through the agent: its ports are disarmed, and the way is tried again later.
    pub(crate) async fn broken(&self, pod: &PodName, reason: String) {
        self.tell(HubCommand::Broken(pod.clone(), reason)).await;
    }

    /// The pod has other addresses now: its developers are told.
    pub(crate) async fn readdress(&self, pod: PodName, addresses: Vec<IpAddr>) {
        self.tell(HubCommand::Readdress(pod, addresses)).await;
    }

    /// Takes no new tunnel and no new intercept, empties all plans, and returns when every port is disarmed, or after
    /// [`DISARM`]: without a plan what is still steered passes to the app. Open streams go on.
    pub(crate) async fn stop_new(&self) {
        self.endpoint.refuse_new();
        let (done, disarmed) = oneshot::channel();
        self.tell(HubCommand::StopNew(done)).await;
        if timeout(DISARM, disarmed).await.is_err() {
            tracing::warn!("not every port could be disarmed in time; the guardian does it when the worker ends");
        }
    }

    /// Says goodbye, closes all tunnels and the endpoint; bounded.
    pub(crate) async fn close(mut self) {
        let bye = Bye { code: CloseCode::Shutdown, sentence: "the agent is shutting down".into() };
        self.tell(HubCommand::Close(bye)).await;
        self.closing.cancel();
        timeout(GOODBYE, self.sessions.join_next()).await.ok();
        self.sessions.shutdown().await;
        self.tasks.shutdown().await;
        if let Ok(endpoint) = Arc::try_unwrap(self.endpoint) {
            endpoint.close(CloseCode::Shutdown).await;
        }
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> &Arc<TunnelCounters> {
        &self.counters
    }

    /// How the intercepts stand, as long as somebody holds this.
    pub(crate) fn reports(&self) -> watch::Receiver<InterceptReports> {
        self.reports.subscribe()
    }

    /// Where the endpoint listens.
    #[cfg(test)]
    pub(crate) fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.endpoint.address()
    }

    async fn tell(&self, command: HubCommand) {
        if self.hub.send(command).await.is_err() {
            tracing::error!("the registry has ended before the worker");
        }
    }
}

/// The node's name, as developers see it.
fn agent_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "agent".into())
}

/// Commands that wait for the hub, which never waits for anybody itself.
const COMMANDS: usize = 256;
/// How long disarming may take: the guardian does one port after the other, in milliseconds each.
const DISARM: Duration = Duration::from_secs(5);
/// How long goodbyes may take.
const GOODBYE: Duration = Duration::from_secs(1);
