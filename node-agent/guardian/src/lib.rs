//! The guardian: has the capabilities, parses nothing from outside, starts and outlives the worker.
//!
//! Owns namespaces, programs, privileged sockets and the worker's life. Must not read a byte of anybody's traffic.
//! Single-threaded and without tokio; the way from a request of the worker to the kernel is `supervisor` → `pods` → `pod`.

mod answer;
mod backoff;
mod check;
mod child;
mod connections;
mod containers;
mod control;
mod controller;
mod datapath;
mod detours;
mod devices;
mod endings;
mod flush;
mod kernel;
mod late_sockets;
mod linger;
mod listeners;
mod memory;
mod monitor;
mod netlink;
mod netns;
mod orphans;
pub mod output;
mod owners;
mod permissions;
mod pod;
mod pod_netns;
mod pods;
mod preflight;
mod process;
mod reload;
mod runtimes;
mod scheduling;
mod signals;
mod sockets;
mod supervisor;
mod tls_files;
mod watch;
mod worker;

use std::{ffi::OsString, path::Path};

use anyhow::{Context, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use redir_identity::Identity;

use self::{
    child::ChildLauncher,
    controller::ControllerSupervisor,
    kernel::KernelFeatures,
    netns::HostNamespaces,
    permissions::PermissionList,
    pod_netns::NetnsResolver,
    pods::PodTable,
    preflight::{HostCapabilities, RuntimeEnvironment},
    reload::ConfigFile,
    runtimes::RuntimeRelays,
    signals::GuardianSignals,
    supervisor::Supervisor,
    tls_files::TlsFiles,
};

use redir_sandbox::ConfinementArguments;

pub use check::check;
pub use child::inherited_control;

/// Where the configuration comes from; the path is its name in messages.
pub enum ConfigOrigin<'a> {
    /// A file, which may change.
    File(&'a Path),
    /// This text.
    Text(String, &'a Path),
}

/// What follows the binary's name when it is started once more.
pub struct ChildArguments {
    /// As the worker.
    pub worker: Vec<OsString>,
    /// As the controller.
    pub controller: Vec<OsString>,
}

/// Runs the agent. The result is the exit code.
pub fn run(settings: ConfigOrigin<'_>, arguments: ChildArguments) -> anyhow::Result<u8> {
    let file = match settings {
        ConfigOrigin::File(path) => ConfigFile::read(path)?,
        ConfigOrigin::Text(text, path) => ConfigFile::fixed(text, path)?,
    };
    let kubernetes = file.config().kubernetes.clone();
    let place = if kubernetes.is_some() { RuntimeEnvironment::Kubernetes } else { RuntimeEnvironment::Host };
    let machine = HostCapabilities::look(place).context("cannot read /proc; mount it")?;
    machine.verdict().map_err(|sentence| anyhow!(sentence))?;
    let agent = file.config().agent.clone();
    let identity = agent.key.as_deref().map_or_else(Identity::generate, Identity::load)?;
    let cluster = kubernetes
        .as_ref()
        .map(|kubernetes| (NetnsResolver::new(&kubernetes.proc), PermissionList::new(kubernetes.forbidden.clone())));
    KernelFeatures::try_out(agent.attach.into())?.tell();
    // Before the first child and every thread that stays, so that they inherit the blocked signals: those that tried the
    // kernel have ended.
    let signals = GuardianSignals::new().context("cannot take signals")?;
    raise_descriptor_limit();
    let home = HostNamespaces::new().context("cannot open the agent's own network namespace")?;
    let udp = sockets::tunnels(agent.listen).map_err(|sentence| anyhow!(sentence))?;
    let key = memory::sealed(c"redir-agent-key", identity.to_pkcs8_der()).context("cannot keep the key in memory")?;
    tracing::info!(listen = %agent.listen, key = %identity.pin(), pods = file.config().pods.len(), "the agent starts");
    stay_in_memory(&machine);
    let mut tls = TlsFiles::default();
    tls.configure(file.config());
    let pin = memory::sealed(c"redir-agent-pin", identity.pin().to_string().as_bytes());
    let pin = pin.context("cannot keep the public key in memory")?;
    let controller = ControllerSupervisor::new(arguments.controller, kubernetes.map(|kubernetes| kubernetes.proc), pin);
    let confinement = ConfinementArguments { user: agent.user, node_proc: None, container_runtimes: false };
    let launch = ChildLauncher::new(arguments.worker, &confinement, child::WORKER_ENVIRONMENT);
    let mut pods = PodTable::new(home, agent.attach, agent.user, cluster);
    pods.note(file.config());
    let supervisor = Supervisor {
        launch,
        controller,
        relays: RuntimeRelays::default(),
        pods,
        drain: agent.drain,
        life: supervisor::WorkerLifecycle::default(),
        file,
        signals,
        tls,
        udp,
        key,
    };
    Ok(supervisor.run())
}

fn stay_in_memory(machine: &HostCapabilities) {
    const MEANING: &str = "the guardian may be slow where the worker has used up the memory";
    if !machine.may_lock_memory() {
        tracing::warn!("the agent lacks CAP_IPC_LOCK: {MEANING}; add it to its capabilities");
    } else if let Err(error) = memory::lock() {
        tracing::warn!(%error, "cannot lock memory: {MEANING}; give the agent more of it");
    }
}

/// Some descriptors for each pod; the soft limit is often 1024 for historical reasons alone.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard.min(DESCRIPTORS), hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of descriptors; the number of armed pods is smaller");
    }
}

/// About twenty for each of a node's 250 pods, with room.
const DESCRIPTORS: u64 = 65_536;
