//! What passes to the app in one pod for now, and who is told.
//!
//! Owns which clients pass and since when. Must not decide: `shares` does. Called by the pod's accept loop.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use redir_tunnel::ClientKey;
use tokio::{task::JoinSet, time::Instant};

use super::pod::Pod;
use crate::{misses::Cause, upstream::ports::BYPASS};

/// What passed is told to be over when it has not passed again for so long: on the edge of a share it comes and goes.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// The clients of a pod whose new connections pass.
#[derive(Default)]
pub(super) struct PassingClients {
    asked: AskedBypasses,
    /// Questions without an answer that let a client pass which did not before.
    asking: JoinSet<BypassAnswer>,
    /// Those that let one pass on.
    renewing: JoinSet<BypassAnswer>,
}

/// The client, and whether the guardian did it.
type BypassAnswer = (ClientKey, bool);

impl PassingClients {
    /// A client has one more connection.
    pub(super) fn entered(&mut self, pod: &Pod, client: ClientKey) {
        if pod.share().share_state_of(client).passes(false) && self.asked.begin(client, Instant::now()) {
            pod.shared().metrics.clients_passing.inc();
            pod.shared().metrics.bypasses("share").inc();
            tracing::info!(pod = %pod.name(), %client, "a client has its share of connections: its new ones pass to the app");
            self.asking.spawn(ask(pod, client));
        }
    }

    /// Whether a client that is to pass may not do so yet: until then the whole pod's new connections had better, or a burst of
    /// that client takes what is others'.
    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Resolves when the guardian has answered one of the questions; never if there is none. Dropping it loses nothing.
    pub(super) async fn answered(&mut self, pod: &Pod) {
        let answer = tokio::select! {
            Some(answer) = self.asking.join_next() => answer,
            Some(answer) = self.renewing.join_next() => answer,
            else => std::future::pending().await,
        };
        // The client's next connection asks again.
        if let Ok((client, false)) = answer
            && self.asked.failed(client)
        {
            pod.shared().metrics.clients_passing.dec();
        }
    }

    /// Lets them pass on, or not. What the guardian was asked for ends by itself: taking it back could overtake a newer
    /// question, and would end what the client's crowded ports asked for as well.
    pub(super) fn renew(&mut self, pod: &Pod) {
        let share_state = |client| pod.share().share_state_of(client).passes(true);
        let (pass, over) = self.asked.renew(share_state, Instant::now());
        for client in over {
            pod.shared().metrics.clients_passing.dec();
            tracing::info!(pod = %pod.name(), %client, "a client's new connections come to the agent again");
        }
        for client in pass {
            self.renewing.spawn(ask(pod, client));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asked.0.is_empty()
    }

    /// The pod is given back: nothing passes by the agent any more.
    pub(super) fn end(&mut self, pod: &Pod) {
        for _ in self.asked.0.drain() {
            pod.shared().metrics.clients_passing.dec();
        }
    }
}

fn ask(pod: &Pod, client: ClientKey) -> impl Future<Output = BypassAnswer> + Send + use<> {
    let asked = pod.upstream().bypass(client.address(), BYPASS);
    async move { (client, asked.await) }
}

/// When the guardian was asked last to let a client pass: it does so for [`BYPASS`].
#[derive(Default)]
struct AskedBypasses(HashMap<ClientKey, Instant>);

impl AskedBypasses {
    /// Whether this client is to be asked for: it does not pass yet.
    fn begin(&mut self, client: ClientKey, now: Instant) -> bool {
        match self.0.entry(client) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(now);
                true
            }
        }
    }

    /// It does not pass, or not for long any more; whether that is news.
    fn failed(&mut self, client: ClientKey) -> bool {
        self.0.remove(&client).is_some()
    }

    /// Those that are to be asked for once more, and those that pass no longer, by whether one has its share still.
    fn renew(&mut self, passes: impl Fn(ClientKey) -> bool, now: Instant) -> (Vec<ClientKey>, Vec<ClientKey>) {
        let (mut pass, mut over) = (Vec::new(), Vec::new());
        self.0.retain(|client, asked| {
            let passes = passes(*client);
            if passes && now - *asked >= BYPASS / 2 {
                *asked = now;
                pass.push(*client);
            } else if !passes && now - *asked >= BYPASS {
                over.push(*client);
                return false;
            }
            true
        });
        (pass, over)
    }
}

/// Whether developers know that something passes.
pub(super) struct PassingNotice {
    cause: Cause,
    /// When it passed last, once they know.
    passed: Option<Instant>,
}

impl PassingNotice {
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_bypass_is_asked_for_again_after_a_failure_and_ends_by_itself() {
        let client = ClientKey::of(IpAddr::from([192, 0, 2, 1]));
        let begun = Instant::now();
        let mut asked = AskedBypasses::default();
        assert!(asked.begin(client, begun) && !asked.begin(client, begun));
        assert!(asked.failed(client) && !asked.failed(client));
        assert!(asked.begin(client, begun), "nobody lets it pass");

        assert_eq!(asked.renew(|_| true, begun + BYPASS / 4), (vec![], vec![]));
        let renewed = begun + BYPASS / 2;
        assert_eq!(asked.renew(|_| true, renewed), (vec![client], vec![]));
        // It passes as long as the guardian was told, whatever its share is meanwhile.
        assert_eq!(asked.renew(|_| false, begun + BYPASS), (vec![], vec![]));
        assert_eq!(asked.renew(|_| false, renewed + BYPASS), (vec![], vec![client]));
        assert!(asked.begin(client, renewed + BYPASS));
    }
}
