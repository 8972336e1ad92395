//! From what is known of the cluster to who may intercept what on this node.
//!
//! A pure function. Only an Intercept's own namespace is looked at, and a target is followed by owner references alone:
//! whoever may make an Intercept names what it reaches.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::LabelSelector, apimachinery::pkg::util::intstr::IntOrString};
use kube::core::{Selector, SelectorExt as _};
use redir_api::{PortRef, Target, TargetKind};
use redir_wire::{PodEntry, limits};

use super::{
    admission::{IgnoredIntercepts, admit},
    facts::{InterceptFacts, PodFacts, ServiceFacts},
    mesh::MeshKind,
    world::{ClusterState, ObjectName},
};
use redir_ipc::FirstHand;
use redir_link::resolved::{
    GrantedIntercept, InterceptedRequests, KnownPod, PodObstacle, PodPlacement, ResolvedCluster, ResolvedIntercept,
    WorkloadRef,
};

/// What must be asked of the API server before all pods of all targets are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NeededObjects {
    /// Services.
    pub(crate) services: BTreeSet<ObjectName>,
    /// ReplicaSets, by UID.
    pub(crate) owners: BTreeMap<String, ObjectName>,
    /// Secrets that pods which are intercepted mount, by namespace.
    pub(crate) secrets: BTreeMap<String, BTreeSet<String>>,
}

/// Who may intercept what, and what else must be known for it.
pub(crate) fn resolve(world: &ClusterState) -> (ResolvedCluster, NeededObjects) {
    let mut needs = NeededObjects::default();
    let IgnoredIntercepts { mut refused, left_out } = admit(world);
    let looked_at = world.intercepts.values().filter(|intercept| !left_out.contains(&intercept.token));
    let intercepts = looked_at.map(|intercept| {
        let refused = refused.remove(&intercept.token);
        (intercept.token, resolution(world, intercept, refused, &mut needs))
    });
    let intercepts = intercepts.collect();
    let pods = world.pods.values().map(|pod| (pod.name.clone(), known(pod))).collect();
    let resolved = ResolvedCluster { intercepts, pods };
    for pod in resolved.steered().filter_map(|(pod, _)| world.pods.get(pod)) {
        if !pod.secrets.is_empty() {
            needs.secrets.entry(pod.id.namespace.clone()).or_default().extend(pod.secrets.iter().cloned());
        }
    }
    (resolved, needs)
}

fn resolution(
    world: &ClusterState,
    intercept: &InterceptFacts,
    refused: Option<String>,
    needs: &mut NeededObjects,
) -> ResolvedIntercept {
    let aim = InterceptTarget::of(intercept);
    let mut workload = None;
    let mut places = Vec::new();
    // A pod that ends keeps its intercepts to the last, and gets no new ones: its network may be gone any moment.
    let lives = |pod: &PodFacts| !pod.over && pod.ends_since.is_none_or(|since| since > intercept.made);
    let pods = world.pods.values().filter(|pod| pod.id.namespace == intercept.id.namespace && lives(pod));
    for pod in pods {
        let Some(found) = aim.find(world, pod, needs) else { continue };
        workload = found.or(workload);
        places.push(PodPlacement { pod: pod.name.clone(), port: aim.port(world, pod) });
    }
    ResolvedIntercept {
        id: intercept.id.clone(),
        user: intercept.user(),
        what: aim.to_string(),
        workload,
        made: intercept.made,
        granted: refused.map_or_else(|| granted(intercept, places.is_empty()), Err),
        places,
    }
}

/// What its developer gets. A filter is looked at only where it matters: there may be any number of Intercepts elsewhere.
fn granted(intercept: &InterceptFacts, elsewhere: bool) -> Result<GrantedIntercept, String> {
    let (wanted, key) = intercept.wanted.clone()?;
    let filter = match &intercept.spec.filter {
        None => InterceptedRequests::All,
        Some(_) if elsewhere => InterceptedRequests::Elsewhere,
        Some(filter) => match intercept.filter_flaw() {
            Some(flaw) => return Err(flaw),
            None => InterceptedRequests::Matching(Box::new(filter.clone())),
        },
    };
    Ok(GrantedIntercept {
        key,
        filter,
        probes: wanted.probes,
        flush: wanted.flush,
        even_if_down: wanted.even_if_down,
        forwarded: wanted.forwarded,
        to: wanted.to,
    })
}

/// What an Intercept aims at, also one that is refused: its pods' agents say so.
struct InterceptTarget<'a> {
    namespace: &'a str,
    target: Option<(TargetKind, &'a str)>,
    selector: Option<Selector>,
    port: Option<PortRef>,
}

impl std::fmt::Display for InterceptTarget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.target {
            Some((kind, name)) => write!(f, "{} {name}", kind.as_str())?,
            None => f.write_str("the selected pods")?,
        }
        self.port.as_ref().map_or(Ok(()), |port| write!(f, ", port {port}"))
    }
}

impl<'a> InterceptTarget<'a> {
    fn of(intercept: &'a InterceptFacts) -> Self {
        let wanted = intercept.wanted.as_ref().ok().map(|(wanted, _)| wanted);
        let target = intercept.spec.target.as_ref().map(|target| (target.kind, target.name.as_str()));
        let selector = match wanted.map(|wanted| &wanted.target) {
            Some(Target::Named(..)) => None,
            Some(Target::Selector(selector)) => Some(selector.clone()),
            None => intercept.spec.selector.clone().filter(|_| target.is_none()),
        };
        let selector = selector.and_then(|selector: LabelSelector| Selector::try_from(selector).ok());
        Self { namespace: &intercept.id.namespace, target, selector, port: wanted.map(|wanted| wanted.port.clone()) }
    }

    /// Whether the pod is meant, and by which workload.
    fn find(&self, world: &ClusterState, pod: &PodFacts, needs: &mut NeededObjects) -> Option<Option<WorkloadRef>> {
        let Some((kind, name)) = self.target else {
            return self.selector.as_ref()?.matches(&pod.labels).then_some(None);
        };
        match kind {
            TargetKind::Pod => (pod.id.name == name).then(|| Some(workload(kind, name, &pod.id.uid))),
            TargetKind::Service => {
                let service = self.service(world, needs)?;
                let selected = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
                (!service.selector.is_empty() && service.selector.iter().all(selected))
                    .then(|| Some(workload(kind, name, &service.uid)))
            }
            TargetKind::Deployment | TargetKind::Rollout => {
                let set = pod.controller.as_ref().filter(|owner| owner.is(APPS, "ReplicaSet"))?;
                needs.owners.insert(set.uid.clone(), (pod.id.namespace.clone(), set.name.clone()));
                let owner = world.owners.get(&set.uid)?.as_ref();
                let owner = owner.filter(|owner| owner.is(kind.group(), kind.as_str()) && owner.name == name)?;
                Some(Some(workload(kind, name, &owner.uid)))
            }
            TargetKind::StatefulSet | TargetKind::DaemonSet | TargetKind::ReplicaSet | TargetKind::Job => {
                let owner = pod.controller.as_ref();
                let owner = owner.filter(|owner| owner.is(kind.group(), kind.as_str()) && owner.name == name)?;
                Some(Some(workload(kind, name, &owner.uid)))
            }
        }
    }

    fn service<'w>(&self, world: &'w ClusterState, needs: &mut NeededObjects) -> Option<&'w ServiceFacts> {
        let (_, name) = self.target.filter(|(kind, _)| *kind == TargetKind::Service)?;
        let named = (self.namespace.to_owned(), name.to_owned());
        needs.services.insert(named.clone());
        world.services.get(&named)?.as_ref()
    }

    /// The port's number in a pod.
    fn port(&self, world: &ClusterState, pod: &PodFacts) -> Result<u16, PodObstacle> {
        if let Some(reason) = &pod.unfit {
            return Err(PodObstacle::Never(reason.clone()));
        }
        let Some(port) = &self.port else { return Err(PodObstacle::Never("the Intercept is refused".to_owned())) };
        let port = match self.service(world, &mut NeededObjects::default()) {
            Some(service) => service_port(service, port).map_err(PodObstacle::Never)?,
            None => port.clone(),
        };
        let number = match port {
            PortRef::Number(number) => number,
            PortRef::Name(name) => *pod.ports.get(&name).ok_or_else(|| {
                let known = list(pod.ports.keys());
                PodObstacle::Never(format!(
                    "pod {} names no TCP port {name} (named are: {known}); give its number",
                    pod.id.name
                ))
            })?,
        };
        if let Some(mesh) = &pod.mesh {
            mesh.judge(number).map_err(PodObstacle::Never)?;
        }
        if pod.ips.is_empty() {
            return Err(PodObstacle::NotYet("the pod has no address yet".to_owned()));
        }
        Ok(number)
    }
}

fn workload(kind: TargetKind, name: &str, uid: &str) -> WorkloadRef {
    WorkloadRef {
        api_version: kind.api_version().to_owned(),
        kind: kind.as_str().to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    }
}

/// The container's port behind a Service's.
fn service_port(service: &ServiceFacts, wanted: &PortRef) -> Result<PortRef, String> {
    let is = |port: &&super::facts::ServicePort| match wanted {
        PortRef::Number(number) => port.number == *number,
        PortRef::Name(name) => port.name.as_ref() == Some(name),
    };
    let port = service.ports.iter().find(is).ok_or_else(|| {
        let known = service.ports.iter().map(|port| match &port.name {
            Some(name) => format!("{} ({name})", port.number),
            None => port.number.to_string(),
        });
        format!("the Service has no TCP port {wanted} (it has: {}); give one of them", list(known))
    })?;
    match &port.target {
        IntOrString::String(name) => Ok(PortRef::Name(name.clone())),
        IntOrString::Int(number) => {
            let number = u16::try_from(*number).ok().filter(|number| *number != 0);
            number.map(PortRef::Number).ok_or_else(|| "the Service's targetPort is no port; correct it".to_owned())
        }
    }
}

fn list(items: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let items: Vec<String> = items.take(8).map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn known(pod: &PodFacts) -> KnownPod {
    let first = match pod.mesh {
        Some(MeshKind::Sidecar(_)) => FirstHand::Proxy,
        Some(MeshKind::Ambient) | None => FirstHand::App,
    };
    let mut ports: Vec<u16> = pod.ports.values().copied().collect();
    ports.sort_unstable();
    ports.truncate(limits::PORTS);
    let labels = pod.labels.clone().into_iter().take(limits::LABELS).collect();
    KnownPod {
        entry: PodEntry { name: pod.id.name.clone(), labels, ports },
        first,
        ending: pod.ending,
        health_checks: pod.health_checks.clone(),
    }
}

const APPS: &str = "apps";
