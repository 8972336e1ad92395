//! `redir uninstall`: everything that was installed, in reverse, and waited for.
//!
//! Owns: what is removed and what stays, and the order: intercepts first, so that agents stop steering while they live; then
//! the agents, so that they detach; then the rest. Called by: `commands`.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use kube::core::ObjectMeta;
use redir_api::{GROUP, Intercept, PLURAL};
use redir_manifests::Options;

use super::confirm::confirm;
use super::deletion_wait::DeletionWait;
use super::install::{InstalledObjects, namespace, refuse_elsewhere};
use super::runtime::with_runtime;
use crate::args;
use crate::cluster::Cluster;
use crate::cluster::agents;
use crate::cluster::api_call::{ApiCall, unless};
use crate::cluster::apply::{ApplyMode, Manifest};
use crate::cluster::inventory::inventory;
use crate::cluster::ownership;
use crate::error::{CliError, Outcome};
use crate::events::{AdminStep, ObjectAction};
use crate::model::installation::HelmAdvice;
use crate::screen::Screen;
use crate::wording::install as say;

/// The kinds of what holds the Intercepts, and of what runs the agents: the manifests hold one of each.
const RESOURCE: &str = "CustomResourceDefinition";
const AGENTS: &str = "DaemonSet";
/// An agent drains its connections for 10 s, and a namespace takes its time.
const WAIT: Duration = Duration::from_secs(120);

/// Removes everything.
pub(crate) fn run(args: &args::UninstallArgs) -> Outcome {
    with_runtime(args.output, async |screen| {
        let cluster = Cluster::connect(&args.cluster).await?;
        // Whatever the server's version: what an older redir has installed on it must go, and what it does not know is not there.
        let options = Options { namespace: namespace(&args.cluster), ..Options::default() };
        let keep = if args.dry_run { ApplyMode::DryRun } else { ApplyMode::Yes };
        let wait = args.wait.map_or(WAIT, |wait| wait.0);
        let removal = Removal { screen: &screen, cluster: &cluster, keep, wait };
        let plan = removal.plan(&options).await?;
        let sentence = match plan.is_empty() {
            true => say::nothing_installed(),
            false => {
                if keep == ApplyMode::Yes {
                    removal.list(&plan);
                    confirm(&screen, &say::may_remove(&cluster.server), args.yes).await?;
                }
                removal.run(&options.namespace, &plan).await?;
                if keep == ApplyMode::DryRun { say::checked() } else { say::uninstalled() }
            }
        };
        screen.step(&AdminStep::Done { sentence });
        Ok(0)
    })
}

/// What there is to remove.
struct RemovalPlan {
    intercepts: usize,
    /// The very objects, in the order in which they were applied.
    objects: Vec<(Manifest, ObjectMeta)>,
    /// Kinds of which an object has a name of ours and is somebody else's.
    foreign: BTreeSet<String>,
    namespace: NamespaceFate,
}

/// What becomes of the namespace.
enum NamespaceFate {
    /// There is none.
    Absent,
    /// `redir install` has made it, and nothing else is in it.
    Goes(Manifest, ObjectMeta),
    /// It is somebody else's, or holds what is: why.
    Stays(Manifest, ObjectMeta, String),
}

impl RemovalPlan {
    /// A namespace that stays is no redir, but a level that was changed for it is to be put back.
    fn is_empty(&self) -> bool {
        self.intercepts == 0
            && self.objects.is_empty()
            && self.owed_level().is_none()
            && !matches!(self.namespace, NamespaceFate::Goes(..))
    }

    /// The namespace whose PodSecurity level is to be put back.
    fn owed_level(&self) -> Option<&Manifest> {
        match &self.namespace {
            NamespaceFate::Stays(manifest, meta, _) => ownership::put_level_back(meta).map(|_| manifest),
            NamespaceFate::Absent | NamespaceFate::Goes(..) => None,
        }
    }

    /// The Intercepts of somebody else's resource are theirs, as the pods of somebody else's DaemonSet are.
    fn is_foreign(&self, kind: &str) -> bool {
        self.foreign.contains(kind)
    }

    /// The group whose objects are ended before the rest.
    fn ended_group(&self) -> Option<&'static str> {
        (!self.is_foreign(RESOURCE)).then_some(GROUP)
    }
}

struct Removal<'a> {
    screen: &'a Screen,
    cluster: &'a Cluster,
    keep: ApplyMode,
    /// How long all of it may take, from when it begins.
    wait: Duration,
}

impl Removal<'_> {
    async fn plan(&self, options: &Options) -> Result<RemovalPlan, CliError> {
        let found = InstalledObjects::read(self.cluster, options).await?;
        found.refuse_helm(HelmAdvice::Uninstall)?;
        refuse_elsewhere(self.cluster, options, "uninstall").await?;
        for manifest in found.foreign() {
            self.screen
                .step(&AdminStep::Remark { sentence: say::stays_foreign(&manifest.spoken(), manifest.namespace()) });
        }
        let foreign: Vec<(String, String)> = found.foreign().map(|of| (of.kind().to_owned(), of.spoken())).collect();
        let mut plan = RemovalPlan {
            intercepts: 0,
            objects: Vec::new(),
            foreign: foreign.iter().map(|(kind, _)| kind.clone()).collect(),
            namespace: NamespaceFate::Absent,
        };
        let mut namespace = None;
        for (manifest, object) in found.0 {
            match object {
                Some(object) if manifest.kind() == "Namespace" => namespace = Some((manifest, object.metadata)),
                Some(object) if !foreign.iter().any(|(_, spoken)| *spoken == manifest.spoken()) => {
                    plan.objects.push((manifest, object.metadata));
                }
                _ => (),
            }
        }
        if let Some((manifest, meta)) = namespace {
            plan.namespace = self.namespace_fate(manifest, meta, &plan).await;
        }
        if !plan.is_foreign(RESOURCE) {
            plan.intercepts = self.intercepts().await?.len();
        }
        Ok(plan)
    }

    /// Nothing is deleted with the namespace that redir did not make.
    async fn namespace_fate(&self, manifest: Manifest, meta: ObjectMeta, plan: &RemovalPlan) -> NamespaceFate {
        if !ownership::is_created_by_redir(&meta) {
            let why = say::foreign_namespace(manifest.name());
            return NamespaceFate::Stays(manifest, meta, why);
        }
        match self.what_else(manifest.name(), plan).await {
            None => NamespaceFate::Goes(manifest, meta),
            Some(why) => NamespaceFate::Stays(manifest, meta, why),
        }
    }

    async fn what_else(&self, namespace: &str, plan: &RemovalPlan) -> Option<String> {
        let known: BTreeSet<String> = plan.objects.iter().filter_map(|(_, meta)| meta.uid.clone()).collect();
        let inventory = inventory(self.cluster, namespace, &known, plan.ended_group()).await;
        (!inventory.is_empty()).then(|| say::shared_namespace(namespace, &inventory))
    }

    /// What will be removed, before anything is.
    fn list(&self, plan: &RemovalPlan) {
        let mut names: Vec<String> = plan.objects.iter().rev().map(|(manifest, _)| manifest.spoken()).collect();
        if let NamespaceFate::Goes(manifest, _) = &plan.namespace {
            names.push(manifest.spoken());
        }
        if let Some(manifest) = plan.owed_level() {
            names.push(say::level_of_ours(manifest.name()));
        }
        let sentence = say::will_remove(plan.intercepts, &names);
        self.screen.step(&AdminStep::Remark { sentence });
        if let NamespaceFate::Stays(_, _, why) = &plan.namespace {
            self.screen.step(&AdminStep::Remark { sentence: why.clone() });
        }
    }

    async fn run(&self, namespace: &str, plan: &RemovalPlan) -> Result<(), CliError> {
        let mut waiting = DeletionWait::begin(self.screen, self.wait);
        if !plan.is_foreign(RESOURCE) {
            self.end_intercepts(&mut waiting).await?;
        }
        let (agent, rest): (Vec<_>, Vec<_>) =
            plan.objects.iter().rev().partition(|(manifest, _)| manifest.kind() == AGENTS);
        for (manifest, meta) in agent {
            self.delete(manifest, meta, &mut waiting).await?;
        }
        if self.keep == ApplyMode::Yes && !plan.is_foreign(AGENTS) {
            self.agents_gone(namespace, &mut waiting).await?;
        }
        for (manifest, meta) in &rest {
            self.delete(manifest, meta, &mut waiting).await?;
        }
        let mut going: Vec<&Manifest> = rest.iter().map(|(manifest, _)| manifest).collect();
        match &plan.namespace {
            NamespaceFate::Absent => (),
            NamespaceFate::Stays(manifest, meta, why) => {
                self.leave_namespace(manifest, meta, why, &mut waiting).await?;
            }
            // Agents took their time to end: something may have come meanwhile.
            NamespaceFate::Goes(manifest, meta) => match self.what_else(manifest.name(), plan).await {
                Some(why) => self.leave_namespace(manifest, meta, &why, &mut waiting).await?,
                None => {
                    self.delete(manifest, meta, &mut waiting).await?;
                    going.push(manifest);
                }
            },
        }
        self.gone(going, &mut waiting).await
    }

    async fn leave_namespace(
        &self,
        manifest: &Manifest,
        meta: &ObjectMeta,
        why: &str,
        waiting: &mut DeletionWait<'_>,
    ) -> Result<(), CliError> {
        self.screen.step(&manifest.step(ObjectAction::Keep, self.keep));
        self.screen.step(&AdminStep::Remark { sentence: why.to_owned() });
        // It was asked, and agents ended: somebody may have changed the level since, or made the namespace anew.
        let now = waiting.outlast(async || manifest.read(self.cluster).await).await?;
        let Some(now) = now.map(|object| object.metadata).filter(|now| now.uid == meta.uid) else { return Ok(()) };
        if let (Some((patch, before)), Some(uid)) = (ownership::put_level_back(&now), &now.uid) {
            waiting.outlast(async || manifest.merge(self.cluster, uid, patch.clone(), self.keep).await).await?;
            self.screen.step(&manifest.step(ObjectAction::Change, self.keep));
            self.screen.step(&AdminStep::Remark { sentence: say::level_put_back(manifest.name(), &before) });
        }
        Ok(())
    }

    async fn delete(
        &self,
        manifest: &Manifest,
        meta: &ObjectMeta,
        waiting: &mut DeletionWait<'_>,
    ) -> Result<(), CliError> {
        if waiting.outlast(async || manifest.delete(self.cluster, meta.uid.clone(), self.keep).await).await? {
            self.screen.step(&manifest.step(ObjectAction::Delete, self.keep));
        }
        Ok(())
    }

    /// Deletes every Intercept of the cluster and waits until none is left. A cluster without the resource has none.
    async fn end_intercepts(&self, waiting: &mut DeletionWait<'_>) -> Result<(), CliError> {
        let mut told = false;
        loop {
            let left = waiting.outlast(async || self.intercepts().await).await?;
            if !told && !left.is_empty() {
                self.screen.step(&AdminStep::Remark { sentence: say::intercepts_end(left.len()) });
                told = true;
            }
            for intercept in &left {
                let (name, namespace) = (&intercept.metadata.name, &intercept.metadata.namespace);
                let (Some(name), Some(namespace)) = (name, namespace) else { continue };
                let api: Api<Intercept> = Api::namespaced(self.cluster.client.clone(), namespace);
                let parameters = DeleteParams { dry_run: self.keep == ApplyMode::DryRun, ..DeleteParams::default() };
                let gone = async || unless(&[404], api.delete(name, &parameters).await);
                waiting.outlast(async || self.cluster.call(ApiCall::Admin("delete", PLURAL), gone()).await).await?;
            }
            if left.is_empty() || self.keep == ApplyMode::DryRun {
                return Ok(());
            }
            waiting.pause(&[PLURAL.to_owned()]).await?;
        }
    }

    async fn intercepts(&self) -> Result<Vec<Intercept>, CliError> {
        let api: Api<Intercept> = Api::all(self.cluster.client.clone());
        let listed = async { unless(&[404], api.list(&ListParams::default()).await) };
        let list = self.cluster.call(ApiCall::Admin("list", PLURAL), listed).await?;
        Ok(list.map(|list| list.items).unwrap_or_default())
    }

    /// Waits until no agent runs any more: until then something may be attached to pods.
    async fn agents_gone(&self, namespace: &str, waiting: &mut DeletionWait<'_>) -> Result<(), CliError> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), namespace);
        let parameters = ListParams::default().labels(&agents::selector());
        loop {
            let doing = ApiCall::Admin("list", "pods");
            let pods = waiting.outlast(async || self.cluster.call(doing, api.list(&parameters)).await).await?;
            if pods.items.is_empty() {
                return Ok(());
            }
            let nodes = pods.items.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
            let left: Vec<String> = nodes.map(|node| format!("the agent on {node}")).collect();
            waiting.pause(&left).await?;
        }
    }

    /// Waits until these are gone.
    async fn gone(&self, mut left: Vec<&Manifest>, waiting: &mut DeletionWait<'_>) -> Result<(), CliError> {
        if self.keep == ApplyMode::DryRun {
            return Ok(());
        }
        loop {
            let mut still = Vec::new();
            for manifest in left {
                if waiting.outlast(async || manifest.read(self.cluster).await).await?.is_some() {
                    still.push(manifest);
                }
            }
            left = still;
            if left.is_empty() {
                return Ok(());
            }
            let names: Vec<String> = left.iter().map(|manifest| manifest.spoken()).collect();
            waiting.pause(&names).await?;
        }
    }
}
