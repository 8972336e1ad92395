//! From what is known of the cluster to who may intercept what on this node.
//!
//! A pure function. Only an Intercept's own namespace is looked at, and a target is followed by owner references alone:
//! whoever may make an Intercept names what it reaches.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::LabelSelector, apimachinery::pkg::util::intstr::IntOrString};
use kube::core::{Selector, SelectorExt as _};
use redir_api::{PortRef, ProbesSpec, Target, TargetKind};
use redir_http::filter::Filter;
use redir_tunnel::Pin;
use redir_wire::{EarlierConnections, PodEntry, Probes, Refused, RefusedCode, Token, Wish, limits};

use super::{
    facts::{InterceptFacts, ObjectId, PodFacts, ServiceFacts},
    mesh::Mesh,
    world::{Named, World},
};
use crate::{
    config::PodName,
    ipc::{FirstHand, LastProcess, Whereabouts},
    worker::{
        control::{ControlPlane, Grant, Obstacle, Place},
        health_checks::HealthCheck,
        registry::filter,
    },
};

/// The Intercepts as they concern this node: a control plane.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Resolved {
    /// By UID; also those without a pod here.
    pub(crate) intercepts: BTreeMap<Token, Resolution>,
    pods: BTreeMap<PodName, KnownPod>,
}

/// One Intercept.
#[derive(Debug, PartialEq)]
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
    pub(crate) made: std::time::SystemTime,
    /// What its developer gets, or why nobody gets anything.
    pub(crate) granted: Result<Granted, String>,
    /// Its pods on this node.
    pub(crate) places: Vec<Place>,
}

/// What an Intercept that is not refused gives to its developer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Granted {
    pub(crate) key: Pin,
    pub(crate) filter: Option<Filter>,
    pub(crate) probes: ProbesSpec,
    pub(crate) flush: bool,
    pub(crate) even_if_down: bool,
    pub(crate) forwarded: bool,
    pub(crate) to: String,
}

/// A workload, as Events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

#[derive(Debug, PartialEq)]
struct KnownPod {
    entry: PodEntry,
    at: Whereabouts,
    ending: Option<LastProcess>,
    health_checks: Vec<HealthCheck>,
}

/// What must be asked of the API server before all pods of all targets are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Services.
    pub(crate) services: BTreeSet<Named>,
    /// ReplicaSets, by UID.
    pub(crate) owners: BTreeMap<String, Named>,
    /// Secrets that pods which are intercepted mount, by namespace.
    pub(crate) secrets: BTreeMap<String, BTreeSet<String>>,
}

/// Who may intercept what, and what else must be known for it.
pub(crate) fn resolve(world: &World) -> (Resolved, Needs) {
    let mut needs = Needs::default();
    let intercepts = world.intercepts.values();
    let intercepts = intercepts.map(|intercept| (intercept.token, resolution(world, intercept, &mut needs))).collect();
    let pods = world.pods.values().map(|pod| (pod.name.clone(), known(pod))).collect();
    let resolved = Resolved { intercepts, pods };
    for pod in resolved.steered().filter_map(|(pod, _)| world.pods.get(pod)) {
        if !pod.secrets.is_empty() {
            needs.secrets.entry(pod.id.namespace.clone()).or_default().extend(pod.secrets.iter().cloned());
        }
    }
    (resolved, needs)
}

fn resolution(world: &World, intercept: &InterceptFacts, needs: &mut Needs) -> Resolution {
    let aim = Aim::of(intercept);
    let mut workload = None;
    let mut places = Vec::new();
    // A pod that ends keeps its intercepts to the last, and gets no new ones: its network may be gone any moment.
    let lives = |pod: &PodFacts| !pod.over && pod.ends_since.is_none_or(|since| since > intercept.made);
    let pods = world.pods.values().filter(|pod| pod.id.namespace == intercept.id.namespace && lives(pod));
    for pod in pods {
        let Some(found) = aim.find(world, pod, needs) else { continue };
        workload = found.or(workload);
        places.push(Place { pod: pod.name.clone(), port: aim.port(world, pod) });
    }
    Resolution {
        id: intercept.id.clone(),
        user: intercept.user(),
        what: aim.to_string(),
        workload,
        made: intercept.made,
        granted: intercept.wanted.clone().map(|(wanted, key)| Granted {
            key,
            filter: wanted.filter,
            probes: wanted.probes,
            flush: wanted.flush,
            even_if_down: wanted.even_if_down,
            forwarded: wanted.forwarded,
            to: wanted.to,
        }),
        places,
    }
}

/// What an Intercept aims at, also one that is refused: its pods' agents say so.
struct Aim<'a> {
    namespace: &'a str,
    target: Option<(TargetKind, &'a str)>,
    selector: Option<Selector>,
    port: Option<PortRef>,
}

impl std::fmt::Display for Aim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.target {
            Some((kind, name)) => write!(f, "{} {name}", kind.as_str())?,
            None => f.write_str("the selected pods")?,
        }
        self.port.as_ref().map_or(Ok(()), |port| write!(f, ", port {port}"))
    }
}

impl<'a> Aim<'a> {
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
    fn find(&self, world: &World, pod: &PodFacts, needs: &mut Needs) -> Option<Option<Workload>> {
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

    fn service<'w>(&self, world: &'w World, needs: &mut Needs) -> Option<&'w ServiceFacts> {
        let (_, name) = self.target.filter(|(kind, _)| *kind == TargetKind::Service)?;
        let named = (self.namespace.to_owned(), name.to_owned());
        needs.services.insert(named.clone());
        world.services.get(&named)?.as_ref()
    }

    /// The port's number in a pod.
    fn port(&self, world: &World, pod: &PodFacts) -> Result<u16, Obstacle> {
        if let Some(reason) = &pod.unfit {
            return Err(Obstacle::Never(reason.clone()));
        }
        let Some(port) = &self.port else { return Err(Obstacle::Never("the Intercept is refused".to_owned())) };
        let port = match self.service(world, &mut Needs::default()) {
            Some(service) => service_port(service, port).map_err(Obstacle::Never)?,
            None => port.clone(),
        };
        let number = match port {
            PortRef::Number(number) => number,
            PortRef::Name(name) => *pod.ports.get(&name).ok_or_else(|| {
                let known = list(pod.ports.keys());
                Obstacle::Never(format!(
                    "pod {} names no TCP port {name} (named are: {known}); give its number",
                    pod.id.name
                ))
            })?,
        };
        if let Some(mesh) = &pod.mesh {
            mesh.judge(number).map_err(Obstacle::Never)?;
        }
        if pod.ips.is_empty() {
            return Err(Obstacle::NotYet("the pod has no address yet".to_owned()));
        }
        Ok(number)
    }
}

fn workload(kind: TargetKind, name: &str, uid: &str) -> Workload {
    Workload {
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
        Some(Mesh::Sidecar(_)) => FirstHand::Proxy,
        Some(Mesh::Ambient) | None => FirstHand::App,
    };
    let mut ports: Vec<u16> = pod.ports.values().copied().collect();
    ports.sort_unstable();
    ports.truncate(limits::PORTS);
    let labels = pod.labels.clone().into_iter().take(limits::LABELS).collect();
    KnownPod {
        entry: PodEntry { name: pod.id.name.clone(), labels, ports },
        at: Whereabouts { ips: pod.ips.clone(), first },
        ending: pod.ending,
        health_checks: pod.health_checks.clone(),
    }
}

impl Resolved {
    /// The pods and ports that may be steered.
    pub(crate) fn steered(&self) -> impl Iterator<Item = (&PodName, u16)> {
        let granted = self.intercepts.values().filter(|resolution| resolution.granted.is_ok());
        let places = granted.flat_map(|resolution| &resolution.places);
        places.filter_map(|place| Some((&place.pod, *place.port.as_ref().ok()?)))
    }

    /// The Intercepts that are granted to this key.
    fn of_key(&self, key: &Pin) -> impl Iterator<Item = &Resolution> {
        let granted = |resolution: &&Resolution| resolution.granted.as_ref().is_ok_and(|granted| granted.key == *key);
        self.intercepts.values().filter(granted)
    }
}

impl ControlPlane for Resolved {
    fn keys(&self) -> Vec<Pin> {
        self.intercepts.values().filter_map(|resolution| Some(resolution.granted.as_ref().ok()?.key)).collect()
    }

    fn name_of(&self, key: &Pin) -> Option<&str> {
        self.of_key(key).next().map(|resolution| &*resolution.user)
    }

    fn grant(&self, key: &Pin, wish: Wish) -> Result<Grant, Refused> {
        let known = self.intercepts.get(&wish.token);
        let known = known.and_then(|resolution| Some((resolution, resolution.granted.as_ref().ok()?)));
        let Some((resolution, granted)) = known.filter(|(_, granted)| granted.key == *key) else {
            let sentence = "this agent knows no Intercept with this UID that names the tunnel's key; if it was made \
                            just now, try again"
                .to_owned();
            return Err(Refused { code: RefusedCode::NotFound, sentence });
        };
        let probes = match granted.probes {
            ProbesSpec::App => Probes::App,
            ProbesSpec::Developer => Probes::Developer,
        };
        let earlier = if granted.flush { EarlierConnections::Close } else { EarlierConnections::Stay };
        let made = Some((resolution.made, wish.token));
        let mut to = if granted.to.is_empty() { wish.to.clone() } else { granted.to.clone() };
        to.truncate(to.floor_char_boundary(limits::NAME));
        Ok(Grant {
            wish: Wish {
                filter: None,
                probes,
                earlier,
                even_if_down: granted.even_if_down,
                forwarded: granted.forwarded,
                to,
                ..wish
            },
            filter: granted.filter.clone(),
            looks_at: granted.filter.as_ref().map_or_else(String::new, filter::describe),
            what: format!("{}/{}", resolution.id.namespace, resolution.what),
            made,
        })
    }

    fn ended(&self, key: &Pin, token: Token) -> Option<String> {
        match self.intercepts.get(&token).map(|resolution| &resolution.granted) {
            None => Some("the Intercept was deleted; make a new one".to_owned()),
            Some(Err(reason)) => Some(format!("the Intercept is refused: {reason}")),
            Some(Ok(granted)) if granted.key != *key => Some("the Intercept names another key now".to_owned()),
            Some(Ok(_)) => None,
        }
    }

    fn places(&self, key: &Pin, granted: &Grant) -> Vec<Place> {
        match self.intercepts.get(&granted.wish.token) {
            Some(resolution) if self.ended(key, granted.wish.token).is_none() => resolution.places.clone(),
            _ => Vec::new(),
        }
    }

    fn lost(&self) -> Option<&'static str> {
        None
    }

    fn visible(&self, key: &Pin) -> Vec<(PodName, PodEntry)> {
        let places: BTreeSet<&PodName> = self.of_key(key).flat_map(|one| &one.places).map(|place| &place.pod).collect();
        let entry = |pod: &PodName| Some((pod.clone(), self.pods.get(pod)?.entry.clone()));
        places.into_iter().filter_map(entry).collect()
    }

    fn whereabouts(&self, pod: &PodName) -> Whereabouts {
        self.pods.get(pod).map(|pod| pod.at.clone()).unwrap_or_default()
    }

    fn ending(&self, pod: &PodName) -> Option<LastProcess> {
        // One that is gone from the API server was deleted without waiting for its node.
        self.pods.get(pod).map_or(Some(LastProcess::OfContainers), |pod| pod.ending)
    }

    fn health_checks(&self, pod: &PodName) -> &[HealthCheck] {
        self.pods.get(pod).map_or(&[], |pod| &pod.health_checks)
    }

    fn stranger(&self) -> &'static str {
        "no Intercept names this tunnel's key any more; make a new one"
    }
}

const APPS: &str = "apps";
