//! The one task that knows the world: takes what the listeners hear, publishes the policy, and has written what is to be
//! said.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use redir_api::{AgentStatus, node::endpoints};
use redir_config::{AgentSettings, KubernetesSettings};
use redir_link::{
    InterceptReports, SOFTWARE,
    resolved::{ObjectId, ResolvedCluster},
};
use redir_wire::Token;
use tokio::{
    sync::{mpsc, watch as channel},
    task::{AbortHandle, JoinSet},
    time::{sleep, sleep_until, timeout},
};

use super::{
    api_server::ApiServer,
    client::CredentialSource,
    permissions::permissions,
    publish::ClusterConclusion,
    renewals::LeaseRenewals,
    resolve::{NeededObjects, resolve},
    secrets,
    status::{AgentEntry, ReportedEvents, WorkloadNotice, entries},
    watch::{self, WatchEvent},
    world::{ClusterState, ObjectName},
    write::{self, WriteError},
    writes::WriteQueue,
};

/// What the driver needs.
pub(super) struct DriverParts {
    /// Where and how.
    pub(super) settings: KubernetesSettings,
    /// `[agent]`
    pub(super) agent: AgentSettings,
    /// The agent's public key.
    pub(super) key: String,
    /// Where what is concluded goes.
    pub(super) conclusions: channel::Sender<Option<Arc<ClusterConclusion>>>,
    /// How the intercepts stand; `None` as long as no worker has said it.
    pub(super) reports: channel::Receiver<Option<InterceptReports>>,
    /// The state of this process.
    pub(super) vitals: channel::Sender<ControllerVitals>,
}

/// The controller's condition, by its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ControllerVitals {
    /// Since when the API server has not been heard.
    pub(super) silent_since: Option<tokio::time::Instant>,
    /// Intercepts in the whole cluster.
    pub(super) objects: u64,
    /// Calls that failed.
    pub(super) api_errors: u64,
    /// Intercepts that were deleted because nobody renewed them.
    pub(super) expired: u64,
}

/// Runs until it is aborted.
pub(super) async fn run(parts: DriverParts, source: CredentialSource) {
    let server = loop {
        match server(&parts, &source).await {
            Ok(server) => break server,
            Err(error) => tracing::error!("{error:#}; it is tried again"),
        }
        sleep(CLIENT_PAUSE).await;
    };
    let client = server.client();
    let (heard, hearing) = mpsc::channel(HEARD);
    let node = parts.settings.node.clone();
    let (notices, telling) = mpsc::channel(NOTICES);
    let (found, addresses) = channel::channel(Vec::new());
    let mut listeners = JoinSet::new();
    listeners.spawn(server.clone().look_for());
    listeners.spawn(server.clone().follow_addresses(client.clone()));
    listeners.spawn(watch::pods(client.clone(), server.clone(), node.clone(), heard.clone()));
    listeners.spawn(watch::intercepts(client.clone(), server.clone(), node.clone(), heard.clone()));
    listeners.spawn(write::events(client.clone(), node.clone(), telling));
    listeners.spawn(look_at_node(
        client.clone(),
        server.clone(),
        node.clone(),
        parts.agent.listen,
        parts.settings.address,
        found,
    ));
    let introduction = AgentEntry {
        node: node.clone(),
        key: parts.key.clone(),
        software: SOFTWARE,
        endpoints: addresses.borrow().clone(),
    };
    let driver = ControllerDriver {
        client,
        server,
        heard,
        listeners,
        introduction,
        renewals: LeaseRenewals::new(&node),
        world: ClusterState::new(parts.settings.forbidden.clone()),
        conclusions: parts.conclusions,
        vitals: parts.vitals,
        patience: None,
        settled: false,
        services: BTreeMap::new(),
        secrets: BTreeMap::new(),
        asked: BTreeSet::new(),
        told: ReportedEvents::default(),
        notices,
        writes: WriteQueue::default(),
        writing: JoinSet::new(),
    };
    driver.run(hearing, parts.reports, addresses).await;
}

struct ControllerDriver {
    client: Client,
    server: ApiServer,
    heard: mpsc::Sender<WatchEvent>,
    listeners: JoinSet<()>,
    introduction: AgentEntry,
    renewals: LeaseRenewals,
    world: ClusterState,
    conclusions: channel::Sender<Option<Arc<ClusterConclusion>>>,
    vitals: channel::Sender<ControllerVitals>,
    /// Until when nothing is concluded from a world of which something is still asked.
    patience: Option<Instant>,
    /// Something has been concluded.
    settled: bool,
    /// Listeners of Services.
    services: BTreeMap<ObjectName, AbortHandle>,
    /// Listeners of the Secrets of a namespace, with what they listen to.
    secrets: BTreeMap<String, channel::Sender<BTreeSet<String>>>,
    /// ReplicaSets that are asked about.
    asked: BTreeSet<String>,
    told: ReportedEvents,
    notices: mpsc::Sender<WorkloadNotice>,
    writes: WriteQueue,
    writing: JoinSet<WriteOutcome>,
}

async fn server(parts: &DriverParts, source: &CredentialSource) -> anyhow::Result<ApiServer> {
    let config = source.config().await?;
    let server = ApiServer::new(config, parts.settings.api_server.as_ref(), parts.vitals.clone());
    server.context("cannot make a client for the API server")
}

/// The end of one call.
enum WriteOutcome {
    Status(Token, Option<AgentStatus>, Result<(), WriteError>),
    Deleted(ObjectId, Result<(), WriteError>),
}

impl ControllerDriver {
    async fn run(
        mut self,
        mut hearing: mpsc::Receiver<WatchEvent>,
        mut reports: channel::Receiver<Option<InterceptReports>>,
        mut addresses: channel::Receiver<Vec<redir_api::Endpoint>>,
    ) {
        loop {
            let patience = self.patience.filter(|_| !self.settled);
            let wake = [self.renewals.next(), self.writes.next(), patience].into_iter().flatten().min();
            tokio::select! {
                heard = hearing.recv() => match heard {
                    Some(heard) => {
                        self.take(heard);
                        // What came together is concluded from together.
                        while let Ok(heard) = hearing.try_recv() {
                            self.take(heard);
                        }
                    }
                    None => return,
                },
                changed = reports.changed() => if changed.is_err() { return },
                Ok(()) = addresses.changed() => self.introduction.endpoints = addresses.borrow_and_update().clone(),
                Some(done) = self.writing.join_next() => if let Ok(done) = done { self.written(done) },
                () = until(wake) => {}
            }
            while self.listeners.try_join_next().is_some() {}
            if self.world.is_known() {
                let reports = reports.borrow_and_update().clone();
                self.conclude(reports.as_ref());
            }
        }
    }

    fn take(&mut self, heard: WatchEvent) {
        match heard {
            WatchEvent::Change(change) => self.world.take(change),
            WatchEvent::Nothing => {
                self.failed();
                self.renewals.not_heard(Instant::now());
            }
        }
    }

    fn failed(&self) {
        self.vitals.send_modify(|vitals| vitals.api_errors += 1);
    }

    /// Whether enough is known to say something. What an earlier controller has said stays in force until then: it must not
    /// be taken back only because a Service has not been heard of yet.
    fn may_conclude(&mut self, needs: &NeededObjects, reports: Option<&InterceptReports>, now: Instant) -> bool {
        let patience = *self.patience.get_or_insert(now + PATIENCE);
        now >= patience || reports.is_some() && self.world.answers(needs)
    }

    /// Brings everything in line with what is known.
    fn conclude(&mut self, reports: Option<&InterceptReports>) {
        let now = Instant::now();
        let (resolved, needs) = resolve(&self.world);
        self.ask(&needs);
        if !self.settled {
            if !self.may_conclude(&needs, reports, now) {
                return;
            }
            let intercepts = self.world.intercepts.values();
            self.told.resume(&resolved, intercepts.filter_map(|one| Some((one.token, one.written.as_ref()?))));
            self.settled = true;
        }
        let certificates = secrets::certificates(&self.world, &resolved);
        let permissions = permissions(&self.world, &resolved);
        let conclusion = Arc::new(ClusterConclusion { resolved, certificates, permissions });
        self.conclusions.send_if_modified(|known| {
            let news = known.as_ref() != Some(&conclusion);
            if news {
                *known = Some(conclusion.clone());
            }
            news
        });
        let objects = self.world.intercepts.len() as u64;
        self.vitals.send_if_modified(|vitals| std::mem::replace(&mut vitals.objects, objects) != objects);
        self.report(&conclusion.resolved, reports.unwrap_or(&InterceptReports::new()), now);
    }

    /// Has written what is to be said.
    fn report(&mut self, resolved: &ResolvedCluster, reports: &InterceptReports, now: Instant) {
        let entries = entries(resolved, reports, &self.introduction);
        for notice in self.told.tell(resolved, &entries) {
            // People miss a line; the status has it all the same.
            if self.notices.try_send(notice).is_err() {
                tracing::warn!("Events come faster than the API server takes them; one is left out");
            }
        }
        for (token, id, entry) in self.writes.due(&self.world, &entries, now) {
            let (client, node) = (self.client.clone(), self.introduction.node.clone());
            self.writing.spawn(async move {
                let result = write::status(client, &node, &id, entry.as_ref()).await;
                WriteOutcome::Status(token, entry, result)
            });
        }
        for forgotten in self.renewals.expired(&self.world, now) {
            let (client, id, version) = (self.client.clone(), forgotten.id.clone(), forgotten.version.clone());
            self.writing.spawn(async move {
                let result = write::delete(client, &id, version).await;
                WriteOutcome::Deleted(id, result)
            });
        }
    }

    fn written(&mut self, written: WriteOutcome) {
        match written {
            WriteOutcome::Status(token, entry, result) => {
                if let Err(WriteError::Failed(error)) = &result {
                    self.failed();
                    tracing::warn!(%error, "an Intercept's status could not be written; it is tried again");
                }
                self.writes.done(token, entry, &result, Instant::now());
            }
            WriteOutcome::Deleted(id, Ok(())) => {
                self.vitals.send_modify(|vitals| vitals.expired += 1);
                tracing::info!(namespace = id.namespace, name = id.name, "an Intercept was not renewed and is deleted");
            }
            // Renewed in the last moment, or deleted by another agent.
            WriteOutcome::Deleted(_, Err(WriteError::Outdated)) => {}
            WriteOutcome::Deleted(id, Err(WriteError::Failed(error))) => {
                self.failed();
                tracing::warn!(namespace = id.namespace, name = id.name, %error, "an Intercept that was not renewed could not be deleted");
            }
        }
    }

    /// Asks for what must be known, and no longer for what need not.
    fn ask(&mut self, needs: &NeededObjects) {
        self.services.retain(|named, listener| {
            let needed = needs.services.contains(named);
            if !needed {
                listener.abort();
            }
            needed
        });
        for named in &needs.services {
            if !self.services.contains_key(named) {
                let listener =
                    watch::service(self.client.clone(), self.server.clone(), named.clone(), self.heard.clone());
                self.services.insert(named.clone(), self.listeners.spawn(listener));
            }
        }
        // A listener ends when its sender is dropped.
        self.secrets.retain(|namespace, _| needs.secrets.contains_key(namespace));
        for (namespace, names) in &needs.secrets {
            match self.secrets.get(namespace) {
                Some(listened) => drop(listened.send_if_modified(|known| {
                    let news = *known != *names;
                    known.clone_from(names);
                    news
                })),
                None => {
                    let (sender, wanted) = channel::channel(names.clone());
                    let listener = secrets::listen(
                        self.client.clone(),
                        self.server.clone(),
                        namespace.clone(),
                        wanted,
                        self.heard.clone(),
                    );
                    self.listeners.spawn(listener);
                    self.secrets.insert(namespace.clone(), sender);
                }
            }
        }
        for (uid, named) in &needs.owners {
            if self.asked.insert(uid.clone()) {
                let (client, server) = (self.client.clone(), self.server.clone());
                self.listeners.spawn(watch::owner(client, server, uid.clone(), named.clone(), self.heard.clone()));
            }
        }
        self.asked.retain(|uid| needs.owners.contains_key(uid));
        self.world.forget(needs);
    }
}

/// Reads the Node now and then: its addresses may change, and an administrator may write one to it.
async fn look_at_node(
    client: Client,
    server: ApiServer,
    name: String,
    listen: SocketAddr,
    fallback: Option<IpAddr>,
    found: channel::Sender<Vec<redir_api::Endpoint>>,
) {
    let api = Api::<Node>::all(client);
    let show = |node: Option<&Node>| {
        let told = endpoints(node, listen, fallback);
        found.send_if_modified(|shown| {
            let news = *shown != told;
            *shown = told;
            news
        });
    };
    loop {
        let pause = match timeout(NODE_CALL, api.get(&name)).await {
            Ok(Ok(node)) => {
                show(Some(&node));
                NODE_LOOK
            }
            failed => {
                let error = failed.map_or_else(|_| "no answer".to_owned(), |answer| format!("{:?}", answer.err()));
                tracing::debug!(%error, "the Node cannot be read");
                if found.borrow().is_empty() {
                    show(None);
                }
                CLIENT_PAUSE
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = server.heard_again() => {}
            () = found.closed() => return,
        }
    }
}

/// Sleeps until then, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Until a kubeconfig that cannot be used, or a Node that cannot be read, is tried again.
const CLIENT_PAUSE: Duration = Duration::from_secs(5);
/// A Node's addresses hardly ever change.
const NODE_LOOK: Duration = Duration::from_secs(60);
const NODE_CALL: Duration = Duration::from_secs(5);
/// Changes that wait to be taken; when full the listeners wait, and with them the API server.
const HEARD: usize = 1024;
/// Events that wait to be published; when full one is left out.
const NOTICES: usize = 256;
/// Until what is known counts although something that was asked for has not been answered, or no worker has said how the
/// intercepts stand.
const PATIENCE: Duration = Duration::from_secs(10);
