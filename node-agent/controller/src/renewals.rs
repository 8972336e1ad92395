//! Which Intercepts their `redir` has forgotten.
//!
//! Pure: time comes in. Only this agent's own monotonic clock counts, from when it saw the last change of an Intercept's
//! renewal, and never while it could not have seen one.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use redir_api::names::EXPIRE_AFTER;
use redir_wire::Token;

use super::{facts::InterceptFacts, world::ClusterState};

/// When each Intercept was last seen to be renewed.
#[derive(Debug)]
pub(crate) struct LeaseRenewals {
    seen: BTreeMap<Token, LastRenewal>,
    /// Until when nothing may have been heard.
    deaf: Option<Instant>,
    node: String,
}

#[derive(Debug)]
struct LastRenewal {
    value: Option<String>,
    since: Instant,
    /// It was named as forgotten then; nothing has come of it yet.
    named: Option<Instant>,
}

impl LeaseRenewals {
    pub(crate) fn new(node: &str) -> Self {
        Self { seen: BTreeMap::new(), deaf: None, node: node.to_owned() }
    }

    /// The API server was not heard at this time.
    pub(crate) fn not_heard(&mut self, now: Instant) {
        self.deaf = Some(now);
    }

    /// Takes what is known now, and names the forgotten ones: each again after [`AGAIN`] as long as it is still there.
    pub(crate) fn expired<'w>(&mut self, world: &'w ClusterState, now: Instant) -> Vec<&'w InterceptFacts> {
        self.seen.retain(|token, _| world.intercepts.contains_key(token));
        let mut expired = Vec::new();
        for (token, intercept) in &world.intercepts {
            let value = &intercept.renewed;
            let fresh = || LastRenewal { value: value.clone(), since: now, named: None };
            let seen = self.seen.entry(*token).or_insert_with(fresh);
            if seen.value != *value {
                *seen = fresh();
            }
            if self.due(*token).is_some_and(|due| due <= now) {
                expired.push(intercept);
            }
        }
        for forgotten in &expired {
            self.seen.entry(forgotten.token).and_modify(|seen| seen.named = Some(now));
        }
        expired
    }

    /// When the next one would be forgotten.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.seen.keys().filter_map(|token| self.due(*token)).min()
    }

    fn due(&self, token: Token) -> Option<Instant> {
        let seen = self.seen.get(&token)?;
        let since = self.deaf.map_or(seen.since, |deaf| deaf.max(seen.since));
        let due = since + EXPIRE_AFTER + self.stagger(token);
        Some(seen.named.map_or(due, |named| due.max(named + AGAIN)))
    }

    /// Every agent of the cluster sees that an Intercept is forgotten; not all at once should say so.
    fn stagger(&self, token: Token) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&self.node, token).hash(&mut hasher);
        Duration::from_millis(hasher.finish() % STAGGER_MILLIS)
    }
}

/// A deletion takes a few milliseconds to be heard by the others.
const STAGGER_MILLIS: u64 = 30_000;
/// Until one that could not be deleted is named again.
const AGAIN: Duration = Duration::from_secs(30);
