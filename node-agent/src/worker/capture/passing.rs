//! What passes to the app in one pod for now, and who is told.
//!
//! Owns which clients pass and since when. Must not decide: `shares` does. Called by the pod's accept loop.

use std::{collections::HashMap, time::Duration};

use redir_tunnel::ClientKey;
use tokio::{task::JoinSet, time::Instant};

use super::pod::Pod;
use crate::worker::{misses::Cause, upstream::ports::BYPASS};

/// What passed is told to be over when it has not passed again for so long: on the edge of a share it comes and goes.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// The clients of a pod whose new connections pass.
#[derive(Default)]
pub(super) struct PassingClients {
    /// When the guardian was asked for it last.
    asked: HashMap<ClientKey, Instant>,
    /// Questions without an answer that let a client pass which did not before.
    asking: JoinSet<()>,
}

impl PassingClients {
    /// A client has one more connection.
    pub(super) fn entered(&mut self, pod: &Pod, client: ClientKey) {
        if pod.share().standing_of(client).passes(false) && !self.asked.contains_key(&client) {
            pod.shared().metrics.clients_passing.inc();
            pod.shared().metrics.bypasses("share").inc();
            tracing::info!(pod = %pod.name(), %client, "a client has its share of connections: its new ones pass to the app");
            self.asked.insert(client, Instant::now());
            self.asking.spawn(pod.upstream().bypass(client.address(), BYPASS));
        }
    }

    /// Whether a client that is to pass may not do so yet: until then the whole pod's new connections had better, or a burst of
    /// that client takes what is others'.
    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Resolves when the guardian has answered one of the questions; never if there is none. Dropping it loses nothing.
    pub(super) async fn answered(&mut self) {
        if self.asking.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets them pass on, or not.
    pub(super) fn renew(&mut self, pod: &Pod) {
        let now = Instant::now();
        let (pass, over): (Vec<_>, Vec<_>) =
            self.asked.keys().partition(|client| pod.share().standing_of(**client).passes(true));
        for client in over {
            self.asked.remove(&client);
            pod.shared().metrics.clients_passing.dec();
            tracing::info!(pod = %pod.name(), %client, "a client's new connections come to the agent again");
            tokio::spawn(pod.upstream().bypass(client.address(), Duration::ZERO));
        }
        for client in pass {
            if self.asked.get(&client).is_some_and(|asked| now - *asked >= BYPASS / 2) {
                self.asked.insert(client, now);
                tokio::spawn(pod.upstream().bypass(client.address(), BYPASS));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// The pod is given back: nothing passes by the agent any more.
    pub(super) fn end(&mut self, pod: &Pod) {
        for _ in self.asked.drain() {
            pod.shared().metrics.clients_passing.dec();
        }
    }
}

/// Whether developers know that something passes.
pub(super) struct Told {
    cause: Cause,
    /// When it passed last, once they know.
    passed: Option<Instant>,
}

impl Told {
    pub(super) fn new(cause: Cause) -> Self {
        Self { cause, passed: None }
    }

    /// Whether it passes now: tells those who intercept the pod's ports when that begins, and when it is over.
    pub(super) fn tell(&mut self, pod: &Pod, passes: bool) {
        let misses = &pod.shared().misses;
        if passes {
            self.passed = Some(Instant::now());
            // A port may have been armed since.
            pod.armed().into_iter().for_each(|port| misses.saw(pod.name(), port, self.cause));
        } else if self.passed.is_some_and(|passed| passed.elapsed() >= OVER_AFTER) {
            self.passed = None;
            misses.over(pod.name(), self.cause);
        }
    }
}
