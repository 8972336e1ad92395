//! Which intercepts exist, which wins, and which ports are armed for them.
//!
//! Owns the desired state as a pure function of sessions and policy: no socket, no task, no clock (time comes in
//! as a parameter). Must not perform anything: the hub does (`tunnel::hub`). Seniority outlives a lost tunnel by
//! [`SENIORITY`], by the developer's key and the intercept's token together, so that nobody inherits another's.

pub(crate) mod arming;
mod contest;
pub(crate) mod flushes;
pub(crate) mod report;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime},
};

use redir_tunnel::Pin;
use redir_wire::{InterceptRequest, LeaveScope, PodEntry, Refused, RefusedCode, Selector, Token};

use crate::control::{InterceptGrant, PodPlacement, Policy};
use crate::intercept_filter;
use redir_config::PodName;

use contest::FilterOverlaps;

pub(crate) use contest::PortContests;

/// One tunnel's number, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// All intercepts of all live tunnels.
#[derive(Debug)]
pub(crate) struct InterceptRegistry {
    policy: Policy,
    intercepts: BTreeMap<u64, RegisteredIntercept>,
    retired: HashMap<(Pin, Token), RetiredIntercept>,
    overlaps: FilterOverlaps,
    next: u64,
    edition: u64,
}

/// One intercept.
#[derive(Debug)]
pub(crate) struct RegisteredIntercept {
    /// Its number, kept over redials.
    pub(crate) id: u64,
    /// Another with each registration, which may bring another filter.
    pub(crate) edition: u64,
    /// Whose tunnel carries it.
    pub(crate) session: SessionId,
    /// Whose key.
    pub(crate) pin: Pin,
    /// What it comes to.
    pub(crate) grant: InterceptGrant,
    /// Since when, kept over redials.
    pub(crate) since: SystemTime,
    /// Requests reported so far.
    pub(crate) requests: Arc<AtomicU64>,
    /// Requests that went to the app while the developer's end did not answer.
    pub(crate) bypassed: Arc<AtomicU64>,
    /// Pods that it had at any time: one that is gone is told as lost.
    seen: BTreeSet<PodName>,
}

/// What is kept of an intercept whose tunnel was lost.
#[derive(Debug)]
struct RetiredIntercept {
    id: u64,
    since: SystemTime,
    requests: Arc<AtomicU64>,
    bypassed: Arc<AtomicU64>,
    until: Instant,
}

/// An intercept that has ended, and who must hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedIntercept {
    /// Its number.
    pub(crate) id: u64,
    /// Its token.
    pub(crate) token: Token,
    /// Whose tunnel carried it.
    pub(crate) session: SessionId,
    /// What it was, for people.
    pub(crate) what: String,
}

impl RegisteredIntercept {
    /// Older ones are less; numbers are given in the order of arrival and kept with the seniority.
    fn age(&self) -> (Option<(SystemTime, Token)>, u64) {
        (self.grant.made, self.id)
    }

    /// What a redial resumes.
    fn retired(self, now: Instant) -> RetiredIntercept {
        let Self { id, since, requests, bypassed, .. } = self;
        RetiredIntercept { id, since, requests, bypassed, until: now + SENIORITY }
    }
}

impl InterceptRegistry {
    /// No intercept yet.
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            intercepts: BTreeMap::new(),
            retired: HashMap::new(),
            overlaps: FilterOverlaps::default(),
            next: 1,
            edition: 0,
        }
    }

    /// Puts a new policy in the place of the old; the intercepts that have ended with it, and why. The caller ends
    /// the sessions of keys that it no longer has.
    pub(crate) fn configure(&mut self, policy: Policy) -> Vec<(EndedIntercept, Pin, String)> {
        self.policy = policy;
        let ended = |intercept: &RegisteredIntercept| {
            Some((intercept.id, self.policy.ended(&intercept.pin, intercept.grant.request.token)?))
        };
        let ended: Vec<(u64, String)> = self.intercepts.values().filter_map(ended).collect();
        ended.iter().for_each(|(id, _)| self.overlaps.forget(*id));
        let gone = ended.into_iter().filter_map(|(id, why)| {
            let intercept = self.intercepts.remove(&id)?;
            let pin = intercept.pin;
            Some((leaver(intercept), pin, why))
        });
        let gone = gone.collect();
        self.note_pods();
        gone
    }

    /// Whether an intercept of this number is there, or may come back with its developer's next tunnel.
    pub(crate) fn remembers(&self, id: u64) -> bool {
        self.intercepts.contains_key(&id) || self.retired.values().any(|retired| retired.id == id)
    }

    /// The policy.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Registers an intercept; its number. The same token of the same key takes the place of what it named before.
    pub(crate) fn register(
        &mut self,
        session: SessionId,
        pin: Pin,
        request: InterceptRequest,
        clock: SystemTime,
        now: Instant,
    ) -> Result<u64, Refused> {
        let grant = self.policy.grant(&pin, request)?;
        let token = grant.request.token;
        let predecessor = self.intercepts.values().find(|other| other.pin == pin && other.grant.request.token == token);
        let predecessor = predecessor.map(|other| other.id);
        self.check_room(&pin, predecessor, &grant)?;
        self.retired.retain(|_, retired| retired.until > now);
        let before = predecessor.and_then(|id| self.intercepts.remove(&id)).map(|before| before.retired(now));
        let before = before.or_else(|| self.retired.remove(&(pin, token)));
        let RetiredIntercept { id, since, requests, bypassed, .. } = before.unwrap_or_else(|| {
            let id = self.next;
            self.next += 1;
            let since = grant.made.map_or(clock, |(made, _)| made);
            RetiredIntercept { id, since, requests: Arc::default(), bypassed: Arc::default(), until: now }
        });
        self.edition += 1;
        let edition = self.edition;
        let registered =
            RegisteredIntercept { id, edition, session, pin, grant, since, requests, bypassed, seen: BTreeSet::new() };
        self.overlaps.compare(&registered, self.intercepts.values());
        self.intercepts.insert(id, registered);
        self.note_pods();
        Ok(id)
    }

    /// Whether an intercept may be added beside those that are there, but for the one in whose place it comes.
    fn check_room(&self, pin: &Pin, predecessor: Option<u64>, grant: &InterceptGrant) -> Result<(), Refused> {
        let others = || self.intercepts.values().filter(|other| Some(other.id) != predecessor);
        if others().filter(|other| other.pin == *pin).count() >= INTERCEPTS_OF_A_KEY {
            let sentence = format!(
                "one key has at most {INTERCEPTS_OF_A_KEY} intercepts on a node; `redir list` shows yours, and `redir leave` ends one"
            );
            return Err(Refused { code: RefusedCode::TooMany, sentence });
        }
        let Some(filter) = &grant.filter else { return Ok(()) };
        intercept_filter::check_room(others().filter_map(|other| other.grant.filter.as_ref()), filter)
    }

    /// Ends a session's intercepts, keeping their seniority for a redial.
    pub(crate) fn end_session(&mut self, session: SessionId, now: Instant) {
        self.retired.retain(|_, retired| retired.until > now);
        let ids: Vec<u64> = self.of_session(session).map(|intercept| intercept.id).collect();
        ids.into_iter().for_each(|id| self.withdraw(id, now));
    }

    /// Ends one, keeping its seniority for a redial.
    pub(crate) fn withdraw(&mut self, id: u64, now: Instant) {
        self.overlaps.forget(id);
        let Some(gone) = self.intercepts.remove(&id) else { return };
        if self.retired.len() < RETIRED {
            self.retired.insert((gone.pin, gone.grant.request.token), gone.retired(now));
        }
    }

    /// Ends those of a developer's intercepts that `which` names, in whichever session they are.
    pub(crate) fn leave(&mut self, pin: &Pin, which: &LeaveScope) -> Result<Vec<EndedIntercept>, Refused> {
        let ids: Vec<u64> = self
            .intercepts
            .values()
            .filter(|intercept| intercept.pin == *pin && self.names(which, intercept))
            .map(|intercept| intercept.id)
            .collect();
        ids.iter().for_each(|id| self.overlaps.forget(*id));
        let leavers: Vec<EndedIntercept> = ids.iter().filter_map(|id| self.intercepts.remove(id)).map(leaver).collect();
        if leavers.is_empty() && !matches!(which, LeaveScope::All) {
            let sentence = "you have no such intercept here; `redir list` shows those you have".to_owned();
            return Err(Refused { code: RefusedCode::NotFound, sentence });
        }
        Ok(leavers)
    }

    /// An intercept by its number.
    pub(crate) fn intercept(&self, id: u64) -> Option<&RegisteredIntercept> {
        self.intercepts.get(&id)
    }

    /// All intercepts, oldest first; in the same order on every agent where the policy knows when they were made.
    pub(crate) fn intercepts(&self) -> impl Iterator<Item = &RegisteredIntercept> {
        let mut intercepts: Vec<&RegisteredIntercept> = self.intercepts.values().collect();
        intercepts.sort_by_key(|intercept| intercept.age());
        intercepts.into_iter()
    }

    /// The pods that an intercept selects and its developer may intercept, whatever the port.
    fn places(&self, intercept: &RegisteredIntercept) -> Vec<PodPlacement> {
        self.policy.places(&intercept.pin, &intercept.grant)
    }

    fn of_session(&self, session: SessionId) -> impl Iterator<Item = &RegisteredIntercept> {
        self.intercepts.values().filter(move |intercept| intercept.session == session)
    }

    fn names(&self, which: &LeaveScope, intercept: &RegisteredIntercept) -> bool {
        match which {
            LeaveScope::All => true,
            LeaveScope::Id(id) => intercept.id == *id,
            LeaveScope::Token(token) => intercept.grant.request.token == *token,
            LeaveScope::Selector(selector, port) => {
                let InterceptRequest { selector: named, port: intercepted, .. } = &intercept.grant.request;
                port.is_none_or(|port| port == *intercepted) && (selector == named || self.covers(selector, intercept))
            }
        }
    }

    /// Whether every pod of the intercept is one that the selector selects.
    fn covers(&self, selector: &Selector, intercept: &RegisteredIntercept) -> bool {
        let visible = self.policy.visible(&intercept.pin);
        let selected =
            |place: &PodPlacement| visible.iter().any(|(pod, entry)| *pod == place.pod && selects(selector, entry));
        let places = self.places(intercept);
        !places.is_empty() && places.iter().all(selected)
    }

    /// Where the developer hears of pods that were lost, they are remembered.
    fn note_pods(&mut self) {
        let remember = self.policy.lost().is_some();
        for intercept in self.intercepts.values_mut() {
            let places = self.policy.places(&intercept.pin, &intercept.grant);
            if !remember {
                intercept.seen.clear();
            }
            intercept.seen.extend(places.into_iter().map(|place| place.pod));
        }
    }
}

fn selects(selector: &Selector, pod: &PodEntry) -> bool {
    match selector {
        Selector::Pod(name) => pod.name == *name,
        Selector::Labels(labels) => labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value)),
    }
}

fn leaver(gone: RegisteredIntercept) -> EndedIntercept {
    EndedIntercept { id: gone.id, token: gone.grant.request.token, session: gone.session, what: gone.grant.what }
}

/// How long an intercept keeps its place after its tunnel was lost: longer than a laptop's change of network.
pub(crate) const SENIORITY: Duration = Duration::from_secs(60);
/// Intercepts of one key on this agent: several times what one developer works on at once. In a cluster each intercept has
/// a key of its own.
pub(crate) const INTERCEPTS_OF_A_KEY: usize = 64;
/// Lost intercepts that are remembered; more than any real number of developers loses within a minute.
const RETIRED: usize = 4096;
