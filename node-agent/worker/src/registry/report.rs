//! What developers are told: an intercept's state, what is there, how theirs fare.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use redir_tunnel::Pin;
use redir_wire::{
    Conflict, InterceptEntry, InterceptState, Listening, Listing, Liveness, Miss, Owner, PodState, PodTls, Probes,
    Takes, UnixMillis, limits,
};

use crate::{
    control::{PodObstacle, PodPlacement},
    health_checks::{self, InterceptScope},
    misses::Misses,
    tls::{InterceptCoverage, Tls},
};
use redir_config::PodName;
use redir_ipc::AppListening;
use redir_link::{ConflictReport, InterceptReports, Standing};

use super::{
    InterceptRegistry, RegisteredIntercept,
    arming::{ArmingState, PortStatus},
    contest::PortContests,
    flushes::FlushResults,
};

/// What the agent knows of the ports.
#[derive(Clone, Copy)]
pub(crate) struct PortFacts<'a> {
    /// Which are armed.
    pub(crate) arming: &'a ArmingState,
    /// Which speak TLS.
    pub(crate) tls: &'a Tls,
    /// Whose earlier connections were closed.
    pub(crate) flushes: &'a FlushResults,
    /// On which somebody listens.
    pub(crate) apps: &'a BTreeMap<(PodName, u16), AppListening>,
    /// On which some connections are not read.
    pub(crate) misses: &'a Misses,
}

impl PortFacts<'_> {
    /// What an intercept's developer is told of TLS on a port that is steered.
    fn tls(self, wish: &RegisteredIntercept, pod: &PodName, standing: &PodReport) -> Option<PodTls> {
        let wants = if wish.grant.filter.is_some() { InterceptCoverage::Some } else { InterceptCoverage::Everything };
        let live = standing.state == Liveness::Live;
        let known = if live { self.tls.finding(pod, standing.port) } else { None };
        known.map(|(finding, means)| finding.told(means, wants))
    }
}

impl PortFacts<'_> {
    /// What an intercept's developer is told of connections that are not read: whoever wants requests to be read.
    fn misses(self, wish: &RegisteredIntercept, pod: &PodName, standing: &PodReport) -> Vec<Miss> {
        let wants = wish.grant.filter.is_some() || wish.grant.wish.forwarded;
        if standing.state == Liveness::Live { self.misses.of(pod, standing.port, wants) } else { Vec::new() }
    }

    /// Whether the app listens on a port that is steered.
    fn listening(self, pod: &PodName, standing: &PodReport) -> Option<Listening> {
        let known = self.apps.get(&(pod.clone(), standing.port)).filter(|_| standing.state == Liveness::Live);
        known.map(|app| match app {
            AppListening::Yes => Listening::Yes,
            AppListening::Nobody => Listening::Nobody,
            AppListening::LoopbackOnly => Listening::LoopbackOnly,
        })
    }
}

/// One pod of one intercept.
struct PodReport {
    state: Liveness,
    reason: String,
    earlier: u32,
    since: SystemTime,
    port: u16,
}

impl InterceptRegistry {
    /// An intercept's state, pod by pod.
    pub(crate) fn state(
        &self,
        wish: &RegisteredIntercept,
        contests: &PortContests,
        ports: PortFacts<'_>,
    ) -> InterceptState {
        let places = self.places(wish);
        let pods = wish.seen.iter().take(limits::ENTRIES).map(|pod| {
            let standing = self.standing(wish, pod, &places, ports.arming);
            PodState {
                tls: ports.tls(wish, pod, &standing),
                flushed: ports.flushes.outcome(wish.id, pod).cloned(),
                probes: self.probes(wish, pod, &standing, ports.tls),
                listening: ports.listening(pod, &standing),
                misses: ports.misses(wish, pod, &standing),
                pod: pod.bare().to_owned(),
                addresses: ports.arming.addresses(pod).iter().map(ToString::to_string).collect(),
                state: standing.state,
                reason: standing.reason,
                earlier_connections: standing.earlier,
                since: millis(standing.since),
            }
        });
        InterceptState {
            id: wish.id,
            token: wish.grant.wish.token,
            since: millis(wish.since),
            pods: pods.collect(),
            conflicts: self.conflicts(wish, contests),
            overlaps: self.overlaps(wish, contests),
            bypassed: wish.bypassed.load(Ordering::Relaxed),
            even_if_down: wish.grant.wish.even_if_down,
            forwarded: wish.grant.wish.forwarded,
        }
    }

    /// What asks for the pod's health and comes to this developer, who did not ask for it.
    fn probes(&self, wish: &RegisteredIntercept, pod: &PodName, standing: &PodReport, tls: &Tls) -> Vec<String> {
        if wish.grant.wish.probes == Probes::Developer || standing.state != Liveness::Live {
            return Vec::new();
        }
        let filter = wish.grant.filter.as_ref();
        let certificate = tls.given(pod, standing.port).is_some();
        let taken = InterceptScope { port: standing.port, filter, certificate };
        health_checks::told(self.plane.health_checks(pod), taken)
    }

    /// How every intercept stands.
    pub(crate) fn standings(&self, contests: &PortContests, ports: PortFacts<'_>) -> InterceptReports {
        let standing = |wish: &RegisteredIntercept| {
            let InterceptState { pods, conflicts, .. } = self.state(wish, contests, ports);
            let pods = wish.seen.iter().cloned().zip(pods).map(pod_standing).collect();
            Standing { pods, conflicts: conflicts.into_iter().map(conflict_standing).collect() }
        };
        self.wishes.values().map(|wish| (wish.grant.wish.token, standing(wish))).collect()
    }

    /// The pods that a developer may intercept, and anybody's intercepts in them.
    pub(crate) fn listing(&self, pin: &Pin, ports: PortFacts<'_>) -> Listing {
        let mut visible = self.plane.visible(pin);
        visible.truncate(limits::ENTRIES);
        let intercepts = self.wishes().flat_map(|wish| self.entries(wish, pin, ports));
        let intercepts =
            intercepts.filter(|(pod, _)| visible.iter().any(|(seen, _)| seen == pod)).map(|(_, entry)| entry);
        let intercepts = intercepts.take(limits::ENTRIES).collect();
        Listing { pods: visible.into_iter().map(|(_, entry)| entry).collect(), intercepts }
    }

    /// One developer's intercepts.
    pub(crate) fn own(&self, pin: &Pin, ports: PortFacts<'_>) -> Vec<InterceptEntry> {
        let own = self.wishes().filter(|wish| wish.pin == *pin);
        own.flat_map(|wish| self.entries(wish, pin, ports)).map(|(_, entry)| entry).take(limits::ENTRIES).collect()
    }

    fn entries(
        &self,
        wish: &RegisteredIntercept,
        asking: &Pin,
        ports: PortFacts<'_>,
    ) -> Vec<(PodName, InterceptEntry)> {
        let yours = wish.pin == *asking;
        let places = self.places(wish);
        let entry = |pod: &PodName| {
            let standing = self.standing(wish, pod, &places, ports.arming);
            InterceptEntry {
                tls: ports.tls(wish, pod, &standing),
                listening: ports.listening(pod, &standing),
                id: wish.id,
                developer: self.developer_name(wish),
                owner: if yours { Owner::You } else { Owner::Other },
                pod: pod.bare().to_owned(),
                port: standing.port,
                filter: wish.grant.looks_at.clone(),
                to: if yours { wish.grant.wish.to.clone() } else { String::new() },
                since: millis(wish.since),
                state: standing.state,
                reason: standing.reason,
                requests: wish.requests.load(Ordering::Relaxed),
            }
        };
        wish.seen.iter().map(|pod| (pod.clone(), entry(pod))).collect()
    }

    fn standing(
        &self,
        wish: &RegisteredIntercept,
        name: &PodName,
        places: &[PodPlacement],
        arming: &ArmingState,
    ) -> PodReport {
        let idle =
            |state, reason| PodReport { state, reason, earlier: 0, since: wish.since, port: wish.grant.wish.port };
        let port = match places.iter().find(|place| place.pod == *name).map(|place| &place.port) {
            None => return idle(Liveness::Lost, self.plane.lost().unwrap_or_default().to_owned()),
            Some(Err(PodObstacle::Never(reason))) => return idle(Liveness::Refused, reason.clone()),
            Some(Err(PodObstacle::NotYet(reason))) => return idle(Liveness::Pending, reason.clone()),
            Some(Ok(port)) => *port,
        };
        let (state, reason, earlier, since) = match arming.status(name, port) {
            PortStatus::Pending => (Liveness::Pending, String::new(), 0, wish.since),
            PortStatus::Live { since, earlier } => (Liveness::Live, String::new(), earlier, since.max(wish.since)),
            PortStatus::Refused { since, reason } => (Liveness::Refused, reason, 0, since.max(wish.since)),
            PortStatus::Lost { since, reason } => (Liveness::Lost, reason, 0, since),
        };
        PodReport { state, reason, earlier, since, port }
    }
}

fn pod_standing((pod, told): (PodName, PodState)) -> redir_link::PodInterceptReport {
    let state = match told.state {
        Liveness::Pending => redir_api::PodState::Pending,
        Liveness::Live => redir_api::PodState::Live,
        Liveness::Refused => redir_api::PodState::Refused,
        Liveness::Lost => redir_api::PodState::Lost,
    };
    redir_link::PodInterceptReport {
        pod,
        state,
        reason: told.reason,
        since: told.since.0,
        addresses: told.addresses,
        nobody_listens: told.listening.is_some_and(|listening| listening != Listening::Yes),
    }
}

fn conflict_standing(conflict: Conflict) -> ConflictReport {
    let Conflict { pod, developer, since, takes, .. } = conflict;
    ConflictReport { pod, developer, since: since.0, everything: takes == Takes::Everything }
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> UnixMillis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    UnixMillis(u64::try_from(since).unwrap_or(u64::MAX))
}
