//! Keeps the registry: takes what sessions ask, publishes plans, has ports armed, and tells sessions what changed.
//!
//! The only task that touches the registry. It never waits for a session: one that does not keep up is closed. How
//! intercepts end is in `ending`.

mod ending;
mod publish;
mod say;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Instant, SystemTime},
};

use redir_tunnel::{Authorised, Pin};
use redir_wire::{
    Bye, EarlierConnections, InterceptRequest, InterceptState, PodFlush, Refused, RefusedCode, StatusReport, ToAgent,
    ToDeveloper, TunnelStatus,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::tunnel_handle::{TunnelHandle, backlog::Waiting, counters::TunnelCounters};
use crate::{
    control::Policy,
    misses::Misses,
    plan::{Intercept, Plans},
    registry::{
        InterceptRegistry, PortContests, SessionId,
        arming::{ArmingOp, ArmingOutcome, ArmingState, PortStatus},
        flushes::FlushResults,
        report::{self, PortFacts},
    },
    tls::Tls,
};
use redir_config::PodName;
use redir_ipc::AppListening;
use redir_link::InterceptReports;

use self::{say::no_memory, tables::FilterTables};
use super::{
    farewell::EndingIntercepts,
    flushes::FlushRequest,
    session::{AgentIntroduction, SessionCommand, key_removed},
};

/// What the hub is told.
#[derive(Debug)]
pub(crate) enum HubCommand {
    /// A tunnel was welcomed.
    Joined(JoinedTunnel),
    /// A developer asked something.
    Asked(SessionId, u32, ToAgent),
    /// A tunnel is down.
    Gone(SessionId),
    /// A developer's end answers again: what went past it meanwhile is news.
    Answers,
    /// The executor has done something.
    Done(ArmingOp, ArmingOutcome),
    /// Earlier connections have been closed, or not.
    Flushed(FlushRequest, PodFlush),
    /// Whether the app listens on an armed port.
    Listening(PodName, u16, AppListening),
    /// A pod has another network namespace.
    Rearm(PodName),
    /// The pod's app cannot be reached through the agent, for this reason.
    Broken(PodName, String),
    /// A pod has other addresses.
    Readdress(PodName, Vec<IpAddr>),
    /// No new intercepts; answer when every port is disarmed.
    StopNew(oneshot::Sender<()>),
    /// Every session says goodbye.
    Close(Bye),
}

/// A tunnel that was welcomed.
#[derive(Debug)]
pub(crate) struct JoinedTunnel {
    /// Its number.
    pub(crate) id: SessionId,
    /// The developer's key.
    pub(crate) pin: Pin,
    /// The tunnel.
    pub(crate) handle: TunnelHandle,
    /// To its session.
    pub(crate) outbox: mpsc::Sender<SessionCommand>,
    /// What its greeting said.
    pub(crate) user: String,
    /// The developer's address at the start.
    pub(crate) address: SocketAddr,
}

/// What the hub has done by others.
#[derive(Debug)]
pub(super) struct HubOutputs {
    /// To arm and disarm.
    pub(super) ops: mpsc::UnboundedSender<ArmingOp>,
    /// To look whether a port speaks TLS.
    pub(super) tls_probes: mpsc::UnboundedSender<(PodName, u16)>,
    /// To close connections from before an intercept.
    pub(super) flushes: mpsc::UnboundedSender<FlushRequest>,
    /// To watch whether apps listen: the ports that are armed.
    pub(super) armed: watch::Sender<BTreeSet<(PodName, u16)>>,
    /// To say how the intercepts stand.
    pub(super) reports: watch::Sender<InterceptReports>,
}

struct TunnelSession {
    joined: JoinedTunnel,
    since: SystemTime,
    /// What the developer was last told about each intercept.
    told: BTreeMap<u64, InterceptState>,
}

/// The task's state.
pub(crate) struct TunnelHub {
    registry: InterceptRegistry,
    arming: ArmingState,
    sessions: BTreeMap<SessionId, TunnelSession>,
    intercepts: HashMap<(u64, PodName), Arc<Intercept>>,
    tables: FilterTables,
    farewells: EndingIntercepts,
    /// The registry has changed since the plans were made.
    stale: bool,
    /// Some developers have not heard how their intercepts stand, for want of memory: when they are told.
    tell_again: Option<Instant>,
    policy: watch::Receiver<Policy>,
    authorised: Authorised,
    plans: Plans,
    counters: Arc<TunnelCounters>,
    outputs: HubOutputs,
    flushes: FlushResults,
    tls: Tls,
    misses: Misses,
    /// Whether the apps listen on the armed ports, as far as it is known.
    apps: BTreeMap<(PodName, u16), AppListening>,
    about: AgentIntroduction,
    stopping: Vec<oneshot::Sender<()>>,
    stopped: bool,
}

impl TunnelHub {
    pub(super) fn new(
        policy: watch::Receiver<Policy>,
        authorised: Authorised,
        plans: Plans,
        counters: Arc<TunnelCounters>,
        outputs: HubOutputs,
        (tls, misses): (Tls, Misses),
        about: AgentIntroduction,
    ) -> Self {
        let registry = InterceptRegistry::new(policy.borrow().clone());
        Self {
            registry,
            arming: ArmingState::default(),
            sessions: BTreeMap::new(),
            intercepts: HashMap::new(),
            tables: FilterTables::default(),
            farewells: EndingIntercepts::default(),
            stale: false,
            tell_again: None,
            policy,
            authorised,
            plans,
            counters,
            outputs,
            flushes: FlushResults::default(),
            tls,
            misses,
            apps: BTreeMap::new(),
            about,
            stopping: Vec::new(),
            stopped: false,
        }
    }

    /// Runs until nobody can tell it anything any more.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<HubCommand>) {
        let mut plane_ended = false;
        let (mut tls, mut misses) = (self.tls.news(), self.misses.news());
        loop {
            let retry = self.arming.retry_at().into_iter().chain(self.tell_again).min();
            tokio::select! {
                command = commands.recv() => match command {
                    // Every connection reports it until the pod is disarmed.
                    Some(HubCommand::Broken(pod, reason)) => {
                        if !self.broken(&pod, &reason) {
                            continue;
                        }
                    }
                    Some(command) => self.obey(command),
                    None => return,
                },
                changed = self.policy.changed(), if !plane_ended => match changed {
                    Ok(()) => self.reconfigure(),
                    Err(_) => plane_ended = true,
                },
                // Their senders are this hub's own.
                _ = tls.changed() => {}
                _ = misses.changed() => {}
                () = until(retry) => {}
            }
            self.settle();
        }
    }

    fn obey(&mut self, command: HubCommand) {
        match command {
            HubCommand::Joined(joined) => self.join(joined),
            HubCommand::Asked(session, seq, message) => self.answer(session, seq, message),
            HubCommand::Gone(session) => {
                self.registry.end_session(session, Instant::now());
                self.stale = true;
                if let Some(session) = self.sessions.remove(&session) {
                    let (developer, address) = (self.developer(&session.joined.pin), session.joined.address);
                    // One that carries nothing is a question's: its coming and going is no news.
                    match session.told.is_empty() {
                        true => tracing::debug!(developer, %address, "a tunnel is down"),
                        false => tracing::info!(developer, %address, "a tunnel is down"),
                    }
                }
            }
            // Whatever has changed is told after each command.
            HubCommand::Answers => {}
            HubCommand::Done(op, outcome) => {
                if let (ArmingOp::Arm(pod, port, _), ArmingOutcome::Armed { app: Some(app), .. }) = (&op, &outcome) {
                    self.apps.insert((pod.clone(), *port), *app);
                }
                if let (ArmingOp::Arm(pod, port, _), ArmingOutcome::Failed { reason, .. }) = (&op, &outcome) {
                    self.counters.arms_failed.add(1);
                    if self.arming.failing(pod, *port) != Some(reason) {
                        tracing::warn!(%pod, port, %reason, "cannot be intercepted");
                    }
                }
                self.arming.done(&op, outcome, SystemTime::now(), Instant::now());
            }
            HubCommand::Flushed(FlushRequest { intercept, pod, .. }, outcome) => {
                self.flushes.done(intercept, pod, outcome);
            }
            HubCommand::Listening(pod, port, app) => self.app_listens(&pod, port, app),
            HubCommand::Rearm(pod) => {
                self.flushes.retain(|_, name| *name != pod);
                self.arming.renew(&pod);
                self.tls.forget(|name, _| *name == pod);
            }
            HubCommand::Broken(pod, reason) => {
                self.broken(&pod, &reason);
            }
            HubCommand::Readdress(pod, addresses) => self.arming.readdress(&pod, addresses),
            HubCommand::StopNew(done) => {
                self.stopped = true;
                self.stale = true;
                self.arming.stop();
                self.stopping.push(done);
            }
            HubCommand::Close(bye) => {
                for session in self.sessions.values() {
                    session.joined.outbox.try_send(SessionCommand::End(bye.clone())).ok();
                }
            }
        }
    }

    fn app_listens(&mut self, pod: &PodName, port: u16, app: AppListening) {
        // It was disarmed meanwhile.
        if !self.outputs.armed.borrow().contains(&(pod.clone(), port)) {
            return;
        }
        let before = self.apps.insert((pod.clone(), port), app);
        if before != Some(app) {
            tracing::info!(%pod, port, ?app, "whether the app listens has changed");
        }
        if app == AppListening::Yes && before.is_some_and(|before| before != app) {
            // Nobody was there to be looked at, or another app.
            self.tls.forget(|name, armed| (name, armed) == (pod, port));
        }
    }

    /// False if it is no news.
    fn broken(&mut self, pod: &PodName, reason: &str) -> bool {
        let news = self.arming.broken(pod, reason, Instant::now());
        if news {
            tracing::warn!(%pod, %reason, "the app cannot be reached through the agent: everything goes to it directly");
        }
        news
    }

    fn join(&mut self, joined: JoinedTunnel) {
        // The key may have been removed between the handshake and now.
        if self.registry.policy().name_of(&joined.pin).is_none() {
            joined.handle.end();
            joined.outbox.try_send(SessionCommand::End(key_removed(self.registry.policy()))).ok();
            return;
        }
        tracing::debug!(developer = self.developer(&joined.pin), address = %joined.address, "a tunnel is up");
        self.sessions.insert(joined.id, TunnelSession { joined, since: SystemTime::now(), told: BTreeMap::new() });
    }

    fn answer(&mut self, session: SessionId, seq: u32, message: ToAgent) {
        let Some(asking) = self.sessions.get(&session) else { return };
        let pin = asking.joined.pin;
        let answer = match message {
            ToAgent::Intercept(request) => match self.register(session, pin, request) {
                Ok((state, held)) => {
                    let answer = SessionCommand::Say(seq, ToDeveloper::Intercept(state), Some(held));
                    return self.queue(session, answer);
                }
                Err(refused) => {
                    self.counters.intercepts_refused.add(1);
                    ToDeveloper::Refused(refused)
                }
            },
            ToAgent::Leave(which) => match self.leave(session, seq, &pin, &which) {
                Ok(()) => return,
                Err(refused) => ToDeveloper::Refused(refused),
            },
            ToAgent::List => ToDeveloper::Listing(self.registry.listing(&pin, self.ports())),
            ToAgent::Status => ToDeveloper::Status(self.status(session, &pin)),
            // Answered by the session itself; a second greeting never gets here.
            ToAgent::Ping(_) | ToAgent::Hello(_) => return,
        };
        self.say(session, seq, answer);
    }

    /// Nothing is steered to a developer before there is room for the answer that says so.
    fn register(
        &mut self,
        session: SessionId,
        pin: Pin,
        request: InterceptRequest,
    ) -> Result<(InterceptState, Waiting), Refused> {
        if self.stopped {
            let sentence = "the agent is shutting down; try again in a moment".to_owned();
            return Err(Refused { code: RefusedCode::Shutdown, sentence });
        }
        let token = request.token;
        let before = self.registry.intercepts().find(|other| other.pin == pin && other.grant.request.token == token);
        let before = before.map(|other| other.session).filter(|before| *before != session);
        let id = self.registry.register(session, pin, request, SystemTime::now(), Instant::now())?;
        let contests = self.contests();
        let intercept = self.registry.intercept(id).expect("it was registered just now");
        let state = self.registry.state(intercept, &contests, self.ports());
        let Some(held) = self.hold(session, &ToDeveloper::Intercept(state.clone())) else {
            self.registry.withdraw(id, Instant::now());
            // It may have taken the place of one that was there.
            self.stale = true;
            return Err(no_memory());
        };
        before.into_iter().for_each(|before| self.supersede(before));
        // The number may have been another tunnel's until now: its handle must not be used again.
        self.intercepts.retain(|(known, _), _| *known != id);
        for other in self.sessions.values_mut() {
            other.told.remove(&id);
        }
        self.stale = true;
        self.publish();
        let intercept = self.registry.intercept(id).expect("it was registered just now");
        let address = self.sessions.get(&session).map(|session| tracing::field::display(session.joined.address));
        tracing::info!(developer = self.developer(&pin), address, intercept = id, what = %intercept.grant.what, filtered = intercept.grant.filter.is_some(), "an intercept begins");
        if let Some(session) = self.sessions.get_mut(&session) {
            session.told.insert(id, state.clone());
        }
        Ok((state, held))
    }

    /// An intercept of this session goes on in another: its redir has dialled again. After the last one a silence of the
    /// old tunnel is not waited out, so that requests on it fail soon. One that lives is left alone.
    fn supersede(&mut self, before: SessionId) {
        if self.registry.intercepts().any(|intercept| intercept.session == before) {
            return;
        }
        if let Some(session) = self.sessions.get(&before) {
            session.joined.outbox.try_send(SessionCommand::Replaced).ok();
        }
    }

    fn status(&self, asking: SessionId, pin: &Pin) -> StatusReport {
        let own = self.sessions.iter().filter(|(_, session)| session.joined.pin == *pin);
        let tunnels = own.take(redir_wire::limits::ENTRIES).map(|(id, session)| {
            let connection = session.joined.handle.connection();
            let stats = connection.stats();
            let (streams, streams_total) = session.joined.handle.streams();
            TunnelStatus {
                address: redir_tunnel::canonical(connection.remote_address()).to_string(),
                user: session.joined.user.clone(),
                since: report::millis(session.since),
                rtt_micros: u64::try_from(connection.rtt().as_micros()).unwrap_or(u64::MAX),
                sent_bytes: stats.udp_tx.bytes,
                received_bytes: stats.udp_rx.bytes,
                streams,
                streams_total,
                asking: *id == asking,
            }
        });
        StatusReport {
            agent: self.about.agent.clone(),
            software: self.about.software.to_owned(),
            tunnels: tunnels.collect(),
            intercepts: self.registry.own(pin, self.ports()),
        }
    }

    /// Brings everything in line with the registry: plans first, then ports, then what developers know.
    fn settle(&mut self) {
        loop {
            self.publish();
            let contests = self.contests();
            self.arming.want(contests.iter().map(|(port, contest)| (port, contest.gate())));
            for op in self.arming.next(Instant::now()) {
                // The executor ends with the worker.
                self.outputs.ops.send(op).ok();
            }
            self.look(&contests);
            self.flush(&contests);
            self.watch_apps(&contests);
            self.inform(&contests);
            self.publish_reports(&contests);
            // Telling a session that does not keep up ends it.
            if !self.stale {
                break;
            }
        }
        if self.stopped && self.arming.is_idle() {
            for done in self.stopping.drain(..) {
                // Whoever asked may have stopped waiting.
                done.send(()).ok();
            }
        }
    }

    /// Has each port that a filter wants looked at once, as soon as it is armed: a developer must not wait for a first
    /// client to hear that it speaks TLS.
    fn look(&self, contests: &PortContests) {
        self.tls.forget(|pod, port| !contests.contains_key(&(pod.clone(), port)));
        self.misses.forget(|pod, port| !contests.contains_key(&(pod.clone(), port)));
        for ((pod, port), contest) in contests {
            let armed = matches!(self.arming.status(pod, *port), PortStatus::Live { .. });
            if armed && !contest.filtered.is_empty() && self.tls.begin_probe(pod, *port) {
                // The executor ends with the worker.
                self.outputs.tls_probes.send((pod.clone(), *port)).ok();
            }
        }
    }

    /// Has connections from before an intercept closed where its developer asked for that, as soon as new ones are
    /// steered: their clients must meet the agent when they connect anew.
    fn flush(&mut self, contests: &PortContests) {
        let registry = &self.registry;
        self.flushes.retain(|intercept, _| registry.remembers(intercept));
        for ((pod, port), contest) in contests {
            if !matches!(self.arming.status(pod, *port), PortStatus::Live { .. }) {
                continue;
            }
            for id in contest.filtered.iter().chain(contest.globals.first()) {
                let earlier = registry.intercept(*id).map(|intercept| intercept.grant.request.earlier);
                if earlier == Some(EarlierConnections::Close) && self.flushes.begin(*id, pod) {
                    // The executor ends with the worker.
                    self.outputs.flushes.send(FlushRequest { intercept: *id, pod: pod.clone(), port: *port }).ok();
                }
            }
        }
    }

    /// Has the apps watched on the ports that are armed.
    fn watch_apps(&mut self, contests: &PortContests) {
        let is_armed =
            |(pod, port): &&(PodName, u16)| matches!(self.arming.status(pod, *port), PortStatus::Live { .. });
        let armed: BTreeSet<_> = contests.keys().filter(is_armed).cloned().collect();
        self.apps.retain(|port, _| armed.contains(port));
        self.outputs.armed.send_if_modified(|before| {
            let is_other = *before != armed;
            *before = armed;
            is_other
        });
    }

    fn ports(&self) -> PortFacts<'_> {
        PortFacts {
            arming: &self.arming,
            tls: &self.tls,
            flushes: &self.flushes,
            apps: &self.apps,
            misses: &self.misses,
        }
    }

    /// The desired state; empty once the agent stops.
    fn contests(&self) -> PortContests {
        if self.stopped { PortContests::new() } else { self.registry.contests() }
    }

    fn developer(&self, pin: &Pin) -> &str {
        self.registry.policy().name_of(pin).unwrap_or_default()
    }
}

/// Sleeps until then, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
