//! The lines of `-o json` as types: their names, fields and documentation.
//!
//! Owns: what a program reads, and its description: the help texts and `docs/` are made from the comments here. A change
//! of a name breaks programs. Must not format values (`super` does).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

/// What `redir intercept` writes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum InterceptLine {
    /// An agent has answered.
    Connected {
        agent: String,
        address: String,
        /// The name under which the agent knows you.
        developer: String,
    },
    /// The intercept has an object in the cluster (Kubernetes).
    Created {
        /// The object's name.
        intercept: String,
        namespace: String,
        target: String,
    },
    /// In how many pods the intercept is live, once every agent has answered (Kubernetes).
    Status {
        live: usize,
        pods: usize,
        /// Nodes and pods in which it is not live.
        missing: Vec<NamedReason>,
    },
    /// The object had expired and was made again (Kubernetes).
    Recreated {
        /// The new object's name.
        intercept: String,
    },
    /// A pod's traffic is intercepted.
    Live {
        agent: String,
        /// The agent's number for the intercept.
        id: u64,
        pod: String,
        port: u16,
        /// Where matched requests go.
        to: String,
        local: ServiceInputName,
        /// Whether somebody listens on the port in the pod; null: not known.
        app: Option<ListeningName>,
        addresses: Vec<String>,
        /// Connections that were open before.
        earlier_connections: u32,
        /// Milliseconds since the intercept was asked for.
        after_ms: u64,
        /// A request to try; null where none was found that meets the conditions, the port is one of another protocol, or
        /// nobody would answer.
        curl: Option<String>,
    },
    /// Somebody begins or ceases to listen on the port in the pod.
    App { agent: String, pod: String, port: u16, state: ListeningName, reason: String, curl: Option<String> },
    /// Connections to the port that do not come to you; each cause once.
    NotIntercepted {
        agent: String,
        pod: String,
        port: u16,
        /// One of the [causes](#causes-of-not_intercepted).
        cause: String,
        reason: String,
    },
    /// Connections of a cause that passes are intercepted again.
    InterceptedAgain {
        agent: String,
        pod: String,
        port: u16,
        /// `client_passes` or `pod_passes`.
        cause: String,
    },
    /// What happens to TLS on the port.
    Tls {
        agent: String,
        pod: String,
        port: u16,
        state: TlsHandlingName,
        /// Null: your service gets nothing.
        local: Option<ServiceInputName>,
        reason: String,
    },
    /// Connections that were open before were closed.
    Flushed {
        agent: String,
        pod: String,
        port: u16,
        closed: u32,
        /// Those that stay with the app.
        left: u32,
        /// Null, or why it could not be done.
        reason: Option<String>,
    },
    /// A probe or health check comes to you.
    Probe {
        agent: String,
        pod: String,
        port: u16,
        /// Which one, and how to keep it away.
        reason: String,
    },
    /// A pod, or the whole intercept, cannot be intercepted, or no longer is.
    Refused {
        agent: String,
        /// Null: the whole intercept.
        pod: Option<String>,
        state: LivenessName,
        reason: String,
    },
    /// Another intercept gets requests that match this one.
    Conflict(ConflictLine),
    /// Another intercept wants requests that this one gets.
    Overlap(ConflictLine),
    /// The conflict is over.
    ConflictOver(ConflictOverLine),
    /// The overlap is over.
    OverlapOver(ConflictOverLine),
    /// A matched request is complete.
    Request {
        agent: String,
        id: u64,
        pod: String,
        client: String,
        when: String,
        method: String,
        /// Without the query; what is not printable ASCII is written \\xNN.
        path: String,
        /// Null: there was no answer.
        status: Option<u16>,
        grpc_status: Option<u32>,
        outcome: OutcomeName,
        /// Why it was `refused`.
        reason: Option<String>,
        ms: f64,
        /// Lines that were left out before this one.
        missed: u64,
    },
    /// A connection that is not HTTP was opened or closed.
    Connection {
        agent: String,
        id: u64,
        pod: String,
        client: String,
        when: String,
        state: ConnectionState,
        /// Bytes from the client.
        received: Option<u64>,
        /// Bytes to the client.
        sent: Option<u64>,
        outcome: OutcomeName,
        reason: Option<String>,
        ms: f64,
        missed: u64,
    },
    /// The tunnel to an agent is lost: requests go to the app until it is back.
    Lost { agent: String, reason: String },
    /// The tunnel is back.
    Restored {
        agent: String,
        pods: Vec<String>,
        /// Milliseconds since it was lost.
        after_ms: u64,
    },
    /// Matched requests went to the app while this machine did not answer the agent.
    Bypassed { agent: String, id: u64, requests: u64 },
    /// Nobody answers where matched requests go.
    Service { state: ServiceStateName, to: String },
    /// The command behind `--` was started, answers, or has ended.
    Command {
        state: CommandStateName,
        /// Of `started`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// Of `ready`: the first port.
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// Of `ready`: where it answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        addresses: Option<Vec<String>>,
        /// Of `ready`: where another process answered before.
        #[serde(skip_serializing_if = "Option::is_none")]
        taken: Option<Vec<String>>,
        /// Of `ended`: its exit code.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
    },
    /// The intercept is over.
    Ended { reason: String },
}

/// What `redir list`, `status`, `leave`, `describe` and `doctor` write.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum AnswerLine {
    /// `list`: a pod of a static agent that you may intercept.
    Pod {
        agent: String,
        pod: String,
        labels: BTreeMap<String, String>,
        /// Null: any.
        ports: Option<Vec<u16>>,
    },
    /// `list`: what can be intercepted in the cluster.
    Workload { namespace: String, target: String, ports: Vec<String> },
    /// `list`, `status`: an intercept in a pod of a static agent.
    #[serde(rename = "intercept")]
    StaticIntercept {
        agent: String,
        id: u64,
        developer: String,
        yours: bool,
        pod: String,
        port: u16,
        /// Without values; empty: every request.
        filter: String,
        /// Null: another developer's.
        to: Option<String>,
        since: String,
        state: LivenessName,
        reason: String,
        requests: u64,
        tls: Option<TlsHandlingName>,
        app: Option<ListeningName>,
    },
    /// `list`, `status`, `describe`: an intercept in the cluster.
    #[serde(rename = "intercept")]
    ClusterIntercept {
        namespace: String,
        name: String,
        target: String,
        port: String,
        developer: String,
        /// Whether the server has checked that name.
        developer_checked: bool,
        /// The developer's machine, as it calls itself.
        from: String,
        yours: bool,
        since: String,
        filter: String,
        to: String,
        live: usize,
        pods: Vec<InterceptPodLine>,
        /// What agents say of all their pods.
        reasons: Vec<NamedReason>,
    },
    /// `status`: a tunnel of yours to a static agent.
    Tunnel {
        agent: String,
        software: String,
        /// Your address, as the agent sees it.
        address: String,
        user: String,
        since: String,
        rtt_ms: f64,
        streams: u64,
        streams_total: u64,
        sent_bytes: u64,
        received_bytes: u64,
        /// Whether this question came through it.
        asking: bool,
    },
    /// `leave`: what was ended.
    Left { agent: String, what: String, count: usize, ids: Vec<u64> },
    /// `describe`: what an agent reported.
    Happened { at: String, reason: String, object: String, node: String, message: String },
    /// `doctor`: one check.
    Check {
        check: String,
        finding: FindingName,
        sentence: String,
        /// Rights that you do not have.
        missing: Vec<RightLine>,
    },
}

/// What `redir install`, `upgrade` and `uninstall` write.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum AdminLine {
    /// Something was done with an object, or would be.
    Object { action: ActionName, kind: String, name: String, namespace: Option<String>, dry_run: bool },
    /// How many agents are ready.
    Agents { ready: i32, wanted: i32 },
    /// Why an agent is not ready.
    AgentNotReady { node: String, pod: String, reason: String },
    /// Anything else worth knowing.
    Remark { sentence: String },
    /// The command has done its work.
    Done { sentence: String },
}

/// Two intercepts that match some of the same requests: what is known of the other one.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct ConflictLine {
    pub(crate) agent: String,
    pub(crate) pod: String,
    pub(crate) developer: String,
    pub(crate) yours: bool,
    /// Null: not known.
    pub(crate) id: Option<u64>,
    pub(crate) since: String,
    pub(crate) takes: TakesName,
}

/// The same when it is over.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct ConflictOverLine {
    pub(crate) agent: String,
    pub(crate) pod: String,
    pub(crate) developer: String,
    pub(crate) id: Option<u64>,
}

/// A node or a pod, and why.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct NamedReason {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// One pod of an intercept in the cluster.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct InterceptPodLine {
    pub(crate) node: String,
    pub(crate) pod: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) port: Option<u16>,
    pub(crate) state: PodStateName,
    pub(crate) reason: String,
    pub(crate) nobody_listens: bool,
}

/// A right as RBAC names it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct RightLine {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    /// Null: every object.
    pub(crate) name: Option<String>,
}

macro_rules! names {
    ($($name:ident { $($variant:ident),* })*) => {$(
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[schemars(inline)]
        pub(crate) enum $name { $($variant),* }
    )*};
}

names! {
    ServiceInputName { Plaintext, Tls, AsSent }
    ListeningName { Listening, Nobody, LoopbackOnly }
    TlsHandlingName { Unread, Passed, Decrypted, Clear, Other }
    LivenessName { Pending, Live, Refused, Lost }
    PodStateName { Waiting, Pending, Live, Refused, Lost }
    OutcomeName { Answered, Refused, ClientLeft, Cut, Other }
    ConnectionState { Open, Closed }
    TakesName { Everything, Shared }
    ServiceStateName { Silent }
    CommandStateName { Started, Ready, Ended }
    FindingName { Good, Note, Problem }
    ActionName { Create, Apply, Change, Delete, Keep }
}
