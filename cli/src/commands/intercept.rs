//! `redir intercept`: from the flags to the exit code.
//!
//! Owns: the order of things: the developer's command first, then every agent in parallel, then whatever happens, then
//! the end in reverse. Must not speak to agents (`link`) or word anything (`wording`). Called by: `commands`.

use std::sync::Arc;
use std::time::Duration;

use redir_wire::Probes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::own::{Started, end_child, hint, patience, start};
use crate::args;
use crate::child::Child;
use crate::config::Agent;
use crate::events::{CommandState, Event};
use crate::filter;
use crate::link::{End, Link, Verdict, Wanted};
use crate::reach::{self, Reached};
use crate::screen::Screen;
use crate::signals::{Arrived, ForCommand, Signals};
use crate::trouble::{Outcome, Trouble};
use crate::wording::session as say;

/// For a dropped tunnel's last packet to leave.
const LAST_PACKET: Duration = Duration::from_millis(50);

/// Intercepts until something ends it.
pub(crate) fn run(args: args::Intercept) -> Outcome {
    let wanted = Wanted {
        token: redir_tunnel::random_token().map_err(|_| Trouble::Failed(say::no_random()))?,
        target: args.target,
        ports: args.port,
        filter: filter::filter(&args.conditions)?,
        probes: if args.probes { Probes::Developer } else { Probes::App },
    };
    let reached = reach::resolve(&args.reach)?;
    super::with_runtime(args.reach.output, async move |screen| {
        let mut signals = Signals::listen().map_err(|error| Trouble::Failed(say::no_signals(&error)))?;
        let service = wanted.service();
        let child = match &args.command[..] {
            [] => {
                hint(&screen, service).await;
                None
            }
            command => match start(&screen, &mut signals, service, command, args.wait.0).await? {
                Started::Runs(child) => Some(child),
                Started::Ended(code) => return Ok(code),
            },
        };
        Run::new(screen, signals, child, reached, wanted).run().await
    })
}

/// The intercept under way on every agent.
struct Run {
    screen: Screen,
    signals: Signals,
    child: Option<Child>,
    links: JoinSet<End>,
    verdicts: mpsc::Receiver<(Agent, Verdict)>,
    /// Agents that have not answered yet.
    asked: Vec<Agent>,
    live: bool,
    /// What to tell of agents without a live pod, once it is known whether another has one.
    without: Vec<(Agent, Vec<Event>, String)>,
    leave: CancellationToken,
}

/// Why the intercept ends.
enum Why {
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
    fn new(screen: Screen, signals: Signals, child: Option<Child>, reached: Reached, wanted: Wanted) -> Self {
        let (sender, verdicts) = mpsc::channel(reached.agents.len());
        let leave = CancellationToken::new();
        let wanted = Arc::new(wanted);
        let mut links = JoinSet::new();
        for agent in &reached.agents {
            let link = Link {
                agent: agent.clone(),
                identity: reached.identity.clone(),
                wanted: Arc::clone(&wanted),
                screen: screen.clone(),
                leave: leave.clone(),
                verdict: Some(sender.clone()),
            };
            links.spawn(link.run());
        }
        Self { screen, signals, child, links, verdicts, asked: reached.agents, live: false, without: Vec::new(), leave }
    }

    async fn run(mut self) -> Outcome {
        let why = self.until_something_ends_it().await;
        self.leave.cancel();
        let at_once = matches!(why, Why::AtOnce) || self.await_links().await.is_err();
        if at_once {
            self.drop_links().await;
        }
        let child = self.child.take();
        let code = match (&why, child) {
            (Why::Command(code), _) => *code,
            (_, None) => 0,
            (_, Some(mut child)) if at_once => child.kill().await,
            (Why::Signal(signal), Some(child)) => end_child(&self.screen, &mut self.signals, child, *signal).await,
            (_, Some(child)) => end_child(&self.screen, &mut self.signals, child, ForCommand::TERM).await,
        };
        let reason = match why {
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
                Some((agent, verdict)) = self.verdicts.recv() => self.verdict(&agent, verdict),
                Some(end) = self.links.join_next() => self.link_over(end),
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
                _ = patience.tick(), if !self.asked.is_empty() => {
                    self.screen.note(say::waiting_for_agents(&self.asked));
                    None
                }
            };
            if let Some(why) = why {
                return why;
            }
        }
    }

    fn verdict(&mut self, agent: &Agent, verdict: Verdict) -> Option<Why> {
        self.asked.retain(|asked| asked != agent);
        match verdict {
            Verdict::Live => self.live = true,
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

    /// One agent's task is over; the others go on unless the intercept was ended.
    fn link_over(&mut self, end: Result<End, tokio::task::JoinError>) -> Option<Why> {
        match end {
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
