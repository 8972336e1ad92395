//! What of the API's objects matters here, read once, at the edge.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, Service},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference, Time},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use redir_api::{AgentStatus, Intercept, InterceptSpec, SpecError, Wanted, names};
use redir_config::PodName;
use redir_http::filter::Filter;
use redir_ipc::{LastProcess, MAX_POD_IPS};
use redir_link::{health_checks::HealthCheck, resolved::ObjectId};
use redir_tunnel::Pin;
use redir_wire::{Token, limits};

use super::{mesh::MeshKind, probes::health_checks};

/// `None` for an object that no API server has given out.
fn object_id(meta: &ObjectMeta) -> Option<ObjectId> {
    Some(ObjectId { namespace: meta.namespace.clone()?, name: meta.name.clone()?, uid: meta.uid.clone()? })
}

/// Who controls an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnerController {
    /// As it is written, with the version.
    pub(crate) api_version: String,
    /// Its kind.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
}

impl OwnerController {
    /// The owner that controls an object, by its owner references.
    pub(super) fn of(meta: &ObjectMeta) -> Option<Self> {
        let mut owners = meta.owner_references.iter().flatten();
        let OwnerReference { api_version, kind, name, uid, .. } =
            owners.find(|owner| owner.controller == Some(true))?.clone();
        Some(Self { api_version, kind, name, uid })
    }

    /// Whether it is of this kind, in whatever version.
    pub(super) fn is(&self, group: &str, kind: &str) -> bool {
        self.kind == kind && self.api_version.split_once('/').map_or("", |(group, _)| group) == group
    }
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodFacts {
    /// What the agent calls it, by its UID.
    pub(crate) name: PodName,
    /// Its place and identity.
    pub(crate) id: ObjectId,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its addresses; none until its network is set up.
    pub(crate) ips: Vec<IpAddr>,
    /// Whether its containers have all ended for good.
    pub(crate) over: bool,
    /// When it was told to end, by the API server's clock.
    pub(crate) ends_since: Option<SystemTime>,
    /// Which process is its last, if it is known to end.
    pub(crate) ending: Option<LastProcess>,
    /// Who controls it.
    pub(crate) controller: Option<OwnerController>,
    /// Its containers' named TCP ports.
    pub(crate) ports: BTreeMap<String, u16>,
    /// The Secrets that it mounts.
    pub(crate) secrets: BTreeSet<String>,
    /// Why it can never be intercepted; ends with the next step.
    pub(crate) unfit: Option<String>,
    /// Which mesh it is in.
    pub(crate) mesh: Option<MeshKind>,
    /// What asks for its health and may reach somebody else than the app.
    pub(crate) health_checks: Vec<HealthCheck>,
}

impl PodFacts {
    pub(super) fn read(pod: &Pod) -> Option<Self> {
        let id = object_id(&pod.metadata)?;
        let name = PodName::of_uid(&id.uid, &id.namespace, &id.name).ok()?;
        let status = pod.status.as_ref();
        let ips = status.into_iter().flat_map(|status| {
            let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
            all.chain(&status.pod_ip).filter_map(|ip| ip.parse().ok()).collect::<Vec<IpAddr>>()
        });
        let mut ips: Vec<IpAddr> = ips.collect();
        ips.sort_unstable();
        ips.dedup();
        ips.truncate(MAX_POD_IPS);
        let phase = status.and_then(|status| status.phase.as_deref());
        Some(Self {
            name,
            id,
            labels: pod.labels().clone(),
            ips,
            over: phase.is_some_and(is_over),
            ends_since: ends_since(&pod.metadata),
            ending: ending(pod),
            controller: OwnerController::of(&pod.metadata),
            ports: ports(pod),
            secrets: secrets(pod),
            unfit: unfit(pod),
            mesh: MeshKind::of(pod),
            health_checks: health_checks(pod),
        })
    }
}

/// The API server writes down when the pod will be gone at the latest.
fn ends_since(meta: &ObjectMeta) -> Option<SystemTime> {
    let gone = system_time(meta.deletion_timestamp.as_ref()?);
    let grace = meta.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    Some(gone.checked_sub(Duration::from_secs(grace)).unwrap_or(gone))
}

/// Which process is a pod's last, if it is known to end: by its deletion, by its node (an eviction, a shutdown), or because its
/// containers have done what they were for. That they are not started again is in the last case only likely: a container may
/// have rules of its own.
fn ending(pod: &Pod) -> Option<LastProcess> {
    let status = pod.status.as_ref();
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let by_its_node = conditions.any(|condition| {
        condition.type_ == "DisruptionTarget"
            && condition.status == "True"
            && condition.reason.as_deref() == Some("TerminationByKubelet")
    });
    let over = status.and_then(|status| status.phase.as_deref()).is_some_and(is_over);
    if pod.metadata.deletion_timestamp.is_some() || by_its_node || over {
        return Some(LastProcess::OfContainers);
    }
    has_done_its_work(pod).then_some(LastProcess::OfSandbox)
}

fn is_over(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// Whether all containers have ended and none is to be started again. Sidecars end after them.
fn has_done_its_work(pod: &Pod) -> bool {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return false };
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let ended = |container: &ContainerStatus| {
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        ended.is_some_and(|ended| policy == "Never" || policy == "OnFailure" && ended.exit_code == 0)
    };
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    statuses.len() == spec.containers.len() && statuses.iter().all(ended)
}

/// The containers that run as long as the pod does.
pub(super) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    })
}

fn secrets(pod: &Pod) -> BTreeSet<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.flat_map(|volume| {
        let alone = volume.secret.iter().filter_map(|secret| secret.secret_name.clone());
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        alone.chain(sources.filter_map(|source| Some(source.secret.as_ref()?.name.clone())))
    });
    names.collect()
}

/// Where several containers use a name, the first one's counts, as behind a Service.
fn ports(pod: &Pod) -> BTreeMap<String, u16> {
    let mut ports = BTreeMap::new();
    for (name, number) in containers(pod).flat_map(named_ports) {
        ports.entry(name).or_insert(number);
    }
    ports
}

fn named_ports(container: &Container) -> impl Iterator<Item = (String, u16)> {
    let ports = container.ports.iter().flatten();
    ports.filter(|port| is_tcp(port.protocol.as_deref())).filter_map(|port| {
        let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
        Some((port.name.clone()?, number))
    })
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn unfit(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.host_network == Some(true) {
        return Some(
            "the pod shares its node's network (hostNetwork), which redir never touches; intercept a pod with its own"
                .to_owned(),
        );
    }
    if pod.annotations().contains_key("kubernetes.io/config.mirror") {
        return Some("a static pod of the kubelet cannot be intercepted; run it from a Deployment".to_owned());
    }
    let class = spec.runtime_class_name.as_deref()?;
    let lower = class.to_ascii_lowercase();
    let inner = ["gvisor", "runsc", "kata"].into_iter().find(|runtime| lower.contains(runtime))?;
    Some(format!(
        "the pod's runtime class {class} ({inner}) keeps its network where redir cannot steer; intercept a pod with the ordinary runtime"
    ))
}

/// A Service, as far as it selects pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServiceFacts {
    /// Its UID.
    pub(crate) uid: String,
    /// What its pods carry; empty: it selects none by itself.
    pub(crate) selector: BTreeMap<String, String>,
    /// Its TCP ports.
    pub(crate) ports: Vec<ServicePort>,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Its name, if it has one.
    pub(crate) name: Option<String>,
    /// Its number.
    pub(crate) number: u16,
    /// The container's port: a number, or the name of a container's port.
    pub(crate) target: IntOrString,
}

impl ServiceFacts {
    pub(super) fn read(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref();
        let ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports = ports.filter(|port| is_tcp(port.protocol.as_deref())).filter_map(|port| {
            let target = port.target_port.clone().unwrap_or(IntOrString::Int(port.port));
            Some(ServicePort { name: port.name.clone(), number: u16::try_from(port.port).ok()?, target })
        });
        Some(Self {
            uid: service.metadata.uid.clone()?,
            selector: spec.and_then(|spec| spec.selector.clone()).unwrap_or_default(),
            ports: ports.collect(),
        })
    }
}

/// An Intercept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InterceptFacts {
    /// Its place and identity.
    pub(crate) id: ObjectId,
    /// Its UID as an intercept's token.
    pub(crate) token: Token,
    /// The version of the object, for a deletion that must not hit a renewed one.
    pub(crate) version: Option<String>,
    /// When it was made, by the API server's clock.
    pub(crate) made: SystemTime,
    /// What it was renewed with; only changes count.
    pub(crate) renewed: Option<String>,
    /// As it is written, for what may be said of one that is refused.
    pub(crate) spec: InterceptSpec,
    /// What it says but for the filter, with its developer's key, or why it is refused.
    pub(crate) wanted: Result<(Wanted, Pin), String>,
    /// Whether its filter can be used: found out where it has a pod.
    pub(crate) filter: FilterVerdict,
    /// About how many bytes its spec takes.
    pub(crate) bytes: usize,
    /// What this node's agent, perhaps an earlier one, last wrote into its status.
    pub(crate) written: Option<AgentStatus>,
}

impl InterceptFacts {
    pub(super) fn read(intercept: &Intercept, node: &str) -> Option<Self> {
        let id = object_id(&intercept.metadata)?;
        let refused = |error: SpecError| error.to_string();
        let wanted = intercept.wanted_but_filter().map_err(refused).and_then(|wanted| {
            let key = wanted.developer_key.parse().map_err(|error| format!("its developerKey is no key: {error}"))?;
            Ok((wanted, key))
        });
        let mut agents = intercept.status.iter().flat_map(|status| &status.agents);
        Some(Self {
            token: redir_api::token(&id.uid)?,
            id,
            version: intercept.resource_version(),
            made: intercept.metadata.creation_timestamp.as_ref().map_or(SystemTime::UNIX_EPOCH, system_time),
            renewed: intercept.annotations().get(names::RENEWED).cloned(),
            spec: intercept.spec.clone(),
            wanted,
            filter: FilterVerdict::default(),
            bytes: serde_json::to_vec(&intercept.spec).map_or(0, |text| text.len()),
            written: agents.find(|agent| agent.node == node).cloned(),
        })
    }

    /// Why its filter cannot be used. A filter is compiled for that, once, and dropped: regular expressions are expensive.
    pub(crate) fn filter_flaw(&self) -> Option<String> {
        let verdict = || Filter::try_from(self.spec.filter.as_ref()?).err().map(|error| error.to_string());
        self.filter.0.get_or_init(verdict).clone()
    }

    /// Takes over what was found out about an earlier state of the same object.
    pub(crate) fn learn_from(&mut self, earlier: &Self) {
        if self.spec == earlier.spec {
            self.filter = earlier.filter.clone();
        }
    }

    /// Who the developer is, for people: never empty, without control characters.
    pub(crate) fn user(&self) -> String {
        let mut user: String =
            self.spec.developer().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        user.truncate(user.floor_char_boundary(limits::NAME));
        if user.trim().is_empty() { "somebody".to_owned() } else { user }
    }
}

/// Whether a filter can be used, once that was found out. It follows from the spec, so that any two are equal.
#[derive(Clone, Debug, Default)]
pub(crate) struct FilterVerdict(OnceLock<Option<String>>);

#[cfg(test)]
impl FilterVerdict {
    pub(crate) fn is_known(&self) -> bool {
        self.0.get().is_some()
    }
}

impl PartialEq for FilterVerdict {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

fn system_time(time: &Time) -> SystemTime {
    let seconds = u64::try_from(time.0.as_second()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(meta: &Value, policy: &str, status: &Value) -> Option<LastProcess> {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
        let pod = json!({"metadata": meta, "spec": spec, "status": status});
        ending(&serde_json::from_value(pod).expect("a pod"))
    }

    fn ended(codes: &[i32]) -> Value {
        let status = |code: &i32| {
            json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                   "state": {"terminated": {"exitCode": code}}})
        };
        json!({"phase": "Running", "containerStatuses": codes.iter().map(status).collect::<Vec<_>>()})
    }

    #[test]
    fn a_pod_is_to_end_by_its_deletion_its_node_or_its_work() {
        let (there, running) = (json!({}), json!({"phase": "Running"}));
        assert_eq!(of(&there, "Always", &running), None);
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(of(&deleted, "Always", &running), Some(LastProcess::OfContainers));
        for (reason, expected) in
            [("TerminationByKubelet", Some(LastProcess::OfContainers)), ("PreemptionByScheduler", None)]
        {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason});
            let status = json!({"phase": "Running", "conditions": [condition]});
            assert_eq!(of(&there, "Always", &status), expected, "{reason}");
        }
        assert_eq!(of(&there, "Never", &json!({"phase": "Failed"})), Some(LastProcess::OfContainers));
        // Some of it, or all of it; to be started again, or not.
        for (policy, codes, expected) in [
            ("Never", &[0][..], None),
            ("Never", &[0, 1], Some(LastProcess::OfSandbox)),
            ("OnFailure", &[0, 0], Some(LastProcess::OfSandbox)),
            ("OnFailure", &[0, 1], None),
            ("Always", &[0, 0], None),
        ] {
            assert_eq!(of(&there, policy, &ended(codes)), expected, "{policy} {codes:?}");
        }
    }
}
