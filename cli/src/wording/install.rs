//! What is said while redir is installed into a cluster, and removed from it.

use std::path::Path;
use std::time::Duration;

use redir_api::names;

use crate::escape::{escape, escape_sentence};
use crate::events::{AdminStep, ObjectAction};
use crate::model::agents::{AgentPod, AgentRollout};
use crate::model::installation::{HelmAdvice, HelmRelease, NamespaceInventory, PodSecurityLevel};
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

/// What is done with an object.
fn object(action: ObjectAction, what: &str, is_dry: bool) -> String {
    let (did, would) = match action {
        ObjectAction::Create => ("created", "create"),
        ObjectAction::Apply => ("applied", "apply"),
        ObjectAction::Change => ("changed", "change"),
        ObjectAction::Delete => ("deleted", "delete"),
        ObjectAction::Keep => ("kept", "keep"),
    };
    if is_dry { format!("would {would} {}", escape(what)) } else { format!("{did} {}", escape(what)) }
}

/// A step as a line for people.
pub(crate) fn step(step: &AdminStep) -> String {
    match step {
        AdminStep::Object { action, kind, name, is_dry_run, namespace: _ } => {
            object(*action, &format!("{} {name}", kind.to_lowercase()), *is_dry_run)
        }
        AdminStep::Agents { ready, wanted } => format!("agents: {ready} of {wanted} ready"),
        AdminStep::AgentNotReady { node, pod: _, reason } if node.is_empty() => {
            format!("agent: {}", escape_sentence(reason))
        }
        AdminStep::AgentNotReady { node, pod: _, reason } => {
            format!("agent on {}: {}", escape(node), escape_sentence(reason))
        }
        AdminStep::Remark { sentence } | AdminStep::Done { sentence } => escape_lines(sentence),
    }
}

/// Sentences of ours may have several lines.
fn escape_lines(text: &str) -> String {
    text.lines().map(escape_sentence).collect::<Vec<_>>().join("\n")
}

pub(crate) fn still_waiting(rollout: AgentRollout, since: Duration) -> String {
    format!("agents: still {} of {} ready after {} s", rollout.ready, rollout.wanted, since.as_secs())
}

pub(crate) fn still_asking(why: &str) -> String {
    format!("{why}; asking again")
}

pub(crate) fn and_said(error: &str, said: &str) -> String {
    format!("{error}; it said: {said}")
}

/// Told once, whatever pod it was to be.
pub(crate) const NO_POD: &str = "no pod";

pub(crate) fn no_pod(why: &str) -> String {
    format!("the cluster makes no pods for agents: {why}")
}

/// How many, and the first few reasons.
fn summary(rollout: AgentRollout, pods: &[AgentPod]) -> String {
    format!("{} of {} agents are ready{}", rollout.ready, rollout.wanted, errors(pods))
}

fn errors(pods: &[AgentPod]) -> String {
    let mut told: Vec<String> = pods
        .iter()
        .filter_map(|pod| {
            let node = if pod.node.is_empty() { "one without a node".to_owned() } else { escape(&pod.node) };
            Some(format!("{node}: {}", escape_sentence(pod.problem.as_ref()?)))
        })
        .collect();
    let more = told.len().saturating_sub(3);
    told.truncate(3);
    if more > 0 {
        told.push(format!("{more} more"));
    }
    if told.is_empty() { String::new() } else { format!(" ({})", told.join("; ")) }
}

pub(crate) fn never_ready(rollout: AgentRollout, pods: &[AgentPod], namespace: &str, limit: Duration) -> String {
    format!(
        "{} within {} s: see kubectl -n {} logs -l {}={}, or run `redir doctor`",
        summary(rollout, pods),
        limit.as_secs(),
        escape(namespace),
        names::APP_LABEL,
        names::AGENT
    )
}

pub(crate) fn never_starts(rollout: AgentRollout, pods: &[AgentPod], namespace: &str) -> String {
    format!(
        "{}, and the others do not start as they are: correct --image or --values and run it again; everything that an \
         agent said: kubectl -n {} logs -l {}={} --previous",
        summary(rollout, pods),
        escape(namespace),
        names::APP_LABEL,
        names::AGENT
    )
}

pub(crate) fn question(question: &str) -> String {
    format!("{question} [y/N] ")
}

pub(crate) fn nobody_to_ask(question: &str) -> String {
    format!("{question} (nobody can be asked, since this is no terminal: add --yes)")
}

pub(crate) fn not_confirmed() -> String {
    "nothing was changed: run it again and answer y, or add --yes".to_owned()
}

fn level(strict: &PodSecurityLevel) -> String {
    match &strict.0 {
        Some(level) => format!("the PodSecurity level `{}`", escape(level)),
        None => "no PodSecurity level of its own".to_owned(),
    }
}

pub(crate) fn may_let_agents_in(namespace: &str, before: &PodSecurityLevel) -> String {
    format!(
        "namespace {} exists and enforces {}, but agents need `privileged`, which then holds for every pod in it: change it?",
        escape(namespace),
        level(before)
    )
}

pub(crate) fn level_changed(namespace: &str, before: &PodSecurityLevel) -> String {
    format!(
        "namespace {} enforces the PodSecurity level `privileged` from now on; before, it enforced {}; `redir uninstall` puts it back",
        escape(namespace),
        level(before)
    )
}

pub(crate) fn level_would_change(namespace: &str, before: &PodSecurityLevel) -> String {
    format!(
        "namespace {} enforces {}; agents need `privileged`, which will be asked for, or say --yes",
        escape(namespace),
        level(before)
    )
}

pub(crate) fn level_put_back(namespace: &str, before: &PodSecurityLevel) -> String {
    format!("namespace {} enforces {} again, as before redir", escape(namespace), level(before))
}

/// Among what will be removed.
pub(crate) fn level_of_ours(namespace: &str) -> String {
    format!("PodSecurity level `privileged` of namespace {namespace}")
}

pub(crate) fn namespace_ends(namespace: &str) -> String {
    format!(
        "namespace {} is being deleted: wait until `kubectl get namespace` shows it no more, and run it again",
        escape(namespace)
    )
}

pub(crate) fn namespace_came(namespace: &str) -> String {
    format!("namespace {} was made by somebody else just now: run it again", escape(namespace))
}

pub(crate) fn is_helm_s(release: &HelmRelease, step: HelmAdvice) -> String {
    let (name, namespace) = (escape(&release.name), escape(&release.namespace));
    let next = match step {
        HelmAdvice::Upgrade => {
            format!("`helm upgrade {name} CHART -n {namespace}` with the chart of redir {}", env!("CARGO_PKG_VERSION"))
        }
        HelmAdvice::Uninstall => format!("`helm uninstall {name} -n {namespace}`"),
    };
    format!(
        "Helm has installed redir here, as release {name} in namespace {namespace}, and keeps account of it: run {next}"
    )
}

pub(crate) fn installed_elsewhere(there: &str, here: &str, command: &str) -> String {
    let there = escape(there);
    let next = match command {
        "install" => format!("run `redir uninstall -n {there}` first, or `redir upgrade -n {there}`"),
        command => format!("run `redir {command} -n {there}`"),
    };
    format!("the redir of this cluster is in namespace {there}, not in {}: {next}", escape(here))
}

pub(crate) fn is_foreign(object: &str, namespace: Option<&str>) -> String {
    format!(
        "there is a {} that is not redir's{}: delete or rename it, and run it again",
        escape(object),
        within(namespace)
    )
}

pub(crate) fn stays_foreign(object: &str, namespace: Option<&str>) -> String {
    format!("{}{} is not redir's and stays", escape(object), within(namespace))
}

fn within(namespace: Option<&str>) -> String {
    namespace.map(|namespace| format!(" in namespace {}", escape(namespace))).unwrap_or_default()
}

/// Nodes of a sentence.
const SHOWN: usize = 5;

pub(crate) fn no_node() -> String {
    "no node takes an agent: check nodeSelector, tolerations and controlPlane in your --values".to_owned()
}

pub(crate) fn control_plane_alone() -> String {
    "no node takes agents but those of the control plane, so they run there; once there are others, \
     `redir upgrade` with controlPlane: false in --values takes them away"
        .to_owned()
}

/// They may be in the middle of somebody's intercept.
pub(crate) fn control_plane_kept(nodes: &[String]) -> String {
    format!(
        "agents run on {} of the control plane and stay (controlPlane: true); controlPlane: false in --values takes them away",
        listed(nodes)
    )
}

pub(crate) fn control_plane_left_out(nodes: &[String]) -> String {
    format!(
        "no agent runs on {} of the control plane, so pods there cannot be intercepted; controlPlane: true in --values includes them",
        listed(nodes)
    )
}

/// The first few of many.
fn listed(nodes: &[String]) -> String {
    let shown: Vec<String> = nodes.iter().take(SHOWN).map(escape).collect();
    match nodes.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

pub(crate) fn installed(rollout: AgentRollout, image: &str) -> String {
    let agents = if rollout.ready == 1 { "1 agent is".to_owned() } else { format!("{} agents are", rollout.ready) };
    format!(
        "redir {} is installed: {agents} ready ({})\n\
         next  kubectl -n NAMESPACE create rolebinding redir-developers --clusterrole={} --group=DEVELOPERS",
        env!("CARGO_PKG_VERSION"),
        escape(image),
        names::DEVELOPER_ROLE
    )
}

pub(crate) fn checked() -> String {
    "the server would take everything; nothing was changed".to_owned()
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

pub(crate) fn will_remove(intercepts: usize, names: &[String]) -> String {
    let intercepts = match intercepts {
        0 => String::new(),
        1 => "\n  1 intercept".to_owned(),
        many => format!("\n  {many} intercepts"),
    };
    let names: String = names.iter().map(|name| format!("\n  {}", escape(name))).collect();
    format!("this will be removed:{intercepts}{names}")
}

pub(crate) fn may_remove(server: &str) -> String {
    format!("remove redir from {}?", escape(server))
}

pub(crate) fn foreign_namespace(namespace: &str) -> String {
    format!("namespace {} was not made by `redir install` and stays", escape(namespace))
}

/// How many of its objects are named.
const NAMED: usize = 5;

pub(crate) fn shared_namespace(namespace: &str, inventory: &NamespaceInventory) -> String {
    let namespace = escape(namespace);
    let named = |names: &[String]| {
        let more = names.len().saturating_sub(NAMED);
        let first: Vec<String> = names.iter().take(NAMED).map(escape).collect();
        if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
    };
    let why = match inventory.others.is_empty() {
        false => format!("holds what redir did not make ({})", named(&inventory.others)),
        true => format!("may hold what redir did not make (not seen: {})", named(&inventory.unknown)),
    };
    format!(
        "namespace {namespace} {why} and stays: if nothing in it is needed, run `kubectl delete namespace {namespace}`"
    )
}

pub(crate) fn uninstalled() -> String {
    "redir is gone from this cluster".to_owned()
}

pub(crate) fn nothing_installed() -> String {
    "there was no redir in this cluster".to_owned()
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

pub(crate) fn ended(code: i32, reason: Option<&str>, words: Option<&str>) -> String {
    // The others say no more than the code.
    let reason = reason.filter(|reason| !["Error", "Completed"].contains(reason));
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let words = words.map(|words| format!(": {words}")).unwrap_or_default();
    format!("it ended with code {code}{reason}{words}")
}
