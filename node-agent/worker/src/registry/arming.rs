//! Which ports are armed, which should be, and what to do about the difference: one thing at a time for each pod.
//!
//! Pure: the caller performs each [`ArmingOp`] and reports its result.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use redir_config::PodName;
use redir_ipc::{AppListening, ListenerGate};

/// All pods that have, had or should have an armed port.
#[derive(Debug, Default)]
pub(crate) struct ArmingState {
    pods: BTreeMap<PodName, PodArming>,
    stopping: bool,
}

#[derive(Debug, Default)]
struct PodArming {
    wanted: BTreeMap<u16, ListenerGate>,
    ports: BTreeMap<u16, PortArming>,
    addresses: Vec<IpAddr>,
    /// An operation is under way.
    busy: bool,
    /// It disarms this port: live no longer, also for an intercept that came meanwhile.
    leaving: Option<u16>,
    /// Its namespace is another one now: everything must be disarmed before it is armed anew.
    stale: bool,
    /// Its app cannot be reached through the agent, for this reason: everything must be disarmed, and tried again later.
    broken: Option<String>,
    breaks: BreakHistory,
    /// How long it is left alone once everything is disarmed.
    pause: Duration,
    /// A port could not be disarmed: tried again after this.
    not_before: Option<Instant>,
}

/// How often the way to a pod's app broke lately, although it worked when it was tried.
#[derive(Debug, Default)]
struct BreakHistory {
    count: u32,
    last: Option<Instant>,
}

impl BreakHistory {
    /// One more; how long the pod is left alone for it.
    fn pause(&mut self, now: Instant) -> Duration {
        let calm = self.last.is_none_or(|last| now.saturating_duration_since(last) > CALM);
        self.count = if calm { 0 } else { (self.count + 1).min(MOST_BREAKS) };
        self.last = Some(now);
        FIRST_BREAK * 2_u32.pow(self.count)
    }
}

/// A port that is or was armed, or could not be.
#[derive(Debug)]
enum PortArming {
    /// Without a gate it is not known which it has: changing it has failed, and it is disarmed first.
    Live {
        since: SystemTime,
        earlier: u32,
        gate: Option<ListenerGate>,
    },
    Failed {
        since: SystemTime,
        reason: String,
        retry: Instant,
        pause: Duration,
        was_live: bool,
    },
}

/// Something to do in one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ArmingOp {
    /// Steer this port, with this gate.
    Arm(PodName, u16, ListenerGate),
    /// Let a port that is steered have another gate.
    Regate(PodName, u16, ListenerGate),
    /// Steer it no longer.
    Disarm(PodName, u16),
}

impl ArmingOp {
    /// The pod that it is done in.
    pub(crate) fn pod(&self) -> &PodName {
        match self {
            Self::Arm(pod, ..) | Self::Regate(pod, ..) | Self::Disarm(pod, _) => pod,
        }
    }

    fn gate(&self) -> Option<ListenerGate> {
        match self {
            Self::Arm(_, _, gate) | Self::Regate(_, _, gate) => Some(*gate),
            Self::Disarm(..) => None,
        }
    }
}

/// How an operation went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ArmingOutcome {
    /// The port is armed.
    Armed {
        /// Connections that stay with the app.
        earlier: u32,
        /// The pod's own addresses.
        addresses: Vec<IpAddr>,
        /// Whether the app listens there, as far as it is known.
        app: Option<AppListening>,
    },
    /// The port has the gate that was asked for.
    Regated,
    /// The port is not armed any more.
    Disarmed,
    /// It could not be done, and may be tried again after this time.
    Failed {
        /// For the developers; names the next step.
        reason: String,
        /// When to try again; below a second it doubles with each failure for the same reason, up to five seconds.
        retry: Duration,
    },
}

/// How a port stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortStatus {
    /// Not yet tried.
    Pending,
    /// Armed.
    Live {
        /// Since when.
        since: SystemTime,
        /// Connections that stay with the app.
        earlier: u32,
    },
    /// Could not be armed; it is tried again.
    Refused {
        /// Since when.
        since: SystemTime,
        /// Why.
        reason: String,
    },
    /// Was armed and no longer is.
    Lost {
        /// Since when.
        since: SystemTime,
        /// Why.
        reason: String,
    },
}

impl ArmingState {
    /// Sets which ports should be armed.
    pub(crate) fn want<'a>(&mut self, ports: impl Iterator<Item = (&'a (PodName, u16), ListenerGate)>) {
        for pod in self.pods.values_mut() {
            pod.wanted.clear();
        }
        for ((pod, port), gate) in ports {
            self.pods.entry(pod.clone()).or_default().wanted.insert(*port, gate);
        }
        for pod in self.pods.values_mut() {
            let wanted = &pod.wanted;
            pod.ports.retain(|port, state| matches!(state, PortArming::Live { .. }) || wanted.contains_key(port));
        }
        self.pods.retain(|_, pod| pod.busy || !pod.wanted.is_empty() || !pod.ports.is_empty());
    }

    /// From now on nothing is wanted any more, for this reason.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// The pod's namespace is another one: what was armed in it is lost, and is armed anew.
    pub(crate) fn renew(&mut self, name: &PodName) {
        if let Some(pod) = self.pods.get_mut(name) {
            // An operation under way may yet arm the old one. With nothing armed the next arm is the new one's.
            pod.stale = pod.busy || pod.ports.values().any(|port| matches!(port, PortArming::Live { .. }));
            pod.addresses.clear();
        }
    }

    /// The pod's app cannot be reached through the agent: its ports are lost, and armed anew after a while, which grows.
    /// False if that is no news: it is known, or nothing of the pod is live.
    pub(crate) fn broken(&mut self, name: &PodName, reason: &str, now: Instant) -> bool {
        let Some(pod) = self.pods.get_mut(name) else { return false };
        let news = pod.broken.is_none() && pod.ports.values().any(|port| matches!(port, PortArming::Live { .. }));
        if news {
            pod.broken = Some(reason.to_owned());
            pod.pause = pod.breaks.pause(now);
        }
        news
    }

    /// The pod's addresses are these from now on.
    pub(crate) fn readdress(&mut self, name: &PodName, addresses: Vec<IpAddr>) {
        if let Some(pod) = self.pods.get_mut(name) {
            pod.addresses = addresses;
        }
    }

    /// What to do now. Each operation given out must be reported with [`ArmingState::done`].
    pub(crate) fn next(&mut self, now: Instant) -> Vec<ArmingOp> {
        let mut ops = Vec::new();
        for (name, pod) in &mut self.pods {
            if pod.busy || pod.not_before.is_some_and(|time| time > now) {
                continue;
            }
            pod.not_before = None;
            if let Some(op) = pod.next(name, now) {
                pod.busy = true;
                pod.leaving = match op {
                    ArmingOp::Disarm(_, port) => Some(port),
                    ArmingOp::Arm(..) | ArmingOp::Regate(..) => None,
                };
                ops.push(op);
            }
        }
        ops
    }

    /// An operation's result.
    pub(crate) fn done(&mut self, op: &ArmingOp, outcome: ArmingOutcome, clock: SystemTime, now: Instant) {
        let (ArmingOp::Arm(name, port, _) | ArmingOp::Regate(name, port, _) | ArmingOp::Disarm(name, port)) = op;
        let Some(pod) = self.pods.get_mut(name) else { return };
        pod.busy = false;
        pod.leaving = None;
        match (op, outcome) {
            (_, ArmingOutcome::Armed { earlier, addresses, .. }) => {
                pod.ports.insert(*port, PortArming::Live { since: clock, earlier, gate: op.gate() });
                pod.addresses = addresses;
            }
            (_, outcome @ ArmingOutcome::Regated) | (ArmingOp::Regate(..), outcome) => {
                if let Some(PortArming::Live { gate, .. }) = pod.ports.get_mut(port) {
                    *gate = op.gate().filter(|_| outcome == ArmingOutcome::Regated);
                }
            }
            (_, ArmingOutcome::Disarmed) if pod.stale && pod.wanted.contains_key(port) => {
                let reason = "the pod has another network namespace now; it is armed again".to_owned();
                let pause = Duration::ZERO;
                pod.ports.insert(*port, PortArming::Failed { since: clock, reason, retry: now, pause, was_live: true });
            }
            (_, ArmingOutcome::Disarmed) if pod.broken.is_some() && pod.wanted.contains_key(port) => {
                let (reason, pause) = (pod.broken.clone().unwrap_or_default(), pod.pause);
                let retry = now + pause;
                pod.ports.insert(*port, PortArming::Failed { since: clock, reason, retry, pause, was_live: true });
            }
            (_, ArmingOutcome::Disarmed) => {
                pod.ports.remove(port);
            }
            (ArmingOp::Arm(..), ArmingOutcome::Failed { reason, retry }) => {
                let (since, was_live, before) = match pod.ports.get(port) {
                    Some(PortArming::Failed { since, was_live, reason: before, pause, .. }) => {
                        (*since, *was_live, (*before == reason).then_some(*pause))
                    }
                    Some(PortArming::Live { .. }) | None => (clock, false, None),
                };
                let pause = backed_off(before.unwrap_or_default(), retry);
                pod.ports.insert(*port, PortArming::Failed { since, reason, retry: now + pause, pause, was_live });
            }
            // Still armed, as far as is known. Nothing is lost: without a plan every connection passes to the app.
            (ArmingOp::Disarm(..), ArmingOutcome::Failed { retry, .. }) => pod.not_before = Some(now + retry),
        }
        if !pod.ports.values().any(|port| matches!(port, PortArming::Live { .. })) {
            pod.stale = false;
            pod.broken = None;
        }
    }

    /// Why the last try to arm a port failed, or why it is armed no longer.
    pub(crate) fn failing(&self, name: &PodName, port: u16) -> Option<&String> {
        match self.pods.get(name)?.ports.get(&port)? {
            PortArming::Failed { reason, .. } => Some(reason),
            PortArming::Live { .. } => None,
        }
    }

    /// When something failed may be tried again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.pods.values().filter(|pod| !pod.busy).filter_map(PodArming::retry_at).min()
    }

    /// How a port stands.
    pub(crate) fn status(&self, name: &PodName, port: u16) -> PortStatus {
        let pod = self.pods.get(name);
        if pod.is_some_and(|pod| pod.leaving == Some(port) && !pod.stale) {
            return PortStatus::Pending;
        }
        match pod.and_then(|pod| pod.ports.get(&port)) {
            None if self.stopping => {
                PortStatus::Lost { since: SystemTime::UNIX_EPOCH, reason: "the agent is shutting down".into() }
            }
            None => PortStatus::Pending,
            Some(PortArming::Live { since, earlier, .. }) => PortStatus::Live { since: *since, earlier: *earlier },
            Some(PortArming::Failed { since, reason, was_live: false, .. }) => {
                PortStatus::Refused { since: *since, reason: reason.clone() }
            }
            Some(PortArming::Failed { since, reason, was_live: true, .. }) => {
                PortStatus::Lost { since: *since, reason: reason.clone() }
            }
        }
    }

    /// The pod's addresses that are not loopback, once known.
    pub(crate) fn addresses(&self, name: &PodName) -> &[IpAddr] {
        self.pods.get(name).map_or(&[], |pod| &pod.addresses)
    }

    /// Whether no port is armed and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        let armed = |pod: &PodArming| pod.ports.values().any(|port| matches!(port, PortArming::Live { .. }));
        !self.pods.values().any(|pod| pod.busy || armed(pod))
    }
}

/// The pause after one more failure: what should be over in a moment is asked for less and less often.
fn backed_off(before: Duration, first: Duration) -> Duration {
    if first < PATIENT { (before * 2).clamp(first, LONGEST) } else { first }
}

/// From here on a pause does not grow: whoever waits for a pod that starts waits no longer than needed.
const PATIENT: Duration = Duration::from_secs(1);
/// How far the shorter ones grow.
const LONGEST: Duration = Duration::from_secs(5);

/// How long a pod is left alone when the way to its app breaks for the first time; it doubles.
const FIRST_BREAK: Duration = Duration::from_secs(5);
/// And how often it doubles: to about five minutes.
const MOST_BREAKS: u32 = 6;
/// After so long without a break the next is the first again.
const CALM: Duration = Duration::from_secs(600);

impl PodArming {
    /// Nothing is tried before `not_before`, whatever could be.
    fn retry_at(&self) -> Option<Instant> {
        let failed = self.ports.iter().filter(|(port, _)| self.wanted.contains_key(port));
        let failed = failed.filter_map(|(_, port)| match port {
            PortArming::Failed { retry, .. } => Some(*retry),
            PortArming::Live { .. } => None,
        });
        self.not_before.or_else(|| failed.min())
    }

    fn next(&self, name: &PodName, now: Instant) -> Option<ArmingOp> {
        let unwanted = self.ports.iter().find(|(port, state)| match state {
            PortArming::Live { gate, .. } => {
                self.stale || self.broken.is_some() || gate.is_none() || !self.wanted.contains_key(port)
            }
            PortArming::Failed { .. } => false,
        });
        if let Some((port, _)) = unwanted {
            return Some(ArmingOp::Disarm(name.clone(), *port));
        }
        self.wanted.iter().find_map(|(port, wanted)| match self.ports.get(port) {
            Some(PortArming::Live { gate, .. }) if *gate == Some(*wanted) => None,
            Some(PortArming::Live { .. }) => Some(ArmingOp::Regate(name.clone(), *port, *wanted)),
            Some(PortArming::Failed { retry, .. }) if *retry > now => None,
            Some(PortArming::Failed { .. }) | None => Some(ArmingOp::Arm(name.clone(), *port, *wanted)),
        })
    }
}
