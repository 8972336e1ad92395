//! What happens to an intercept, as the developer is told.
//!
//! Owns: the events, free of words and colours. Called by: `commands`, which report; `wording::events` and `json`,
//! which show.

use std::net::SocketAddr;

use redir_wire::{
    EarlierConnections, Filter, InterceptEntry, Listening, Liveness, Miss, Owner, PodEntry, PodFlush, PodTls,
    RequestEvent, Takes, TunnelStatus, UnixMillis,
};

use crate::curl::CurlLine;
use crate::model::check::Check;
use crate::model::rows::{InterceptRow, WorkloadRow};

/// One thing that happened, or one row of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// An agent answered our greeting.
    Connected { agent: String, address: String, developer: String },
    /// The intercept has an object of this name in the cluster.
    Created { intercept: String, namespace: String, target: String },
    /// In how many of its pods the intercept is live, once every agent has answered.
    Status { live: usize, pods: usize, missing: Vec<(String, String)> },
    /// It had expired, and is there again under this name.
    Recreated { intercept: String },
    /// `list`, `status` and `describe` in a cluster: an intercept.
    ClusterIntercept(InterceptRow),
    /// `list` in a cluster: what can be intercepted.
    Workload(WorkloadRow),
    /// `describe`: what an agent reported of it.
    Happened { at: UnixMillis, reason: String, object: String, node: String, message: String },
    /// `doctor`: one line.
    Check(Check),
    /// `install`, `upgrade`, `uninstall`: a step of it.
    Step(AdminStep),
    /// A pod's traffic is steered.
    Live(LivePod),
    /// A pod's port speaks TLS, and what becomes of it.
    Tls { agent: String, pod: String, port: u16, tls: PodTls, local: Option<ServiceInput> },
    /// Connections from before were closed, or could not be.
    Flushed { agent: String, pod: String, port: u16, flushed: PodFlush },
    /// A probe or a health check comes to the developer, and how to keep it away.
    Probe { agent: String, pod: String, port: u16, sentence: String },
    /// Whether somebody listens on the port in the pod has changed.
    App(AppListening),
    /// Some connections of the port are not intercepted.
    NotIntercepted { agent: String, pod: String, port: u16, miss: Miss },
    /// They are again.
    InterceptedAgain { agent: String, pod: String, port: u16, cause: String },
    /// A pod could not be intercepted, or no longer is.
    NotLive { agent: String, pod: String, state: Liveness, reason: String },
    /// An agent refused the intercept request.
    Refused { agent: String, reason: String },
    /// Another intercept takes requests from ours: another developer's, or one of our own from another terminal.
    Conflict(InterceptConflict),
    /// It does not any more.
    ConflictOver(InterceptConflict),
    /// Ours takes requests from another intercept.
    Overlap(InterceptConflict),
    /// It does not any more.
    OverlapOver(InterceptConflict),
    /// A matched request is complete.
    Request { agent: String, event: RequestEvent },
    /// A connection that is not HTTP is open, or has ended.
    Connection { agent: String, event: RequestEvent },
    /// Nobody accepts where matched requests go, once a pod is live.
    NobodyAnswers { to: String },
    /// The tunnel is gone; it is being redialled.
    Lost { agent: String, reason: String },
    /// The tunnel and the intercept are back.
    Restored { agent: String, pods: Vec<String>, after_ms: u64 },
    /// Matched requests went to the app while this machine did not answer the agent.
    Bypassed { agent: String, id: u64, requests: u64 },
    /// The developer's own command.
    Command(CommandState),
    /// The intercept is over.
    Ended { reason: String },
    /// `list`: a pod that can be intercepted.
    Pod { agent: String, pod: PodEntry },
    /// `list` and `status`: an intercept in a pod.
    Intercept { agent: String, entry: InterceptEntry },
    /// `status`: a tunnel to an agent.
    Tunnel { agent: String, software: String, tunnel: TunnelStatus },
    /// `leave`: what was ended, and the numbers of the intercepts that it was, as far as the agent tells them.
    Left { agent: String, what: String, count: usize, ids: Vec<u64> },
}

/// A step of `install`, `upgrade` or `uninstall`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdminStep {
    /// Something was done with an object, or would be.
    Object { action: ObjectAction, kind: String, name: String, namespace: Option<String>, is_dry_run: bool },
    /// How many agents are ready, of how many.
    Agents { ready: i32, wanted: i32 },
    /// Why one is not, told once for all that say the same.
    AgentNotReady { node: String, pod: String, reason: String },
    /// Anything else that the admin should know.
    Remark { sentence: String },
    /// The command has done its work.
    Done { sentence: String },
}

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectAction {
    Create,
    Apply,
    Change,
    Delete,
    /// It stays, though one might expect otherwise.
    Keep,
}

/// Two intercepts that want some of the same requests: what is known of the one that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterceptConflict {
    pub(crate) agent: String,
    pub(crate) pod: String,
    /// Its number; older agents do not tell it.
    pub(crate) id: Option<u64>,
    pub(crate) developer: String,
    pub(crate) whose: Owner,
    pub(crate) since: UnixMillis,
    /// What the winner takes from the loser.
    pub(crate) takes: Takes,
}

/// A pod that is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LivePod {
    pub(crate) agent: String,
    pub(crate) id: u64,
    pub(crate) pod: String,
    pub(crate) port: u16,
    /// `127.0.0.1:3000`
    pub(crate) to: String,
    /// What comes there.
    pub(crate) local: ServiceInput,
    /// The port speaks TLS, as far as is known.
    pub(crate) tls: bool,
    /// Which requests; `None` is all of them.
    pub(crate) filter: Option<Filter>,
    /// The pod's own addresses, as far as the agent knows them.
    pub(crate) addresses: Vec<String>,
    /// Connections from before, which stay with the app.
    pub(crate) earlier_connections: u32,
    /// What becomes of them.
    pub(crate) earlier: EarlierConnections,
    /// From asking to steering.
    pub(crate) after_ms: u64,
    /// Whether somebody listens on the port in the pod, as far as the agent knows.
    pub(crate) listening: Option<Listening>,
    /// The service answers also while nobody does.
    pub(crate) even_if_down: bool,
    /// A request to try, if one is known that the filter matches and somebody answers it.
    pub(crate) curl: Option<CurlLine>,
    /// The first one that is live: people are shown one `curl` line, not one for each pod.
    pub(crate) first: bool,
}

/// Whether somebody listens on an intercepted port in its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppListening {
    pub(crate) agent: String,
    pub(crate) pod: String,
    pub(crate) port: u16,
    pub(crate) listening: Listening,
    /// The developer's service answers also while nobody does.
    pub(crate) even_if_down: bool,
    /// It has conditions, and cannot answer for an app that is down.
    pub(crate) filtered: bool,
    /// A request to try, where none was shown before.
    pub(crate) curl: Option<CurlLine>,
}

/// What the developer's service gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceInput {
    /// Cleartext.
    Plaintext,
    /// TLS of redir's own (`--local-tls`).
    Tls,
    /// Whatever the client sends.
    AsSent,
}

/// The state of the developer's own command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandState {
    /// It runs.
    Started { pid: u32 },
    /// All its ports accept, at these addresses; those in `taken` did so before it was started.
    Ready { addresses: Vec<SocketAddr>, taken: Vec<SocketAddr> },
    /// It ended with this code (128 + signal if by one).
    Ended { code: u8 },
}
