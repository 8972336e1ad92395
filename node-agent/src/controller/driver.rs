//! The one task that knows the world: takes what the listeners hear, publishes the plane, and has written what is to be
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
use redir_wire::Token;
use tokio::{
    sync::{mpsc, watch as channel},
    task::{AbortHandle, JoinSet},
    time::{sleep, sleep_until, timeout},
};

use super::{
    Parts,
    api_server::ApiServer,
    client::Source,
    facts::ObjectId,
    renewals::Renewals,
    resolve::{Needs, Resolved, resolve},
    secrets,
    status::{Introduction, Notice, Told, entries},
    watch::{self, Heard},
    world::{Named, World},
    write::{self, WriteError},
};
use crate::{
    certificates::Certificates,
    worker::{
        admin::Readiness, control::Plane, metrics::Metrics, registry::report::Standings, tls::Tls, tunnel::SOFTWARE,
    },
};

/// Runs until it is aborted.
pub(super) async fn run(parts: Parts, source: Source) {
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
        parts.config.agent.listen,
        parts.settings.address,
        found,
    ));
    let introduction = Introduction {
        node: node.clone(),
        key: parts.key.to_string(),
        software: SOFTWARE,
        endpoints: addresses.borrow().clone(),
    };
    let driver = Driver {
        client,
        server,
        heard,
        listeners,
        introduction,
        renewals: Renewals::new(&node),
        world: World::default(),
        current: Arc::default(),
        plane: parts.plane,
        certificates: Certificates::default(),
        tls: parts.tls,
        readiness: parts.readiness,
        metrics: parts.metrics,
        services: BTreeMap::new(),
        secrets: BTreeMap::new(),
        asked: BTreeSet::new(),
        told: Told::default(),
        notices,
        writes: Writes::default(),
        writing: JoinSet::new(),
    };
    driver.run(hearing, parts.standings, addresses).await;
}

struct Driver {
    client: Client,
    server: ApiServer,
    heard: mpsc::Sender<Heard>,
    listeners: JoinSet<()>,
    introduction: Introduction,
    renewals: Renewals,
    world: World,
    current: Arc<Resolved>,
    plane: channel::Sender<Plane>,
    certificates: Certificates,
    tls: Tls,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    /// Listeners of Services.
    services: BTreeMap<Named, AbortHandle>,
    /// Listeners of the Secrets of a namespace, with what they listen to.
    secrets: BTreeMap<String, channel::Sender<BTreeSet<String>>>,
    /// ReplicaSets that are asked about.
    asked: BTreeSet<String>,
    told: Told,
    notices: mpsc::Sender<Notice>,
    writes: Writes,
    writing: JoinSet<Written>,
}

async fn server(parts: &Parts, source: &Source) -> anyhow::Result<ApiServer> {
    let config = source.config().await?;
    let server = ApiServer::new(config, parts.settings.api_server.as_ref(), parts.readiness.clone());
    server.context("cannot make a client for the API server")
}

/// The end of one call.
enum Written {
    Status(Token, Option<AgentStatus>, Result<(), WriteError>),
    Deleted(ObjectId, Result<(), WriteError>),
}

impl Driver {
    async fn run(
        mut self,
        mut hearing: mpsc::Receiver<Heard>,
        mut standings: channel::Receiver<Standings>,
        mut addresses: channel::Receiver<Vec<redir_api::Endpoint>>,
    ) {
        loop {
            let wake = [self.renewals.next(), self.writes.next()].into_iter().flatten().min();
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
                changed = standings.changed() => if changed.is_err() { return },
                Ok(()) = addresses.changed() => self.introduction.endpoints = addresses.borrow_and_update().clone(),
                Some(done) = self.writing.join_next() => if let Ok(done) = done { self.written(done) },
                () = until(wake) => {}
            }
            while self.listeners.try_join_next().is_some() {}
            if self.world.is_known() {
                let standings = standings.borrow_and_update().clone();
                self.conclude(&standings);
            }
        }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Change(change) => self.world.take(change),
            Heard::Nothing => {
                self.metrics.api_errors.inc();
                self.renewals.not_heard(Instant::now());
            }
        }
    }

    /// Brings everything in line with what is known.
    fn conclude(&mut self, standings: &Standings) {
        let (resolved, needs) = resolve(&self.world);
        self.ask(&needs);
        if *self.current != resolved {
            self.current = Arc::new(resolved);
            self.plane.send_replace(self.current.clone());
        }
        let certificates = secrets::certificates(&self.world, &self.current);
        if self.certificates != certificates {
            self.tls.replace(&certificates);
            self.certificates = certificates;
        }
        self.readiness.set(true);
        self.metrics.objects.set(i64::try_from(self.world.intercepts.len()).unwrap_or(i64::MAX));
        let now = Instant::now();
        let entries = entries(&self.current, standings, &self.introduction);
        for notice in self.told.tell(&self.current, &entries) {
            // People miss a line; the status has it all the same.
            if self.notices.try_send(notice).is_err() {
                tracing::warn!("Events come faster than the API server takes them; one is left out");
            }
        }
        for (token, id, entry) in self.writes.due(&self.world, &entries, now) {
            let (client, node) = (self.client.clone(), self.introduction.node.clone());
            self.writing.spawn(async move {
                let result = write::status(client, &node, &id, entry.as_ref()).await;
                Written::Status(token, entry, result)
            });
        }
        for forgotten in self.renewals.expired(&self.world, now) {
            let (client, id, version) = (self.client.clone(), forgotten.id.clone(), forgotten.version.clone());
            self.writing.spawn(async move {
                let result = write::delete(client, &id, version).await;
                Written::Deleted(id, result)
            });
        }
    }

    fn written(&mut self, written: Written) {
        match written {
            Written::Status(token, entry, result) => {
                if let Err(WriteError::Failed(error)) = &result {
                    self.metrics.api_errors.inc();
                    tracing::warn!(%error, "an Intercept's status could not be written; it is tried again");
                }
                self.writes.done(token, entry, &result, Instant::now());
            }
            Written::Deleted(id, Ok(())) => {
                self.metrics.expired.inc();
                tracing::info!(namespace = id.namespace, name = id.name, "an Intercept was not renewed and is deleted");
            }
            // Renewed in the last moment, or deleted by another agent.
            Written::Deleted(_, Err(WriteError::Outdated)) => {}
            Written::Deleted(id, Err(WriteError::Failed(error))) => {
                self.metrics.api_errors.inc();
                tracing::warn!(namespace = id.namespace, name = id.name, %error, "an Intercept that was not renewed could not be deleted");
            }
        }
    }

    /// Asks for what must be known, and no longer for what need not.
    fn ask(&mut self, needs: &Needs) {
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

/// Which entries are to be written: one call for each Intercept at a time, the newest state with the next.
#[derive(Default)]
struct Writes {
    under_way: BTreeSet<Token>,
    /// Written by this process; the watch may not have shown it yet.
    written: BTreeMap<Token, Option<AgentStatus>>,
    retry: BTreeMap<Token, Instant>,
}

impl Writes {
    fn due(
        &mut self,
        world: &World,
        entries: &BTreeMap<Token, AgentStatus>,
        now: Instant,
    ) -> Vec<(Token, ObjectId, Option<AgentStatus>)> {
        let known = |token: &Token| world.intercepts.contains_key(token);
        self.written.retain(|token, _| known(token));
        self.retry.retain(|token, at| known(token) && *at > now);
        let mut due = Vec::new();
        for (token, intercept) in &world.intercepts {
            if self.under_way.contains(token) || self.retry.contains_key(token) {
                continue;
            }
            // Once the watch shows what was written, the watch alone counts again.
            if self.written.get(token) == Some(&intercept.written) {
                self.written.remove(token);
            }
            let there = self.written.get(token).unwrap_or(&intercept.written);
            let wanted = entries.get(token);
            if there.as_ref() != wanted {
                self.under_way.insert(*token);
                due.push((*token, intercept.id.clone(), wanted.cloned()));
            }
        }
        due
    }

    fn done(&mut self, token: Token, entry: Option<AgentStatus>, result: &Result<(), WriteError>, now: Instant) {
        self.under_way.remove(&token);
        match result {
            Ok(()) => drop(self.written.insert(token, entry)),
            Err(_) => drop(self.retry.insert(token, now + RETRY)),
        }
    }

    /// When something that failed is tried again.
    fn next(&self) -> Option<Instant> {
        self.retry.values().copied().min()
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
/// Until a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use redir_api::Intercept;
    use serde_json::json;

    use super::*;
    use crate::controller::{facts::InterceptFacts, world::Change};

    /// A world with one Intercept, and what this agent has to say of it.
    fn one_to_write() -> (World, BTreeMap<Token, AgentStatus>) {
        let pin = redir_tunnel::Pin::of_spki(&[1]).to_string();
        let intercept: Intercept = serde_json::from_value(json!({
            "apiVersion": "redir.dev/v1alpha1", "kind": "Intercept",
            "metadata": {
                "namespace": "shop", "name": "i1", "uid": "00000000-0000-4000-8000-000000000001", "generation": 1,
                "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"port": "8080", "developerKey": pin, "user": "alice", "to": "127.0.0.1:3000",
                     "target": {"kind": "Deployment", "name": "web"}},
        }))
        .unwrap();
        let facts = InterceptFacts::read(&intercept, "n1").unwrap();
        let token = facts.token;
        let mut world = World::default();
        world.take(Change::Intercepts(vec![facts]));
        let entry = json!({"node": "n1", "key": "k", "software": "redir", "protocol": 1, "state": "Live"});
        let entry = serde_json::from_value(entry).unwrap();
        (world, BTreeMap::from([(token, entry)]))
    }

    #[test]
    fn a_status_that_could_not_be_written_is_written_again() {
        let (world, entries) = one_to_write();
        let (mut writes, mut now) = (Writes::default(), Instant::now());
        for error in [WriteError::Failed("no".into()), WriteError::Outdated] {
            let due = writes.due(&world, &entries, now);
            let [(token, _, entry)] = &due[..] else { panic!("{error:?}: {} are due", due.len()) };
            assert!(writes.due(&world, &entries, now).is_empty(), "one call at a time");
            writes.done(*token, entry.clone(), &Err(error), now);
            assert!(writes.due(&world, &entries, now).is_empty(), "not at once");
            now = writes.next().expect("it is tried again");
        }
        let due = writes.due(&world, &entries, now);
        let [(token, _, entry)] = &due[..] else { panic!("{} are due", due.len()) };
        writes.done(*token, entry.clone(), &Ok(()), now);
        assert!(writes.due(&world, &entries, now + RETRY).is_empty() && writes.next().is_none(), "it is written");
    }
}
