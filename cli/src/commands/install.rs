//! `redir install` and `redir upgrade`: the manifests, applied and waited for.
//!
//! Owns: the order, and when it is done. Must not know what the manifests say (`redir_manifests`). Called by: `commands`.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use redir_api::names;
use redir_manifests::{Minor, OLDEST, Options, Values};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::args::{self, Output};
use crate::cluster::Cluster;
use crate::cluster::agents::{self, AgentPod, Rollout};
use crate::cluster::apply::{Keep, Manifest, manifests};
use crate::cluster::trouble::Doing;
use crate::screen::{Screen, print};
use crate::trouble::{Outcome, Trouble};
use crate::wording::install as say;

/// Pulling an image over a slow line, and one node after the other.
const WAIT: Duration = Duration::from_secs(300);
/// How often the agents are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often that is told if nothing changes.
const REMIND: Duration = Duration::from_secs(10);

/// Whether there must be a redir already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    Whatever,
    Installed,
}

/// Applies everything, and waits for the agents.
pub(crate) fn run(args: &args::Install, before: Before) -> Outcome {
    let values = values(args)?;
    super::with_runtime(Output::Text, async |screen| {
        let cluster = Cluster::connect(&args.cluster).await;
        // The namespace of a developer's work is no place for the agents: only -n names another one.
        let namespace = args.cluster.namespace.clone().unwrap_or_else(|| names::NAMESPACE.to_owned());
        let options = Options { namespace, values };
        if args.print {
            return print_all(&options);
        }
        let cluster = cluster?;
        server(&cluster).await?;
        apply_all(&screen, &cluster, &options, before, args).await
    })
}

fn values(args: &args::Install) -> Result<Values, Trouble> {
    let mut values = Values::default();
    for path in &args.values {
        let text =
            std::fs::read_to_string(path).map_err(|error| Trouble::Usage(say::values_unreadable(path, &error)))?;
        values.merge(&text).map_err(|error| Trouble::Usage(say::values(Some(path), &error.to_string())))?;
    }
    if let Some(image) = &args.image {
        let image = Value::String(image.clone());
        values.set("image", image).map_err(|error| Trouble::Usage(say::values(None, &error.to_string())))?;
    }
    Ok(values)
}

/// The name of the server's version, if it is one that redir can be installed on. Providers append to the minor number: `37+`.
/// A server that was built without one is taken for new enough.
pub(super) async fn server(cluster: &Cluster) -> Result<String, Trouble> {
    let version = cluster.version().await?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    let minor = digits.parse().map_or(OLDEST, Minor);
    match minor >= OLDEST {
        true => Ok(version.git_version),
        false => Err(Trouble::Failed(say::old_server(&version.git_version))),
    }
}

fn print_all(options: &Options) -> Outcome {
    let texts =
        redir_manifests::render_text(options).map_err(|error| Trouble::Usage(say::values(None, &error.to_string())))?;
    let texts: Vec<String> = texts.into_iter().map(|(_, text)| text).collect();
    print(&texts.join("---\n"))
}

async fn apply_all(
    screen: &Screen,
    cluster: &Cluster,
    options: &Options,
    before: Before,
    args: &args::Install,
) -> Outcome {
    let manifests = manifests(options)?;
    let agent = find(&manifests, "DaemonSet");
    if before == Before::Installed && agent.read(cluster).await?.is_none() {
        return Err(Trouble::Failed(say::not_installed_yet(&options.namespace)));
    }
    let keep = if args.dry_run { Keep::DryRun } else { Keep::Yes };
    // The server cannot check what belongs into a namespace that does not exist.
    let is_homeless = args.dry_run && find(&manifests, "Namespace").read(cluster).await?.is_none();
    for manifest in &manifests {
        match manifest.namespace() {
            Some(_) if is_homeless => manifest.within("default").apply(cluster, keep).await?,
            _ => manifest.apply(cluster, keep).await?,
        };
        screen.note(say::applied(&manifest.spoken(), args.dry_run));
    }
    if args.dry_run {
        if is_homeless {
            screen.note(say::checked_elsewhere(&options.namespace));
        }
        return print(&say::checked());
    }
    let wait = args.wait.map_or(WAIT, |wait| wait.0);
    let rollout = ready(screen, cluster, &options.namespace, wait).await?;
    print(&say::installed(rollout, options.values.image()))
}

/// The manifests hold one of each of these.
fn find<'a>(manifests: &'a [Manifest], kind: &str) -> &'a Manifest {
    manifests.iter().find(|manifest| manifest.kind() == kind).expect("the manifests hold one")
}

/// Waits until every node's agent is ready.
async fn ready(screen: &Screen, cluster: &Cluster, namespace: &str, wait: Duration) -> Result<Rollout, Trouble> {
    let begin = Instant::now();
    let mut told = (String::new(), begin);
    loop {
        let (rollout, pods) = look(cluster, namespace).await?;
        if rollout.is_done() {
            return Ok(rollout);
        }
        if begin.elapsed() > wait {
            return Err(Trouble::Failed(match rollout.is_current && rollout.wanted == 0 {
                true => say::no_node(),
                false => say::never_ready(rollout, &pods, namespace, wait),
            }));
        }
        let line = say::waiting(rollout, &pods);
        if line != told.0 || told.1.elapsed() > REMIND {
            screen.note(line.clone());
            told = (line, Instant::now());
        }
        sleep(LOOK).await;
    }
}

/// The agents as they are.
pub(super) async fn look(cluster: &Cluster, namespace: &str) -> Result<(Rollout, Vec<AgentPod>), Trouble> {
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let set = cluster.call(Doing::Admin("get", "daemonsets"), sets.get(names::AGENT)).await?;
    let parameters = ListParams::default().labels(&agents::selector());
    let pods = cluster.call(Doing::Admin("list", "pods"), pods.list(&parameters)).await?;
    Ok((Rollout::of(&set), agents::pods(&pods.items)))
}
