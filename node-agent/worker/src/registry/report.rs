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
use redir_link::{ConflictReport, InterceptReport, InterceptReports};

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
    fn tls(self, intercept: &RegisteredIntercept, pod: &PodName, report: &PodReport) -> Option<PodTls> {
        let wants =
            if intercept.grant.filter.is_some() { InterceptCoverage::Some } else { InterceptCoverage::Everything };
        let live = report.state == Liveness::Live;
        let known = if live { self.tls.finding(pod, report.port) } else { None };
        known.map(|(finding, means)| finding.told(means, wants))
    }
}

impl PortFacts<'_> {
    /// What an intercept's developer is told of connections that are not read: whoever wants requests to be read.
    fn misses(self, intercept: &RegisteredIntercept, pod: &PodName, report: &PodReport) -> Vec<Miss> {
        let wants = intercept.grant.filter.is_some() || intercept.grant.request.forwarded;
        if report.state == Liveness::Live { self.misses.of(pod, report.port, wants) } else { Vec::new() }
    }

    /// Whether the app listens on a port that is steered.
    fn listening(self, pod: &PodName, report: &PodReport) -> Option<Listening> {
        let known = self.apps.get(&(pod.clone(), report.port)).filter(|_| report.state == Liveness::Live);
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
        intercept: &RegisteredIntercept,
        contests: &PortContests,
        ports: PortFacts<'_>,
    ) -> InterceptState {
        let places = self.places(intercept);
        let pods = intercept.seen.iter().take(limits::ENTRIES).map(|pod| {
            let report = self.report(intercept, pod, &places, ports.arming);
            PodState {
                tls: ports.tls(intercept, pod, &report),
                flushed: ports.flushes.outcome(intercept.id, pod).cloned(),
                probes: self.probes(intercept, pod, &report, ports.tls),
                listening: ports.listening(pod, &report),
                misses: ports.misses(intercept, pod, &report),
                pod: pod.bare().to_owned(),
                addresses: ports.arming.addresses(pod).iter().map(ToString::to_string).collect(),
                state: report.state,
                reason: report.reason,
                earlier_connections: report.earlier,
                since: millis(report.since),
            }
        });
        InterceptState {
            id: intercept.id,
            token: intercept.grant.request.token,
            since: millis(intercept.since),
            pods: pods.collect(),
            conflicts: self.conflicts(intercept, contests),
            overlaps: self.overlaps(intercept, contests),
            bypassed: intercept.bypassed.load(Ordering::Relaxed),
            even_if_down: intercept.grant.request.even_if_down,
            forwarded: intercept.grant.request.forwarded,
        }
    }

    /// What asks for the pod's health and comes to this developer, who did not ask for it.
    fn probes(&self, intercept: &RegisteredIntercept, pod: &PodName, report: &PodReport, tls: &Tls) -> Vec<String> {
        if intercept.grant.request.probes == Probes::Developer || report.state != Liveness::Live {
            return Vec::new();
        }
        let filter = intercept.grant.filter.as_ref();
        let certificate = tls.given(pod, report.port).is_some();
        let taken = InterceptScope { port: report.port, filter, certificate };
        health_checks::told(self.policy.health_checks(pod), taken)
    }

    /// How every intercept stands.
    pub(crate) fn reports(&self, contests: &PortContests, ports: PortFacts<'_>) -> InterceptReports {
        let report = |intercept: &RegisteredIntercept| {
            let InterceptState { pods, conflicts, .. } = self.state(intercept, contests, ports);
            let pods = intercept.seen.iter().cloned().zip(pods).map(pod_report).collect();
            InterceptReport { pods, conflicts: conflicts.into_iter().map(conflict_report).collect() }
        };
        self.intercepts.values().map(|intercept| (intercept.grant.request.token, report(intercept))).collect()
    }

    /// The pods that a developer may intercept, and anybody's intercepts in them.
    pub(crate) fn listing(&self, pin: &Pin, ports: PortFacts<'_>) -> Listing {
        let mut visible = self.policy.visible(pin);
        visible.truncate(limits::ENTRIES);
        let intercepts = self.intercepts().flat_map(|intercept| self.entries(intercept, pin, ports));
        let intercepts =
            intercepts.filter(|(pod, _)| visible.iter().any(|(seen, _)| seen == pod)).map(|(_, entry)| entry);
        let intercepts = intercepts.take(limits::ENTRIES).collect();
        Listing { pods: visible.into_iter().map(|(_, entry)| entry).collect(), intercepts }
    }

    /// One developer's intercepts.
    pub(crate) fn own(&self, pin: &Pin, ports: PortFacts<'_>) -> Vec<InterceptEntry> {
        let own = self.intercepts().filter(|intercept| intercept.pin == *pin);
        own.flat_map(|intercept| self.entries(intercept, pin, ports))
            .map(|(_, entry)| entry)
            .take(limits::ENTRIES)
            .collect()
    }

    fn entries(
        &self,
        intercept: &RegisteredIntercept,
        asking: &Pin,
        ports: PortFacts<'_>,
    ) -> Vec<(PodName, InterceptEntry)> {
        let yours = intercept.pin == *asking;
        let places = self.places(intercept);
        let entry = |pod: &PodName| {
            let report = self.report(intercept, pod, &places, ports.arming);
            InterceptEntry {
                tls: ports.tls(intercept, pod, &report),
                listening: ports.listening(pod, &report),
                id: intercept.id,
                developer: self.developer_name(intercept),
                owner: if yours { Owner::You } else { Owner::Other },
                pod: pod.bare().to_owned(),
                port: report.port,
                filter: intercept.grant.looks_at.clone(),
                to: if yours { intercept.grant.request.to.clone() } else { String::new() },
                since: millis(intercept.since),
                state: report.state,
                reason: report.reason,
                requests: intercept.requests.load(Ordering::Relaxed),
            }
        };
        intercept.seen.iter().map(|pod| (pod.clone(), entry(pod))).collect()
    }

    fn report(
        &self,
        intercept: &RegisteredIntercept,
        name: &PodName,
        places: &[PodPlacement],
        arming: &ArmingState,
    ) -> PodReport {
        let idle = |state, reason| PodReport {
            state,
            reason,
            earlier: 0,
            since: intercept.since,
            port: intercept.grant.request.port,
        };
        let port = match places.iter().find(|place| place.pod == *name).map(|place| &place.port) {
            None => return idle(Liveness::Lost, self.policy.lost().unwrap_or_default().to_owned()),
            Some(Err(PodObstacle::Never(reason))) => return idle(Liveness::Refused, reason.clone()),
            Some(Err(PodObstacle::NotYet(reason))) => return idle(Liveness::Pending, reason.clone()),
            Some(Ok(port)) => *port,
        };
        let (state, reason, earlier, since) = match arming.status(name, port) {
            PortStatus::Pending => (Liveness::Pending, String::new(), 0, intercept.since),
            PortStatus::Live { since, earlier } => (Liveness::Live, String::new(), earlier, since.max(intercept.since)),
            PortStatus::Refused { since, reason } => (Liveness::Refused, reason, 0, since.max(intercept.since)),
            PortStatus::Lost { since, reason } => (Liveness::Lost, reason, 0, since),
        };
        PodReport { state, reason, earlier, since, port }
    }
}

fn pod_report((pod, told): (PodName, PodState)) -> redir_link::PodInterceptReport {
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

fn conflict_report(conflict: Conflict) -> ConflictReport {
    let Conflict { pod, developer, since, takes, .. } = conflict;
    ConflictReport { pod, developer, since: since.0, everything: takes == Takes::Everything }
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> UnixMillis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    UnixMillis(u64::try_from(since).unwrap_or(u64::MAX))
}
