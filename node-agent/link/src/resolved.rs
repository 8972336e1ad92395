//! Who may intercept what on this node, as the controller has found out and the worker follows it.
//!
//! Owns the form of it, which travels from the one process to the other. Decides nothing: `controller::resolve` makes it,
//! `worker::control::kubernetes` answers from it.

use std::{collections::BTreeMap, time::SystemTime};

use redir_api::{FilterSpec, ProbesSpec};
use redir_identity::Pin;
use redir_wire::{PodEntry, Token};
use serde::{Deserialize, Serialize};

use crate::health_checks::HealthCheck;
use redir_config::PodName;
use redir_ipc::{FirstHand, LastProcess};

/// The Intercepts as they concern this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResolvedCluster {
    /// By UID; also those without a pod here.
    pub intercepts: BTreeMap<Token, ResolvedIntercept>,
    /// The pods of this node.
    pub pods: BTreeMap<PodName, KnownPod>,
}

/// One Intercept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedIntercept {
    /// Which.
    pub id: ObjectId,
    /// Who the developer is, for people.
    pub user: String,
    /// What is intercepted, for people, such as `Deployment web, port 8080`.
    pub what: String,
    /// The workload, to which its Events are told; `None` while it is not known, and for a selector.
    pub workload: Option<WorkloadRef>,
    /// When it was made.
    pub made: SystemTime,
    /// What its developer gets, or why nobody gets anything.
    pub granted: Result<GrantedIntercept, String>,
    /// Its pods on this node.
    pub places: Vec<PodPlacement>,
}

/// What an Intercept that is not refused gives to its developer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantedIntercept {
    /// The developer's key.
    #[serde(with = "as_text")]
    pub key: Pin,
    /// Which requests.
    pub filter: InterceptedRequests,
    /// As in the object.
    pub probes: ProbesSpec,
    /// As in the object.
    pub flush: bool,
    /// As in the object.
    pub even_if_down: bool,
    /// As in the object.
    pub forwarded: bool,
    /// As in the object.
    pub to: String,
}

/// Which requests an Intercept is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InterceptedRequests {
    /// All of them.
    All,
    /// Those of this filter. It can be compiled.
    Matching(Box<FilterSpec>),
    /// Those of a filter that does not matter here: the Intercept has no pod on this node.
    Elsewhere,
}

/// An object's place and identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: another object may have its name later.
    pub uid: String,
}

/// A workload, as Events name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// With the version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A pod of an intercept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlacement {
    /// Which.
    pub pod: PodName,
    /// The port's number in it, or why there is none.
    pub port: Result<u16, PodObstacle>,
}

/// Why a pod is not armed for an intercept that is wanted there. Each ends with the next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodObstacle {
    /// It will be when something that is under way has happened.
    NotYet(String),
    /// It will not be.
    Never(String),
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownPod {
    /// What developers see of it.
    #[serde(with = "EntryForm")]
    pub entry: PodEntry,
    /// Who takes its connections first.
    pub first: FirstHand,
    /// Which process is its last, if it is known to end.
    pub ending: Option<LastProcess>,
    /// What asks for its health.
    pub health_checks: Vec<HealthCheck>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PodEntry")]
struct EntryForm {
    name: String,
    labels: BTreeMap<String, String>,
    ports: Vec<u16>,
}

impl ResolvedCluster {
    /// The pods and ports that may be steered.
    pub fn steered(&self) -> impl Iterator<Item = (&PodName, u16)> {
        let granted = self.intercepts.values().filter(|resolution| resolution.granted.is_ok());
        let places = granted.flat_map(|resolution| &resolution.places);
        places.filter_map(|place| Some((&place.pod, *place.port.as_ref().ok()?)))
    }
}

/// A key as people read it.
mod as_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
