//! `redir doctor`: a cluster, its agents and one's own rights, a line each with the next step.
//!
//! Owns: what is looked at, and in which order. Must not change anything, or judge (`cluster::diagnosis`). Called by:
//! `commands`.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use redir_api::{Intercept, PLURAL, names};
use redir_manifests::Options;
use redir_tunnel::{DialError, Identity};
use tokio::task::JoinSet;

use super::ask;
use super::install::server;
use super::quota;
use super::rollout::look;
use super::runtime::with_runtime;
use crate::args;
use crate::cluster::Cluster;
use crate::cluster::api_call::{ApiCall, unless};
use crate::cluster::apply::manifests;
use crate::cluster::diagnosis;
use crate::cluster::mode::refuse_static;
use crate::cluster::{policies, rights, target};
use crate::error::{CliError, Outcome};
use crate::events::Event;
use crate::link::tunnel::{SOFTWARE, look_up};
use crate::model::access;
use crate::model::check::{Check, Finding};
use crate::model::values::{AgentAddress, LabelSet, Target};
use crate::screen::{Screen, print};
use crate::wording::{doctor as say, events as show};

/// A resolver's own limit is longer than anybody wants to wait here.
const LOOKUP: Duration = Duration::from_secs(3);

/// Looks at everything. 1 if something is wrong.
pub(crate) fn run(args: &args::DoctorArgs) -> Outcome {
    refuse_static("doctor", "`redir status` asks them, `redir-agent check` looks at their machine", &args.cluster)?;
    let labels = args.selector.clone().map(|LabelSet(labels)| Target::Labels(labels));
    let wanted = args.target.clone().or(labels);
    with_runtime(args.output, async |screen| {
        let mut checks = vec![client()];
        match Cluster::connect(&args.cluster).await {
            Ok(cluster) => examine(&cluster, wanted.as_ref(), &mut checks).await,
            Err(error) => checks.push(Check::problem(say::SERVER, error.to_string())),
        }
        show_all(&screen, checks)
    })
}

fn show_all(screen: &Screen, checks: Vec<Check>) -> Outcome {
    let is_bad = checks.iter().any(|check| matches!(check.finding, Finding::Problem));
    let events: Vec<Event> = checks.into_iter().map(Event::Check).collect();
    print(&match screen.output() {
        args::OutputFormat::Json => ask::json(&events),
        args::OutputFormat::Text => events.iter().map(|event| show::check(event, screen.paint()) + "\n").collect(),
    })?;
    Ok(u8::from(is_bad))
}

fn client() -> Check {
    Check::good(say::CLIENT, say::client())
}

async fn examine(cluster: &Cluster, wanted: Option<&Target>, checks: &mut Vec<Check>) {
    match server(cluster).await {
        Ok(version) => checks.push(Check::good(say::SERVER, say::server(&cluster.server, &version))),
        // Without the server there is nothing else to look at.
        Err(error) => return checks.push(Check::problem(say::SERVER, error.to_string())),
    }
    let installed = resource(cluster, checks).await;
    match rights(cluster, wanted).await {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(Check::problem(say::RIGHTS, error.to_string())),
    }
    if let Some(wanted) = wanted {
        checks.extend(existence(cluster, wanted).await);
    }
    if !installed {
        return;
    }
    checks.extend(quota::check(cluster).await);
    checks.push(policies(cluster).await);
    let namespace = agents(cluster, checks).await;
    let nodes = nodes(cluster, checks).await;
    checks.extend(reachability(cluster, nodes.as_deref()).await);
    if let Some(namespace) = namespace {
        checks.push(network(cluster, &namespace).await);
    }
    checks.extend(pods(cluster).await);
}

/// Whether there are Intercepts at all.
async fn resource(cluster: &Cluster, checks: &mut Vec<Check>) -> bool {
    let api: Api<Intercept> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let right = ApiCall::Right("list", PLURAL, Some(&cluster.namespace));
    // Whoever may not list is told so among the rights.
    let listed = async { unless(&[403], api.list(&ListParams::default().limit(1)).await) };
    match cluster.call(right, listed).await {
        Ok(_) => {
            checks.push(Check::good(say::RESOURCE, say::resource()));
            true
        }
        Err(error) => {
            checks.push(Check::problem(say::RESOURCE, error.to_string()));
            false
        }
    }
}

/// Whether this user may intercept the target, or else what there is that they may.
async fn rights(cluster: &Cluster, target: Option<&Target>) -> Result<Vec<Check>, CliError> {
    let namespace = cluster.namespace.as_str();
    let mut needed = access::on_intercepts();
    needed.extend(target.iter().flat_map(|target| access::on_target(target)));
    let missing = rights::missing(cluster, needed).await?;
    // For the lines that an admin is given.
    let user = rights::username(cluster).await;
    let user = user.as_deref();
    let Some(target) = target else {
        let may_not_even_that = !missing.is_empty();
        let mut checks = vec![diagnosis::own_rights(namespace, missing, user)];
        if !may_not_even_that {
            checks.push(diagnosis::interceptable(namespace, &rights::interceptable(cluster).await?, user));
        }
        return Ok(checks);
    };
    let mut checks = vec![diagnosis::rights(target, namespace, missing, user)];
    let missing = rights::missing(cluster, vec![access::to_flush(target)]).await?;
    checks.push(diagnosis::flush(target, namespace, missing, user));
    Ok(checks)
}

/// Whether there is such a target, for whoever may read it.
async fn existence(cluster: &Cluster, target: &Target) -> Option<Check> {
    match target::exists(cluster, target).await {
        Ok(()) => None,
        // Among the rights already.
        Err(CliError::Forbidden(_)) => None,
        Err(error) => Some(Check::problem(say::TARGETS, error.to_string())),
    }
}

async fn policies(cluster: &Cluster) -> Check {
    match policies::missing(cluster).await {
        Ok(missing) => diagnosis::policies(&missing),
        Err(_) => Check::note(say::POLICIES, say::not_yours_to_see("validatingadmissionpolicies")),
    }
}

/// The DaemonSet and its pods; gives their namespace if this user may see them.
async fn agents(cluster: &Cluster, checks: &mut Vec<Check>) -> Option<String> {
    let namespace = names::NAMESPACE.to_owned();
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), &namespace);
    let set = async { unless(&[404], sets.get(names::AGENT).await) };
    match cluster.call(ApiCall::Admin("get", "daemonsets"), set).await {
        Err(_) => {
            checks.push(Check::note(say::AGENTS, say::not_yours_to_see("the agents' DaemonSet")));
            None
        }
        Ok(None) => {
            checks.push(Check::problem(say::AGENTS, say::no_agents(&namespace)));
            None
        }
        Ok(Some(set)) => {
            match look(cluster, &namespace).await {
                Ok((rollout, pods)) => checks.push(diagnosis::agents(rollout, &pods)),
                Err(error) => checks.push(Check::note(say::AGENTS, error.to_string())),
            }
            let options = Options { namespace: namespace.clone(), ..Options::default() };
            let ours = manifests(&options)
                .ok()
                .and_then(|all| all.into_iter().find(|manifest| manifest.kind() == "DaemonSet"));
            if let (Some(ours), Ok(theirs)) = (ours, serde_json::to_value(&set)) {
                checks.extend(diagnosis::daemon_set(ours.object(), &theirs));
            }
            Some(namespace)
        }
    }
}

/// Kernels and platforms; `None` if this user may not see nodes.
async fn nodes(cluster: &Cluster, checks: &mut Vec<Check>) -> Option<Vec<Node>> {
    let api: Api<Node> = Api::all(cluster.client.clone());
    match cluster.call(ApiCall::Admin("list", "nodes"), api.list(&ListParams::default())).await {
        Ok(list) => {
            checks.push(diagnosis::kernels(&list.items));
            Some(list.items)
        }
        Err(_) => {
            checks.push(Check::note(say::KERNEL, say::not_yours_to_see("nodes")));
            None
        }
    }
}

/// Whether a UDP packet to each agent comes back. The agent refuses a key that nobody named, which is answer enough.
async fn reachability(cluster: &Cluster, nodes: Option<&[Node]>) -> Vec<Check> {
    let targets = match nodes {
        Some(nodes) => nodes.iter().map(diagnosis::endpoints).collect(),
        None => named_by_intercepts(cluster).await,
    };
    if targets.is_empty() {
        return vec![Check::note(say::REACH, say::nothing_to_reach())];
    }
    let Ok(identity) = Identity::generate() else { return Vec::new() };
    let mut asking = JoinSet::new();
    for (node, addresses) in targets {
        let identity = identity.clone();
        asking.spawn(async move {
            let static_agents = answers(&addresses, &identity).await;
            (node, addresses, static_agents)
        });
    }
    let mut answered = asking.join_all().await;
    answered.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    vec![diagnosis::reach(&answered)]
}

/// Without the right to see nodes: the addresses that agents wrote into Intercepts.
async fn named_by_intercepts(cluster: &Cluster) -> Vec<(String, Vec<AgentAddress>)> {
    let api: Api<Intercept> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let right = ApiCall::Right("list", PLURAL, Some(&cluster.namespace));
    let Ok(list) = cluster.call(right, api.list(&ListParams::default())).await else { return Vec::new() };
    diagnosis::named_endpoints(&list.items)
}

async fn answers(addresses: &[AgentAddress], identity: &Identity) -> bool {
    let found = look_up(addresses, LOOKUP).await;
    // Nobody's pin but our own is known here: the agent's will be another, which is all that is asked.
    match redir_tunnel::dial(&found, identity, identity.pin(), SOFTWARE, "doctor").await {
        Err(DialError::NoAddress | DialError::Socket(_) | DialError::Silent(_)) => false,
        Ok(_) | Err(_) => true,
    }
}

/// Which network the pods have: every one works, some have a remark.
async fn network(cluster: &Cluster, namespace: &str) -> Check {
    let api: Api<DaemonSet> = Api::all(cluster.client.clone());
    match cluster.call(ApiCall::Admin("list", "daemonsets"), api.list(&ListParams::default())).await {
        Ok(list) => {
            let others = list.items.iter().filter(|set| set.metadata.namespace.as_deref() != Some(namespace));
            diagnosis::network(others.filter_map(|set| set.metadata.name.as_deref()))
        }
        Err(_) => Check::note(say::CNI, say::not_yours_to_see("daemonsets")),
    }
}

/// Pods of the namespace that cannot be intercepted, and those with a mesh's proxy.
async fn pods(cluster: &Cluster) -> Vec<Check> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let right = ApiCall::Right("list", "pods", Some(&cluster.namespace));
    match cluster.call(right, api.list(&ListParams::default())).await {
        Ok(list) => diagnosis::pods(&cluster.namespace, &list.items),
        Err(_) => vec![Check::note(say::PODS, say::not_yours_to_see("pods"))],
    }
}
