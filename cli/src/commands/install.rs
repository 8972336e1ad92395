//! `redir install` and `redir upgrade`: the manifests, applied and waited for.
//!
//! Owns: the order, what is not touched because it is somebody else's, and when it is done. Must not know what the manifests
//! say (`redir_manifests`). Called by: `commands`.

use std::time::Duration;

use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::DynamicObject;
use redir_api::names;
use redir_manifests::{Minor, OLDEST, Options, Values};
use serde_json::Value;

use super::confirm::confirm;
use super::control_plane;
use super::rollout;
use super::runtime::with_runtime;
use crate::args;
use crate::cluster::Cluster;
use crate::cluster::api_call::{ApiCall, unless};
use crate::cluster::apply::{ApplyMode, Manifest, manifests};
use crate::cluster::ownership;
use crate::error::{CliError, Outcome};
use crate::events::{AdminStep, ObjectAction};
use crate::model::installation::HelmAdvice;
use crate::model::installation::PodSecurityLevel;
use crate::screen::{Screen, print};
use crate::wording::install as say;

/// Pulling an image over a slow line, and one node after the other.
const WAIT: Duration = Duration::from_secs(300);

/// Whether there must be a redir already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstallMode {
    Whatever,
    Installed,
}

/// Applies everything, and waits for the agents.
pub(crate) fn run(args: &args::InstallArgs, before: InstallMode) -> Outcome {
    let values = values(args, Values::default())?;
    with_runtime(args.output, async |screen| {
        let cluster = Cluster::connect(&args.cluster).await;
        let mut options = Options { namespace: namespace(&args.cluster), values };
        if args.print {
            return print_all(&options);
        }
        let cluster = cluster?;
        server(&cluster).await?;
        let preference = control_plane::ControlPlanePreference {
            namespace: &options.namespace,
            is_refused: refuses_control_plane(args)?,
        };
        if let Some(sentence) = control_plane::include_if_needed(&cluster, preference, &mut options.values).await? {
            screen.step(&AdminStep::Remark { sentence });
        }
        let keep = if args.dry_run { ApplyMode::DryRun } else { ApplyMode::Yes };
        Installation { screen: &screen, cluster: &cluster, options: &options, keep }.run(before, args).await
    })
}

/// The namespace of a developer's work is no place for the agents: only -n names another one.
pub(super) fn namespace(flags: &args::ClusterArgs) -> String {
    flags.namespace.clone().unwrap_or_else(|| names::NAMESPACE.to_owned())
}

/// Whether the admin wrote `controlPlane: false`, which is also what it is without a word.
fn refuses_control_plane(args: &args::InstallArgs) -> Result<bool, CliError> {
    let mut otherwise = Values::default();
    control_plane::include(&mut otherwise);
    Ok(!control_plane::is_included(&values(args, otherwise)?))
}

fn values(args: &args::InstallArgs, mut values: Values) -> Result<Values, CliError> {
    for path in &args.values {
        let text =
            std::fs::read_to_string(path).map_err(|error| CliError::Usage(say::values_unreadable(path, &error)))?;
        values.merge(&text).map_err(|error| CliError::Usage(say::values(Some(path), &error.to_string())))?;
    }
    if let Some(image) = &args.image {
        let image = Value::String(image.clone());
        values.set("image", image).map_err(|error| CliError::Usage(say::values(None, &error.to_string())))?;
    }
    Ok(values)
}

/// The name of the server's version, if it is one that redir can be installed on. Providers append to the minor number: `37+`.
/// A server that was built without one is taken for new enough.
pub(super) async fn server(cluster: &Cluster) -> Result<String, CliError> {
    let version = cluster.version().await?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    let minor = digits.parse().map_or(OLDEST, Minor);
    match minor >= OLDEST {
        true => Ok(version.git_version),
        false => Err(CliError::Failed(say::old_server(&version.git_version))),
    }
}

fn print_all(options: &Options) -> Outcome {
    let texts = redir_manifests::render_text(options)
        .map_err(|error| CliError::Usage(say::values(None, &error.to_string())))?;
    let texts: Vec<String> = texts.into_iter().map(|(_, text)| text).collect();
    print(&texts.join("---\n"))
}

/// What is there of each object of the manifests.
pub(super) struct InstalledObjects(pub(super) Vec<(Manifest, Option<DynamicObject>)>);

impl InstalledObjects {
    pub(super) async fn read(cluster: &Cluster, options: &Options) -> Result<Self, CliError> {
        let mut found = Vec::new();
        for manifest in manifests(options)? {
            let object = manifest.read(cluster).await?;
            found.push((manifest, object));
        }
        Ok(Self(found))
    }

    /// The manifests hold one of each of these.
    pub(super) fn of_kind(&self, kind: &str) -> &(Manifest, Option<DynamicObject>) {
        self.0.iter().find(|(manifest, _)| manifest.kind() == kind).expect("the manifests hold one")
    }

    /// Two ways of installing would undo each other's work: what Helm has installed is Helm's.
    pub(super) fn refuse_helm(&self, next: HelmAdvice) -> Result<(), CliError> {
        let release = self.0.iter().find_map(|(_, object)| ownership::helm_release(&object.as_ref()?.metadata));
        release.map_or(Ok(()), |release| Err(CliError::Failed(say::is_helm_s(&release, next))))
    }

    /// Whether something of ours has the name of somebody else's.
    pub(super) fn foreign(&self) -> impl Iterator<Item = &Manifest> {
        let is_foreign = |object: &DynamicObject| !ownership::is_part_of_redir(&object.metadata);
        let named = self.0.iter().filter(|(manifest, _)| manifest.kind() != "Namespace");
        named.filter(move |(_, object)| object.as_ref().is_some_and(is_foreign)).map(|(manifest, _)| manifest)
    }
}

/// The namespace whose agents the cluster's one installation has, if they are in another one than this.
pub(super) async fn refuse_elsewhere(cluster: &Cluster, options: &Options, command: &str) -> Result<(), CliError> {
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
    let binding = async { unless(&[404], bindings.get(names::AGENT).await) };
    let binding = cluster.call(ApiCall::Admin("get", "clusterrolebindings"), binding).await?;
    let subjects = binding.into_iter().flat_map(|binding| binding.subjects.unwrap_or_default());
    for namespace in subjects.filter_map(|subject| subject.namespace).filter(|name| *name != options.namespace) {
        let there = Options { namespace: namespace.clone(), ..options.clone() };
        let agent = manifests(&there)?.into_iter().find(|manifest| manifest.kind() == "DaemonSet");
        let agent = agent.expect("the manifests hold one");
        if agent.read(cluster).await?.is_some() {
            return Err(CliError::Failed(say::installed_elsewhere(&namespace, &options.namespace, command)));
        }
    }
    Ok(())
}

/// What becomes of the namespace.
enum NamespaceStep {
    Create,
    /// It exists and admits agents.
    Leave,
    /// It exists and would refuse agents.
    LetAgentsIn(String, PodSecurityLevel),
}

struct Installation<'a> {
    screen: &'a Screen,
    cluster: &'a Cluster,
    options: &'a Options,
    keep: ApplyMode,
}

impl Installation<'_> {
    async fn run(&self, before: InstallMode, args: &args::InstallArgs) -> Outcome {
        let found = InstalledObjects::read(self.cluster, self.options).await?;
        if before == InstallMode::Installed && found.of_kind("DaemonSet").1.is_none() {
            return Err(CliError::Failed(say::not_installed_yet(&self.options.namespace)));
        }
        found.refuse_helm(HelmAdvice::Upgrade)?;
        let command = if before == InstallMode::Installed { "upgrade" } else { "install" };
        refuse_elsewhere(self.cluster, self.options, command).await?;
        if let Some(manifest) = found.foreign().next() {
            return Err(CliError::Failed(say::is_foreign(&manifest.spoken(), manifest.namespace())));
        }
        let step = self.namespace_step(&found)?;
        if let (NamespaceStep::LetAgentsIn(_, before), ApplyMode::Yes) = (&step, self.keep) {
            confirm(self.screen, &say::may_let_agents_in(&self.options.namespace, before), args.yes).await?;
        }
        self.apply(&found, &step).await?;
        if self.keep == ApplyMode::DryRun {
            return self.done(say::checked());
        }
        let wait = args.wait.map_or(WAIT, |wait| wait.0);
        let rollout = rollout::ready(self.screen, self.cluster, &self.options.namespace, wait).await?;
        self.done(say::installed(rollout, self.options.values.image()))
    }

    fn done(&self, sentence: String) -> Outcome {
        self.screen.step(&AdminStep::Done { sentence });
        Ok(0)
    }

    fn namespace_step(&self, found: &InstalledObjects) -> Result<NamespaceStep, CliError> {
        let Some(object) = &found.of_kind("Namespace").1 else { return Ok(NamespaceStep::Create) };
        if object.metadata.deletion_timestamp.is_some() {
            return Err(CliError::Failed(say::namespace_ends(&self.options.namespace)));
        }
        let uid = object.metadata.uid.clone().unwrap_or_default();
        Ok(match ownership::strict_level(&object.metadata) {
            None => NamespaceStep::Leave,
            Some(before) => NamespaceStep::LetAgentsIn(uid, before),
        })
    }

    async fn apply(&self, found: &InstalledObjects, step: &NamespaceStep) -> Result<(), CliError> {
        // The server cannot check what belongs into a namespace that does not exist.
        let is_homeless = self.keep == ApplyMode::DryRun && matches!(step, NamespaceStep::Create);
        for (manifest, _) in &found.0 {
            match manifest.namespace() {
                _ if manifest.kind() == "Namespace" => self.namespace(manifest, step).await?,
                Some(_) if is_homeless => self.object(&manifest.within("default")).await?,
                _ => self.object(manifest).await?,
            }
        }
        if is_homeless {
            self.screen.step(&AdminStep::Remark { sentence: say::checked_elsewhere(&self.options.namespace) });
        }
        Ok(())
    }

    async fn object(&self, manifest: &Manifest) -> Result<(), CliError> {
        manifest.apply(self.cluster, self.keep).await?;
        self.tell(ObjectAction::Apply, manifest);
        Ok(())
    }

    /// A namespace is created or left alone, but for the one label that would keep agents out.
    async fn namespace(&self, manifest: &Manifest, step: &NamespaceStep) -> Result<(), CliError> {
        match step {
            NamespaceStep::Leave => (),
            NamespaceStep::Create => match manifest.create(self.cluster, self.keep).await? {
                Some(created) => {
                    self.tell(ObjectAction::Create, manifest);
                    if let (ApplyMode::Yes, Some(uid)) = (self.keep, &created.metadata.uid) {
                        manifest.merge(self.cluster, uid, ownership::created_mark(uid), self.keep).await?;
                    }
                }
                None => return Err(CliError::Failed(say::namespace_came(manifest.name()))),
            },
            NamespaceStep::LetAgentsIn(uid, before) => {
                manifest.merge(self.cluster, uid, ownership::let_agents_in(before), self.keep).await?;
                self.tell(ObjectAction::Change, manifest);
                let sentence = match self.keep {
                    ApplyMode::Yes => say::level_changed(manifest.name(), before),
                    ApplyMode::DryRun => say::level_would_change(manifest.name(), before),
                };
                self.screen.step(&AdminStep::Remark { sentence });
            }
        }
        Ok(())
    }

    fn tell(&self, action: ObjectAction, manifest: &Manifest) {
        self.screen.step(&manifest.step(action, self.keep));
    }
}
