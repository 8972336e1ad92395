//! The worker: no capability; accepts, parses, relays, speaks QUIC.
//!
//! Owns the runtime, the tree of tasks and the order in which they start and end. Must not do what a task of its own
//! can do. Called by `main` with what the guardian handed over; everything that needs a privilege is asked of the
//! guardian through the broker.

mod access;
mod admin;
mod broker;
mod capture;
pub mod control;
mod health_checks;
mod intercept_filter;
mod memory;
mod metrics;
mod misses;
mod plan;
mod proxy;
mod pulse;
mod registry;
mod relay;
mod shares;
mod shutdown;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod tunnel;
mod tunnel_handle;
mod upstream;

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::Context;
use redir_tunnel::Identity;
use tokio::{
    runtime::Builder,
    sync::{mpsc, watch},
    task::JoinSet,
};

use self::{
    admin::AgentReadiness,
    broker::{Broker, GuardianEvent},
    capture::PodCaptures,
    control::Policy,
    metrics::Metrics,
    misses::Misses,
    plan::Plans,
    shares::{ConnectionLimit, ConnectionShares},
    shutdown::StopSignals,
    tls::{GivenFor, Tls},
    tunnel::TunnelService,
    upstream::{BrokenWay, ports::Ranges},
};
pub use broker::{WorkerBootstrap, bootstrap};

use redir_config::{NodeConfig, UpstreamPorts};

/// Threads that carry connections: they wait for sockets most of the time, and each costs memory of its own.
const MOST_THREADS: usize = 8;
/// What the runtime's threads get to end after the last task.
const LAST_TASKS: Duration = Duration::from_millis(300);

/// What the worker may use of the machine, read while it may still open files.
pub struct MachineLimits {
    cpus: usize,
    /// Bytes of memory that its cgroups allow.
    memory: Option<u64>,
}

impl MachineLimits {
    /// Reads it.
    pub fn look() -> Self {
        let cpus = std::thread::available_parallelism().map_or(2, usize::from);
        Self { cpus, memory: memory::read_ceiling() }
    }
}

/// Opens the admin address, while the worker may still listen.
pub fn bind_admin(bootstrap: &WorkerBootstrap) -> anyhow::Result<TcpListener> {
    admin::bind(bootstrap.config.agent.admin)
}

/// Runs the worker until it is told to end.
pub fn run(bootstrap: WorkerBootstrap, admin: TcpListener, limits: MachineLimits) -> anyhow::Result<()> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(limits.cpus.min(MOST_THREADS))
        .max_blocking_threads(4)
        .thread_name("redir-relay")
        .enable_all()
        .build()
        .context("start the threads that carry connections")?;
    let done = runtime.block_on(live(bootstrap, admin, limits));
    runtime.shutdown_timeout(LAST_TASKS);
    done
}

/// Everything that runs as long as the worker does.
struct RunningWorker {
    captures: PodCaptures,
    tunnels: TunnelService,
    policy: watch::Sender<Policy>,
    /// Where the links to the controllers go.
    controller: mpsc::Sender<std::os::fd::OwnedFd>,
    readiness: AgentReadiness,
    stop: StopSignals,
    /// The broker's driver and the admin page; aborted when this is dropped.
    _tasks: JoinSet<()>,
}

async fn live(bootstrap: WorkerBootstrap, admin: TcpListener, limits: MachineLimits) -> anyhow::Result<()> {
    let (broker, driver, mut events) =
        broker::start(bootstrap.control, &bootstrap.config_file).context("speak with the guardian")?;
    let WorkerBootstrap { udp, key, config, certificates, .. } = bootstrap;
    let by_kubernetes = config.kubernetes.is_some();
    let given_for = if by_kubernetes { GivenFor::Pods } else { GivenFor::Ports };
    let tls = Tls::new(&certificates, given_for, config.agent.probe_tls);
    let mut tasks = JoinSet::new();
    let given = tls.clone();
    tasks.spawn(driver.with_certificates(move |certificates| given.replace(certificates)).run());
    tasks.spawn(memory::trim::run());
    pulse::start(broker.control()?, &mut tasks).context("start the thread that says the worker lives")?;
    let parts = WorkerParts { udp, admin, memory: limits.memory, key, config, tls };
    let (broken_ways, mut broken) = mpsc::channel(BROKEN_WAYS);
    let worker = start(parts, &broker, broken_ways, tasks).await?;
    broker.ready().await.context("tell the guardian that the worker serves")?;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            Some(BrokenWay { pod, reason }) = broken.recv() => {
                worker.tunnels.broken(&pod, reason).await;
                continue;
            }
        };
        let Some(event) = event else { break };
        match event {
            GuardianEvent::Config(config) => {
                tracing::info!(pods = config.pods.len(), developers = config.developers.len(), "new configuration");
                worker.policy.send_replace(config);
            }
            // Without Kubernetes nobody waits for one, and none comes.
            GuardianEvent::Controller(link) => worker.controller.send(link).await.unwrap_or_default(),
            GuardianEvent::PodGone(pod) => {
                tracing::warn!(%pod, "the pod's network namespace is another one now: its connections are reset");
                worker.captures.abort(&pod);
                worker.tunnels.rearm(&pod).await;
            }
            GuardianEvent::PodEnded(pod) => {
                tracing::info!(%pod, "the pod's last process has ended: its connections are reset");
                worker.captures.abort(&pod);
                // Its ports are let go of, and armed again if it goes on. Of Kubernetes' the sandbox may be there for long:
                // it is left alone for a while, which grows.
                if by_kubernetes {
                    worker.tunnels.broken(&pod, "the pod's last process has ended".to_owned()).await;
                } else {
                    worker.tunnels.rearm(&pod).await;
                }
            }
            GuardianEvent::Readdressed(pod, addresses) => {
                worker.captures.readdressed(&pod);
                worker.tunnels.readdress(pod, addresses).await;
            }
            GuardianEvent::Shutdown { drain } => {
                return worker.end(drain, &mut events).await;
            }
            GuardianEvent::GuardianGone => break,
        }
    }
    worker.abandon().await;
    anyhow::bail!("the guardian has ended; the agent must be started again")
}

/// Links that wait to be taken, which is at once.
const LINKS: usize = 4;
/// Broken ways that wait to be heard of; the same one is reported again by the next connection.
const BROKEN_WAYS: usize = 64;

struct WorkerParts {
    udp: std::net::UdpSocket,
    admin: TcpListener,
    /// Bytes of memory that the worker may use, if that is limited.
    memory: Option<u64>,
    key: Vec<u8>,
    config: Arc<NodeConfig>,
    tls: Tls,
}

async fn start(
    parts: WorkerParts,
    broker: &Broker,
    broken: mpsc::Sender<BrokenWay>,
    mut tasks: JoinSet<()>,
) -> anyhow::Result<RunningWorker> {
    let identity = Identity::from_pkcs8_der(&parts.key).context("read the agent's key")?;
    memory::set_budget(parts.memory);
    let limit = ConnectionLimit::of_process(parts.memory);
    let admin = tokio::net::TcpListener::from_std(parts.admin).context("serve the admin address")?;
    let metrics = Arc::new(Metrics::new());
    let (stop, plans, readiness) = (StopSignals::default(), Plans::default(), AgentReadiness::default());
    let misses = Misses::default();
    let ranges = match parts.config.agent.upstream_ports {
        UpstreamPorts::Low => Ranges::LowFirst,
        UpstreamPorts::High => Ranges::HighOnly,
    };
    let captures = PodCaptures::new(capture::CaptureContext {
        broker: broker.clone(),
        plans: plans.clone(),
        metrics: metrics.clone(),
        shares: ConnectionShares::new(limit),
        ranges,
        broken,
        tls: parts.tls.clone(),
        misses: misses.clone(),
        stop: stop.clone(),
    });
    let come_and_go = parts.config.kubernetes.is_some();
    let first: Policy = if come_and_go { control::link::nothing() } else { parts.config.clone() };
    let (policy, changes) = watch::channel::<Policy>(first);
    let tunnels = tunnel::start(tunnel::TunnelParts {
        udp: parts.udp,
        unread: memory::unread_budget(parts.memory),
        identity,
        policy: changes,
        broker: broker.clone(),
        captures: captures.clone(),
        plans,
        tls: parts.tls.clone(),
        misses,
    })
    .context("start the tunnel endpoint")?;
    let scrape = scrape(
        broker.clone(),
        captures.clone(),
        metrics.clone(),
        tunnels.counters().clone(),
        come_and_go.then(|| readiness.clone()),
    );
    tasks.spawn(admin::serve(admin, readiness.clone(), scrape));
    let (controller, links) = mpsc::channel(LINKS);
    if come_and_go {
        // Ready once the controller has told what there is.
        let parts = control::link::ControllerLinkParts {
            policy: policy.clone(),
            tls: parts.tls.clone(),
            reports: tunnels.reports(),
            metrics,
            readiness: readiness.clone(),
        };
        tasks.spawn(control::link::run(parts, links));
    } else {
        readiness.set(true);
    }
    Ok(RunningWorker { captures, tunnels, policy, controller, readiness, stop, _tasks: tasks })
}

/// Makes the text of `/metrics`: what the pods' programs counted is asked for when it is read.
fn scrape(
    broker: Broker,
    captures: PodCaptures,
    metrics: Arc<Metrics>,
    counters: Arc<tunnel_handle::counters::TunnelCounters>,
    cluster: Option<AgentReadiness>,
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = Result<String, std::fmt::Error>> + Send>> + Clone + Send + Sync
{
    move || {
        let (broker, captures, metrics, counters) =
            (broker.clone(), captures.clone(), metrics.clone(), counters.clone());
        let cluster = cluster.clone();
        Box::pin(async move {
            if let Some(readiness) = cluster {
                // Pods come and go.
                metrics.forget_datapaths();
                metrics.set_controller_up(readiness.hears_controller());
            }
            let hung = broker.guardian_hangs();
            for pod in captures.pods() {
                // Each would be waited for in vain: the other figures are wanted just then.
                if *hung.borrow() {
                    break;
                }
                match broker.stats(&pod).await {
                    Ok(counts) => metrics.set_datapath(&pod.to_string(), &counts),
                    Err(error) => tracing::debug!(%pod, %error, "no counts of the pod's programs"),
                }
            }
            metrics.set_tunnels(&counters);
            metrics.memory_held.set(i64::try_from(memory::held()).unwrap_or(i64::MAX));
            metrics.text()
        })
    }
}

impl RunningWorker {
    /// The ordered end: nothing new is steered, tunnels take no new work, connections drain, the rest is reset.
    async fn end(self, drain: Duration, events: &mut mpsc::Receiver<GuardianEvent>) -> anyhow::Result<()> {
        tracing::info!(drain_seconds = drain.as_secs(), "shutting down");
        self.readiness.set(false);
        self.stop.draining.cancel();
        // Events are heard all the while: with their queue full the broker would bring no answers either.
        let ended = async {
            self.tunnels.stop_new().await;
            self.captures.ended().await;
        };
        if !shutdown::drained(ended, drain, events).await {
            tracing::info!("the time to drain is over: what is left is reset");
            self.stop.abort.cancel();
            shutdown::bounded(self.captures.ended()).await;
        }
        self.tunnels.close().await;
        tracing::info!("ended");
        Ok(())
    }

    /// The guardian is dead: the listeners close, so that new connections go to the app, and connections are reset while
    /// the links are still there.
    async fn abandon(self) {
        tracing::error!("the guardian has ended: every connection is reset");
        self.readiness.set(false);
        self.stop.abort.cancel();
        shutdown::bounded(self.captures.ended()).await;
        shutdown::bounded(self.tunnels.close()).await;
    }
}
