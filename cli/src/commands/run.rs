//! An intercept under way: every agent in parallel, whatever happens, then the end in reverse.
//!
//! Owns: what ends it, and the exit code. What is different in a cluster is in `nodes`. Must not speak to agents (`link`)
//! or word anything (`wording`). Called by: `intercept`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redir_tunnel::Identity;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::nodes::{self, Nodes};
use super::own::{end_child, hint, patience};
use crate::child::Child;
use crate::config::Agent;
use crate::events::{CommandState, Event};
use crate::link::{End, Link, Verdict, Wanted};
use crate::screen::Screen;
use crate::service::Service;
use crate::signals::{Arrived, ForCommand, Signals};
use crate::trouble::{Outcome, Trouble};
use crate::wording::{cluster as cluster_say, session as say};

/// For a dropped tunnel's last packet to leave.
const LAST_PACKET: Duration = Duration::from_millis(50);
/// Agents that answer for the first time at the same moment; more than any cluster has nodes.
const VERDICTS: usize = 8192;

/// The intercept under way on every agent.
pub(super) struct Run {
    pub(super) screen: Screen,
    signals: Signals,
    child: Option<Child>,
    identity: Identity,
    pub(super) wanted: Arc<Wanted>,
    links: JoinSet<End>,
    sender: mpsc::Sender<(Agent, Verdict)>,
    verdicts: mpsc::Receiver<(Agent, Verdict)>,
    /// In a cluster: its nodes, which come and go.
    pub(super) nodes: Option<Nodes>,
    /// Agents that have not answered yet.
    asked: Vec<Agent>,
    live: bool,
    /// Set by the links as soon as a pod is live.
    was_live: Arc<AtomicBool>,
    service: Service,
    /// What to tell of agents without a live pod, once it is known whether another has one.
    without: Vec<(Agent, Vec<Event>, String)>,
    leave: CancellationToken,
}

/// Why the intercept ends.
pub(super) enum Why {
    /// The developer said so, with this signal for their command.
    Signal(ForCommand),
    /// As above, without waiting for anything.
    AtOnce,
    /// Their command ended by itself.
    Command(u8),
    /// It was ended from elsewhere.
    Elsewhere(String),
    /// Nobody reads what we say.
    NoReader,
    /// It did not work, or no longer does.
    Failed(String),
}

impl Run {
    pub(super) fn new(
        screen: Screen,
        signals: Signals,
        child: Option<Child>,
        identity: Identity,
        wanted: Wanted,
    ) -> Self {
        let (sender, verdicts) = mpsc::channel(VERDICTS);
        Self {
            screen,
            signals,
            child,
            identity,
            service: wanted.service(),
            wanted: Arc::new(wanted),
            links: JoinSet::new(),
            sender,
            verdicts,
            nodes: None,
            asked: Vec::new(),
            live: false,
            was_live: Arc::default(),
            without: Vec::new(),
            leave: CancellationToken::new(),
        }
    }

    /// Dials agents that stay the same.
    pub(super) fn dial_all(&mut self, agents: Vec<Agent>) {
        for agent in &agents {
            self.dial(agent, None, self.leave.clone());
        }
        self.asked = agents;
    }

    /// Begins with one agent.
    pub(super) fn dial(&mut self, agent: &Agent, moved: Option<watch::Receiver<Agent>>, leave: CancellationToken) {
        let link = Link {
            agent: agent.clone(),
            moved,
            identity: self.identity.clone(),
            wanted: Arc::clone(&self.wanted),
            screen: self.screen.clone(),
            was_live: Arc::clone(&self.was_live),
            leave,
            verdict: Some(self.sender.clone()),
        };
        self.links.spawn(link.run());
    }

    /// A token that ends one agent's part of the intercept, and that ends with all.
    pub(super) fn leave_one(&self) -> CancellationToken {
        self.leave.child_token()
    }

    pub(super) async fn run(mut self) -> Outcome {
        let why = self.until_something_ends_it().await;
        self.leave.cancel();
        let at_once = matches!(why, Why::AtOnce) || self.await_links().await.is_err();
        if at_once {
            self.drop_links().await;
        }
        // Not before: the object's end would cut off the requests that are under way.
        if let Some(nodes) = self.nodes.take()
            && let Err(sentence) = nodes.end().await
        {
            self.screen.note(sentence);
        }
        let child = self.child.take();
        let code = match (&why, child) {
            (Why::Command(code), _) => *code,
            (_, None) => 0,
            (_, Some(mut child)) if at_once => child.kill().await,
            (Why::Signal(signal), Some(child)) => end_child(&self.screen, &mut self.signals, child, *signal).await,
            (_, Some(child)) => end_child(&self.screen, &mut self.signals, child, ForCommand::TERM).await,
        };
        let was_live = self.was_live.load(Ordering::Relaxed);
        let reason = match why {
            Why::Command(code) if !was_live => return ended_first(&self.screen, code),
            Why::Signal(_) | Why::AtOnce | Why::NoReader if !was_live => say::nothing_yet(),
            Why::Failed(sentence) => return Err(Trouble::Failed(sentence)),
            Why::Elsewhere(reason) => reason,
            Why::Signal(_) | Why::AtOnce | Why::NoReader => say::you_ended_it(),
            Why::Command(_) => say::command_ended_it(),
        };
        self.screen.tell(&Event::Ended { reason });
        Ok(code)
    }

    async fn until_something_ends_it(&mut self) -> Why {
        let mut patience = patience();
        let reader_gone = self.screen.reader_gone();
        loop {
            let why = tokio::select! {
                Some((agent, verdict)) = self.verdicts.recv() => match self.nodes.is_some() {
                    true => self.node_verdict(&agent, verdict),
                    false => self.verdict(&agent, verdict),
                },
                Some(end) = self.links.join_next() => self.link_over(end),
                news = nodes::news(&mut self.nodes) => self.news(news),
                arrived = self.signals.next() => match arrived {
                    Arrived::End(signal) => Some(Why::Signal(signal)),
                    Arrived::EndAtOnce(_) => Some(Why::AtOnce),
                    Arrived::Forward(signal) => {
                        self.child.iter().for_each(|child| child.forward(signal));
                        None
                    }
                },
                code = ended(&mut self.child) => {
                    self.screen.tell(&Event::Command(CommandState::Ended { code }));
                    Some(Why::Command(code))
                }
                () = reader_gone.cancelled() => Some(Why::NoReader),
                _ = patience.tick() => {
                    self.tell_waiting();
                    None
                }
            };
            if let Some(why) = why {
                return why;
            }
        }
    }

    fn tell_waiting(&self) {
        let nodes = self.nodes.as_ref().map(Nodes::waiting).unwrap_or_default();
        if !nodes.is_empty() {
            self.screen.note(cluster_say::waiting_for_nodes(&nodes));
        }
        if !self.asked.is_empty() {
            self.screen.note(say::waiting_for_agents(&self.asked));
        }
    }

    fn verdict(&mut self, agent: &Agent, verdict: Verdict) -> Option<Why> {
        self.asked.retain(|asked| asked != agent);
        match verdict {
            Verdict::Live(_) => self.first_live(),
            Verdict::NotLive(events, reason) => self.without.push((agent.clone(), events, reason)),
            Verdict::Unreachable(reason) => self.without.push((agent.clone(), Vec::new(), reason)),
        }
        if !self.asked.is_empty() {
            return None;
        }
        if !self.live {
            let reasons: Vec<_> =
                self.without.iter().map(|(agent, _, reason)| (agent.name.as_str(), reason.as_str())).collect();
            return Some(Why::Failed(say::nothing_live(&reasons)));
        }
        for (agent, events, reason) in std::mem::take(&mut self.without) {
            match events.is_empty() {
                true => self.screen.tell(&Event::Refused { agent: agent.name, reason }),
                false => events.iter().for_each(|event| self.screen.tell(event)),
            }
        }
        None
    }

    /// What is said once, when the first pod is live.
    pub(super) fn first_live(&mut self) {
        // A command that answered already does not need it.
        if !std::mem::replace(&mut self.live, true) && self.child.is_none() {
            let (screen, service) = (self.screen.clone(), self.service);
            tokio::spawn(async move { hint(&screen, service).await });
        }
    }

    /// One agent's task is over; the others go on unless the intercept was ended.
    fn link_over(&mut self, end: Result<End, tokio::task::JoinError>) -> Option<Why> {
        match end {
            // Its object tells, or its agent comes back.
            Ok(_) if self.nodes.is_some() => None,
            Ok(End::EndedElsewhere(reason)) => Some(Why::Elsewhere(reason)),
            // Its verdict, which follows, says the same if this was the first thing that happened.
            Ok(End::GaveUp(reason)) if self.links.is_empty() && self.asked.is_empty() => Some(Why::Failed(reason)),
            Ok(End::GaveUp(_) | End::Left) => None,
            Err(_) => Some(Why::Failed(say::bug())),
        }
    }

    /// Waits until every agent was left. `Err`: the developer does not want to wait.
    async fn await_links(&mut self) -> Result<(), ()> {
        let mut patience = patience();
        loop {
            tokio::select! {
                over = self.links.join_next() => if over.is_none() {
                    return Ok(());
                },
                arrived = self.signals.next() => match arrived {
                    Arrived::End(_) | Arrived::EndAtOnce(_) => return Err(()),
                    Arrived::Forward(signal) => self.child.iter().for_each(|child| child.forward(signal)),
                },
                _ = patience.tick() => self.screen.note(say::draining()),
            }
        }
    }

    /// Drops the tunnels where they are; their last packet tells the agents, so that nothing more is sent here.
    async fn drop_links(&mut self) {
        self.links.shutdown().await;
        tokio::time::sleep(LAST_PACKET).await;
    }
}

async fn ended(child: &mut Option<Child>) -> u8 {
    match child {
        Some(child) => child.ended().await,
        None => std::future::pending().await,
    }
}

/// The command ended before anything was intercepted: never a success, though its own failure is passed on.
pub(super) fn ended_first(screen: &Screen, code: u8) -> Outcome {
    let sentence = say::command_ended_first(code);
    if code == 0 {
        return Err(Trouble::Failed(sentence));
    }
    screen.note(sentence);
    Ok(code)
}
