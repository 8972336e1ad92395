//! The agent as the agent of a Kubernetes node, against a real API server, with network namespaces as pods. Needs root,
//! and what `cargo xtask cluster setup` has built.
//!
//! Only the kubelet is missing: the test writes the pods' status, and a folder that stands for the node's `/proc`.

mod away;
mod controller;
mod developer;
mod ends;
mod secrets;
mod server;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use developer::DeveloperTunnel;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{Namespace as KubeNamespace, Node, Pod, Secret},
        events::v1::Event,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::{ClusterResourceScope, NamespaceResourceScope},
};
use redir_api::{AgentState, AgentStatus, Intercept, PodState, names};
use redir_rig::{
    app::App,
    cleanup,
    http::Http,
    process::Process,
    snapshot::Snapshot,
    tls::{self, Certificate},
    topology::{Family, Host, Topology, unique_prefix},
    wait,
};
use redir_tunnel::{Identity, Pin};
use redir_wire::{Liveness, TlsHandling, ToDeveloper};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use server::TestApiServer;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);
const NODE: &str = "n1";
const SHOP: &str = "shop";
const PORT: u16 = 8080;

struct AgentCluster {
    agent: Option<Process>,
    client: Client,
    server: TestApiServer,
    proc: TempDir,
    topology: Topology,
    apps: Vec<App>,
    owner: Value,
}

impl AgentCluster {
    fn new() -> Result<Self> {
        let topology = Topology::new(&unique_prefix("t"), 3).context("namespaces: run as root")?;
        let server = TestApiServer::start(&topology.node.namespace, topology.node.v4)?;
        let client = server.client(&topology.node.namespace)?;
        let proc = cleanup::directory("proc")?;
        let mut world = Self { agent: None, client, server, proc, topology, apps: Vec::new(), owner: Value::Null };
        world.cluster()?;
        world.start_agent()?;
        Ok(world)
    }

    /// What is there before anybody intercepts: the resource, the agent's role, a node, a Deployment.
    fn cluster(&mut self) -> Result<()> {
        let mut definition = serde_json::to_value(redir_api::crd::definition())?;
        // Without the server's own rules, for what agents check nevertheless.
        let spec = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
        spec.and_then(Value::as_object_mut)
            .and_then(|spec| spec.remove("x-kubernetes-validations"))
            .context("rules")?;
        self.create_at_large::<CustomResourceDefinition>(&definition)?;
        let role = json!({"metadata": {"name": "redir-agent"}, "rules": rules("ClusterRole")?});
        self.create_at_large::<ClusterRole>(&role)?;
        self.create_at_large::<ClusterRoleBinding>(&json!({
            "metadata": {"name": "redir-agent"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "redir-agent"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}],
        }))?;
        let role = json!({"metadata": {"name": "redir-agent"}, "rules": rules("Role")?});
        self.create::<Role>("default", &role)?;
        self.create::<RoleBinding>(
            "default",
            &json!({
                "metadata": {"name": "redir-agent"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "redir-agent"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}],
            }),
        )?;
        for name in [SHOP, "bank"] {
            self.create_at_large::<KubeNamespace>(&json!({"metadata": {"name": name}}))?;
        }
        self.create_at_large::<Node>(&json!({"metadata": {"name": NODE}}))?;
        let addresses = json!([{"type": "InternalIP", "address": self.topology.node.v4.to_string()}]);
        self.patch_status_at_large::<Node>(NODE, &json!({"status": {"addresses": addresses}}))?;
        let template = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "none"}]},
        });
        let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
        let web: Deployment = self.create(SHOP, &json!({"metadata": {"name": "web"}, "spec": spec}))?;
        let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web",
                            "uid": web.uid().context("uid")?, "controller": true}]);
        let set = json!({"metadata": {"name": "web-1", "ownerReferences": owner}, "spec": spec});
        let set: ReplicaSet = self.create(SHOP, &set)?;
        self.owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1",
                             "uid": set.uid().context("uid")?, "controller": true}]);
        Ok(())
    }

    fn start_agent(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redir-agent"));
        command
            .args(["run", "--kubernetes", "--node", NODE, "--listen", "0.0.0.0:7447", "--drain", "1s"])
            .arg("--proc")
            .arg(self.proc.path())
            .arg("--kubeconfig")
            .arg(self.server.agent_kubeconfig())
            // As in a pod; the kubeconfig comes first.
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("REDIR_LOG", "info,redir_guardian=debug,redir_controller=debug,redir_worker=debug");
        let mut agent = self.topology.node.namespace.spawn("agent", &mut command)?;
        agent.wait_for_line("the worker is ready", SOON)?;
        self.agent = Some(agent);
        Ok(())
    }

    fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("it runs")
    }

    /// `/readyz` of the agent.
    fn is_ready(&self) -> bool {
        let ask = || -> Result<u16> {
            let stream = self.topology.node.namespace.connect("127.0.0.1:7448".parse()?)?;
            Ok(Http::new(stream).get("/readyz", &["connection: close"])?.status)
        };
        ask().is_ok_and(|status| status == 200)
    }

    /// A pod of the Deployment as the scheduler leaves it, with its app and its processes; it has no address yet.
    fn pod(&mut self, number: usize) -> Result<Pod> {
        let pod = self.pod_that_mounts(number, &json!([]))?;
        self.apps.push(App::start(&self.topology.pods[number].namespace, PORT, "green")?);
        Ok(pod)
    }

    /// The same with these volumes, without an app.
    fn pod_that_mounts(&self, number: usize, volumes: &Value) -> Result<Pod> {
        let host = &self.topology.pods[number];
        let container = json!({"name": "app", "image": "none", "ports": [{"name": "http", "containerPort": PORT}]});
        let pod: Pod = self.create(
            SHOP,
            &json!({
                "metadata": {"name": host.name, "labels": {"app": "web"}, "ownerReferences": self.owner},
                "spec": {"nodeName": NODE, "containers": [container], "volumes": volumes},
            }),
        )?;
        // Its one process runs as long as this test.
        let folder = self.process_of(number);
        fs::create_dir_all(folder.join("ns"))?;
        symlink(format!("/proc/{}/stat", std::process::id()), folder.join("stat"))?;
        fs::write(folder.join("cgroup"), format!("0::/kubepods/burstable/pod{}/c\n", pod.uid().context("uid")?))?;
        fs::write(folder.join("comm"), "app\n")?;
        symlink(host.namespace.path(), folder.join("ns/net"))?;
        Ok(pod)
    }

    /// Where the process is shown that stands for all of a pod's.
    fn process_of(&self, number: usize) -> PathBuf {
        self.proc.path().join((100 + number).to_string())
    }

    /// Its network is set up.
    fn give_address(&self, number: usize) -> Result<()> {
        let host = &self.topology.pods[number];
        let ip = host.v4.to_string();
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        let api = Api::<Pod>::namespaced(self.client.clone(), SHOP);
        let name = host.name.clone();
        self.call(async move {
            api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status)).await.map(drop)
        })
    }

    fn running_pod(&mut self, number: usize) -> Result<()> {
        self.pod(number)?;
        self.give_address(number)
    }

    fn intercept(&self, name: &str, developer: &Identity, spec: &Value) -> Result<Intercept> {
        let mut whole = json!({
            "port": "http", "developerKey": developer.pin().to_string(), "user": "alice", "to": "127.0.0.1:3000",
        });
        let fields = spec.as_object().context("an object")?.clone();
        whole.as_object_mut().context("an object")?.extend(fields);
        let object = json!({"apiVersion": "redir.dev/v1alpha1", "kind": "Intercept",
                            "metadata": {"name": name}, "spec": whole});
        self.create(SHOP, &object)
    }

    /// Waits until this node's entry of the status is such.
    fn status(&self, name: &str, what: &str, good: impl Fn(&AgentStatus) -> bool) -> Result<AgentStatus> {
        let api = Api::<Intercept>::namespaced(self.client.clone(), SHOP);
        let mut last = None;
        wait::until(format!("the status of {name} to be {what}"), SOON, || {
            let (api, name) = (api.clone(), name.to_owned());
            let intercept = self.call(async move { api.get(&name).await })?;
            last = intercept.status.and_then(|status| status.agents.into_iter().next());
            Ok(last.clone().filter(&good))
        })
        .with_context(|| format!("it is {last:?}"))
    }

    fn delete_intercept(&self, name: &str) -> Result<()> {
        let (api, name) = (Api::<Intercept>::namespaced(self.client.clone(), SHOP), name.to_owned());
        self.call(async move { api.delete(&name, &DeleteParams::default()).await.map(drop) })
    }

    /// Dials the agent as a status tells it.
    fn dial(&self, told: &AgentStatus, identity: &Identity, intercepts: &[&Intercept]) -> Result<DeveloperTunnel> {
        let address: SocketAddr = told.endpoints.first().context("no endpoint")?.address.parse()?;
        let key: Pin = told.key.parse().context("the agent's key")?;
        let tokens = intercepts.iter().filter_map(|one| redir_api::token(one.uid().as_deref()?)).collect();
        DeveloperTunnel::dial(&self.topology.client.namespace, address, key, identity, tokens)
    }

    /// A request of a client to a pod.
    fn get(&self, number: usize, headers: &[&str]) -> Result<String> {
        let host: &Host = &self.topology.pods[number];
        let stream = self.topology.client.namespace.connect(host.at(Family::V4, PORT))?;
        Ok(Http::new(stream).get("/", headers)?.text())
    }

    /// The same over TLS.
    fn get_securely(&self, number: usize, certificate: &Certificate, headers: &[&str]) -> Result<String> {
        let stream = self.topology.client.namespace.connect(self.topology.pods[number].at(Family::V4, PORT))?;
        Ok(tls::secure(stream, certificate.client(rustls::ALL_VERSIONS)?)?.get("/", headers)?.text())
    }

    fn answers(&self, number: usize, headers: &[&str], version: &str) -> Result<()> {
        let text = self.get(number, headers)?;
        ensure!(text.starts_with(version), "{headers:?} is answered by {text:?}, not by {version}");
        Ok(())
    }

    fn becomes(&self, number: usize, headers: &[&str], version: &str, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        wait::until_true(format!("{version} to answer"), limit, || {
            Ok(self.get(number, headers)?.starts_with(version))
        })?;
        Ok(start.elapsed())
    }

    fn call<T: Send + 'static>(&self, call: impl Future<Output = kube::Result<T>> + Send + 'static) -> Result<T> {
        Ok(self.topology.node.namespace.block_on(SOON, call)??)
    }

    fn create<K>(&self, namespace: &str, object: &Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + KubeObject,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        self.post(&api, object)
    }

    fn create_at_large<K>(&self, object: &Value) -> Result<K>
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()> + KubeObject,
    {
        self.post(&Api::<K>::all(self.client.clone()), object)
    }

    fn post<K: KubeObject>(&self, api: &Api<K>, object: &Value) -> Result<K> {
        let object: K = serde_json::from_value(object.clone())?;
        // A resource that was defined a moment ago is not served at once.
        let made = wait::until("the object to be taken", SOON, || {
            let (api, object) = (api.clone(), object.clone());
            match self.call(async move { api.create(&PostParams::default(), &object).await }) {
                Err(error) if format!("{error:#}").contains("404") => Ok(None),
                made => made.map(Some),
            }
        });
        made.with_context(|| format!("create {object:?}"))
    }

    fn patch_status_at_large<K>(&self, name: &str, status: &Value) -> Result<()>
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()> + KubeObject,
    {
        let (api, name, status) = (Api::<K>::all(self.client.clone()), name.to_owned(), status.clone());
        self.call(async move {
            api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status)).await.map(drop)
        })
    }

    fn reasons_of_events(&self) -> Result<Vec<String>> {
        let api = Api::<Event>::namespaced(self.client.clone(), SHOP);
        let events = self.call(async move { api.list(&kube::api::ListParams::default()).await })?;
        Ok(events.into_iter().filter_map(|event| event.reason).collect())
    }
}

trait KubeObject: Clone + Serialize + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static {}
impl<K: Clone + Serialize + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static> KubeObject for K {}

/// The agent's rights as they are installed: what it does without one shows here.
fn rules(kind: &str) -> Result<Value> {
    let objects = redir_manifests::render(&redir_manifests::Options::default()).context("the manifests")?;
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == names::AGENT;
    Ok(objects.iter().find(is).context("the agent has a role")?["rules"].clone())
}

fn filtered(user: &str) -> Value {
    json!({
        "target": {"kind": "Deployment", "name": "web"},
        "filter": {"all": [{"header": {"name": "x-user", "exact": user}}]},
    })
}

fn live(entry: &AgentStatus, pods: usize) -> bool {
    entry.state == AgentState::Live && entry.pods.iter().filter(|pod| pod.state == PodState::Live).count() == pods
}

/// From the object to the answer and back, with scaling, a lost API server, and what is refused.
#[test]
fn an_intercept_lives_and_ends_with_its_object() -> Result<()> {
    let mut world = AgentCluster::new()?;
    world.running_pod(0)?;
    wait::until_true("the agent to be ready", SOON, || Ok(world.is_ready()))?;
    let before = Snapshot::take(&world.topology.pods[0].namespace)?;
    let alice = Identity::generate()?;

    // Told before any tunnel is up; nothing is attached yet.
    let made = Instant::now();
    let intercept = world.intercept("mine", &alice, &filtered("alice"))?;
    let told = world.status("mine", "waiting", |entry| entry.state == AgentState::Waiting)?;
    eprintln!("from the object to the status: {:?}", made.elapsed());
    assert_eq!(told.endpoints[0].address, format!("{}:7447", world.topology.node.v4));
    assert_eq!((told.node.as_str(), told.pods.len(), told.pods[0].port), (NODE, 1, Some(PORT)));
    world.answers(0, &["x-user: alice"], "green")?;
    before.restored(&world.topology.pods[0].namespace, SOON)?;

    // A key that no Intercept names, and another's Intercept.
    let mallory = Identity::generate()?;
    assert!(world.dial(&told, &mallory, &[&intercept]).is_err(), "dropped in the handshake");
    let theirs = world.intercept("theirs", &mallory, &filtered("mallory"))?;
    world.status("theirs", "waiting", |entry| entry.state == AgentState::Waiting)?;
    let stranger = world.dial(&told, &mallory, &[&intercept])?;
    stranger.hears("a refusal", |heard| matches!(heard, ToDeveloper::Refused(_)).then_some(()))?;
    stranger.leave(&world.topology.client.namespace)?;
    drop(theirs);
    world.delete_intercept("theirs")?;

    // Live: the header decides, and the app still sees its clients.
    let dialled = Instant::now();
    let developer = world.dial(&told, &alice, &[&intercept])?;
    developer.hears("live", |heard| match heard {
        ToDeveloper::Intercept(state) => {
            let pod = state.pods.first()?;
            (pod.state == Liveness::Live && pod.pod == "web-1").then_some(())
        }
        _ => None,
    })?;
    eprintln!("from dialling to live: {:?}", dialled.elapsed());
    world.answers(0, &["x-user: alice"], "blue")?;
    let green = world.get(0, &["x-user: bob"])?;
    assert_eq!(green, format!("green {}\n", world.topology.client.v4));
    world.status("mine", "live", |entry| live(entry, 1))?;

    // Scaled up: without a keystroke, as soon as the address is known.
    world.pod(1)?;
    world.answers(1, &["x-user: alice"], "green")?;
    world.give_address(1)?;
    let joined = world.becomes(1, &["x-user: alice"], "blue", SOON)?;
    eprintln!("from a new pod's address to live: {joined:?}");
    world.status("mine", "live in both", |entry| live(entry, 2))?;

    // The API server is away, and comes back: nothing changes, and nothing is let go on the way.
    world.server.stop()?;
    world.agent().wait_for_line("cannot be heard", SOON)?;
    world.answers(0, &["x-user: alice"], "blue")?;
    assert!(world.is_ready(), "it stays ready");
    world.server.resume(&world.topology.node.namespace)?;
    world.agent().wait_for_line("is heard again", SOON)?;
    for pod in [0, 1] {
        world.answers(pod, &["x-user: alice"], "blue")?;
        world.answers(pod, &[], "green")?;
    }
    assert!(!world.agent().log().contains("new connections go to the app"), "let go on the way");

    // Deleted: the next requests go to the app, and the developer hears why.
    let deleted = Instant::now();
    world.delete_intercept("mine")?;
    world.becomes(0, &["x-user: alice"], "green", Duration::from_secs(10))?;
    eprintln!("from the deletion to the app: {:?}", deleted.elapsed());
    developer.hears("the end", |heard| match heard {
        ToDeveloper::Ended(ended) => ended.sentence.contains("deleted").then_some(()),
        _ => None,
    })?;
    world.becomes(1, &["x-user: alice"], "green", Duration::from_secs(10))?;
    before.restored(&world.topology.pods[0].namespace, SOON)?;

    // The workload's people can read it.
    wait::until_true("start and end to be told", SOON, || {
        let reasons = world.reasons_of_events()?;
        Ok(["Intercepted", "InterceptEnded"].iter().all(|reason| reasons.iter().any(|other| other == reason)))
    })?;
    let log = world.agent().log();
    assert!(!log.contains("agent-token"), "no credential in the log");
    Ok(())
}

/// A changed spec, a pod that cannot be, and a status that is put right again.
#[test]
fn what_is_refused_says_why_in_the_status() -> Result<()> {
    let mut world = AgentCluster::new()?;
    world.running_pod(0)?;
    let alice = Identity::generate()?;
    world.intercept("mine", &alice, &json!({"target": {"kind": "Deployment", "name": "web"}, "port": "grpc"}))?;
    let refused = world.status("mine", "refused", |entry| entry.state == AgentState::Refused)?;
    assert!(refused.pods[0].reason.contains("names no TCP port grpc"), "{refused:?}");

    let api = Api::<Intercept>::namespaced(world.client.clone(), SHOP);
    let patch = json!({"spec": {"port": "8080"}});
    world.call(async move { api.patch("mine", &PatchParams::default(), &Patch::Merge(&patch)).await })?;
    let changed = world.status("mine", "refused", |entry| entry.reason.contains("changed"))?;
    assert_eq!(changed.pods[0].state, PodState::Refused);

    // An entry that somebody has tampered with is put right; the app keeps its traffic all the time.
    let api = Api::<Intercept>::namespaced(world.client.clone(), SHOP);
    let patch = json!({"status": {"agents": []}});
    world.call(async move { api.patch_status("mine", &PatchParams::default(), &Patch::Merge(&patch)).await })?;
    world.status("mine", "put right", |entry| entry.reason.contains("changed"))?;
    world.answers(0, &[], "green")?;
    wait::until_true("the refusal to be told", SOON, || {
        Ok(world.reasons_of_events()?.iter().any(|reason| reason == "InterceptRefused"))
    })?;
    Ok(())
}
