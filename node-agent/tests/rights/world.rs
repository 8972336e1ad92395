//! The server with redir installed on it, two namespaces, and people with the rights that the documents speak of.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::Client;
use redir_api::TargetKind;
use redir_manifests::{Options, render};
use redir_rig::{cleanup, documents, namespace::Namespace, topology::unique_prefix, wait};
use serde_json::{Value, json};

use crate::{
    request::{ExpectedResult, RequestUser, ServerAnswer, WriteVerb, send},
    server::{TestApiServer, programs},
};

const KUBERNETES_PAGE: &str = include_str!("../../../docs/src/kubernetes.md");
/// A policy or a role counts a moment after it was made.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Where developers work, and where alice may not.
pub(crate) const SHOP: &str = "shop";
pub(crate) const BANK: &str = "bank";

/// `redir-developer` in [`SHOP`], by the documents' own line.
pub(crate) const ALICE: RequestUser = RequestUser::User("alice", &["shop-developers"]);
/// `redir-developer` in [`BANK`].
pub(crate) const BOB: RequestUser = RequestUser::User("bob", &[]);
/// May write Intercepts in [`SHOP`] in every way, and intercept nothing.
pub(crate) const CAROL: RequestUser = RequestUser::User("carol", &[]);
/// The same, and may intercept what is named `web`, of every kind.
pub(crate) const DAVE: RequestUser = RequestUser::User("dave", &[]);
/// The same as dave, and may flush there.
pub(crate) const ERIN: RequestUser = RequestUser::User("erin", &[]);
/// May write Intercepts and intercept every pod, and no workload.
pub(crate) const FRANK: RequestUser = RequestUser::User("frank", &[]);
/// The same as frank, and may flush every pod.
pub(crate) const GRACE: RequestUser = RequestUser::User("grace", &[]);
/// May patch and intercept everything, and create no Intercept.
pub(crate) const NORA: RequestUser = RequestUser::User("nora", &[]);
/// What Kubernetes' own roles `edit` and `admin` are put together of (a controller does that, and none runs), in [`SHOP`].
pub(crate) const EDITOR: RequestUser = RequestUser::User("editor", &[]);
pub(crate) const OWNER: RequestUser = RequestUser::User("owner", &[]);
/// Nothing at all.
pub(crate) const MALLORY: RequestUser = RequestUser::User("mallory", &[]);

pub(crate) struct RightsCluster {
    pub(crate) node: Namespace,
    pub(crate) server: TestApiServer,
    pub(crate) client: Client,
    /// What was wrong with the installation.
    pub(crate) installed: Vec<String>,
}

impl RightsCluster {
    pub(crate) fn new() -> Result<Self> {
        cleanup::on_signals();
        let node = Namespace::new(format!("{}api", unique_prefix("t"))).context("a namespace: run as root")?;
        // Nobody here follows the Service's EndpointSlice.
        let server = TestApiServer::start(&node, std::net::Ipv4Addr::new(192, 0, 2, 1))?;
        let client = server.client(&node)?;
        let mut world = Self { node, server, client, installed: Vec::new() };
        world.install()?;
        for namespace in [SHOP, BANK] {
            world.make("/api/v1/namespaces", &json!({"metadata": {"name": namespace}}))?;
        }
        world.people()?;
        world.wait_for_policies()?;
        Ok(world)
    }

    pub(crate) fn send(&self, who: &RequestUser, verb: WriteVerb, path: &str, body: &Value) -> Result<ServerAnswer> {
        send(&self.node, &self.client, who, verb, path, &named(body, who))
    }

    /// Where the server's kubeconfigs are.
    fn file(&self, name: &str) -> PathBuf {
        self.server.agent_kubeconfig().with_file_name(name)
    }

    /// How the admin acts as somebody else.
    pub(crate) fn kubeconfig_as(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let admin = fs::read_to_string(self.file("admin.kubeconfig"))?;
        let file = self.file(&format!("{user}.kubeconfig"));
        fs::write(&file, admin.replace("{token: ", &format!("{{as: {user:?}, as-groups: {groups:?}, token: ")))?;
        Ok(file)
    }

    /// A line in the admin's shell, where `kubectl` is that of this server's release.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        let path = format!("PATH={}:{}", programs()?.display(), env::var("PATH").unwrap_or_default());
        let kubeconfig = format!("KUBECONFIG={}", self.file("admin.kubeconfig").display());
        self.node.output(&["env", &path, &kubeconfig, "sh", "-euc", line])
    }

    /// What the admin makes, so that there is something to try.
    pub(crate) fn make(&self, path: &str, object: &Value) -> Result<Value> {
        let answer = self.send(&RequestUser::Admin, WriteVerb::Post, path, object)?;
        ensure!(answer.code == 201, "{path}: {answer:?}");
        Ok(answer.body)
    }

    /// Every object that is installed on this server: it takes each without a word of warning, twice.
    fn install(&mut self) -> Result<()> {
        let objects = render(&Options::default())?;
        for round in ["installed", "installed again"] {
            for object in &objects {
                let path = format!("{}?fieldManager=redir&fieldValidation=Strict", path(object)?);
                let answer = self.send(&RequestUser::Admin, WriteVerb::Apply, &path, object)?;
                let what = format!("{} {} {round}", object["kind"], object["metadata"]["name"]);
                self.installed.extend(ExpectedResult::Allowed.judge(&what, &answer));
                self.installed.extend(answer.warnings.iter().map(|warning| format!("{what}: {warning}")));
            }
        }
        Ok(())
    }

    fn people(&self) -> Result<()> {
        let shown = documents::commands(KUBERNETES_PAGE, "kubectl")?;
        let line = shown.iter().find(|words| words.contains(&"redir-developers".to_owned()));
        let line = format!("kubectl {}", line.context("the page binds developers")?.join(" "));
        self.shell(&line)?;
        self.shell(&format!(
                "kubectl -n {BANK} create rolebinding developers --clusterrole=redir-developer --user=bob
                 kubectl -n {SHOP} create rolebinding view --clusterrole=system:aggregate-to-view --user=editor --user=owner
                 kubectl -n {SHOP} create rolebinding edit --clusterrole=system:aggregate-to-edit --user=editor --user=owner
                 kubectl -n {SHOP} create rolebinding admin --clusterrole=system:aggregate-to-admin --user=owner"
            ),
        )?;
        let writes = json!({"apiGroups": ["redir.dev"], "resources": ["intercepts"],
                            "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"]});
        let patches = json!({"apiGroups": ["redir.dev"], "resources": ["intercepts"], "verbs": ["get", "patch"]});
        let reads = json!({"apiGroups": ["", "apps", "batch", "argoproj.io"], "verbs": ["get", "list"],
                           "resources": TargetKind::ALL.map(TargetKind::plural)});
        let named = |verbs: &[&str]| {
            json!({"apiGroups": ["", "apps", "batch", "argoproj.io"], "verbs": verbs, "resourceNames": ["web"],
                   "resources": TargetKind::ALL.map(TargetKind::plural)})
        };
        let pods = |verbs: &[&str]| json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs});
        let everything = json!({"apiGroups": ["", "apps", "batch", "argoproj.io"], "verbs": ["intercept"],
                                "resources": TargetKind::ALL.map(TargetKind::plural)});
        self.role("carol", &[&writes, &reads])?;
        self.role("dave", &[&writes, &reads, &named(&["intercept"])])?;
        self.role("erin", &[&writes, &reads, &named(&["intercept", "flush"])])?;
        self.role("frank", &[&writes, &reads, &pods(&["intercept"])])?;
        self.role("grace", &[&writes, &reads, &pods(&["intercept", "flush"])])?;
        self.role("nora", &[&patches, &everything])?;
        let (intercept, pod) = (format!("{}/none", intercepts(SHOP)), format!("/api/v1/namespaces/{SHOP}/pods/none"));
        for who in [ALICE, CAROL, DAVE, ERIN, FRANK, GRACE, NORA] {
            self.counts(&who, &intercept)?;
        }
        self.counts(&BOB, &format!("{}/none", intercepts(BANK)))?;
        [EDITOR, OWNER].iter().try_for_each(|who| self.counts(who, &pod))
    }

    /// Until what somebody was granted counts: they may read what is there, or is not.
    pub(crate) fn counts(&self, who: &RequestUser, path: &str) -> Result<()> {
        wait::until_true(format!("{} to be let read {path}", who.name()), SOON, || {
            Ok(self.send(who, WriteVerb::Get, path, &Value::Null)?.code != 403)
        })
    }

    /// A role of one user's own in [`SHOP`].
    pub(crate) fn role(&self, user: &str, rules: &[&Value]) -> Result<()> {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{SHOP}");
        self.make(&format!("{path}/roles"), &json!({"metadata": {"name": user}, "rules": rules}))?;
        let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user});
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
        let binding = json!({"metadata": {"name": user}, "roleRef": reference, "subjects": [subject]});
        self.make(&format!("{path}/rolebindings"), &binding).map(drop)
    }

    /// Until both policies refuse what nobody may do: an Intercept of carol's, a status of the admin's.
    fn wait_for_policies(&self) -> Result<()> {
        let path = intercepts(SHOP);
        let object = intercept("waits", &deployment("web"));
        wait::until_true("the policy on Intercepts to count", SOON, || {
            Ok(self.send(&CAROL, WriteVerb::Post, &format!("{path}?dryRun=All"), &object)?.code == 403)
        })?;
        self.make(&path, &object)?;
        let status = json!({"status": {"agents": []}});
        wait::until_true("the policy on their status to count", SOON, || {
            let path = format!("{path}/waits/status?dryRun=All");
            Ok(self.send(&RequestUser::Admin, WriteVerb::MergePatch, &path, &status)?.code == 403)
        })?;
        let gone = self.send(&RequestUser::Admin, WriteVerb::Delete, &format!("{path}/waits"), &Value::Null)?;
        ensure!(gone.code == 200, "{gone:?}");
        Ok(())
    }
}

/// An Intercept that names nobody is made in the sender's own name.
fn named(body: &Value, who: &RequestUser) -> Value {
    let mut body = body.clone();
    if body["kind"] == "Intercept" && body["spec"].is_object() && body["spec"].get("user").is_none() {
        body["spec"]["user"] = json!(if matches!(who, RequestUser::Admin) { "admin" } else { who.name() });
    }
    body
}

/// Where the Intercepts of a namespace are.
pub(crate) fn intercepts(namespace: &str) -> String {
    format!("/apis/redir.dev/v1alpha1/namespaces/{namespace}/intercepts")
}

/// An Intercept of this name, or if it is empty one that the server names.
pub(crate) fn intercept(name: &str, fields: &Value) -> Value {
    let mut spec = json!({"port": "http", "developerKey": "sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"});
    if let (Some(spec), Some(fields)) = (spec.as_object_mut(), fields.as_object()) {
        spec.extend(fields.clone());
    }
    let metadata = if name.is_empty() { json!({"generateName": "try-"}) } else { json!({"name": name}) };
    json!({"apiVersion": "redir.dev/v1alpha1", "kind": "Intercept", "metadata": metadata, "spec": spec})
}

pub(crate) fn deployment(name: &str) -> Value {
    target(TargetKind::Deployment, name)
}

pub(crate) fn target(kind: TargetKind, name: &str) -> Value {
    json!({"target": {"kind": kind.as_str(), "name": name}})
}

/// Where an object is.
fn path(object: &Value) -> Result<String> {
    let version = object["apiVersion"].as_str().context("a version")?;
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let kind = object["kind"].as_str().context("a kind")?.to_lowercase();
    let plural = kind.strip_suffix('y').map_or(format!("{kind}s"), |kind| format!("{kind}ies"));
    let namespace = object["metadata"]["namespace"].as_str().map(|name| format!("/namespaces/{name}"));
    let name = object["metadata"]["name"].as_str().context("a name")?;
    Ok(format!("{root}/{version}{}/{plural}/{name}", namespace.unwrap_or_default()))
}
