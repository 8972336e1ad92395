//! What developers are told: an intercept's state, what is there, how theirs fare.

use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use redir_tunnel::Pin;
use redir_wire::{
    InterceptEntry, InterceptState, Listing, Liveness, Owner, PodEntry, PodState, PodTls, UnixMillis, limits,
};

use crate::{
    config::{Config, PodName},
    worker::tls::{Tls, Wants},
};

use super::{
    Registered, Registry,
    arming::{Arming, PortStatus},
    contest::Contests,
    filter, port_not_allowed,
};

/// What the agent knows of the ports.
#[derive(Clone, Copy)]
pub(crate) struct Ports<'a> {
    /// Which are armed.
    pub(crate) arming: &'a Arming,
    /// Which speak TLS.
    pub(crate) tls: &'a Tls,
}

impl Ports<'_> {
    /// What an intercept's developer is told of TLS on a port that is steered.
    fn tls(self, wish: &Registered, pod: &PodName, state: Liveness) -> Option<PodTls> {
        let wants = if wish.filter.is_some() { Wants::Some } else { Wants::Everything };
        let known = if state == Liveness::Live { self.tls.finding(pod, wish.wish.port) } else { None };
        known.map(|(finding, means)| finding.told(means, wants))
    }
}

/// One pod of one intercept.
struct Standing {
    state: Liveness,
    reason: String,
    earlier: u32,
    since: SystemTime,
}

impl Registry {
    /// An intercept's state, pod by pod.
    pub(crate) fn state(&self, wish: &Registered, contests: &Contests, ports: Ports<'_>) -> InterceptState {
        let pods = wish.seen.iter().take(limits::ENTRIES).map(|pod| {
            let standing = self.standing(wish, pod, ports.arming);
            PodState {
                pod: pod.to_string(),
                addresses: ports.arming.addresses(pod).iter().map(ToString::to_string).collect(),
                state: standing.state,
                reason: standing.reason,
                earlier_connections: standing.earlier,
                since: millis(standing.since),
                tls: ports.tls(wish, pod, standing.state),
            }
        });
        InterceptState {
            id: wish.id,
            token: wish.wish.token,
            since: millis(wish.since),
            pods: pods.collect(),
            conflicts: self.conflicts(wish, contests),
            overlaps: self.overlaps(wish, contests),
        }
    }

    /// The pods that a developer may intercept, and anybody's intercepts in them.
    pub(crate) fn listing(&self, pin: &Pin, ports: Ports<'_>) -> Listing {
        let developer = self.config.developer(pin);
        let visible = |pod: &PodName| {
            self.config.pod(pod).is_some_and(|pod| developer.is_some_and(|developer| developer.may(pod)))
        };
        let pods = self.config.pods.iter().filter(|pod| visible(&pod.name)).take(limits::ENTRIES);
        let pods = pods.map(|pod| PodEntry {
            name: pod.name.to_string(),
            labels: pod.labels.0.clone(),
            ports: pod.ports.iter().flatten().copied().take(limits::PORTS).collect(),
        });
        let intercepts = self.wishes().flat_map(|wish| self.entries(wish, pin, ports));
        let intercepts = intercepts.filter(|(pod, _)| visible(pod)).map(|(_, entry)| entry);
        Listing { pods: pods.collect(), intercepts: intercepts.take(limits::ENTRIES).collect() }
    }

    /// One developer's intercepts.
    pub(crate) fn own(&self, pin: &Pin, ports: Ports<'_>) -> Vec<InterceptEntry> {
        let own = self.wishes().filter(|wish| wish.pin == *pin);
        own.flat_map(|wish| self.entries(wish, pin, ports)).map(|(_, entry)| entry).take(limits::ENTRIES).collect()
    }

    fn entries(&self, wish: &Registered, asking: &Pin, ports: Ports<'_>) -> Vec<(PodName, InterceptEntry)> {
        let yours = wish.pin == *asking;
        let entry = |pod: &PodName| {
            let standing = self.standing(wish, pod, ports.arming);
            InterceptEntry {
                id: wish.id,
                developer: self.developer_name(wish),
                owner: if yours { Owner::You } else { Owner::Other },
                pod: pod.to_string(),
                port: wish.wish.port,
                filter: wish.wish.filter.as_ref().map_or_else(String::new, filter::describe),
                to: if yours { wish.wish.to.clone() } else { String::new() },
                since: millis(wish.since),
                state: standing.state,
                reason: standing.reason,
                requests: wish.requests.load(Ordering::Relaxed),
                tls: ports.tls(wish, pod, standing.state),
            }
        };
        wish.seen.iter().map(|pod| (pod.clone(), entry(pod))).collect()
    }

    fn standing(&self, wish: &Registered, name: &PodName, arming: &Arming) -> Standing {
        let port = wish.wish.port;
        let Some(pod) = self.pods(wish).find(|pod| pod.name == *name) else {
            return Standing {
                state: Liveness::Lost,
                reason: "the agent's configuration no longer has this pod for your key; ask its administrator".into(),
                earlier: 0,
                since: wish.since,
            };
        };
        if !pod.allows(port) {
            let reason = port_not_allowed(pod, port);
            return Standing { state: Liveness::Refused, reason, earlier: 0, since: wish.since };
        }
        match arming.status(name, port) {
            PortStatus::Pending => {
                Standing { state: Liveness::Pending, reason: String::new(), earlier: 0, since: wish.since }
            }
            PortStatus::Live { since, earlier } => {
                Standing { state: Liveness::Live, reason: String::new(), earlier, since: since.max(wish.since) }
            }
            PortStatus::Refused { since, reason } => {
                Standing { state: Liveness::Refused, reason, earlier: 0, since: since.max(wish.since) }
            }
            PortStatus::Lost { since, reason } => Standing { state: Liveness::Lost, reason, earlier: 0, since },
        }
    }
}

/// The names of the developers of a configuration, by key, for the handshake.
pub(crate) fn pins(config: &Config) -> impl Iterator<Item = Pin> + '_ {
    config.developers.iter().map(|developer| developer.key)
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> UnixMillis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    UnixMillis(u64::try_from(since).unwrap_or(u64::MAX))
}
