//! An intercept under way: all its ports, whatever happens, then the end in reverse.
//!
//! Owns: what ends it, and the exit code: with one port all of them end. Must not speak to agents (`link`) or word
//! anything (`wording`). Called by: `intercept`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use redir_tunnel::Identity;
use tokio_util::sync::CancellationToken;

use super::end_reason::EndReason;
use super::port_intercept::{PortIntercept, ServiceState};
use super::service_start::{end_child, patience};
use crate::child::Child;
use crate::error::{CliError, Outcome};
use crate::events::{CommandState, Event};
use crate::link::DesiredIntercept;
use crate::model::values::KnownAgent;
use crate::screen::Screen;
use crate::signals::{CommandSignal, SignalEvent, Signals};
use crate::wording::{cluster as cluster_say, session as say};

/// For a dropped tunnel's last packet to leave.
const LAST_PACKET: Duration = Duration::from_millis(50);

/// The intercepts under way, one for each port.
pub(super) struct InterceptRun {
    screen: Screen,
    signals: Signals,
    child: Option<Child>,
    ports: Vec<PortIntercept>,
    /// There will be more than one.
    of_several: bool,
    /// Set by the links as soon as a pod is live.
    was_live: Arc<AtomicBool>,
    leave: CancellationToken,
}

impl InterceptRun {
    /// With so many ports, which are added next.
    pub(super) fn new(screen: Screen, signals: Signals, child: Option<Child>, ports: usize) -> Self {
        let leave = CancellationToken::new();
        Self { screen, signals, child, ports: Vec::new(), of_several: ports > 1, was_live: Arc::default(), leave }
    }

    /// Adds a port.
    pub(super) fn add(
        &mut self,
        identity: Identity,
        wanted: DesiredIntercept,
        service: ServiceState,
    ) -> &mut PortIntercept {
        let screen = self.screen.of_port(wanted.port.get(), self.of_several);
        let (was_live, leave) = (Arc::clone(&self.was_live), self.leave.clone());
        self.ports.push(PortIntercept::new(screen, identity, wanted, service, was_live, leave));
        self.ports.last_mut().expect("it was just pushed")
    }

    /// Ends what was begun before all ports could be.
    pub(super) async fn give_up(mut self) {
        self.leave.cancel();
        join_all(std::mem::take(&mut self.ports).into_iter().map(PortIntercept::end)).await;
        if let Some(child) = self.child.take() {
            end_child(&self.screen, &mut self.signals, child, CommandSignal::TERM).await;
        }
    }

    /// Runs to the end.
    pub(super) async fn run(mut self) -> Outcome {
        let (why, port) = self.until_something_ends_it().await;
        self.leave.cancel();
        let at_once = matches!(why, EndReason::AtOnce) || self.await_links().await.is_err();
        if at_once {
            self.drop_links().await;
        }
        let failed = |sentence| match port.and_then(|port| self.ports.get(port)) {
            Some(port) => port.error(sentence),
            None => CliError::Failed(sentence),
        };
        let why = match why {
            EndReason::Failed(sentence) => Err(failed(sentence)),
            other => Ok(other),
        };
        // Not before: the objects' end would cut off the requests that are under way.
        join_all(std::mem::take(&mut self.ports).into_iter().map(PortIntercept::end)).await;
        let child = self.child.take();
        let code = match (&why, child) {
            (Ok(EndReason::Command(code)), _) => *code,
            (_, None) => 0,
            (_, Some(mut child)) if at_once => child.kill().await,
            (Ok(EndReason::Signal(signal)), Some(child)) => {
                end_child(&self.screen, &mut self.signals, child, *signal).await
            }
            (_, Some(child)) => end_child(&self.screen, &mut self.signals, child, CommandSignal::TERM).await,
        };
        let was_live = self.was_live.load(Ordering::Relaxed);
        let reason = match why? {
            EndReason::Command(code) if !was_live => return ended_first(&self.screen, code),
            EndReason::Signal(_) | EndReason::AtOnce | EndReason::NoReader if !was_live => say::nothing_yet(),
            EndReason::Failed(sentence) => return Err(CliError::Failed(sentence)),
            EndReason::Elsewhere(reason) => reason,
            EndReason::Signal(_) | EndReason::AtOnce | EndReason::NoReader => say::you_ended_it(),
            EndReason::Command(_) => say::command_ended_it(),
        };
        self.screen.tell(&Event::Ended { reason });
        Ok(code)
    }

    /// Why it ends, and which port ended it if one did.
    async fn until_something_ends_it(&mut self) -> (EndReason, Option<usize>) {
        let mut patience = patience();
        let reader_gone = self.screen.reader_gone();
        loop {
            let over = select_all(self.ports.iter_mut().map(|port| Box::pin(port.until_over())));
            let why = tokio::select! {
                (why, port, _) = over => return (why, Some(port)),
                arrived = self.signals.next() => match arrived {
                    SignalEvent::End(signal) => Some(EndReason::Signal(signal)),
                    SignalEvent::EndAtOnce(_) => Some(EndReason::AtOnce),
                    SignalEvent::Forward(signal) => {
                        self.child.iter().for_each(|child| child.forward(signal));
                        continue;
                    }
                },
                code = ended(&mut self.child) => {
                    self.screen.tell(&Event::Command(CommandState::Ended { code }));
                    Some(EndReason::Command(code))
                }
                () = reader_gone.cancelled() => Some(EndReason::NoReader),
                _ = patience.tick() => None,
            };
            match why {
                Some(why) => return (why, None),
                None => self.tell_waiting(),
            }
        }
    }

    fn tell_waiting(&self) {
        let mut nodes: Vec<String> = self.ports.iter().flat_map(PortIntercept::waiting_nodes).collect();
        nodes.sort();
        nodes.dedup();
        if !nodes.is_empty() {
            self.screen.note(cluster_say::waiting_for_nodes(&nodes));
        }
        let mut agents: Vec<KnownAgent> = Vec::new();
        for agent in self.ports.iter().flat_map(PortIntercept::asked) {
            if !agents.contains(agent) {
                agents.push(agent.clone());
            }
        }
        if !agents.is_empty() {
            self.screen.note(say::waiting_for_agents(&agents));
        }
    }

    /// Waits until every agent was left. `Err`: the developer does not want to wait.
    async fn await_links(&mut self) -> Result<(), ()> {
        let mut patience = patience();
        loop {
            let left = join_all(self.ports.iter_mut().map(PortIntercept::left));
            tokio::select! {
                _ = left => return Ok(()),
                arrived = self.signals.next() => match arrived {
                    SignalEvent::End(_) | SignalEvent::EndAtOnce(_) => return Err(()),
                    SignalEvent::Forward(signal) => self.child.iter().for_each(|child| child.forward(signal)),
                },
                _ = patience.tick() => self.screen.note(say::draining()),
            }
        }
    }

    /// Drops the tunnels where they are; their last packet tells the agents, so that nothing more is sent here.
    async fn drop_links(&mut self) {
        join_all(self.ports.iter_mut().map(PortIntercept::drop_links)).await;
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
        return Err(CliError::Failed(sentence));
    }
    screen.note(sentence);
    Ok(code)
}
