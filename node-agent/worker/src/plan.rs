//! What an armed port does with its connections now.
//!
//! Owns the hand-over from the registry, which decides, to the data path, which acts: a [`Plan`] is swapped whole and
//! never edited. Must not decide who wins. Written by the registry; read by every connection before each decision.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use redir_http::filter::{Key, Table};
use tokio_util::sync::CancellationToken;

use redir_config::PodName;

use crate::tunnel_handle::{RequestEvent, TunnelHandle};

/// What one armed port of one pod does with its connections.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The app's port.
    pub(crate) port: u16,
    /// The filters, winners first; shared by all ports with the same intercepts. It ends with an entry that always matches if there is a global intercept.
    pub(crate) table: Arc<Table>,
    /// Intercepts with a filter, in the table's order.
    pub(crate) filtered: Vec<Arc<Intercept>>,
    /// The intercept without a filter that wins.
    pub(crate) global: Option<Arc<Intercept>>,
    /// Whether kubelet probes go to the app whatever the filters say.
    pub(crate) probes_to_app: bool,
}

impl Plan {
    /// Whether requests are read and decided one by one, and not the connection as a whole.
    pub(crate) fn is_read(&self) -> bool {
        !self.filtered.is_empty() || self.global.as_ref().is_some_and(|global| global.forwarded)
    }

    /// The intercept that a key of the table names.
    pub(crate) fn intercept(&self, key: Key) -> Option<&Arc<Intercept>> {
        self.filtered.iter().chain(&self.global).find(|intercept| intercept.id == key.0)
    }
}

/// One intercept in one pod, as the data path uses it.
#[derive(Debug)]
pub(crate) struct Intercept {
    /// The intercept's number, the same in all its pods.
    pub(crate) id: u64,
    /// Whose.
    pub(crate) developer: Arc<str>,
    /// In which pod.
    pub(crate) pod: PodName,
    /// Where it goes on the developer's machine, for people.
    pub(crate) to: Arc<str>,
    /// The client's address is written into its requests.
    pub(crate) forwarded: bool,
    /// The developer's tunnel.
    pub(crate) tunnel: TunnelHandle,
    /// Requests or connections reported so far; outlives this value, which is made anew with each plan.
    pub(crate) requests: Arc<AtomicU64>,
    /// Those that went to the app because the developer's end did not answer; as long-lived.
    pub(crate) bypassed: Arc<AtomicU64>,
    /// Its end.
    pub(crate) ending: Ending,
}

/// How an intercept ends in one pod: first nothing new is decided for it, then nothing is under way any more.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    begun: CancellationToken,
    over: CancellationToken,
}

impl Ending {
    /// The intercept is in no plan any more: legs on which nothing is under way are closed, since nothing follows on them.
    pub(crate) fn begin(&self) {
        self.begun.cancel();
    }

    /// Cancelled when it begins.
    pub(crate) fn begun(&self) -> &CancellationToken {
        &self.begun
    }

    /// Cancelled when nobody holds the intercept: no request of it is under way, and none can begin.
    pub(crate) fn over(&self) -> CancellationToken {
        self.over.clone()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

impl Intercept {
    /// Whether a new request goes to the app because the developer's end does not answer. It is counted as such when
    /// [`Intercept::bypass`] is called; opening a stream does it by itself.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.tunnel.is_unanswered()
    }

    /// A matched request goes to the app; the developer is told how many were.
    pub(crate) fn bypass(&self) {
        self.bypassed.fetch_add(1, Ordering::Relaxed);
        self.tunnel.counters().bypassed.add(1);
    }

    /// Tells the developer of a matched request. Never waits: with a full queue the event is dropped and counted.
    pub(crate) fn report(&self, event: RequestEvent) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.tunnel.report(self.id, &self.pod, event);
    }

    /// Tells the developer that a connection which is not HTTP is open; it is reported once more when it ends.
    pub(crate) fn report_open(&self, event: RequestEvent) {
        self.tunnel.report(self.id, &self.pod, event);
    }

    /// Whether the developer's tunnel is up.
    #[cfg(test)]
    pub(crate) fn alive(&self) -> bool {
        self.tunnel.alive()
    }

    /// Resolves when the developer's tunnel is down.
    #[cfg(test)]
    pub(crate) async fn ended(&self) {
        self.tunnel.ended().await;
    }

    /// An intercept over a bare connection, with what is told to its developer.
    #[cfg(test)]
    pub(crate) fn for_test(
        id: u64,
        pod: PodName,
        connection: quinn::Connection,
    ) -> (Self, crate::tunnel_handle::backlog::EventQueue) {
        let (tunnel, events) = TunnelHandle::new(
            connection,
            Arc::default(),
            (&redir_tunnel::UnreadPool::default(), redir_tunnel::Pin::of_spki(b"alice")),
            &crate::memory::PodAccount::default(),
        );
        let (developer, to) = ("alice".into(), "127.0.0.1:3000".into());
        let (requests, bypassed) = (Arc::default(), Arc::default());
        let forwarded = false;
        (Self { id, developer, pod, to, forwarded, tunnel, requests, bypassed, ending: Ending::default() }, events)
    }
}

/// All plans, shared: written by the registry, read by every connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plans(Arc<ArcSwap<PlanMap>>);

/// Few ports per pod: a list is faster than a second map.
pub(crate) type PlanMap = HashMap<PodName, Vec<Arc<Plan>>>;

impl Plans {
    /// The plan of a pod's port; `None`: everything goes to the app.
    pub(crate) fn plan(&self, pod: &PodName, port: u16) -> Option<Arc<Plan>> {
        self.0.load().get(pod)?.iter().find(|plan| plan.port == port).cloned()
    }

    /// Puts new plans in the place of all.
    pub(crate) fn replace(&self, plans: PlanMap) {
        self.0.store(Arc::new(plans));
    }
}
