//! What the agents say about an Intercept. Each writes its own entry and nothing else.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an Intercept stands, node by node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterceptStatus {
    /// One entry for each node that runs its pods, written by that node's agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub agents: Vec<AgentStatus>,
}

/// What the agent of one node says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// The node.
    pub node: String,
    /// The agent's public key, as in `developerKey`. It is a new one whenever the agent is started.
    pub key: String,
    /// Name and release of the agent.
    pub software: String,
    /// The tunnel protocol's version.
    pub protocol: u32,
    /// Where developers dial, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// How all its pods stand together.
    pub state: AgentState,
    /// Why not live, and what to do; empty when live.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Pod by pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodStatus>,
    /// Intercepts that take requests from this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ConflictStatus>,
}

/// An address that developers dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `HOST:PORT`, an IPv6 address in brackets; UDP.
    pub address: String,
    /// Where it comes from.
    pub kind: EndpointKind,
}

/// Where an address comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum EndpointKind {
    /// An administrator wrote it as an annotation of the Node.
    Override,
    /// The Node's external address.
    ExternalIP,
    /// The Node's address within the cluster.
    InternalIP,
}

/// How an Intercept stands on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AgentState {
    /// The developer's tunnel is not up: everything goes to the app.
    Waiting,
    /// The tunnel is up, and some of the pods are not live yet.
    Pending,
    /// Every pod is live.
    Live,
    /// Some pods are live, and some cannot be.
    Partial,
    /// Nothing is intercepted, and will not be.
    Refused,
}

/// How an Intercept stands in one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// The pod.
    pub name: String,
    /// Its UID: another pod may have its name later.
    pub uid: String,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The port's number in this pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether its traffic is looked at.
    pub state: PodState,
    /// Why not live, and what to do; empty when live.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when it is in this state, by the node's clock.
    pub since: Time,
    /// Nobody listens on the port in the pod: clients are refused, as without redir. Absent also where it is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nobody_listens: bool,
}

/// Whether a pod's traffic is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodState {
    /// The developer's tunnel is not up.
    Waiting,
    /// It is being made live.
    Pending,
    /// New connections are looked at.
    Live,
    /// It cannot be intercepted.
    Refused,
    /// It was live and no longer is.
    Lost,
}

/// An Intercept that takes requests from this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConflictStatus {
    /// In which pod.
    pub pod: String,
    /// Whose it is.
    pub user: String,
    /// Since when theirs exists.
    pub since: Time,
    /// Whether it takes every request, or those that both want.
    pub everything: bool,
}
