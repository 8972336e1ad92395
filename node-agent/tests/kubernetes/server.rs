//! A real API server with its etcd, in the node's network namespace, as `cargo xtask cluster setup` has built them.

use std::{
    env, fs,
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use redir_api::names;
use redir_rig::{cleanup, namespace::Namespace, process::Process, wait};
use tempfile::TempDir;

/// An API server needs half a minute on a busy machine.
const START: Duration = Duration::from_secs(180);
const ADMIN: &str = "admin-token";
/// Where the agent is told to ask, as a pod is told the Service's: an address that can be taken away without the server.
pub(crate) const CLUSTER_IP: &str = "127.0.0.2";
const AGENT: &str = "agent-token";

/// The two processes and their files.
pub(crate) struct TestApiServer {
    _etcd: Process,
    api: Option<Process>,
    folder: TempDir,
    programs: PathBuf,
    address: Ipv4Addr,
}

impl TestApiServer {
    /// `address` is what the Service's EndpointSlice tells: the node's, where somebody follows it.
    pub(crate) fn start(node: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let programs = programs()?;
        let folder = cleanup::directory("kubernetes")?;
        // The agent's controller reads its kubeconfig as nobody else.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let path = |name: &str| folder.path().join(name);
        let tokens = format!("{ADMIN},admin,admin,system:masters\n{AGENT},agent,agent\n");
        fs::write(path("tokens"), tokens)?;
        fs::write(path("admin.kubeconfig"), kubeconfig(ADMIN, "127.0.0.1", &path("certificates/apiserver.crt")))?;
        fs::write(path("agent.kubeconfig"), kubeconfig(AGENT, CLUSTER_IP, &path("certificates/apiserver.crt")))?;
        let controller = Some(names::CONTROLLER_USER);
        chown(path("agent.kubeconfig"), Some(0), controller)?;
        fs::set_permissions(path("agent.kubeconfig"), fs::Permissions::from_mode(0o640))?;
        node.output(&["openssl", "genrsa", "-out", &path("accounts.key").display().to_string(), "2048"])?;
        let mut etcd = Command::new(programs.join("etcd"));
        etcd.arg(format!("--data-dir={}", path("etcd").display())).args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ]);
        let etcd = node.spawn("etcd", &mut etcd)?;
        let mut server = Self { _etcd: etcd, api: None, folder, programs, address };
        server.resume(node)?;
        Ok(server)
    }

    /// Starts the API server (again), and waits until it answers.
    pub(crate) fn resume(&mut self, node: &Namespace) -> Result<()> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut api = Command::new(self.programs.join("kube-apiserver"));
        api.args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            "--secure-port=6443",
            "--authorization-mode=RBAC",
            // There is no controller that would make accounts and their tokens.
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
        ])
        .arg(format!("--advertise-address={}", self.address))
        .arg(format!("--cert-dir={}", path("certificates")))
        .arg(format!("--token-auth-file={}", path("tokens")))
        .arg(format!("--service-account-key-file={}", path("accounts.key")))
        .arg(format!("--service-account-signing-key-file={}", path("accounts.key")));
        let mut api = node.spawn("kube-apiserver", &mut api)?;
        let kubectl = self.programs.join("kubectl").display().to_string();
        let kubeconfig = self.admin_kubeconfig().display().to_string();
        let ready = [&*kubectl, "--kubeconfig", &kubeconfig, "get", "--raw", "/readyz"];
        wait::until_true("the API server to be ready", START, || {
            if let Some(status) = api.exited()? {
                anyhow::bail!("the API server ended ({status}): {}", api.log());
            }
            Ok(node.output(&ready).is_ok())
        })?;
        self.api = Some(api);
        Ok(())
    }

    /// Ends the API server, as a crash would.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.api.take().context("it runs")?.kill()
    }

    /// How the agent reaches it: a user with no right but those of its role.
    pub(crate) fn agent_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("agent.kubeconfig")
    }

    /// How an administrator reaches it.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// An administrator's client, made inside `node`.
    pub(crate) fn client(&self, node: &Namespace) -> Result<Client> {
        let file = self.admin_kubeconfig();
        node.block_on(START, async move {
            let config = Kubeconfig::read_from(&file)?;
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            Ok::<_, anyhow::Error>(Client::try_from(config)?)
        })?
    }
}

fn kubeconfig(token: &str, address: &str, authority: &Path) -> String {
    let authority = authority.display();
    format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: \"https://{address}:6443\", certificate-authority: {authority}, tls-server-name: kubernetes.default.svc}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"
    )
}

/// Where etcd and kube-apiserver are, and kubectl.
pub(crate) fn programs() -> Result<PathBuf> {
    let folder = env::var_os("REDIR_KUBERNETES_BIN");
    folder.map(PathBuf::from).context("REDIR_KUBERNETES_BIN names no folder: run the tests with `cargo xtask test`")
}
