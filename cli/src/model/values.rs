//! What flags and `redir.toml` say, once it is parsed.
//!
//! Owns: the types and how they are written. Must not parse (`values` does) or word errors. Called by: everything.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use clap::ValueEnum;
use redir_api::TargetKind;
use redir_tunnel::Pin;

/// The pod's port and the developer's own, as written: `8080`, `8080:3000`, and in Kubernetes `http` or `http:3000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortMapping {
    /// The app's.
    pub(crate) pod: PortName,
    /// The developer's; without it, the same number.
    pub(crate) own: Option<NonZeroU16>,
}

/// A port by its number or by the name that the workload gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortName {
    /// `8080`
    Number(NonZeroU16),
    /// `http`
    Name(String),
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Which pods are meant: one by its name, or every pod that carries all of these labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `web-1`
    Pod(String),
    /// `app=web,tier=front`
    Labels(BTreeMap<String, String>),
    /// `deploy/web`, in Kubernetes alone
    Workload(TargetKind, String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => f.write_str(name),
            Self::Labels(labels) => f.write_str(&join_labels(labels)),
            Self::Workload(kind, name) => write!(f, "{}/{name}", short(*kind)),
        }
    }
}

/// How redir itself writes a kind: `deploy` of `deploy/web`.
pub(crate) fn short(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Deployment => "deploy",
        TargetKind::StatefulSet => "statefulset",
        TargetKind::DaemonSet => "daemonset",
        TargetKind::ReplicaSet => "replicaset",
        TargetKind::Job => "job",
        TargetKind::Pod => "pod",
        TargetKind::Service => "service",
        TargetKind::Rollout => "rollout",
    }
}

/// `app=web,tier=front`, sorted by key.
pub(crate) fn join_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs: Vec<String> = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// `-l app=web,tier=front`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelSet(pub(crate) BTreeMap<String, String>);

/// What `leave` ends: the intercepts of a target, or one by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaveTarget {
    /// Number as printed by `list`.
    Id(u64),
    /// Every intercept of one's own on these pods.
    Target(Target),
}

/// A time to wait, from a second to an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

/// `HOST:PORT` of an agent; the host may be a name, an IPv4 address or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentAddress {
    /// Name or address, without brackets.
    pub(crate) host: String,
    /// The agent's UDP port.
    pub(crate) port: NonZeroU16,
}

/// `HOST:PORT` of the developer's service, as `--to` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceAddress {
    /// Name or address, without brackets.
    pub(crate) host: String,
    /// The service's TCP port.
    pub(crate) port: NonZeroU16,
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(f, &self.host, self.port)
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(f, &self.host, self.port)
    }
}

/// One agent, by the name that the developer knows it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownAgent {
    /// The table's name, or its address when it came from a flag.
    pub(crate) name: String,
    /// Where it listens: one address from a file or a flag, in Kubernetes all of its node's.
    pub(crate) addresses: Vec<AgentAddress>,
    /// The key it must show.
    pub(crate) key: Pin,
}

/// What of a request a flag looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConditionSubject {
    Header,
    Path,
    Method,
    Query,
    Cookie,
    Baggage,
}

/// Which form of the header the service reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyProtocol {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

fn write_address(f: &mut fmt::Formatter<'_>, host: &str, port: NonZeroU16) -> fmt::Result {
    match host.contains(':') {
        true => write!(f, "[{host}]:{port}"),
        false => write!(f, "{host}:{port}"),
    }
}
