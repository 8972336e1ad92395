//! What is said about a cluster: its API server, a target, an Intercept, its agents.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use redir_api::{TargetKind, names};

use crate::escape::{escape, escape_sentence};
use crate::model::values::{PortName, Target, join_labels, short};
use crate::wording::config::show;

pub(crate) fn no_flush() -> &'static str {
    "--flush does nothing here: the cluster has the resource of an older redir, which the admin's `redir upgrade` replaces; \
     restart clients that keep their connections"
}

pub(crate) fn resource_is_older(flag: &str) -> String {
    format!(
        "the cluster's resource is of an earlier release and does not know {flag}: it goes on without; its admin runs `redir upgrade`"
    )
}

/// Of a command that has no meaning for static agents.
pub(crate) fn only_for_clusters(command: &str, instead: &str) -> String {
    format!(
        "`redir {command}` is for Kubernetes, and redir.toml names static agents: {instead} (or name a kubeconfig with --kubeconfig)"
    )
}

pub(crate) fn no_kubeconfig(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!(
            "there is no kubeconfig {}, and redir.toml names no agent: for Kubernetes name yours with --kubeconfig, for a static agent begin with `redir keygen`; `redir --help` shows the first steps",
            show(path)
        ),
        None => "there is no kubeconfig, and redir.toml names no agent: for Kubernetes name yours with --kubeconfig, for a static agent begin with `redir keygen`; `redir --help` shows the first steps".to_owned(),
    }
}

pub(crate) fn no_cluster_beside_agents(sign: &str) -> String {
    format!(
        "{} means Kubernetes, for which there is no kubeconfig here; your static agents' pods go by their names or labels: `redir list` shows them (or name a kubeconfig with --kubeconfig)",
        escape(sign)
    )
}

pub(crate) fn unusable_config(why: &str) -> String {
    format!("cannot use the kubeconfig ({}): check it with `kubectl config view`", escape_sentence(why))
}

pub(crate) fn no_such_context(name: &str, known: &[String]) -> String {
    format!("the kubeconfig has no context {}: {}", escape(name), choose("--context", known))
}

pub(crate) fn no_context(known: &[String]) -> String {
    format!("the kubeconfig has no current context: {}", choose("--context", known))
}

fn choose(flag: &str, known: &[String]) -> String {
    match known.is_empty() {
        true => "check it with `kubectl config get-contexts`".to_owned(),
        false => format!("choose with {flag} among {}", listed(known)),
    }
}

/// Up to ten, so that a sentence stays one.
fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(10).map(escape).collect();
    if names.len() > shown.len() {
        shown.push("others".to_owned());
    }
    shown.join(", ")
}

pub(crate) fn two_modes(sign: &str) -> String {
    format!("{} is for Kubernetes and --agent for static agents: leave one of them out", escape(sign))
}

pub(crate) fn unreachable(server: &str, why: &str) -> String {
    format!(
        "the API server {} cannot be reached ({}): check your VPN and `kubectl cluster-info`, then `redir doctor`",
        escape(server),
        escape_sentence(why)
    )
}

pub(crate) fn no_answer(server: &str, limit: Duration) -> String {
    format!(
        "the API server {} did not answer within {} s: try again, or check `kubectl cluster-info`",
        escape(server),
        limit.as_secs()
    )
}

pub(crate) fn strange_answer(server: &str, why: &str) -> String {
    format!(
        "the API server {} sent what redir does not understand ({}): use the cluster's release of redir",
        escape(server),
        escape_sentence(why)
    )
}

pub(crate) fn no_credentials(why: &str) -> String {
    format!("the kubeconfig gave no credentials ({}): log in as for kubectl, and try again", escape_sentence(why))
}

pub(crate) fn unauthorized() -> String {
    "the API server does not know you: log in as for kubectl, and try again".to_owned()
}

pub(crate) fn forbidden(verb: &str, resource: &str, namespace: Option<&str>) -> String {
    let place = match namespace {
        Some(namespace) => format!("in namespace {}", escape(namespace)),
        None => "in this cluster".to_owned(),
    };
    let next = match namespace {
        Some(namespace) => format!(
            "ask the cluster's admin for `kubectl -n {} create rolebinding NAME --clusterrole={} --user=YOU`",
            escape(namespace),
            names::DEVELOPER_ROLE
        ),
        None => "ask the cluster's admin for that right, or name one namespace with -n".to_owned(),
    };
    format!("you may not {verb} {resource} {place}: {next}")
}

pub(crate) fn not_admin(verb: &str, resource: &str) -> String {
    format!(
        "you may not {verb} {resource} in this cluster: this is for its admin; use a context with those rights (--context)"
    )
}

pub(crate) fn not_installed() -> String {
    "this cluster has no redir: its admin installs it with `redir install`".to_owned()
}

pub(crate) fn server_refused(what: &str, message: &str) -> String {
    format!("the API server refused to {what}: {}", escape_sentence(message))
}

pub(crate) fn no_such_target(kind: TargetKind, name: &str, namespace: &str, others: Option<Vec<String>>) -> String {
    let next = match others {
        Some(others) if others.is_empty() => {
            format!("it has no {} at all; choose another namespace with -n", kind.plural())
        }
        Some(others) => format!("there is {}", listed(&others)),
        None => "`redir list` shows what can be intercepted".to_owned(),
    };
    format!("there is no {}/{} in namespace {}: {next}", short(kind), escape(name), escape(namespace))
}

pub(crate) fn service_without_selector(name: &str) -> String {
    format!("service/{} selects no pods: name the workload behind it instead, such as deploy/web", escape(name))
}

pub(crate) fn pods_with(labels: &BTreeMap<String, String>) -> String {
    format!("pods with {}", escape(join_labels(labels)))
}

pub(crate) fn no_such_port(port: &str, target: &str, declared: &[String]) -> String {
    let next = match declared.is_empty() {
        true => "it declares none; write the number that the app listens on".to_owned(),
        false => format!("it has {}", listed(declared)),
    };
    format!("{} has no port {}: {next}", escape(target), escape(port))
}

pub(crate) fn port_unknown(port: &PortName) -> String {
    let port = escape(port.to_string());
    format!("no pod tells yet which number port {port} has: say where yours is, such as --port {port}:3000")
}

pub(crate) fn not_deleted(name: &str, namespace: &str) -> String {
    format!(
        "could not delete the intercept {0}: requests go to the app, and it expires in {2} min, or run kubectl -n {1} delete intercept {0}",
        escape(name),
        escape(namespace),
        names::EXPIRE_AFTER.as_secs() / 60
    )
}

pub(crate) fn api_away(why: &str) -> String {
    format!("{}; what is intercepted stays so, and is renewed once it answers", escape_sentence(why))
}

pub(crate) fn api_back() -> String {
    "the API server answers again".to_owned()
}

pub(crate) fn not_scheduled() -> String {
    "it is not on a node yet".to_owned()
}

pub(crate) fn no_endpoint() -> String {
    "its agent names no usable address: set the annotation redir.dev/endpoint on the node, or see `redir doctor`"
        .to_owned()
}

pub(crate) fn silent_agent(node: &str) -> String {
    format!(
        "no agent on {} has taken the intercept up: it has not heard from the API server, or does not run; the cluster's admin sees which with `redir doctor` and kubectl -n {} get pods -o wide",
        escape(node),
        names::NAMESPACE
    )
}

pub(crate) fn deaf_agent(node: &str) -> String {
    format!(
        "the agent on {} runs and has not heard from the API server yet: its pods join once it has; ask the cluster's admin to look at its log if that lasts",
        escape(node)
    )
}

pub(crate) fn no_agent(node: &str) -> String {
    format!(
        "no agent runs on {}: ask the cluster's admin to look at nodeSelector, tolerations and controlPlane in the values of `redir install`",
        escape(node)
    )
}

pub(crate) fn agent_not_ready(node: &str, why: &str) -> String {
    format!("the agent on {} is not ready ({}): `redir doctor` says more", escape(node), escape_sentence(why))
}

/// Why an agent is not ready.
pub(crate) const AGENT_ENDS: &str = "it is ending";

pub(crate) fn deaf_agents(nodes: &[String]) -> String {
    format!(
        "the agents on {} have not heard from the API server yet, as happens after it was away: the intercept begins once they have",
        listed(nodes)
    )
}

pub(crate) fn waiting_for_nodes(nodes: &[String]) -> String {
    format!("waiting for the agents on {}", listed(nodes))
}

pub(crate) fn no_pods_yet(target: &Target) -> String {
    let shown = escape(target.to_string());
    match target {
        Target::Pod(_) | Target::Workload(TargetKind::Pod, _) => {
            format!("{shown} is not there now: it is intercepted as soon as there is a pod of that name")
        }
        _ => format!("{shown} has no pod now: it is intercepted as soon as there is one"),
    }
}

/// `how`: `is complete`.
pub(crate) fn target_ended(target: &str, how: &str) -> String {
    format!("{} {how}: nothing of it is left to intercept", escape(target))
}

/// Every agent says so.
pub(crate) fn refused(intercept: &str, why: &str) -> String {
    format!("the agents refuse the intercept {}: {}", escape(intercept), escape_sentence(why))
}

pub(crate) fn not_heard_of(node: &str) -> String {
    format!(
        "the agent on {} has not heard of this intercept: see whether it reaches the API server with `redir doctor`",
        escape(node)
    )
}

pub(crate) fn deleted(name: &str) -> String {
    format!("the intercept {} was deleted (`redir leave` or kubectl); requests go to the app again", escape(name))
}

pub(crate) fn no_workloads(place: Option<&str>) -> String {
    format!("nothing that can be intercepted is {}", within(place))
}

pub(crate) fn no_intercepts(place: Option<&str>) -> String {
    format!("nothing is intercepted {}", within(place))
}

fn within(place: Option<&str>) -> String {
    match place {
        Some(namespace) => format!("in namespace {}; -A shows all", escape(namespace)),
        None => "in this cluster".to_owned(),
    }
}

pub(crate) fn not_listed(resource: &str) -> String {
    format!("you may not list {resource}: they are left out here")
}

pub(crate) fn number_in_cluster() -> String {
    "numbers are for static agents: in Kubernetes write a workload such as deploy/web, or the name that `redir list` shows"
        .to_owned()
}

/// `developer` is fit to be shown.
pub(crate) fn somebody_elses(name: &str, developer: &str) -> String {
    format!(
        "the intercept {} is another developer's, {developer}: ask them, or delete it with kubectl if you must",
        escape(name)
    )
}

pub(crate) fn no_such_intercept(name: &str, namespace: &str, others: &[String]) -> String {
    let next = match others.is_empty() {
        true => "there is none at all; choose another namespace with -n".to_owned(),
        false => format!("there is {}", listed(others)),
    };
    format!("there is no intercept {} in namespace {}: {next}", escape(name), escape(namespace))
}
