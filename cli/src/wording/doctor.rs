//! What `redir doctor` says.

use std::collections::BTreeMap;

use redir_api::limits::MOST_OF_NAMESPACE;
use redir_api::names;

use crate::escape::{escape, escape_sentence};

pub(crate) const CLIENT: &str = "redir";
pub(crate) const SERVER: &str = "server";
pub(crate) const RESOURCE: &str = "resource";
pub(crate) const RIGHTS: &str = "rights";
pub(crate) const TARGETS: &str = "targets";
pub(crate) const FLUSH: &str = "flush";
pub(crate) const QUOTA: &str = "quota";
pub(crate) const POLICIES: &str = "policies";
pub(crate) const AGENTS: &str = "agents";
pub(crate) const VERSION: &str = "version";
pub(crate) const CAPABILITIES: &str = "capabilities";
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const REACH: &str = "reach";
pub(crate) const CNI: &str = "network";
pub(crate) const PODS: &str = "pods";
pub(crate) const MESH: &str = "mesh";

pub(crate) fn client() -> String {
    format!("this is redir {}", env!("CARGO_PKG_VERSION"))
}

pub(crate) fn server(server: &str, version: &str) -> String {
    format!("{} runs Kubernetes {}", escape(server), escape(version))
}

pub(crate) fn resource() -> String {
    format!("the cluster has intercepts.{}", redir_api::GROUP)
}

pub(crate) fn own_rights(namespace: &str) -> String {
    format!("you may make intercepts in namespace {}", escape(namespace))
}

pub(crate) fn policies() -> String {
    "the server checks the right on each target, and the name in each intercept".to_owned()
}

/// `quota` is its name and what it allows; `beyond`: more than agents take.
pub(crate) fn quota(namespace: &str, (quota, most): (&str, &str), there: usize, beyond: bool) -> String {
    let (quota, namespace, most) = (escape(quota), escape(namespace), escape(most));
    let taken = if beyond { format!("; agents take the {MOST_OF_NAMESPACE} oldest") } else { String::new() };
    format!("quota {quota} lets namespace {namespace} have {most} intercepts, and it has {there}{taken}")
}

pub(crate) fn too_many_intercepts(namespace: &str, there: usize) -> String {
    let namespace = escape(namespace);
    format!(
        "namespace {namespace} has {there} intercepts, and each agent takes only the {MOST_OF_NAMESPACE} oldest: delete some that \
         nobody needs (`kubectl -n {namespace} get intercepts` lists them)"
    )
}

pub(crate) fn no_quota(namespace: &str, there: usize) -> String {
    let namespace = escape(namespace);
    format!(
        "no quota limits the intercepts of namespace {namespace}, which has {there} (agents take the {MOST_OF_NAMESPACE} oldest): the admin's `kubectl -n \
         {namespace} create quota redir-intercepts --hard={}=20` does",
        crate::model::check::COUNT
    )
}

pub(crate) fn policies_missing(missing: &[String]) -> String {
    format!(
        "{} is missing or checks less than this release's: the admin runs `redir upgrade`",
        missing.iter().map(escape).collect::<Vec<_>>().join(", ")
    )
}

pub(crate) fn not_yours_to_see(what: &str) -> String {
    format!("you may not look at {what}; the admin's `redir doctor` does")
}

pub(crate) fn no_agents(namespace: &str) -> String {
    format!("there is no DaemonSet {} in namespace {}: the admin runs `redir install`", names::AGENT, escape(namespace))
}

pub(crate) fn agents(ready: i32) -> String {
    match ready {
        1 => "the agent is ready".to_owned(),
        many => format!("all {many} agents are ready"),
    }
}

pub(crate) fn agents_not_ready(ready: i32, wanted: i32, errors: &[String]) -> String {
    let errors: Vec<String> = errors.iter().map(|error| escape_sentence(error)).collect();
    let why = if errors.is_empty() { String::new() } else { format!(" ({})", errors.join("; ")) };
    format!(
        "{ready} of {wanted} agents are ready{why}: see kubectl -n {} logs -l {}={}",
        names::NAMESPACE,
        names::APP_LABEL,
        names::AGENT
    )
}

pub(crate) fn release(image: &str) -> String {
    format!("the agents run {}", escape(image))
}

pub(crate) fn other_release(tag: &str) -> String {
    format!(
        "the agents are of {}, this redir is {}: neighbouring releases work together, else the admin runs `redir upgrade`",
        escape(tag),
        env!("CARGO_PKG_VERSION")
    )
}

pub(crate) fn capabilities() -> String {
    "the agents have the capabilities that they need".to_owned()
}

pub(crate) fn capabilities_missing(missing: &[String]) -> String {
    format!(
        "the agents' DaemonSet lacks {}: the admin runs `redir upgrade`",
        missing.iter().map(escape).collect::<Vec<_>>().join(", ")
    )
}

pub(crate) fn kernels(seen: &BTreeMap<String, usize>) -> String {
    let seen: Vec<String> = seen.iter().map(|(kernel, nodes)| format!("Linux {} on {nodes}", escape(kernel))).collect();
    format!("{}; each agent tries its own when it starts", seen.join(", "))
}

pub(crate) fn nothing_to_reach() -> String {
    "no agent's address is known to you before you intercept something".to_owned()
}

pub(crate) fn reached(nodes: usize) -> String {
    match nodes {
        1 => "the agent answers over UDP".to_owned(),
        many => format!("all {many} agents answer over UDP"),
    }
}

pub(crate) fn silent(silent: &[String], of: usize) -> String {
    format!(
        "{} of {of} agents do not answer over UDP: {}; open UDP port {} to the nodes, or give a node the annotation {}=HOST:PORT",
        silent.len(),
        silent.iter().map(escape).collect::<Vec<_>>().join(", "),
        names::PORT,
        names::ENDPOINT
    )
}

pub(crate) fn network(found: &[&str]) -> String {
    match found.is_empty() {
        true => "no network that redir knows by name; any that gives pods namespaces works".to_owned(),
        false => format!("{}, which works as it is", found.join(" and ")),
    }
}

pub(crate) fn host_network() -> &'static str {
    "shares the host's network"
}

pub(crate) fn pods(namespace: &str, count: usize) -> String {
    match count {
        0 => format!("there is no pod in namespace {}; -n names another", escape(namespace)),
        1 => format!("the pod in namespace {} can be intercepted", escape(namespace)),
        many => format!("all {many} pods in namespace {} can be intercepted", escape(namespace)),
    }
}

pub(crate) fn pods_unsupported(namespace: &str, pods: &[String]) -> String {
    let mut shown: Vec<String> = pods.iter().take(5).map(escape).collect();
    if pods.len() > shown.len() {
        shown.push(format!("{} more", pods.len() - shown.len()));
    }
    format!("in namespace {} these cannot be intercepted: {}", escape(namespace), shown.join(", "))
}

pub(crate) fn no_mesh(namespace: &str) -> String {
    format!("no mesh in namespace {}", escape(namespace))
}

pub(crate) fn mesh(namespace: &str, meshes: &BTreeMap<&str, usize>) -> String {
    let seen: Vec<String> = meshes.iter().map(|(mesh, pods)| format!("{mesh} in {pods}")).collect();
    format!(
        "pods of namespace {} with a proxy: {}; they are intercepted behind it, or refused with the reason",
        escape(namespace),
        seen.join(", ")
    )
}
