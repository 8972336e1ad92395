//! The agent's static configuration: the agent itself, its pods, and the developers who may intercept them.
//!
//! Owns the file's format and every sentence about a bad value. Reads no sockets and enters no namespace.
//! The guardian parses the file; the worker parses the same text again, pushed to it by the guardian.

pub mod certificates;
mod containers;
mod pod_name;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use redir_api::names;
use redir_identity::Pin;

pub use containers::{ContainerRef, ContainerRuntime, NetnsSource, RuntimeSockets};
pub use pod_name::PodName;
pub use table::ConfigError;
use table::{ConfigSection, ConfigSource, KeyPlace, PlacedValue};

/// The whole file, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// `[agent]`
    pub agent: AgentSettings,
    /// `[[pod]]`, in file order; names and namespaces are unique.
    pub pods: Vec<PodConfig>,
    /// `[[developer]]`, in file order; names and keys are unique.
    pub developers: Vec<DeveloperConfig>,
    /// `[kubernetes]`: pods and developers are the API server's to tell, and the two lists above are empty.
    pub kubernetes: Option<KubernetesSettings>,
    /// `[runtimes]`
    pub runtimes: RuntimeSockets,
}

/// `[kubernetes]`, as `redir-agent run --kubernetes` writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// The Node's name.
    pub node: String,
    /// The node's address for developers, if the Node itself does not tell.
    pub address: Option<std::net::IpAddr>,
    /// Where the node's `/proc` is.
    pub proc: PathBuf,
    /// How to reach the API server; without it as a pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Where the API server is asked first.
    pub api_server: Option<http::Uri>,
    /// Namespaces in which nothing is intercepted.
    pub forbidden: BTreeSet<String>,
}

/// `[agent]`: takes effect at the start of the agent only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSettings {
    /// UDP address that developers dial.
    pub listen: SocketAddr,
    /// PKCS#8 PEM file with the agent's Ed25519 key; `None` in Kubernetes, where it is a new one at each start.
    pub key: Option<PathBuf>,
    /// Loopback TCP address of `/healthz`, `/readyz` and `/metrics`.
    pub admin: SocketAddr,
    /// How long connections may go on after SIGTERM.
    pub drain: Duration,
    /// Where the source ports of the pass-through leg come from.
    pub upstream_ports: UpstreamPorts,
    /// How programs are attached.
    pub attach: AttachSetting,
    /// Whether the agent looks by itself, once, whether a port that a filter wants speaks TLS.
    pub probe_tls: bool,
    /// The worker's uid and gid, never 0.
    pub user: u32,
}

/// Source ports of the pass-through leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamPorts {
    /// 512-1023 first (no client and no NAT picks these), then 10000-29999.
    Low,
    /// 10000-29999 only, for apps that treat ports below 1024 as privileged.
    High,
}

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachSetting {
    /// TCX where the kernel has it, clsact otherwise.
    Auto,
    /// TCX or an error.
    Tcx,
    /// clsact filters, also where TCX exists.
    Clsact,
}

/// `[[pod]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodConfig {
    /// The name that the CLI and the logs use.
    pub name: PodName,
    /// What developers are authorised by.
    pub labels: PodLabels,
    /// Where the pod's network namespace is.
    pub netns: NetnsSource,
    /// The only ports that may be intercepted; `None` allows all.
    pub ports: Option<BTreeSet<u16>>,
    /// The certificates that the app shows.
    pub tls: Vec<TlsFiles>,
}

/// `[[pod.tls]]`: with the app's own certificate and key the agent reads what clients send to that port. An app that
/// has several certificates for a port has an entry for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsFiles {
    /// The app's port.
    pub port: u16,
    /// PEM file with the certificate, its chain behind it.
    pub cert: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

impl PodConfig {
    /// Whether the configuration lets this port be intercepted.
    pub fn allows(&self, port: u16) -> bool {
        port != 0 && self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

/// `[[developer]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeveloperConfig {
    /// The name that others see in `redir list`.
    pub name: String,
    /// The developer's public key.
    pub key: Pin,
    /// Label sets; a pod that matches one of them may be intercepted.
    pub pods: Vec<PodLabels>,
    /// May have other people's connections closed (`--flush` with a filter).
    pub flush: bool,
}

impl DeveloperConfig {
    /// Whether this developer may intercept the pod.
    pub fn may(&self, pod: &PodConfig) -> bool {
        self.pods.iter().any(|labels| labels.matches(&pod.labels))
    }
}

/// A set of labels. As a selector it matches every pod that carries all of them; the empty set matches every pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodLabels(pub BTreeMap<String, String>);

impl PodLabels {
    /// Whether a pod with these labels is selected.
    pub fn matches(&self, pod: &Self) -> bool {
        self.0.iter().all(|(key, value)| pod.0.get(key) == Some(value))
    }
}

impl NodeConfig {
    /// Parses and checks the whole text. `file` appears in messages and is what a relative key path is relative to.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let mut root = ConfigSource { file, text }.root()?;
        let agent = root.required("agent", "add a section [agent] with at least `listen` and `key`")?.section()?;
        let kubernetes = root.optional("kubernetes").map(|value| value.section().and_then(kubernetes)).transpose()?;
        let base = file.parent().unwrap_or(Path::new(""));
        let agent = self::agent(agent, kubernetes.is_none().then_some(base))?;
        let lists = [root.optional("pod"), root.optional("developer")];
        if let (Some(_), Some(list)) = (&kubernetes, lists.iter().flatten().next()) {
            return Err(list.error("stands beside [kubernetes], where the API server tells it; take one of them out"));
        }
        let [pods, developers] = lists;
        let (pods, developers) = (each(pods, |section| pod(section, base))?, each(developers, developer)?);
        let runtimes = root.optional("runtimes").map(PlacedValue::section).transpose()?;
        let runtimes = RuntimeSockets::read(runtimes)?;
        root.finish("agent, kubernetes, pod, developer, runtimes")?;
        Ok(Self {
            agent,
            kubernetes,
            runtimes,
            pods: distinct(pods, |pod| [pod.name.to_string(), pod.netns.to_string()])?,
            developers: distinct(developers, |developer| [developer.name.clone(), developer.key.to_string()])?,
        })
    }

    /// The pod of this name.
    pub fn pod(&self, name: &PodName) -> Option<&PodConfig> {
        self.pods.iter().find(|pod| pod.name == *name)
    }

    /// The pods that are named by a container.
    pub fn containers(&self) -> impl Iterator<Item = (&PodName, &ContainerRef)> {
        self.pods.iter().filter_map(|pod| Some((&pod.name, pod.netns.container()?)))
    }

    /// The developer with this public key.
    pub fn developer(&self, key: &Pin) -> Option<&DeveloperConfig> {
        self.developers.iter().find(|developer| developer.key == *key)
    }
}

/// An entry of a list of tables together with where its two unique keys stand.
struct ListEntry<'a, T> {
    value: T,
    unique: [KeyPlace<'a>; 2],
}

fn each<'a, T>(
    list: Option<PlacedValue<'a>>,
    read: impl Fn(ConfigSection<'a>) -> Result<ListEntry<'a, T>, ConfigError>,
) -> Result<Vec<ListEntry<'a, T>>, ConfigError> {
    let Some(list) = list else { return Ok(Vec::new()) };
    list.list()?.into_iter().map(|item| item.section().and_then(&read)).collect()
}

/// Refuses two entries that share one of their two unique keys.
fn distinct<T>(entries: Vec<ListEntry<'_, T>>, of: impl Fn(&T) -> [String; 2]) -> Result<Vec<T>, ConfigError> {
    for which in 0..2 {
        let mut seen = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if let Some(first) = seen.insert(of(&entry.value)[which].clone(), index) {
                let problem = format!("is the same as in entry [{first}]; each entry needs its own");
                return Err(entry.unique[which].error(problem));
            }
        }
    }
    Ok(entries.into_iter().map(|entry| entry.value).collect())
}

/// `base` is what a key's path is relative to; without it there is no key.
fn agent(mut section: ConfigSection<'_>, base: Option<&Path>) -> Result<AgentSettings, ConfigError> {
    let listen = section.required("listen", "write the UDP address that developers dial, as in \"0.0.0.0:7447\"")?;
    let key = base.map(|base| {
        let hint = "write the path of the agent's key file; `redir-agent keygen FILE` makes one";
        section.required("key", hint).and_then(|value| path(&value, base))
    });
    let agent = AgentSettings {
        listen: address(&listen)?,
        key: key.transpose()?,
        admin: section.optional("admin").map_or(Ok(DEFAULT_ADMIN), |value| admin(&value))?,
        drain: section.optional("drain").map_or(Ok(DEFAULT_DRAIN), |value| drain(&value))?,
        upstream_ports: section
            .optional("upstream_ports")
            .map_or(Ok(UpstreamPorts::Low), |value| one_of(&value, &UPSTREAM_PORTS))?,
        attach: section.optional("attach").map_or(Ok(AttachSetting::Auto), |value| one_of(&value, &ATTACH))?,
        probe_tls: section.optional("probe_tls").map_or(Ok(true), |value| value.boolean())?,
        user: section.optional("user").map_or(Ok(names::WORKER_USER), |value| user(&value))?,
    };
    section.finish("listen, key, admin, drain, upstream_ports, attach, probe_tls, user")?;
    Ok(agent)
}

fn kubernetes(mut section: ConfigSection<'_>) -> Result<KubernetesSettings, ConfigError> {
    let node = section.required("node", "write the Node's name; in a pod it is spec.nodeName")?;
    let address = |value: PlacedValue<'_>| -> Result<_, ConfigError> {
        let problem = "is no IP address; write the node's own, as in \"192.0.2.10\"";
        value.text()?.parse().map_err(|_| value.error(problem))
    };
    let path = |value: PlacedValue<'_>| -> Result<_, ConfigError> { Ok(PathBuf::from(value.text()?)) };
    let kubernetes = KubernetesSettings {
        node: node.text()?.to_owned(),
        address: section.optional("address").map(address).transpose()?,
        proc: section.optional("proc").map_or(Ok("/proc".into()), path)?,
        kubeconfig: section.optional("kubeconfig").map(path).transpose()?,
        api_server: section.optional("api_server").map(|value| api_server(&value)).transpose()?,
        forbidden: section.optional("forbidden_namespaces").map_or(Ok(kube_system()), namespaces)?,
    };
    if kubernetes.node.is_empty() {
        return Err(node.error("is empty; write the Node's name, in a pod spec.nodeName"));
    }
    section.finish("node, address, proc, kubeconfig, api_server, forbidden_namespaces")?;
    Ok(kubernetes)
}

fn namespaces(list: PlacedValue<'_>) -> Result<BTreeSet<String>, ConfigError> {
    list.list()?.iter().map(|name| name.text().map(str::to_owned)).collect()
}

fn kube_system() -> BTreeSet<String> {
    BTreeSet::from([names::FORBIDDEN_NAMESPACES.to_owned()])
}

/// `HOST:PORT`, also with `https://` before it.
fn api_server(value: &PlacedValue<'_>) -> Result<http::Uri, ConfigError> {
    let text = value.text()?;
    let address = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let url = format!("https://{address}").parse::<http::Uri>().ok();
    let is_address = |url: &http::Uri| url.port().is_some() && url.path() == "/" && !address.contains(['@', '?']);
    url.filter(is_address)
        .ok_or_else(|| value.error("is no address of an API server; write HOST:PORT, as in \"192.0.2.1:6443\""))
}

fn pod<'a>(mut section: ConfigSection<'a>, base: &Path) -> Result<ListEntry<'a, PodConfig>, ConfigError> {
    let name = section.required("name", "write the name that the CLI calls this pod by, as in \"web-1\"")?;
    let (netns, netns_place) = containers::netns_source(&mut section)?;
    let ports = section.optional("ports").map(ports).transpose()?;
    let pod = PodConfig {
        name: PodName::new(name.text()?).map_err(|problem| name.error(format!("{problem}; choose another")))?,
        labels: section.optional("labels").map_or(Ok(PodLabels::default()), labels)?,
        netns,
        tls: section.optional("tls").map_or(Ok(Vec::new()), |value| tls(value, ports.as_ref(), base))?,
        ports,
    };
    section.finish("name, labels, netns, docker, podman, ports, tls")?;
    Ok(ListEntry { value: pod, unique: [name.place(), netns_place] })
}

fn developer(mut section: ConfigSection<'_>) -> Result<ListEntry<'_, DeveloperConfig>, ConfigError> {
    let name = section.required("name", "write the name that others see, as in \"alice\"")?;
    let key = section.required("key", "write the line that `redir keygen` printed, as in \"sha256:…\"")?;
    let pods = section.required("pods", "list the label sets this developer may intercept; [{}] is every pod")?;
    let developer = DeveloperConfig {
        name: developer_name(&name)?,
        key: Pin::from_str(key.text()?).map_err(|problem| key.error(problem))?,
        pods: label_sets(pods)?,
        flush: section.optional("flush").map_or(Ok(false), |value| value.boolean())?,
    };
    section.finish("name, key, pods, flush")?;
    Ok(ListEntry { value: developer, unique: [name.place(), key.place()] })
}

fn address(value: &PlacedValue<'_>) -> Result<SocketAddr, ConfigError> {
    let text = value.text()?;
    let address: SocketAddr = text.parse().map_err(|_| {
        value.error(format!("{text:?} is not an address and port; write \"0.0.0.0:7447\" or \"[::]:7447\""))
    })?;
    if address.port() == 0 {
        return Err(value.error("port 0 is no port that anyone can dial; write one of 1 to 65535"));
    }
    Ok(address)
}

fn admin(value: &PlacedValue<'_>) -> Result<SocketAddr, ConfigError> {
    let address = address(value)?;
    if !address.ip().is_loopback() {
        return Err(value.error(format!(
            "{} can be reached from other machines; write a loopback address, as in \"127.0.0.1:7448\"",
            address.ip()
        )));
    }
    Ok(address)
}

fn path(value: &PlacedValue<'_>, base: &Path) -> Result<PathBuf, ConfigError> {
    let text = value.text()?;
    if text.is_empty() {
        return Err(value.error("is empty; write the path of the file"));
    }
    Ok(base.join(text))
}

fn drain(value: &PlacedValue<'_>) -> Result<Duration, ConfigError> {
    let text = value.text()?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let duration = scale
        .and_then(|scale: u64| number.parse::<u64>().ok()?.checked_mul(scale))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            value.error(format!("{text:?} is not a duration; write a number and ms, s or m, as in \"10s\""))
        })?;
    if duration > MAX_DRAIN {
        return Err(value.error(format!("{text} is longer than 10m; write a shorter time")));
    }
    Ok(duration)
}

fn one_of<T: Copy>(value: &PlacedValue<'_>, choices: &[(&str, T)]) -> Result<T, ConfigError> {
    let text = value.text()?;
    choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        value.error(format!("{text:?} is not a choice; write {}", names.join(" or ")))
    })
}

fn user(value: &PlacedValue<'_>) -> Result<u32, ConfigError> {
    match u32::try_from(value.integer()?) {
        Ok(0) => Err(value.error("0 is root and the worker must not be root; write another uid, as in 60744")),
        // -1 means "leave as it is" to setresuid.
        Ok(u32::MAX) | Err(_) => Err(value.error("is no uid; write one of 1 to 4294967294, as in 60744")),
        Ok(user) => Ok(user),
    }
}

fn labels(value: PlacedValue<'_>) -> Result<PodLabels, ConfigError> {
    let mut labels = BTreeMap::new();
    for (key, value) in value.section()?.entries() {
        let text = value.text()?;
        let plain = |text: &str| !text.bytes().any(|byte| byte.is_ascii_control() || b",= ".contains(&byte));
        if key.is_empty() || key.len() > MAX_LABEL || text.len() > MAX_LABEL || !plain(&key) || !plain(text) {
            return Err(value.error("is no label; write key = \"value\" without spaces, `,` and `=`"));
        }
        labels.insert(key, text.to_owned());
    }
    Ok(PodLabels(labels))
}

fn label_sets(value: PlacedValue<'_>) -> Result<Vec<PodLabels>, ConfigError> {
    let empty = value.error("is empty, so nothing may be intercepted; list label sets, [{}] is every pod");
    let sets: Vec<_> = value.list()?.into_iter().map(labels).collect::<Result<_, _>>()?;
    if sets.is_empty() { Err(empty) } else { Ok(sets) }
}

fn tls(value: PlacedValue<'_>, allowed: Option<&BTreeSet<u16>>, base: &Path) -> Result<Vec<TlsFiles>, ConfigError> {
    let entry = |item: PlacedValue<'_>| {
        let mut section = item.section()?;
        let number = section.required("port", "write the app's port that speaks TLS, as in 8443")?;
        let cert =
            section.required("cert", "write the path of the PEM file with the app's certificate and its chain")?;
        let key = section.required("key", "write the path of the PEM file with the certificate's private key")?;
        let files = TlsFiles { port: port(&number)?, cert: path(&cert, base)?, key: path(&key, base)? };
        if allowed.is_some_and(|allowed| !allowed.contains(&files.port)) {
            let problem = format!("{} may not be intercepted; add it to the pod's `ports`", files.port);
            return Err(number.error(problem));
        }
        section.finish("port, cert, key")?;
        Ok(files)
    };
    value.list()?.into_iter().map(entry).collect()
}

fn ports(value: PlacedValue<'_>) -> Result<BTreeSet<u16>, ConfigError> {
    let empty = value.error("is empty, so nothing may be intercepted; list ports, or leave the key out to allow all");
    let ports: BTreeSet<_> = value.list()?.iter().map(port).collect::<Result<_, _>>()?;
    if ports.is_empty() { Err(empty) } else { Ok(ports) }
}

fn port(value: &PlacedValue<'_>) -> Result<u16, ConfigError> {
    let number = value.integer()?;
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| value.error(format!("{number} is no port; write one of 1 to 65535")))
}

fn developer_name(value: &PlacedValue<'_>) -> Result<String, ConfigError> {
    let text = value.text()?;
    let plain = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    if text.is_empty() || text.chars().count() > 64 || !plain {
        return Err(value.error("a developer's name is 1 to 64 characters without spaces; choose another"));
    }
    Ok(text.to_owned())
}

/// 7448: next to the tunnel's 7447.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7448);
/// Long enough for ordinary requests, well below Kubernetes' 30 s of grace.
const DEFAULT_DRAIN: Duration = Duration::from_secs(10);
/// A typing error should not keep a node's agent for hours.
const MAX_DRAIN: Duration = Duration::from_secs(600);
/// Bytes; Kubernetes allows 253 + 1 + 63 for a key.
const MAX_LABEL: usize = 317;
const UPSTREAM_PORTS: [(&str, UpstreamPorts); 2] = [("low", UpstreamPorts::Low), ("high", UpstreamPorts::High)];
const ATTACH: [(&str, AttachSetting); 3] =
    [("auto", AttachSetting::Auto), ("tcx", AttachSetting::Tcx), ("clsact", AttachSetting::Clsact)];

#[cfg(test)]
mod tests;
