//! `redir intercept`: from the flags to the exit code.
//!
//! Owns: the order of things: whether there is a pod at all, the developer's command, every agent in parallel, then
//! whatever happens, then the end in reverse. Must not speak to agents (`link`) or word anything (`wording`). Called by: `commands`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redir_wire::Probes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ahead::{self, Ahead};
use super::own::{Started, end_child, hint, patience, start};
use crate::args;
use crate::child::Child;
use crate::conditions;
use crate::config::Agent;
use crate::events::{CommandState, Event};
use crate::link::{End, Link, Verdict, Wanted};
use crate::reach::{self, Reached};
use crate::screen::Screen;
use crate::service::{Service, Speaks};
use crate::signals::{Arrived, ForCommand, Signals};
use crate::trouble::{Outcome, Trouble};
use crate::wording::{session as say, values};

/// For a dropped tunnel's last packet to leave.
const LAST_PACKET: Duration = Duration::from_millis(50);

/// How long the command may take until it answers.
const WAIT: Duration = Duration::from_secs(120);

/// Intercepts until something ends it.
pub(crate) fn run(args: args::Intercept) -> Outcome {
    check_command(&args)?;
    let wanted = Wanted {
        token: redir_tunnel::random_token().map_err(|_| Trouble::Failed(say::no_random()))?,
        target: args.target,
        ports: args.port,
        filter: args.conditions.filter()?,
        probes: if args.probes { Probes::Developer } else { Probes::App },
        speaks: if args.local_tls { Speaks::Tls } else { Speaks::Plaintext },
    };
    let reached = reach::resolve(&args.reach)?;
    super::with_runtime(args.reach.output, async move |screen| {
        if let Some(both) = wanted.filter.as_ref().and_then(conditions::unlikely) {
            screen.note(values::unlikely(both));
        }
        let mut signals = Signals::listen().map_err(|error| Trouble::Failed(say::no_signals(&error)))?;
        let service = wanted.service();
        if args.command.is_empty() {
            return Run::new(screen, signals, None, reached, wanted).run().await;
        }
        if ahead::look(&screen, &mut signals, &reached, &wanted).await? == Ahead::Interrupted {
            screen.tell(&Event::Ended { reason: say::nothing_yet() });
            return Ok(0);
        }
        let wait = args.wait.map_or(WAIT, |wait| wait.0);
        let child = match start(&screen, &mut signals, service, &args.command, wait).await? {
            Started::Runs(child) => child,
            Started::Ended(code) => return ended_first(&screen, code),
            Started::Interrupted(code) => {
                screen.tell(&Event::Ended { reason: say::nothing_yet() });
                return Ok(code);
            }
        };
        Run::new(screen, signals, Some(child), reached, wanted).run().await
    })
}

/// The command ended before anything was intercepted: never a success, though its own failure is passed on.
fn ended_first(screen: &Screen, code: u8) -> Outcome {
    let sentence = say::command_ended_first(code);
    if code == 0 {
        return Err(Trouble::Failed(sentence));
    }
    screen.note(sentence);
    Ok(code)
}

/// Refuses what only makes sense with a command.
fn check_command(args: &args::Intercept) -> Result<(), Trouble> {
    if !args.command.is_empty() {
        return Ok(());
    }
    // clap does not tell `--` without anything behind it from no `--` at all.
    if std::env::args_os().next_back().is_some_and(|last| last == "--") {
        return Err(Trouble::Usage(say::empty_command()));
    }
    match args.wait {
        Some(_) => Err(Trouble::Usage(say::wait_without_command())),
        None => Ok(()),
    }
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
    /// Set by the links as soon as a pod is live.
    was_live: Arc<AtomicBool>,
    service: Service,
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
        let was_live = Arc::new(AtomicBool::new(false));
        let service = wanted.service();
        let wanted = Arc::new(wanted);
        let mut links = JoinSet::new();
        for agent in &reached.agents {
            let link = Link {
                agent: agent.clone(),
                identity: reached.identity.clone(),
                wanted: Arc::clone(&wanted),
                screen: screen.clone(),
                was_live: Arc::clone(&was_live),
                leave: leave.clone(),
                verdict: Some(sender.clone()),
            };
            links.spawn(link.run());
        }
        let (asked, without) = (reached.agents, Vec::new());
        Self { screen, signals, child, links, verdicts, asked, live: false, was_live, service, without, leave }
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
            Verdict::Live if self.live => (),
            Verdict::Live => {
                self.live = true;
                // A command that answered already does not need it.
                if self.child.is_none() {
                    let (screen, service) = (self.screen.clone(), self.service);
                    tokio::spawn(async move { hint(&screen, service).await });
                }
            }
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
