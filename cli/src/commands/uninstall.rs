//! `redir uninstall`: everything that was installed, in reverse, and waited for.
//!
//! Owns: the order: intercepts first, so that agents stop steering while they live; then the agents, so that they detach;
//! then the rest. Called by: `commands`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use redir_api::{Intercept, PLURAL, names};
use redir_manifests::Options;
use tokio::time::{Instant, sleep};

use crate::args::{self, Output};
use crate::cluster::Cluster;
use crate::cluster::agents;
use crate::cluster::apply::{Keep, Manifest, manifests};
use crate::cluster::trouble::{Doing, unless};
use crate::screen::{Screen, print};
use crate::trouble::{Outcome, Trouble};
use crate::wording::install as say;

/// An agent drains its connections for 10 s, and a namespace takes its time.
const WAIT: Duration = Duration::from_secs(120);
/// How often it is looked whether something is gone.
const LOOK: Duration = Duration::from_millis(250);
/// How often that is told.
const REMIND: Duration = Duration::from_secs(5);

/// Removes everything.
pub(crate) fn run(args: &args::Uninstall) -> Outcome {
    super::with_runtime(Output::Text, async |screen| {
        let cluster = Cluster::connect(&args.cluster).await?;
        let namespace = args.cluster.namespace.clone().unwrap_or_else(|| names::NAMESPACE.to_owned());
        let options = Options { namespace, ..Options::default() };
        let keep = if args.dry_run { Keep::DryRun } else { Keep::Yes };
        let deadline = Instant::now() + args.wait.map_or(WAIT, |wait| wait.0);
        let removal = Removal { screen: &screen, cluster: &cluster, keep, deadline };
        let anything = removal.run(&options).await?;
        print(&match keep {
            Keep::DryRun => say::checked(),
            Keep::Yes => say::uninstalled(anything),
        })
    })
}

struct Removal<'a> {
    screen: &'a Screen,
    cluster: &'a Cluster,
    keep: Keep,
    deadline: Instant,
}

impl Removal<'_> {
    /// Whether there was anything.
    async fn run(&self, options: &Options) -> Result<bool, Trouble> {
        let mut anything = self.end_intercepts().await?;
        let all = manifests(options)?;
        let (agent, rest): (Vec<_>, Vec<_>) = all.iter().rev().partition(|manifest| manifest.kind() == "DaemonSet");
        for manifest in agent {
            anything |= self.delete(manifest).await?;
        }
        if self.keep == Keep::Yes {
            self.agents_gone(&options.namespace).await?;
        }
        let mut going = Vec::new();
        for manifest in rest {
            if manifest.kind() == "Namespace" && self.is_foreign(manifest).await? {
                self.screen.note(say::foreign_namespace(manifest.name()));
            } else if self.delete(manifest).await? {
                anything = true;
                going.push(manifest);
            }
        }
        self.gone(going).await?;
        Ok(anything)
    }

    async fn delete(&self, manifest: &Manifest) -> Result<bool, Trouble> {
        let found = manifest.delete(self.cluster, self.keep).await?;
        if found {
            self.screen.note(say::deleted(&manifest.spoken(), self.keep == Keep::DryRun));
        }
        Ok(found)
    }

    /// A namespace without our label was there before.
    async fn is_foreign(&self, namespace: &Manifest) -> Result<bool, Trouble> {
        let found = namespace.read(self.cluster).await?;
        let labels = found.map(|object| object.metadata.labels.unwrap_or_default());
        Ok(labels.is_some_and(|labels| labels.get("app.kubernetes.io/part-of").is_none_or(|part| part != "redir")))
    }

    /// Deletes every Intercept of the cluster and waits until none is left. A cluster without the resource has none.
    async fn end_intercepts(&self) -> Result<bool, Trouble> {
        let mut told = false;
        loop {
            let left = self.intercepts().await?;
            if !told && !left.is_empty() {
                self.screen.note(say::intercepts_end(left.len()));
                told = true;
            }
            for intercept in &left {
                let (name, namespace) = (&intercept.metadata.name, &intercept.metadata.namespace);
                let (Some(name), Some(namespace)) = (name, namespace) else { continue };
                let api: Api<Intercept> = Api::namespaced(self.cluster.client.clone(), namespace);
                let parameters = DeleteParams { dry_run: self.keep == Keep::DryRun, ..DeleteParams::default() };
                let gone = async { unless(&[404], api.delete(name, &parameters).await) };
                self.cluster.call(Doing::Admin("delete", PLURAL), gone).await?;
            }
            if left.is_empty() || self.keep == Keep::DryRun {
                return Ok(told);
            }
            self.pause(&[PLURAL.to_owned()]).await?;
        }
    }

    async fn intercepts(&self) -> Result<Vec<Intercept>, Trouble> {
        let api: Api<Intercept> = Api::all(self.cluster.client.clone());
        let listed = async { unless(&[404], api.list(&ListParams::default()).await) };
        let list = self.cluster.call(Doing::Admin("list", PLURAL), listed).await?;
        Ok(list.map(|list| list.items).unwrap_or_default())
    }

    /// Waits until no agent runs any more: until then something may be attached to pods.
    async fn agents_gone(&self, namespace: &str) -> Result<(), Trouble> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), namespace);
        let parameters = ListParams::default().labels(&agents::selector());
        let mut told = Instant::now();
        loop {
            let pods = self.cluster.call(Doing::Admin("list", "pods"), api.list(&parameters)).await?;
            if pods.items.is_empty() {
                return Ok(());
            }
            let nodes = pods.items.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
            let left: Vec<String> = nodes.map(|node| format!("the agent on {node}")).collect();
            self.remind(&mut told, &left);
            self.pause(&left).await?;
        }
    }

    /// Waits until these are gone.
    async fn gone(&self, mut left: Vec<&Manifest>) -> Result<(), Trouble> {
        let mut told = Instant::now();
        while self.keep == Keep::Yes && !left.is_empty() {
            let mut still = Vec::new();
            for manifest in left {
                if manifest.read(self.cluster).await?.is_some() {
                    still.push(manifest);
                }
            }
            left = still;
            let names: Vec<String> = left.iter().map(|manifest| manifest.spoken()).collect();
            if !names.is_empty() {
                self.remind(&mut told, &names);
                self.pause(&names).await?;
            }
        }
        Ok(())
    }

    fn remind(&self, told: &mut Instant, left: &[String]) {
        if told.elapsed() > REMIND {
            *told = Instant::now();
            self.screen.note(say::waiting_for_end(left));
        }
    }

    /// A moment, or the failure that it takes too long.
    async fn pause(&self, left: &[String]) -> Result<(), Trouble> {
        if Instant::now() > self.deadline {
            return Err(Trouble::Failed(say::never_gone(left, WAIT)));
        }
        sleep(LOOK).await;
        Ok(())
    }
}
