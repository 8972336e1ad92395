//! Which intercepts exist, which wins, and which ports are armed for them.
//!
//! Owns the desired state as a pure function of sessions and configuration: no socket, no task, no clock (time comes in
//! as a parameter). Must not perform anything: the hub does (`tunnel::hub`). Seniority outlives a lost tunnel by
//! [`SENIORITY`], by the developer's key and the intercept's token together, so that nobody inherits another's.

pub(crate) mod arming;
mod contest;
mod filter;
pub(crate) mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime},
};

use redir_tunnel::Pin;
use redir_wire::{Refused, RefusedCode, Selector, Token, Which, Wish, limits};

use crate::config::{Config, Developer, Pod, PodName};

use contest::Overlaps;

pub(crate) use contest::Contests;

/// One tunnel's number, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// All intercepts of all live tunnels.
#[derive(Debug)]
pub(crate) struct Registry {
    config: Arc<Config>,
    wishes: BTreeMap<u64, Registered>,
    retired: HashMap<(Pin, Token), Retired>,
    overlaps: Overlaps,
    next: u64,
}

/// One intercept.
#[derive(Debug)]
pub(crate) struct Registered {
    /// Its number, kept over redials.
    pub(crate) id: u64,
    /// Whose tunnel carries it.
    pub(crate) session: SessionId,
    /// Whose key.
    pub(crate) pin: Pin,
    /// What was asked for.
    pub(crate) wish: Wish,
    /// The wish's filter, compiled.
    pub(crate) filter: Option<redir_http::filter::Filter>,
    /// Since when, kept over redials.
    pub(crate) since: SystemTime,
    /// Requests reported so far.
    pub(crate) requests: Arc<AtomicU64>,
    /// Pods that it had at any time: one that is gone is told as lost.
    seen: BTreeSet<PodName>,
}

/// What is kept of an intercept whose tunnel was lost.
#[derive(Debug)]
struct Retired {
    id: u64,
    since: SystemTime,
    requests: Arc<AtomicU64>,
    until: Instant,
}

/// An intercept that has ended, and who must hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaver {
    /// Its number.
    pub(crate) id: u64,
    /// Its token.
    pub(crate) token: Token,
    /// Whose tunnel carried it.
    pub(crate) session: SessionId,
    /// What it was, for people.
    pub(crate) what: String,
}

impl Registry {
    /// No intercept yet.
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config, wishes: BTreeMap::new(), retired: HashMap::new(), overlaps: Overlaps::default(), next: 1 }
    }

    /// Puts a new configuration in the place of the old. The caller ends the sessions of keys that it no longer has.
    pub(crate) fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
        self.note_pods();
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Registers an intercept; its number. The same token of the same key takes the place of what it named before.
    pub(crate) fn register(
        &mut self,
        session: SessionId,
        pin: Pin,
        wish: Wish,
        clock: SystemTime,
        now: Instant,
    ) -> Result<u64, Refused> {
        let developer = self.config.developer(&pin).ok_or_else(unknown_developer)?;
        self.check_pods(developer, &wish)?;
        let filter = wish.filter.as_ref().map(filter::compile).transpose()?;
        let predecessor = self.wishes.values().find(|other| other.pin == pin && other.wish.token == wish.token);
        let predecessor = predecessor.map(|other| other.id);
        if predecessor.is_none() && self.of_session(session).count() >= limits::INTERCEPTS {
            let sentence = format!("one tunnel holds at most {} intercepts; leave some first", limits::INTERCEPTS);
            return Err(Refused { code: RefusedCode::TooMany, sentence });
        }
        self.retired.retain(|_, retired| retired.until > now);
        let (id, since, requests) = if let Some(before) = predecessor.and_then(|id| self.wishes.remove(&id)) {
            (before.id, before.since, before.requests)
        } else if let Some(before) = self.retired.remove(&(pin, wish.token)) {
            (before.id, before.since, before.requests)
        } else {
            let id = self.next;
            self.next += 1;
            (id, clock, Arc::default())
        };
        let registered = Registered { id, session, pin, wish, filter, since, requests, seen: BTreeSet::new() };
        self.overlaps.compare(&registered, self.wishes.values());
        self.wishes.insert(id, registered);
        self.note_pods();
        Ok(id)
    }

    /// Ends a session's intercepts, keeping their seniority for a redial.
    pub(crate) fn end_session(&mut self, session: SessionId, now: Instant) {
        self.retired.retain(|_, retired| retired.until > now);
        let ids: Vec<u64> = self.of_session(session).map(|wish| wish.id).collect();
        for gone in ids.iter().filter_map(|id| self.wishes.remove(id)) {
            self.overlaps.forget(gone.id);
            if self.retired.len() >= RETIRED {
                continue;
            }
            let Registered { id, pin, wish, since, requests, .. } = gone;
            self.retired.insert((pin, wish.token), Retired { id, since, requests, until: now + SENIORITY });
        }
    }

    /// Ends those of a developer's intercepts that `which` names, in whichever session they are.
    pub(crate) fn leave(&mut self, pin: &Pin, which: &Which) -> Result<Vec<Leaver>, Refused> {
        let ids: Vec<u64> = self
            .wishes
            .values()
            .filter(|wish| wish.pin == *pin && self.names(which, wish))
            .map(|wish| wish.id)
            .collect();
        ids.iter().for_each(|id| self.overlaps.forget(*id));
        let leavers: Vec<Leaver> = ids
            .iter()
            .filter_map(|id| self.wishes.remove(id))
            .map(|gone| Leaver {
                id: gone.id,
                token: gone.wish.token,
                session: gone.session,
                what: format!("{}:{}", gone.wish.selector, gone.wish.port),
            })
            .collect();
        if leavers.is_empty() && !matches!(which, Which::All) {
            let sentence = "you have no such intercept here; `redir list` shows those you have".to_owned();
            return Err(Refused { code: RefusedCode::NotFound, sentence });
        }
        Ok(leavers)
    }

    /// An intercept by its number.
    pub(crate) fn wish(&self, id: u64) -> Option<&Registered> {
        self.wishes.get(&id)
    }

    /// All intercepts, oldest first.
    pub(crate) fn wishes(&self) -> impl Iterator<Item = &Registered> {
        // Numbers are given in the order of arrival and kept with the seniority.
        self.wishes.values()
    }

    /// The pods that a wish selects and its developer may intercept, whatever the port.
    fn pods<'a>(&'a self, wish: &'a Registered) -> impl Iterator<Item = &'a Pod> {
        let developer = self.config.developer(&wish.pin);
        self.config.pods.iter().filter(move |pod| {
            developer.is_some_and(|developer| developer.may(pod)) && selects(&wish.wish.selector, pod)
        })
    }

    fn of_session(&self, session: SessionId) -> impl Iterator<Item = &Registered> {
        self.wishes.values().filter(move |wish| wish.session == session)
    }

    /// Refuses a wish without a pod. The sentence is the same for a pod that is not there and one that is not allowed.
    fn check_pods(&self, developer: &Developer, wish: &Wish) -> Result<(), Refused> {
        let pods: Vec<&Pod> =
            self.config.pods.iter().filter(|pod| developer.may(pod) && selects(&wish.selector, pod)).collect();
        let Some(first) = pods.first() else {
            let sentence = format!(
                "no pod {} that your key may intercept is on this agent; `redir list` shows those it may",
                wish.selector
            );
            return Err(Refused { code: RefusedCode::NoSuchPod, sentence });
        };
        if pods.iter().any(|pod| pod.allows(wish.port)) {
            return Ok(());
        }
        Err(Refused { code: RefusedCode::PortNotAllowed, sentence: port_not_allowed(first, wish.port) })
    }

    fn names(&self, which: &Which, wish: &Registered) -> bool {
        match which {
            Which::All => true,
            Which::Id(id) => wish.id == *id,
            Which::Token(token) => wish.wish.token == *token,
            Which::Selector(selector, port) => {
                let covers = || self.pods(wish).next().is_some() && self.pods(wish).all(|pod| selects(selector, pod));
                port.is_none_or(|port| port == wish.wish.port) && (*selector == wish.wish.selector || covers())
            }
        }
    }

    fn note_pods(&mut self) {
        let seen: Vec<(u64, Vec<PodName>)> =
            self.wishes.values().map(|wish| (wish.id, self.pods(wish).map(|pod| pod.name.clone()).collect())).collect();
        for (id, pods) in seen {
            if let Some(wish) = self.wishes.get_mut(&id) {
                wish.seen.extend(pods);
            }
        }
    }
}

fn selects(selector: &Selector, pod: &Pod) -> bool {
    match selector {
        Selector::Pod(name) => pod.name.as_str() == name,
        Selector::Labels(labels) => labels.iter().all(|(key, value)| pod.labels.0.get(key) == Some(value)),
    }
}

fn unknown_developer() -> Refused {
    let sentence = "the agent's configuration no longer has your key; ask its administrator".to_owned();
    Refused { code: RefusedCode::NoSuchPod, sentence }
}

fn port_not_allowed(pod: &Pod, port: u16) -> String {
    let allowed: Vec<String> = pod.ports.iter().flatten().take(8).map(u16::to_string).collect();
    format!("port {port} of pod {} may not be intercepted; allowed are: {}", pod.name, allowed.join(", "))
}

/// How long an intercept keeps its place after its tunnel was lost: longer than a laptop's change of network.
pub(crate) const SENIORITY: Duration = Duration::from_secs(60);
/// Lost intercepts that are remembered; more than any real number of developers loses within a minute.
const RETIRED: usize = 4096;
