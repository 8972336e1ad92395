//! One tunnel while it lives: asks for the intercept, follows its state, takes its streams, leaves.
//!
//! Owns: the order of messages on our side, and how the end is drained. Must not dial, print or copy bytes.
//! Called by: `link`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use redir_tunnel::{Arrival, LivenessLimits, Lost, Pin, TunnelLiveness, TunnelState};
use redir_wire::session::FromAgent;
use redir_wire::{CloseCode, InterceptState, LeaveScope, Refused, RefusedCode, ToAgent, ToDeveloper};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::clock::ClockWatch;
use super::context::{AgentLink, FirstAnswer, SessionEnd};
use super::last_reported::{LastReported, settled};
use super::streams;
use super::tunnel::{Tunnel, TunnelError};
use crate::events::Event;
use crate::model::values::KnownAgent;
use crate::wording::session as say;

/// How long pods may take until they are live: the agent itself gives up earlier.
const SETTLE: Duration = Duration::from_secs(15);
/// How long the agent may take to confirm that we left: it waits until nothing is under way to us.
const LEAVE: Duration = Duration::from_secs(10);
/// How long nothing may come from it meanwhile.
const LEAVE_SILENCE: Duration = Duration::from_secs(2);
/// How long what is under way may take once the agent has confirmed: what it cannot see the end of, such as raw TCP.
const DRAIN: Duration = Duration::from_secs(3);
/// Numbers of our intercept that are remembered, the highest.
const MOST_OWN: usize = 16;
/// Pods that are not live and wait to be told; more are told at once.
const MOST_HELD: usize = 256;
/// A step of waiting for the agent.
const STEP: Duration = Duration::from_millis(200);

pub(crate) struct Session<'a> {
    link: &'a mut AgentLink,
    tunnel: Tunnel,
    reported: &'a mut LastReported,
    /// When the intercept was asked for first, or when the tunnel before was lost.
    since: Instant,
    began: Instant,
    /// The number of the intercept request on this tunnel.
    request_number: u32,
    /// The intercepts that are ours on this tunnel.
    own: watch::Sender<BTreeSet<u64>>,
    streams: JoinSet<()>,
    /// Places of streams that are connecting to the service.
    connecting: Arc<Semaphore>,
    /// Pods that are not live, until it is known whether others are.
    held: Vec<Event>,
    watch: ClockWatch,
    /// The agent was said not to know something that was asked for.
    outdated: bool,
    liveness: TunnelLiveness,
    /// This machine slept, and the agent has not answered since.
    slept: bool,
}

impl<'a> Session<'a> {
    pub(crate) fn new(link: &'a mut AgentLink, tunnel: Tunnel, reported: &'a mut LastReported, since: Instant) -> Self {
        let liveness = TunnelLiveness::new(LivenessLimits::DEVELOPER, tunnel.streams.frame_counts(), Instant::now());
        Self {
            link,
            tunnel,
            reported,
            since,
            began: Instant::now(),
            request_number: 0,
            own: watch::Sender::new(BTreeSet::new()),
            streams: JoinSet::new(),
            connecting: streams::connecting(),
            held: Vec::new(),
            outdated: false,
            watch: ClockWatch::new(SystemTime::now(), std::time::Instant::now()),
            liveness,
            slept: false,
        }
    }

    /// Runs to the end of the tunnel or of the intercept.
    pub(crate) async fn run(mut self) -> SessionEnd {
        self.link.screen.tell(&Event::Connected {
            agent: self.link.agent.name.clone(),
            address: self.tunnel.streams.address().to_string(),
            developer: self.tunnel.welcome.developer.clone(),
        });
        self.reported.developer.clone_from(&self.tunnel.welcome.developer);
        let request = ToAgent::Intercept(self.link.wanted.request());
        match self.tunnel.control.ask(&request).await {
            Ok(number) => self.request_number = number,
            Err(gone) => return self.link.over(&gone),
        }
        let end = self.follow().await;
        match &end {
            SessionEnd::Left if self.reported.any_live() || !self.streams.is_empty() => self.leave().await,
            // There is nothing to take leave of.
            SessionEnd::Left => (),
            SessionEnd::EndedElsewhere(_) => self.drain(Instant::now() + DRAIN).await,
            SessionEnd::GaveUp(_) => (),
            // Nobody is there to hear a close, and the next dial must not wait.
            SessionEnd::Lost(_) => return end,
        }
        self.tunnel.streams.close(CloseCode::Done).await;
        end
    }

    async fn follow(&mut self) -> SessionEnd {
        let mut tick = interval(LivenessLimits::DEVELOPER.look);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let leave = self.link.leave.clone();
        let key = self.link.agent.key;
        loop {
            let end = tokio::select! {
                // The process that this tunnel led to is gone, and says nothing.
                () = replaced(&mut self.link.moved, key) => Some(SessionEnd::Lost(TunnelError::Lost(Lost::Restarted))),
                message = self.tunnel.control.next() => match message {
                    Ok(said) => self.message(said),
                    Err(gone) => Some(self.link.over(&gone)),
                },
                arrival = self.tunnel.streams.accept() => match arrival {
                    Ok(arrival) => {
                        self.serve(arrival);
                        None
                    }
                    Err(lost) => Some(self.link.over(&TunnelError::Lost(lost))),
                },
                Some(_) = self.streams.join_next() => None,
                _ = tick.tick() => self.tick().await,
                () = leave.cancelled() => Some(SessionEnd::Left),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn serve(&mut self, arrival: Arrival) {
        let (tunnel, own) = (self.tunnel.streams.clone(), self.own.subscribe());
        let (wanted, connecting) = (Arc::clone(&self.link.wanted), Arc::clone(&self.connecting));
        self.streams.spawn(streams::serve(arrival, tunnel, own, wanted, connecting));
    }

    fn message(&mut self, said: FromAgent) -> Option<SessionEnd> {
        match said.message {
            ToDeveloper::Intercept(state) if state.token == self.link.wanted.token => self.state(&state),
            message @ ToDeveloper::Request(_) => self.link.tell_request(message),
            ToDeveloper::Ended(ended) if ended.token == self.link.wanted.token => {
                return Some(SessionEnd::EndedElsewhere(ended.sentence));
            }
            ToDeveloper::Refused(refused) if said.answers == self.request_number => {
                return Some(refusal(refused, self.link.was_decided()));
            }
            // The end of the stream follows, for which it is remembered.
            ToDeveloper::Bye(_) => (),
            // Answers to questions that this session does not ask.
            ToDeveloper::Welcome(_)
            | ToDeveloper::Intercept(_)
            | ToDeveloper::Pong(_)
            | ToDeveloper::Listing(_)
            | ToDeveloper::Status(_)
            | ToDeveloper::Left(_)
            | ToDeveloper::Ended(_)
            | ToDeveloper::Refused(_) => (),
        }
        None
    }

    fn state(&mut self, state: &InterceptState) {
        self.own.send_if_modified(|own| {
            let is_news = own.insert(state.id);
            // One intercept was asked for; a number may be another after the agent's own restart of it, not without end.
            while own.len() > MOST_OWN {
                own.pop_first();
            }
            is_news
        });
        let after_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wanted = self.link.wanted.clone();
        let unknown = (wanted.forwarded && !state.forwarded).then_some("--forwarded");
        let unknown = unknown.or((wanted.even_if_down && !state.even_if_down).then_some("--even-if-down"));
        if let Some(flag) = unknown.filter(|_| !std::mem::replace(&mut self.outdated, true)) {
            self.link.screen.note(say::agent_is_older(&self.link.agent.name, flag));
        }
        for event in self.reported.changes(&self.link.agent.name, &wanted, state, after_ms) {
            match event {
                Event::NotLive { .. } if self.link.verdict.is_some() && self.held.len() < MOST_HELD => {
                    self.held.push(event);
                }
                _ => self.link.screen.tell(&event),
            }
        }
        if self.reported.any_live() {
            self.link.was_live.store(true, Ordering::Relaxed);
        }
        if settled(state) {
            self.settle(state);
        }
    }

    fn settle(&mut self, state: &InterceptState) {
        let held = std::mem::take(&mut self.held);
        if self.reported.any_live() {
            held.iter().for_each(|event| self.link.screen.tell(event));
            return self.link.decide(FirstAnswer::Live(self.reported.live()));
        }
        let reason = match state.pods.first() {
            Some(pod) => say::pod_not_live(&pod.pod, &pod.reason),
            None => say::no_pod(&self.link.wanted.target),
        };
        self.link.decide(FirstAnswer::NotLive(held, reason));
    }

    async fn tick(&mut self) -> Option<SessionEnd> {
        self.link.screen.tick();
        let now = Instant::now();
        if self.watch.jumped(SystemTime::now(), std::time::Instant::now()) {
            self.liveness.woke(now);
            self.slept = true;
        }
        let streams = &self.tunnel.streams;
        let report = self.liveness.look(streams.frame_counts(), streams.rtt(), now);
        if report.state == TunnelState::Down {
            let why = if self.slept { TunnelError::Slept } else { TunnelError::Lost(Lost::Silent) };
            return Some(SessionEnd::Lost(why));
        }
        self.slept &= self.liveness.is_asking();
        // QUIC acknowledges it, whatever the agent makes of it.
        if report.ping
            && let Err(gone) = self.tunnel.control.ask(&ToAgent::Ping(1)).await
        {
            return Some(self.link.over(&gone));
        }
        (self.link.verdict.is_some() && self.began.elapsed() > SETTLE)
            .then(|| SessionEnd::GaveUp(say::never_armed(SETTLE)))
    }

    /// Takes leave: the agent gives new requests to the app, waits until those in flight to us are complete, and confirms.
    /// Until then everything that comes is served: nobody else would answer it.
    async fn leave(&mut self) {
        let leave = ToAgent::Leave(LeaveScope::Token(self.link.wanted.token));
        let began = Instant::now();
        let Ok(number) = self.tunnel.control.ask(&leave).await else { return };
        while began.elapsed() < LEAVE && self.liveness.silent_for(Instant::now()) < LEAVE_SILENCE {
            match self.ending(Instant::now() + STEP).await {
                EndingStep::Said(said) => {
                    let confirmed = said.answers == number;
                    self.link.tell_request(said.message);
                    if confirmed {
                        break;
                    }
                }
                EndingStep::Stream | EndingStep::Late => (),
                // It ends the intercept with the tunnel.
                EndingStep::TunnelError => return,
            }
            let streams = &self.tunnel.streams;
            self.liveness.look(streams.frame_counts(), streams.rtt(), Instant::now());
        }
        self.drain(Instant::now() + DRAIN).await;
    }

    /// Lets what is under way finish, for a while.
    async fn drain(&mut self, deadline: Instant) {
        while !self.streams.is_empty() {
            match self.ending(deadline).await {
                EndingStep::Said(said) => self.link.tell_request(said.message),
                EndingStep::Stream => (),
                EndingStep::Late | EndingStep::TunnelError => return,
            }
        }
    }

    /// One thing that happens while the intercept ends. A request that the agent decided just before is still served.
    async fn ending(&mut self, deadline: Instant) -> EndingStep {
        tokio::select! {
            said = self.tunnel.control.next() => said.map_or(EndingStep::TunnelError, EndingStep::Said),
            arrival = self.tunnel.streams.accept() => match arrival {
                Ok(arrival) => {
                    self.serve(arrival);
                    EndingStep::Stream
                }
                Err(_) => EndingStep::TunnelError,
            },
            Some(_) = self.streams.join_next() => EndingStep::Stream,
            () = sleep_until(deadline) => EndingStep::Late,
        }
    }
}

/// What happens while an intercept ends.
enum EndingStep {
    /// The agent said something.
    Said(FromAgent),
    /// A stream came or ended.
    Stream,
    /// Nothing, for so long.
    Late,
    /// The tunnel is gone.
    TunnelError,
}

/// Waits until a cluster's agent is known under another key.
async fn replaced(moved: &mut Option<watch::Receiver<KnownAgent>>, key: Pin) {
    let other = match moved {
        Some(moved) => moved.wait_for(|agent| agent.key != key).await.is_ok(),
        None => false,
    };
    if !other {
        std::future::pending::<()>().await;
    }
}

/// What a refused intercept request means. An intercept that was live before waits for its pods to come back.
fn refusal(refused: Refused, was_live: bool) -> SessionEnd {
    match refused.code {
        // The old tunnel is not known to be dead yet, or the agent is being replaced: it is asked again.
        RefusedCode::TokenInUse | RefusedCode::Shutdown => SessionEnd::Lost(refused.into()),
        // An agent of a cluster has not heard of the Intercept yet.
        RefusedCode::NotFound => SessionEnd::Lost(refused.into()),
        // Others do not read what the agent says to them. Nothing was registered.
        RefusedCode::NoMemory => SessionEnd::Lost(refused.into()),
        RefusedCode::NoSuchPod if was_live => SessionEnd::Lost(refused.into()),
        _ => SessionEnd::GaveUp(refused.sentence),
    }
}
