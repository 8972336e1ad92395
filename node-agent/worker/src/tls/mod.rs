//! TLS in the data path: what is known of each port, what is given to decrypt with, and the handshakes.
//!
//! Owns: the worker's copy of the apps' certificates, and what was found out about the ports. A connection is decrypted
//! between the client and the app, whose own choice of version, cipher suite, protocol and certificate is what the
//! client gets; anything that cannot be passed on leaves the connection to the app, as it came. Must not log a byte of
//! what it decrypts. Called by `connection` for each connection and by the tunnels' hub, which tells developers.

mod answer;
mod app;
mod finding;
mod given;
mod hello;
mod offer;
mod probe;
mod session;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use finding::FindingHistory;
use redir_config::{PodName, certificates::Certificates};
use tokio::sync::watch;

pub(crate) use self::{
    answer::{answer, complete},
    app::{Agreed, AppError, handshake},
    finding::{Finding, InterceptCoverage, Means},
    given::Given,
    hello::{Heard, Hello},
    offer::Offer,
    probe::probe,
    session::Session,
};

/// What is known of all ports; cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls(Arc<TlsPortsInner>);

/// What the certificates are given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenFor {
    /// For the very ports: that they speak TLS is expected, and that one does not is worth telling.
    Ports,
    /// For whatever ports of the pod show them: which do is found out.
    Pods,
}

struct TlsPortsInner {
    given_for: GivenFor,
    probes: bool,
    given: ArcSwap<BTreeMap<(PodName, u16), Arc<Given>>>,
    seen: Mutex<TlsFindings>,
    news: watch::Sender<()>,
}

#[derive(Default)]
struct TlsFindings {
    latest: HashMap<(PodName, u16), FindingHistory>,
    probed: HashSet<(PodName, u16)>,
}

impl Tls {
    /// With the certificates of the start; `probes`: the agent may look at ports by itself.
    pub(crate) fn new(certificates: &Certificates, given_for: GivenFor, probes: bool) -> Self {
        let (given, seen, news) = (ArcSwap::default(), Mutex::default(), watch::Sender::new(()));
        let tls = Tls(Arc::new(TlsPortsInner { given_for, probes, given, seen, news }));
        tls.replace(certificates);
        tls
    }

    /// Puts these certificates in the place of all. What was found out about a port whose certificates are others now
    /// is found out anew.
    pub(crate) fn replace(&self, certificates: &Certificates) {
        let before = self.0.given.load_full();
        let given = certificates.0.iter().map(|(port, pairs)| {
            let known = before.get(port);
            let same = known.filter(|known| known.is(pairs)).cloned();
            (port.clone(), same.unwrap_or_else(|| Arc::new(Given::new(pairs, known.map(|known| &**known)))))
        });
        let given = Arc::new(given.collect::<BTreeMap<_, _>>());
        self.0.given.store(given.clone());
        self.forget(|pod, port| {
            let port = (pod.clone(), port);
            before.get(&port).map(Arc::as_ptr) != given.get(&port).map(Arc::as_ptr)
        });
    }

    /// What is given for a port.
    pub(crate) fn given(&self, pod: &PodName, port: u16) -> Option<Arc<Given>> {
        self.0.given.load().get(&(pod.clone(), port)).cloned()
    }

    /// Notes what a connection has shown.
    pub(crate) fn found(&self, pod: &PodName, port: u16, finding: Finding) {
        let now = Instant::now();
        let news = match self.seen().latest.entry((pod.clone(), port)) {
            Entry::Occupied(mut latest) => latest.get_mut().next(finding, now),
            Entry::Vacant(none) => {
                none.insert(FindingHistory::new(finding, now));
                true
            }
        };
        if news {
            tracing::info!(%pod, port, finding = finding.label(), "TLS is seen");
            self.0.news.send_replace(());
        }
    }

    /// What is to be told about a port: what was found, or what a certificate lets expect.
    pub(crate) fn finding(&self, pod: &PodName, port: u16) -> Option<(Finding, Means)> {
        let means = self.given(pod, port).map_or(Means::None, |given| given.means());
        let latest = self.seen().latest.get(&(pod.clone(), port)).map(|latest| latest.finding);
        let finding = match self.0.given_for {
            GivenFor::Ports => latest.or((means != Means::None).then_some(Finding::Tls)),
            GivenFor::Pods => latest.filter(|latest| *latest != Finding::Clear),
        };
        finding.map(|finding| (finding, means))
    }

    /// Changes when something is to be told.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    /// True once for each armed port, where probes are wanted: it is to be looked at.
    pub(crate) fn begin_probe(&self, pod: &PodName, port: u16) -> bool {
        self.0.probes && self.seen().probed.insert((pod.clone(), port))
    }

    /// Forgets what was found out about these ports.
    pub(crate) fn forget(&self, which: impl Fn(&PodName, u16) -> bool) {
        let given = self.0.given.load();
        given.iter().filter(|((pod, port), _)| which(pod, *port)).for_each(|(_, given)| given.note_asking(false));
        let mut seen = self.seen();
        seen.probed.retain(|(pod, port)| !which(pod, *port));
        let before = seen.latest.len();
        seen.latest.retain(|(pod, port), _| !which(pod, *port));
        if seen.latest.len() != before {
            self.0.news.send_replace(());
        }
    }

    fn seen(&self) -> MutexGuard<'_, TlsFindings> {
        // The maps have no half-done state that a panic could leave.
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redir_config::certificates::testing::pair;

    #[test]
    fn what_is_expected_is_told_only_of_named_ports() {
        let port = (PodName::new("web-1").expect("good"), 8443);
        let given = Certificates(BTreeMap::from([(port.clone(), vec![pair("web.test")])]));
        let finding = |tls: &Tls| tls.finding(&port.0, port.1);
        let (named, of_pods) = (Tls::new(&given, GivenFor::Ports, true), Tls::new(&given, GivenFor::Pods, true));
        assert_eq!(finding(&named), Some((Finding::Tls, Means::Certificate)));
        assert_eq!(finding(&of_pods), None);
        for tls in [&named, &of_pods] {
            tls.found(&port.0, port.1, Finding::Clear);
        }
        assert_eq!(finding(&named), Some((Finding::Clear, Means::Certificate)));
        assert_eq!(finding(&of_pods), None, "a pod's other port speaks cleartext: nobody said otherwise");
        of_pods.found(&port.0, port.1, Finding::Tls);
        assert_eq!(finding(&of_pods), Some((Finding::Tls, Means::Certificate)));
    }
}
