//! The last things that are said of intercepts that end: only when nothing of them is under way any more.
//!
//! Owns the waiting. A redir that was told goes, and nobody would answer a request that came then: new requests go to the
//! app first, those under way are finished by the developer's service, and then it is told. Called by `hub`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use redir_tunnel::Pin;
use redir_wire::{LeaveScope, LeftIntercept, Token};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{plan::Intercept, registry::EndedIntercept};

use super::session::SessionCommand;

/// Requests that are under way to developers whose intercepts have ended.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlightRequests(Vec<CancellationToken>);

impl InFlightRequests {
    /// What holds these intercepts, which are in no plan any more.
    pub(super) fn begin(ended: impl Iterator<Item = Arc<Intercept>>) -> Self {
        let begin = |intercept: Arc<Intercept>| {
            intercept.ending.begin();
            intercept.ending.over()
        };
        Self(ended.map(begin).collect())
    }

    /// And these.
    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Whether nothing is.
    pub(super) fn is_over(&self) -> bool {
        self.0.iter().all(CancellationToken::is_cancelled)
    }

    /// Resolves when nothing is, or after [`FINISH`].
    async fn over(self) {
        let all = async {
            for one in &self.0 {
                one.cancelled().await;
            }
        };
        if timeout(FINISH, all).await.is_err() {
            tracing::info!("requests are still under way to a developer who leaves: not waited for");
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EndingIntercepts {
    waiting: JoinSet<()>,
    /// Intercepts of which something was under way.
    ending: VecDeque<EndingIntercept>,
}

#[derive(Debug)]
struct EndingIntercept {
    pin: Pin,
    token: Token,
    intercept: LeftIntercept,
    under_way: InFlightRequests,
}

impl EndingIntercepts {
    /// Says something last, once nothing is under way.
    pub(super) fn bid(
        &mut self,
        under_way: InFlightRequests,
        to: mpsc::Sender<SessionCommand>,
        last: Vec<SessionCommand>,
    ) {
        while self.waiting.try_join_next().is_some() {}
        self.waiting.spawn(async move {
            under_way.over().await;
            for message in last {
                // The session may have ended.
                to.send(message).await.ok();
            }
        });
    }

    /// Remembers an intercept as long as something of it is under way.
    pub(super) fn note(&mut self, pin: Pin, leaver: &EndedIntercept, under_way: &InFlightRequests) {
        self.ending.retain(|ending| !ending.under_way.is_over());
        if under_way.is_over() {
            return;
        }
        if self.ending.len() >= REMEMBERED {
            self.ending.pop_front();
        }
        let intercept = LeftIntercept { id: Some(leaver.id), what: leaver.what.clone() };
        self.ending.push_back(EndingIntercept { pin, token: leaver.token, intercept, under_way: under_way.clone() });
    }

    /// An intercept that has ended and of which something is under way.
    pub(super) fn ending(&self, pin: &Pin, which: &LeaveScope) -> Option<(LeftIntercept, InFlightRequests)> {
        let LeaveScope::Token(token) = which else { return None };
        let found = self.ending.iter().find(|ending| ending.pin == *pin && ending.token == *token)?;
        Some((found.intercept.clone(), found.under_way.clone()))
    }
}

/// How long requests under way may take to be finished. What takes longer (a stream, a WebSocket) is cut, as it is when a
/// service ends.
const FINISH: Duration = Duration::from_secs(3);
/// Ended intercepts that are remembered.
const REMEMBERED: usize = 1024;
