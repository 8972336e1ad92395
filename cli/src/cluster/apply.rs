//! Installed objects, one by one: created, applied, changed, read, deleted.
//!
//! Owns: how an object of the manifests becomes a request. Must not know what is installed or in which order. Called by:
//! `commands::install`, `commands::uninstall`, `commands::doctor`.

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use super::api_call::{ApiCall, unless};
use super::connect::Cluster;
use crate::error::CliError;
use crate::events::{AdminStep, ObjectAction};
use crate::wording::install as say;

/// The field manager: what it applies and no longer names is removed by the server.
const MANAGER: &str = "redir";

/// One object to be installed.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    object: Value,
    resource: ApiResource,
    name: String,
    namespace: Option<String>,
}

/// Whether the server keeps what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApplyMode {
    Yes,
    /// It only says whether it would.
    DryRun,
}

impl Manifest {
    /// Of a rendered document. All of ours have a kind, a version and a name.
    pub(crate) fn of(object: Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["apiVersion"]);
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let kind = GroupVersionKind::gvk(group, version, &text(&object["kind"]));
        Self {
            resource: ApiResource::from_gvk(&kind),
            name: text(&object["metadata"]["name"]),
            namespace: object["metadata"]["namespace"].as_str().map(str::to_owned),
            object,
        }
    }

    /// `daemonset redir-agent`
    pub(crate) fn spoken(&self) -> String {
        format!("{} {}", self.resource.kind.to_lowercase(), self.name)
    }

    /// What is told of it.
    pub(crate) fn step(&self, action: ObjectAction, keep: ApplyMode) -> AdminStep {
        AdminStep::Object {
            action,
            kind: self.resource.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            is_dry_run: keep == ApplyMode::DryRun,
        }
    }

    pub(crate) fn kind(&self) -> &str {
        &self.resource.kind
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// What it says.
    pub(crate) fn object(&self) -> &Value {
        &self.object
    }

    /// The same in another namespace.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        let mut other = self.clone();
        other.object["metadata"]["namespace"] = namespace.into();
        other.namespace = Some(namespace.to_owned());
        other
    }

    fn api(&self, cluster: &Cluster) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &self.resource),
            None => Api::all_with(cluster.client.clone(), &self.resource),
        }
    }

    fn right(&self, verb: &'static str) -> ApiCall<'_> {
        ApiCall::Admin(verb, &self.resource.plural)
    }

    /// Server-side apply: ours is what counts in the fields that we name.
    pub(crate) async fn apply(&self, cluster: &Cluster, keep: ApplyMode) -> Result<DynamicObject, CliError> {
        let parameters = PatchParams { dry_run: keep == ApplyMode::DryRun, ..PatchParams::apply(MANAGER).force() };
        let api = self.api(cluster);
        cluster.call(self.right("patch"), api.patch(&self.name, &parameters, &Patch::Apply(&self.object))).await
    }

    /// Makes it, if it is not there. `None`: it is, or has come meanwhile.
    pub(crate) async fn create(&self, cluster: &Cluster, keep: ApplyMode) -> Result<Option<DynamicObject>, CliError> {
        let object: DynamicObject = serde_json::from_value(self.object.clone())
            .map_err(|error| CliError::Failed(say::values(None, &error.to_string())))?;
        let parameters = PostParams { dry_run: keep == ApplyMode::DryRun, field_manager: Some(MANAGER.to_owned()) };
        let api = self.api(cluster);
        cluster.call(self.right("create"), async { unless(&[409], api.create(&parameters, &object).await) }).await
    }

    /// Changes these fields of the very object that was found.
    pub(crate) async fn merge(
        &self,
        cluster: &Cluster,
        uid: &str,
        mut patch: Value,
        keep: ApplyMode,
    ) -> Result<(), CliError> {
        patch["metadata"]["uid"] = uid.into();
        let parameters = PatchParams {
            dry_run: keep == ApplyMode::DryRun,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(cluster);
        let patch = Patch::Merge(patch);
        cluster.call(self.right("patch"), api.patch(&self.name, &parameters, &patch)).await.map(drop)
    }

    /// What is there; `None`: nothing.
    pub(crate) async fn read(&self, cluster: &Cluster) -> Result<Option<DynamicObject>, CliError> {
        let api = self.api(cluster);
        cluster.call(self.right("get"), async { unless(&[404], api.get(&self.name).await) }).await
    }

    /// Asks for the end of the very object that was found; false: it is gone already.
    pub(crate) async fn delete(
        &self,
        cluster: &Cluster,
        uid: Option<String>,
        keep: ApplyMode,
    ) -> Result<bool, CliError> {
        let api = self.api(cluster);
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let parameters =
            DeleteParams { dry_run: keep == ApplyMode::DryRun, preconditions, ..DeleteParams::foreground() };
        let gone = async { unless(&[404], api.delete(&self.name, &parameters).await) };
        Ok(cluster.call(self.right("delete"), gone).await?.is_some())
    }
}

/// What a server of this version gets, in order.
pub(crate) fn manifests(options: &redir_manifests::Options) -> Result<Vec<Manifest>, CliError> {
    let objects =
        redir_manifests::render(options).map_err(|error| CliError::Usage(say::values(None, &error.to_string())))?;
    Ok(objects.into_iter().map(Manifest::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_has_its_resource() {
        let plurals = [
            "namespaces",
            "customresourcedefinitions",
            "serviceaccounts",
            "clusterroles",
            "clusterrolebindings",
            "roles",
            "rolebindings",
            "clusterroles",
            "clusterrolebindings",
            "clusterroles",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "daemonsets",
            "resourcequotas",
        ];
        let manifests = manifests(&redir_manifests::Options::default()).unwrap();
        let found: Vec<&str> = manifests.iter().map(|manifest| manifest.resource.plural.as_str()).collect();
        assert_eq!(found, plurals);
        for manifest in &manifests {
            let is_namespaced =
                ["ServiceAccount", "Role", "RoleBinding", "DaemonSet", "ResourceQuota"].contains(&manifest.kind());
            assert_eq!(manifest.namespace.is_some(), is_namespaced, "{}", manifest.spoken());
        }
    }
}
