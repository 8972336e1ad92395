//! Who may intercept what on this node, as the controller has found out and the worker follows it.
//!
//! Owns the form of it, which travels from the one process to the other. Decides nothing: `controller::resolve` makes it,
//! `worker::control::kubernetes` answers from it.

use std::{collections::BTreeMap, time::SystemTime};

use redir_api::{FilterSpec, ProbesSpec};
use redir_tunnel::Pin;
use redir_wire::{PodEntry, Token};
use serde::{Deserialize, Serialize};

use crate::{
    config::PodName,
    ipc::{FirstHand, LastProcess},
    worker::health_checks::HealthCheck,
};

/// The Intercepts as they concern this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resolved {
    /// By UID; also those without a pod here.
    pub(crate) intercepts: BTreeMap<Token, Resolution>,
    /// The pods of this node.
    pub(crate) pods: BTreeMap<PodName, KnownPod>,
}

/// One Intercept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Resolution {
    /// Which.
    pub(crate) id: ObjectId,
    /// Who the developer is, for people.
    pub(crate) user: String,
    /// What is intercepted, for people, such as `Deployment web, port 8080`.
    pub(crate) what: String,
    /// The workload, to which its Events are told; `None` while it is not known, and for a selector.
    pub(crate) workload: Option<Workload>,
    /// When it was made.
    pub(crate) made: SystemTime,
    /// What its developer gets, or why nobody gets anything.
    pub(crate) granted: Result<Granted, String>,
    /// Its pods on this node.
    pub(crate) places: Vec<Place>,
}

/// What an Intercept that is not refused gives to its developer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Granted {
    /// The developer's key.
    #[serde(with = "as_text")]
    pub(crate) key: Pin,
    /// Which requests.
    pub(crate) filter: Requests,
    /// As in the object.
    pub(crate) probes: ProbesSpec,
    /// As in the object.
    pub(crate) flush: bool,
    /// As in the object.
    pub(crate) even_if_down: bool,
    /// As in the object.
    pub(crate) forwarded: bool,
    /// As in the object.
    pub(crate) to: String,
}

/// Which requests an Intercept is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Requests {
    /// All of them.
    All,
    /// Those of this filter. It can be compiled.
    Matching(Box<FilterSpec>),
    /// Those of a filter that does not matter here: the Intercept has no pod on this node.
    Elsewhere,
}

/// An object's place and identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ObjectId {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its UID: another object may have its name later.
    pub(crate) uid: String,
}

/// A workload, as Events name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Workload {
    /// With the version.
    pub(crate) api_version: String,
    /// Its kind.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
}

/// A pod of an intercept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Which.
    pub(crate) pod: PodName,
    /// The port's number in it, or why there is none.
    pub(crate) port: Result<u16, Obstacle>,
}

/// Why a pod is not armed for an intercept that is wanted there. Each ends with the next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Obstacle {
    /// It will be when something that is under way has happened.
    NotYet(String),
    /// It will not be.
    Never(String),
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KnownPod {
    /// What developers see of it.
    #[serde(with = "EntryForm")]
    pub(crate) entry: PodEntry,
    /// Who takes its connections first.
    pub(crate) first: FirstHand,
    /// Which process is its last, if it is known to end.
    pub(crate) ending: Option<LastProcess>,
    /// What asks for its health.
    pub(crate) health_checks: Vec<HealthCheck>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PodEntry")]
struct EntryForm {
    name: String,
    labels: BTreeMap<String, String>,
    ports: Vec<u16>,
}

impl Resolved {
    /// The pods and ports that may be steered.
    pub(crate) fn steered(&self) -> impl Iterator<Item = (&PodName, u16)> {
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
