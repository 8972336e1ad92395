//! What is known of the cluster, as far as this node is concerned: a value that events change.
//!
//! Owns how a list replaces what was known and how late, doubled and reordered events are taken. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use redir_config::{PodName, certificates::Pair};
use redir_wire::Token;

use super::{
    facts::{InterceptFacts, OwnerController, PodFacts, ServiceFacts},
    resolve::NeededObjects,
};

/// All that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterState {
    /// The pods of this node, by UID.
    pub(crate) pods: BTreeMap<PodName, PodFacts>,
    /// The Intercepts of every namespace, by UID.
    pub(crate) intercepts: BTreeMap<Token, InterceptFacts>,
    /// The Services that were asked for; `None`: there is none of that name.
    pub(crate) services: BTreeMap<ObjectName, Option<ServiceFacts>>,
    /// Who controls the ReplicaSets that were asked for, by UID; `None`: nobody.
    pub(crate) owners: BTreeMap<String, Option<OwnerController>>,
    /// The certificates that were granted, by namespace and Secret.
    pub(crate) secrets: BTreeMap<String, BTreeMap<String, Pair>>,
    /// Namespaces in which nothing is intercepted.
    pub(crate) forbidden: BTreeSet<String>,
    listed: [bool; 2],
}

/// An object's namespace and name.
pub(crate) type ObjectName = (String, String);

/// Something that has become known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ClusterChange {
    /// A pod is new or has changed.
    Pod(Box<PodFacts>),
    /// A pod is gone.
    PodGone(PodName),
    /// These are all the pods of this node there are.
    Pods(Vec<PodFacts>),
    /// An Intercept is new or has changed.
    Intercept(Box<InterceptFacts>),
    /// An Intercept is gone.
    InterceptGone(Token),
    /// These are all the Intercepts there are.
    Intercepts(Vec<InterceptFacts>),
    /// A Service is such, or is not there.
    Service(ObjectName, Option<ServiceFacts>),
    /// In a namespace these Secrets are granted and hold certificates.
    Secrets(String, BTreeMap<String, Pair>),
    /// A ReplicaSet of this UID is controlled by this.
    Owner(String, Option<OwnerController>),
}

impl ClusterState {
    /// One of which nothing is known.
    pub(crate) fn new(forbidden: BTreeSet<String>) -> Self {
        Self { forbidden, ..Self::default() }
    }

    /// Whether everything that is needed has been heard of.
    pub(crate) fn answers(&self, needs: &NeededObjects) -> bool {
        needs.services.iter().all(|named| self.services.contains_key(named))
            && needs.owners.keys().all(|uid| self.owners.contains_key(uid))
            && needs.secrets.keys().all(|namespace| self.secrets.contains_key(namespace))
    }

    /// Takes a change.
    pub(crate) fn take(&mut self, change: ClusterChange) {
        match change {
            ClusterChange::Pod(pod) => drop(self.pods.insert(pod.name.clone(), *pod)),
            ClusterChange::PodGone(pod) => drop(self.pods.remove(&pod)),
            ClusterChange::Pods(pods) => {
                self.pods = pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect();
                self.listed[0] = true;
            }
            ClusterChange::Intercept(mut intercept) => {
                self.intercepts.get(&intercept.token).into_iter().for_each(|earlier| intercept.learn_from(earlier));
                self.intercepts.insert(intercept.token, *intercept);
            }
            ClusterChange::InterceptGone(token) => drop(self.intercepts.remove(&token)),
            ClusterChange::Intercepts(mut intercepts) => {
                for intercept in &mut intercepts {
                    self.intercepts.get(&intercept.token).into_iter().for_each(|earlier| intercept.learn_from(earlier));
                }
                self.intercepts = intercepts.into_iter().map(|intercept| (intercept.token, intercept)).collect();
                self.listed[1] = true;
            }
            ClusterChange::Service(named, service) => drop(self.services.insert(named, service)),
            ClusterChange::Secrets(namespace, pairs) => drop(self.secrets.insert(namespace, pairs)),
            ClusterChange::Owner(uid, owner) => drop(self.owners.insert(uid, owner)),
        }
    }

    /// Whether every pod and Intercept that there is has been heard of once. Until then nothing must be concluded.
    pub(crate) fn is_known(&self) -> bool {
        self.listed == [true; 2]
    }

    /// Drops what is not asked for any more: it would not be kept up to date.
    pub(crate) fn forget(&mut self, needs: &NeededObjects) {
        self.services.retain(|named, _| needs.services.contains(named));
        self.owners.retain(|uid, _| needs.owners.contains_key(uid));
        self.secrets.retain(|namespace, _| needs.secrets.contains_key(namespace));
    }
}
