//! One agent, for as long as the intercept is wanted: dialled, asked, and dialled again when the tunnel is lost.
//!
//! Owns: the redialling. Must not speak the protocol (`session`) or decide when redir ends (`commands::intercept`).
//! Called by: `commands::intercept`, one task for each agent.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::clock::ClockWatch;
use super::context::{AgentLink, FirstAnswer, LinkEnd, SessionEnd};
use super::last_reported::LastReported;
use super::session::Session;
use super::tunnel;
use crate::events::Event;
use crate::model::values::KnownAgent;
use crate::wording::session as say;

/// A slice of a redialling wait: a machine that wakes up does not sit out the rest of it.
const SLICE: Duration = Duration::from_millis(250);
/// How often an agent that stays away is mentioned.
const REMIND: Duration = Duration::from_secs(60);
/// How long an agent of a cluster may fail before it counts: it may be about to hear of the Intercept, or be replaced.
const GRACE: Duration = Duration::from_secs(4);

impl AgentLink {
    /// Runs until the intercept ends.
    pub(crate) async fn run(mut self) -> LinkEnd {
        let mut reported = LastReported::new(self.moved.is_some());
        let mut backoff = Backoff::new();
        let mut since = Instant::now();
        let mut reminded = since;
        loop {
            let gone = match self.once(&mut reported, since).await {
                SessionEnd::Left => return LinkEnd::Left,
                SessionEnd::EndedElsewhere(reason) => return LinkEnd::EndedElsewhere(reason),
                SessionEnd::GaveUp(reason) => {
                    if self.was_decided() {
                        self.screen.tell(&Event::Refused { agent: self.agent.name.clone(), reason: reason.clone() });
                    }
                    self.decide(FirstAnswer::NotLive(Vec::new(), reason.clone()));
                    return LinkEnd::GaveUp(reason);
                }
                SessionEnd::Lost(gone) => gone,
            };
            if self.moved.is_none() || since.elapsed() > GRACE {
                self.decide(FirstAnswer::Unreachable(gone.sentence(&self.agent)));
            }
            if reported.tunnel_lost() {
                (since, reminded, backoff) = (Instant::now(), Instant::now(), Backoff::new());
                let reason = gone.reason(&self.agent);
                self.screen.tell(&Event::Lost { agent: self.agent.name.clone(), reason });
            } else if reminded.elapsed() > REMIND {
                reminded = Instant::now();
                self.screen.note(say::still_dialling(&self.agent, since.elapsed(), &gone.reason(&self.agent)));
            }
            if !self.pause(backoff.wait()).await {
                return LinkEnd::Left;
            }
        }
    }

    /// One tunnel, from dialling to its end.
    async fn once(&mut self, reported: &mut LastReported, since: Instant) -> SessionEnd {
        if let Some(moved) = &mut self.moved {
            self.agent = moved.borrow_and_update().clone();
        }
        let dialled = tokio::select! {
            () = self.leave.cancelled() => return SessionEnd::Left,
            dialled = tunnel::dial(&self.agent, &self.identity) => dialled,
        };
        match dialled {
            Ok(tunnel) => Session::new(self, tunnel, reported, since).run().await,
            Err(gone) => self.over(&gone),
        }
    }

    /// Waits before the next dial; a machine that slept meanwhile dials at once, and so does one that hears where the
    /// agent is now. False: the intercept is to end.
    async fn pause(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut watch = ClockWatch::new(SystemTime::now(), std::time::Instant::now());
        while Instant::now() < until && !watch.jumped(SystemTime::now(), std::time::Instant::now()) {
            tokio::select! {
                () = self.leave.cancelled() => return false,
                () = changed(&mut self.moved) => break,
                () = sleep(SLICE.min(until - Instant::now())) => (),
            }
        }
        !self.leave.is_cancelled()
    }
}

/// Waits until a cluster's agent is known under another key or address.
async fn changed(moved: &mut Option<watch::Receiver<KnownAgent>>) {
    let is_other = match moved {
        Some(moved) => moved.changed().await.is_ok(),
        None => false,
    };
    if !is_other {
        std::future::pending::<()>().await;
    }
}
