//! What is said while redir is installed into a cluster, and removed from it.

use std::path::Path;
use std::time::Duration;

use redir_api::names;

use crate::cluster::agents::{AgentPod, Rollout};
use crate::escape::{escape, escape_sentence};
use crate::wording::config::show;

pub(crate) fn values(path: Option<&Path>, why: &str) -> String {
    match path {
        Some(path) => format!("{}: {}", show(path), escape_sentence(why)),
        None => escape_sentence(why),
    }
}

pub(crate) fn values_unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {} ({error}): check what is written behind --values", show(path))
}

pub(crate) fn old_server(version: &str) -> String {
    let oldest = redir_manifests::OLDEST.0;
    format!(
        "the cluster runs Kubernetes {}, and redir needs 1.{oldest} or newer: update the cluster first",
        escape(version)
    )
}

pub(crate) fn not_installed_yet(namespace: &str) -> String {
    format!("there is no redir in namespace {0} to upgrade: run `redir install -n {0}`", escape(namespace))
}

pub(crate) fn checked_elsewhere(namespace: &str) -> String {
    format!("namespace {} does not exist yet: what belongs into it was checked in `default`", escape(namespace))
}

pub(crate) fn applied(what: &str, is_dry: bool) -> String {
    if is_dry { format!("would apply {}", escape(what)) } else { format!("applied {}", escape(what)) }
}

pub(crate) fn deleted(what: &str, is_dry: bool) -> String {
    if is_dry { format!("would delete {}", escape(what)) } else { format!("deleted {}", escape(what)) }
}

pub(crate) fn waiting(rollout: Rollout, pods: &[AgentPod]) -> String {
    format!("agents: {} of {} ready{}", rollout.ready, rollout.wanted, troubles(pods))
}

fn troubles(pods: &[AgentPod]) -> String {
    let mut told: Vec<String> = pods
        .iter()
        .filter_map(|pod| {
            let node = if pod.node.is_empty() { "one without a node".to_owned() } else { escape(&pod.node) };
            Some(format!("{node}: {}", escape_sentence(pod.trouble.as_ref()?)))
        })
        .collect();
    let more = told.len().saturating_sub(3);
    told.truncate(3);
    if more > 0 {
        told.push(format!("{more} more"));
    }
    if told.is_empty() { String::new() } else { format!("; {}", told.join("; ")) }
}

pub(crate) fn never_ready(rollout: Rollout, pods: &[AgentPod], namespace: &str, limit: Duration) -> String {
    format!(
        "{} within {} s: see kubectl -n {} logs -l app.kubernetes.io/name={}, or run `redir doctor`",
        waiting(rollout, pods),
        limit.as_secs(),
        escape(namespace),
        names::AGENT
    )
}

pub(crate) fn no_node() -> String {
    "no node takes an agent: check nodeSelector and tolerations in your --values".to_owned()
}

pub(crate) fn installed(rollout: Rollout, image: &str) -> String {
    let agents = if rollout.ready == 1 { "1 agent is".to_owned() } else { format!("{} agents are", rollout.ready) };
    format!(
        "redir {} is installed: {agents} ready ({})\n\
         next  kubectl -n NAMESPACE create rolebinding redir-developers --clusterrole={} --group=DEVELOPERS\n",
        env!("CARGO_PKG_VERSION"),
        escape(image),
        names::DEVELOPER_ROLE
    )
}

pub(crate) fn checked() -> String {
    "the server would take everything; nothing was changed\n".to_owned()
}

pub(crate) fn intercepts_end(count: usize) -> String {
    match count {
        1 => "ending 1 intercept: its requests go to the app".to_owned(),
        many => format!("ending {many} intercepts: their requests go to their apps"),
    }
}

pub(crate) fn waiting_for_end(left: &[String]) -> String {
    format!("waiting until {} is gone", left.iter().map(escape).collect::<Vec<_>>().join(", "))
}

pub(crate) fn never_gone(left: &[String], limit: Duration) -> String {
    format!(
        "{} is still there after {} s: see its finalizers with kubectl get -o yaml, and run `redir uninstall` again",
        left.iter().map(escape).collect::<Vec<_>>().join(", "),
        limit.as_secs()
    )
}

pub(crate) fn foreign_namespace(namespace: &str) -> String {
    format!("namespace {} was not made by redir and stays", escape(namespace))
}

pub(crate) fn uninstalled(anything: bool) -> String {
    if anything {
        "redir is gone from this cluster\n".to_owned()
    } else {
        "there was no redir in this cluster\n".to_owned()
    }
}

pub(crate) fn not_scheduled() -> String {
    "it is on no node yet".to_owned()
}

pub(crate) fn not_started() -> String {
    "its container is not started yet".to_owned()
}

pub(crate) fn not_ready() -> String {
    "it runs and is not ready yet".to_owned()
}

pub(crate) fn ended(waiting: Option<&str>, code: i32, message: Option<&str>) -> String {
    let first = waiting.map(|waiting| format!("{waiting}, ")).unwrap_or_default();
    let words = message.map(|message| format!(" ({})", message.trim())).unwrap_or_default();
    format!("{first}it ended with code {code}{words}")
}
