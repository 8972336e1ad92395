//! What the developer was told about an intercept on one agent, so that every change is told once.
//!
//! Owns: the difference between two states, as events. Must not print or read a clock. Called by: `link::session`.

use std::collections::{BTreeMap, BTreeSet};

use redir_wire::{
    Conflict, EarlierConnections, InterceptState, Listening, Liveness, Miss, Owner, PodFlush, PodState, PodTls,
    TlsHandling, limits,
};

use super::desired::DesiredIntercept;
use crate::curl::{CurlLine, curl};
use crate::events::{AppListening, Event, InterceptConflict, LivePod, ServiceInput};
use crate::service::ServiceProtocol;
use crate::wording::events::earlier_connections;

/// What may be over by itself, and is told again when it begins anew.
const PASSING: [&str; 2] = ["client_passes", "pod_passes"];

/// Which conflict: pod, developer, and the other intercept's number, as far as the agent tells it.
type ConflictKey = (String, String, Option<u64>);

/// Pods and conflicts, as last told.
#[derive(Debug, Default)]
pub(crate) struct LastReported {
    /// The name under which the agent knows us.
    pub(super) developer: String,
    /// In a cluster intercepts have names, and an agent's numbers mean nothing to anybody.
    in_cluster: bool,
    pods: BTreeMap<String, Liveness>,
    tls: BTreeMap<String, PodTls>,
    flushed: BTreeMap<String, PodFlush>,
    probes: BTreeSet<String>,
    apps: BTreeMap<String, Listening>,
    misses: BTreeSet<(String, String)>,
    conflicts: BTreeMap<ConflictKey, InterceptConflict>,
    overlaps: BTreeMap<ConflictKey, InterceptConflict>,
    lost: BTreeSet<String>,
    /// Requests that went past us so far.
    bypassed: u64,
    tried: bool,
}

impl LastReported {
    pub(super) fn new(in_cluster: bool) -> Self {
        Self { in_cluster, ..Self::default() }
    }

    /// The tunnel is gone: what was live is told again when it is back. False: nothing was. An agent that shuts down
    /// calls its pods lost before it goes.
    pub(crate) fn tunnel_lost(&mut self) -> bool {
        let was_live = |state: Liveness| matches!(state, Liveness::Live | Liveness::Lost);
        let lost = std::mem::take(&mut self.pods).into_iter().filter(|(_, state)| was_live(*state));
        let before = self.lost.len();
        self.lost.extend(lost.map(|(pod, _)| pod));
        self.lost.len() > before
    }

    /// Whether a pod is live now.
    pub(crate) fn any_live(&self) -> bool {
        self.live() > 0
    }

    /// How many pods are live now.
    pub(crate) fn live(&self) -> usize {
        self.pods.values().filter(|state| **state == Liveness::Live).count()
    }

    /// What is new in `state`. `after_ms`: since the intercept was asked for, or since the tunnel was lost.
    pub(crate) fn changes(
        &mut self,
        agent: &str,
        wanted: &DesiredIntercept,
        state: &InterceptState,
        after_ms: u64,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let mut restored = Vec::new();
        // After what is live.
        let (mut tls, mut apps) = (Vec::new(), Vec::new());
        for pod in &state.pods {
            tls.extend(self.tls(agent, wanted, pod));
            tls.extend(self.flushed(agent, wanted, pod));
            tls.extend(self.probes(agent, wanted, pod));
            let live_anew = pod.state == Liveness::Live && self.pods.get(&pod.pod) != Some(&Liveness::Live);
            let told_with_it = live_anew && !self.lost.contains(&pod.pod);
            apps.extend(self.app(agent, wanted, pod, told_with_it));
            apps.extend(self.misses(agent, wanted, pod, told_with_it));
            let before = self.pods.insert(pod.pod.clone(), pod.state);
            if before == Some(pod.state) {
                continue;
            }
            match pod.state {
                Liveness::Pending => (),
                Liveness::Live if self.lost.remove(&pod.pod) => restored.push(pod.pod.clone()),
                Liveness::Live => events.push(Event::Live(self.told_live(agent, wanted, state, pod, after_ms))),
                Liveness::Refused | Liveness::Lost => events.push(not_live(agent, pod)),
            }
        }
        if !restored.is_empty() {
            events.insert(0, Event::Restored { agent: agent.to_owned(), pods: restored, after_ms });
        }
        events.extend(tls);
        events.extend(apps);
        self.forget_others(state);
        // A pod that the agent no longer names is told anew when it comes back.
        self.pods.retain(|name, _| state.pods.iter().any(|pod| pod.pod == *name));
        self.clashes(agent, state, &mut events);
        // A new agent begins to count anew.
        let requests = state.bypassed.saturating_sub(self.bypassed);
        self.bypassed = state.bypassed;
        if requests > 0 {
            events.push(Event::Bypassed { agent: agent.to_owned(), id: state.id, requests });
        }
        events
    }

    /// An agent that names ever other pods is told of those only that it names now.
    fn forget_others(&mut self, state: &InterceptState) {
        let named = |name: &String| state.pods.iter().any(|pod| pod.pod == *name);
        let most = limits::ENTRIES;
        if self.tls.len() > most || self.flushed.len() > most || self.apps.len() > most || self.lost.len() > most {
            self.tls.retain(|name, _| named(name));
            self.flushed.retain(|name, _| named(name));
            self.apps.retain(|name, _| named(name));
            self.lost.retain(named);
        }
        if self.misses.len() > most {
            self.misses.retain(|(name, _)| named(name));
            // One pod's causes are few, unless the agent makes them up.
            self.misses = std::mem::take(&mut self.misses).into_iter().take(most).collect();
        }
        if self.probes.len() > most {
            self.probes.clear();
        }
    }

    /// What is new about TLS. A lost tunnel or a disarmed port says nothing about it.
    fn tls(&mut self, agent: &str, wanted: &DesiredIntercept, pod: &PodState) -> Option<Event> {
        let tls = pod.tls.clone()?;
        if self.tls.insert(pod.pod.clone(), tls.clone()).as_ref() == Some(&tls) {
            return None;
        }
        let local = local(wanted, Some(&tls));
        Some(Event::Tls { agent: agent.to_owned(), pod: pod.pod.clone(), port: wanted.port.get(), tls, local })
    }

    /// Connections from before were closed: told once, also over redials.
    fn flushed(&mut self, agent: &str, wanted: &DesiredIntercept, pod: &PodState) -> Option<Event> {
        let flushed = pod.flushed.clone()?;
        if self.flushed.insert(pod.pod.clone(), flushed.clone()).as_ref() == Some(&flushed) {
            return None;
        }
        Some(Event::Flushed { agent: agent.to_owned(), pod: pod.pod.clone(), port: wanted.port.get(), flushed })
    }

    /// What is new about probes. Pods of one workload have the same: one word is enough.
    fn probes(&mut self, agent: &str, wanted: &DesiredIntercept, pod: &PodState) -> Vec<Event> {
        let new = pod.probes.iter().filter(|sentence| self.probes.insert((*sentence).clone()));
        let told = |sentence: &String| Event::Probe {
            agent: agent.to_owned(),
            pod: pod.pod.clone(),
            port: wanted.port.get(),
            sentence: sentence.clone(),
        };
        new.map(told).collect()
    }

    /// What is new about whoever listens in the pod; `told`: it is told otherwise.
    fn app(&mut self, agent: &str, wanted: &DesiredIntercept, pod: &PodState, told: bool) -> Option<Event> {
        let listening = pod.listening?;
        let before = self.apps.insert(pod.pod.clone(), listening);
        let is_news = before.map_or(listening != Listening::Yes, |before| before != listening);
        if told || !is_news {
            return None;
        }
        let tls = pod.tls.as_ref().is_some_and(|tls| tls.handling != TlsHandling::Clear);
        Some(Event::App(AppListening {
            agent: agent.to_owned(),
            pod: pod.pod.clone(),
            port: wanted.port.get(),
            listening,
            even_if_down: wanted.even_if_down,
            filtered: wanted.filter.is_some(),
            curl: self.to_try(wanted, pod, tls).filter(|_| !std::mem::replace(&mut self.tried, true)),
        }))
    }

    /// Connections that are not intercepted, each cause once; those from before as often as a pod is `live_anew`.
    fn misses(&mut self, agent: &str, wanted: &DesiredIntercept, pod: &PodState, live_anew: bool) -> Vec<Event> {
        let event = |miss| Event::NotIntercepted {
            agent: agent.to_owned(),
            pod: pod.pod.clone(),
            port: wanted.port.get(),
            miss,
        };
        // Those that are closed come to us soon.
        let stay = live_anew && pod.earlier_connections > 0 && wanted.earlier == EarlierConnections::Stay;
        let earlier = stay.then(|| Miss {
            cause: "earlier_connections".to_owned(),
            sentence: earlier_connections(pod.earlier_connections),
        });
        let seen = pod.misses.iter().filter(|miss| self.misses.insert((pod.pod.clone(), miss.cause.clone())));
        let mut events: Vec<Event> = earlier.into_iter().chain(seen.cloned()).map(event).collect();
        if pod.state == Liveness::Live {
            events.extend(self.over(agent, wanted, pod));
        }
        events
    }

    /// Causes that are there no longer.
    fn over(&mut self, agent: &str, wanted: &DesiredIntercept, pod: &PodState) -> Vec<Event> {
        let is_over = |cause: &&str| {
            let known = (pod.pod.clone(), (*cause).to_owned());
            !pod.misses.iter().any(|miss| miss.cause == **cause) && self.misses.remove(&known)
        };
        let event = |cause: &str| Event::InterceptedAgain {
            agent: agent.to_owned(),
            pod: pod.pod.clone(),
            port: wanted.port.get(),
            cause: cause.to_owned(),
        };
        PASSING.into_iter().filter(is_over).map(event).collect()
    }

    /// A request to try, where somebody answers it.
    fn to_try(&self, wanted: &DesiredIntercept, pod: &PodState, tls: bool) -> Option<CurlLine> {
        let is_answered = wanted.even_if_down || pod.listening.is_none_or(|listening| listening == Listening::Yes);
        let host = pod.addresses.first().map_or(pod.pod.as_str(), String::as_str);
        is_answered.then(|| curl(wanted.filter.as_ref(), tls, host, wanted.port.get())).flatten()
    }

    fn told_live(
        &mut self,
        agent: &str,
        wanted: &DesiredIntercept,
        state: &InterceptState,
        pod: &PodState,
        after_ms: u64,
    ) -> LivePod {
        let tls = pod.tls.as_ref().filter(|tls| tls.handling != TlsHandling::Clear);
        let to_try = self.to_try(wanted, pod, tls.is_some());
        LivePod {
            agent: agent.to_owned(),
            id: state.id,
            pod: pod.pod.clone(),
            port: wanted.port.get(),
            to: wanted.to.clone(),
            local: local(wanted, tls).unwrap_or(ServiceInput::Plaintext),
            tls: tls.is_some(),
            filter: wanted.filter.clone(),
            addresses: pod.addresses.clone(),
            earlier_connections: pod.earlier_connections,
            earlier: wanted.earlier,
            after_ms,
            listening: pod.listening,
            even_if_down: wanted.even_if_down,
            first: to_try.is_some() && !std::mem::replace(&mut self.tried, true),
            curl: to_try,
        }
    }

    fn clashes(&mut self, agent: &str, state: &InterceptState, events: &mut Vec<Event>) {
        for (before, now, begins, ends) in [
            (
                &mut self.conflicts,
                &state.conflicts,
                Event::Conflict as fn(InterceptConflict) -> Event,
                Event::ConflictOver as fn(InterceptConflict) -> Event,
            ),
            (&mut self.overlaps, &state.overlaps, Event::Overlap, Event::OverlapOver),
        ] {
            let clash = |conflict: &Conflict| InterceptConflict {
                agent: agent.to_owned(),
                pod: conflict.pod.clone(),
                id: conflict.id.filter(|_| !self.in_cluster),
                whose: if conflict.developer == self.developer { Owner::You } else { Owner::Other },
                developer: conflict.developer.clone(),
                since: conflict.since,
                takes: conflict.takes,
            };
            let key = |conflict: &Conflict| (conflict.pod.clone(), conflict.developer.clone(), conflict.id);
            let now: BTreeMap<ConflictKey, InterceptConflict> =
                now.iter().map(|conflict| (key(conflict), clash(conflict))).collect();
            let new = now.iter().filter(|(key, _)| !before.contains_key(key));
            events.extend(new.map(|(_, clash)| begins(clash.clone())));
            let over = before.iter().filter(|(key, _)| !now.contains_key(key));
            events.extend(over.map(|(_, clash)| ends(clash.clone())));
            *before = now;
        }
    }
}

/// What the developer's service gets; `None`: nothing.
fn local(wanted: &DesiredIntercept, tls: Option<&PodTls>) -> Option<ServiceInput> {
    match tls.map(|tls| tls.handling) {
        Some(TlsHandling::Unread) => None,
        Some(TlsHandling::Passed) => Some(ServiceInput::AsSent),
        Some(TlsHandling::Decrypted | TlsHandling::Clear | TlsHandling::Other) | None => {
            Some(match (wanted.speaks, &wanted.filter) {
                (ServiceProtocol::Tls, _) => ServiceInput::Tls,
                // Without a filter nothing is read: it need not be plaintext.
                (ServiceProtocol::Plaintext, None) if tls.is_none() => ServiceInput::AsSent,
                (ServiceProtocol::Plaintext, _) => ServiceInput::Plaintext,
            })
        }
    }
}

fn not_live(agent: &str, pod: &PodState) -> Event {
    Event::NotLive { agent: agent.to_owned(), pod: pod.pod.clone(), state: pod.state, reason: pod.reason.clone() }
}

/// Whether everything about a state is decided: no pod is being armed any more.
pub(crate) fn settled(state: &InterceptState) -> bool {
    state.pods.iter().all(|pod| pod.state != Liveness::Pending)
}

#[cfg(test)]
mod tests;
