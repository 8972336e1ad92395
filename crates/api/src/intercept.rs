//! The resource as it is written. What it means is [`crate::wanted`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{filter::FilterSpec, limits, status::InterceptStatus};

/// Requests of a workload's port that go to a developer's machine instead of the app, as long as the developer's tunnel
/// is up. `redir intercept` makes it, renews it and deletes it; it is never changed.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "redir.dev",
    version = "v1alpha1",
    kind = "Intercept",
    plural = "intercepts",
    shortname = "icept",
    namespaced,
    status = "InterceptStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Kind","type":"string","jsonPath":".spec.target.kind"}"#,
    printcolumn = r#"{"name":"Target","type":"string","jsonPath":".spec.target.name"}"#,
    printcolumn = r#"{"name":"Port","type":"string","jsonPath":".spec.port"}"#,
    printcolumn = r#"{"name":"User","type":"string","jsonPath":".spec.user"}"#,
    printcolumn = r#"{"name":"To","type":"string","jsonPath":".spec.to","priority":1}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.agents[*].state"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{"required": ["target"]}, {"required": ["selector"]}]))]
pub struct InterceptSpec {
    /// The workload or Service whose pods are intercepted, in the Intercept's own namespace. Either this or `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetSpec>,
    /// The pods that are intercepted, in the Intercept's own namespace; never empty. Either this or `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Which port: of the Service if the target is one, else of the containers; its number (`"8080"`) or its name.
    // Text for numbers too, as on the command line: one type for whoever reads it, and `kubectl get -o yaml` shows what was
    // written.
    #[schemars(length(min = 1, max = 63))]
    pub port: String,
    /// Which requests. Without it every connection goes to the developer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterSpec>,
    /// Who answers the kubelet's probes.
    #[serde(default)]
    pub probes: ProbesSpec,
    /// Whether connections that the app accepted on the port before are closed once they are idle, so that their clients
    /// connect anew. With a filter this needs the verb `flush` on the target beside `intercept`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flush: bool,
    /// Whether connections go to the developer also while nobody listens on the port in a pod. Only without a filter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub even_if_down: bool,
    /// Whether the client's address is written into the HTTP requests that go to the developer: X-Forwarded-For and its
    /// like.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forwarded: bool,
    /// The developer's public key: `sha256:` and the SHA-256 of its SubjectPublicKeyInfo in unpadded base64url. Only the
    /// tunnel of this key is given requests.
    #[schemars(length(max = 50), regex(pattern = r"^sha256:[A-Za-z0-9_-]{43}$"))]
    pub developer_key: String,
    /// Where the developer's service listens on their machine, for people to read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = limits::NAME))]
    pub to: String,
    /// Who the developer is, as the API server knows them: a policy refuses any other name. Nothing is decided by it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = limits::USER))]
    pub user: String,
    /// At which machine the developer says that they sit (`alice@laptop`), for people to read: where several share a user,
    /// it tells them apart. Nobody checks it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = limits::NAME))]
    pub from: String,
}

impl InterceptSpec {
    /// Who the developer is, for people: `kubernetes-admin (alice@laptop)`, or as much of that as there is.
    pub fn developer(&self) -> String {
        match (self.user.is_empty(), self.from.is_empty()) {
            (false, false) => format!("{} ({})", self.user, self.from),
            (true, _) => self.from.clone(),
            (false, true) => self.user.clone(),
        }
    }
}

/// A workload or a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetSpec {
    /// What it is.
    pub kind: TargetKind,
    /// Its name.
    #[schemars(length(min = 1, max = limits::NAME))]
    pub name: String,
}

/// What can be intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// Of apps/v1.
    Deployment,
    /// Of apps/v1.
    StatefulSet,
    /// Of apps/v1.
    DaemonSet,
    /// Of apps/v1.
    ReplicaSet,
    /// Of batch/v1.
    Job,
    /// One pod.
    Pod,
    /// The pods that its selector selects.
    Service,
    /// Of Argo Rollouts.
    Rollout,
}

impl TargetKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::ReplicaSet,
        Self::Job,
        Self::Pod,
        Self::Service,
        Self::Rollout,
    ];

    /// As manifests name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::Rollout => "Rollout",
        }
    }

    /// The `apiVersion` of its objects.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Deployment | Self::StatefulSet | Self::DaemonSet | Self::ReplicaSet => "apps/v1",
            Self::Job => "batch/v1",
            Self::Pod | Self::Service => "v1",
            Self::Rollout => "argoproj.io/v1alpha1",
        }
    }

    /// The resource's name in URLs and in RBAC rules.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
            Self::DaemonSet => "daemonsets",
            Self::ReplicaSet => "replicasets",
            Self::Job => "jobs",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::Rollout => "rollouts",
        }
    }

    /// The API group, empty for the core one.
    pub fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }
}

/// Who answers the kubelet's probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProbesSpec {
    /// The app, whatever the filter says.
    #[default]
    App,
    /// The developer, like any other request.
    Developer,
}
