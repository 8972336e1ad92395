//! Who may intercept what, from wherever that is decided.
//!
//! Owns the one question-and-answer between the registry and the two control planes: the configuration file ([`mod@file`])
//! and Kubernetes ([`kubernetes`], told by the controller over [`mod@link`]). A policy is a value: a change is a new one in its place, so that whatever is derived
//! from it is a pure function.

mod file;
mod kubernetes;
pub(crate) mod link;

use std::{fmt, sync::Arc, time::SystemTime};

use redir_http::filter::Filter;
use redir_tunnel::Pin;
use redir_wire::{InterceptRequest, PodEntry, Refused, Token};

use redir_config::PodName;
use redir_ipc::{FirstHand, LastProcess};
use redir_link::health_checks::HealthCheck;

pub use redir_link::resolved::{PodObstacle, PodPlacement};

/// A control plane as it stands.
pub trait InterceptPolicy: fmt::Debug + Send + Sync {
    /// The keys that may open a tunnel.
    fn keys(&self) -> Vec<Pin>;

    /// What a key's owner is called; `None`: the key is unknown.
    fn name_of(&self, key: &Pin) -> Option<&str>;

    /// What a request of that key comes to, or why it is not granted.
    fn grant(&self, key: &Pin, request: InterceptRequest) -> Result<InterceptGrant, Refused>;

    /// Why an intercept that was granted has ended; `None`: it has not.
    fn ended(&self, key: &Pin, token: Token) -> Option<String>;

    /// The pods of a granted intercept.
    fn places(&self, key: &Pin, granted: &InterceptGrant) -> Vec<PodPlacement>;

    /// What its developer hears of a pod that has been one of them and no longer is; `None`: nothing.
    fn lost(&self) -> Option<&'static str>;

    /// The pods that a key's owner may intercept or does intercept.
    fn visible(&self, key: &Pin) -> Vec<(PodName, PodEntry)>;

    /// Who takes a pod's connections first.
    fn first_hand(&self, pod: &PodName) -> FirstHand;

    /// Which process of a captured pod is its last; `None`: it is not known to end.
    fn ending(&self, pod: &PodName) -> Option<LastProcess>;

    /// What asks for a pod's health, as far as it may reach a developer.
    fn health_checks(&self, pod: &PodName) -> &[HealthCheck];

    /// What a developer hears whose key is known no longer; ends with the next step.
    fn stranger(&self) -> &'static str;
}

/// A policy, shared.
pub type Policy = Arc<dyn InterceptPolicy>;

/// An intercept as it is granted.
#[derive(Clone, Debug)]
pub struct InterceptGrant {
    /// What was asked for; where the policy knows better, what it says.
    pub request: InterceptRequest,
    /// Which requests, compiled; `None` is all of them.
    pub filter: Option<Filter>,
    /// What the filter looks at, without values; empty without a filter.
    pub looks_at: String,
    /// Which pods and port, for people.
    pub what: String,
    /// When it was made, where that is not now, and what tells it from another of that moment.
    pub made: Option<(SystemTime, Token)>,
}
