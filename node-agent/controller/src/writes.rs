//! Which statuses are to be written, and when. Pure: time comes in. Called by `driver`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::{Duration, Instant},
};

use redir_api::AgentStatus;
use redir_wire::Token;

use super::{world::ClusterState, write::WriteError};
use redir_link::resolved::ObjectId;

/// Which entries are to be written: one call for each Intercept at a time, the newest state with the next.
#[derive(Default)]
pub(super) struct WriteQueue {
    under_way: BTreeSet<Token>,
    /// Written by this process; the watch may not have shown it yet.
    written: BTreeMap<Token, Option<AgentStatus>>,
    retry: BTreeMap<Token, Instant>,
    /// The one that had the last turn.
    last: Option<Token>,
}

impl WriteQueue {
    pub(super) fn due(
        &mut self,
        world: &ClusterState,
        entries: &BTreeMap<Token, AgentStatus>,
        now: Instant,
    ) -> Vec<(Token, ObjectId, Option<AgentStatus>)> {
        let known = |token: &Token| world.intercepts.contains_key(token);
        self.written.retain(|token, _| known(token));
        self.retry.retain(|token, at| known(token) && *at > now);
        let mut due = Vec::new();
        // Who comes after the last one comes first: a few that change all the time must not take every turn.
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let wrapped = self.last.map(|last| world.intercepts.range(..=last)).into_iter().flatten();
        for (token, intercept) in world.intercepts.range((after, Bound::Unbounded)).chain(wrapped) {
            if self.under_way.len() >= MOST_UNDER_WAY {
                break;
            }
            if self.under_way.contains(token) || self.retry.contains_key(token) {
                continue;
            }
            // Once the watch shows what was written, the watch alone counts again.
            if self.written.get(token) == Some(&intercept.written) {
                self.written.remove(token);
            }
            let there = self.written.get(token).unwrap_or(&intercept.written);
            let wanted = entries.get(token);
            if there.as_ref() != wanted {
                self.under_way.insert(*token);
                self.last = Some(*token);
                due.push((*token, intercept.id.clone(), wanted.cloned()));
            }
        }
        due
    }

    pub(super) fn done(
        &mut self,
        token: Token,
        entry: Option<AgentStatus>,
        result: &Result<(), WriteError>,
        now: Instant,
    ) {
        self.under_way.remove(&token);
        match result {
            Ok(()) => drop(self.written.insert(token, entry)),
            Err(_) => drop(self.retry.insert(token, now + RETRY)),
        }
    }

    /// When something that failed is tried again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.retry.values().copied().min()
    }
}

/// Calls at a time: every one of them is heard by the agents of all nodes.
pub(super) const MOST_UNDER_WAY: usize = 64;
/// Until a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use redir_api::Intercept;
    use serde_json::json;

    use super::*;
    use crate::{facts::InterceptFacts, world::ClusterChange};

    /// A world with one Intercept, and what this agent has to say of it.
    fn one_to_write() -> (ClusterState, BTreeMap<Token, AgentStatus>) {
        let pin = redir_tunnel::Pin::of_spki(&[1]).to_string();
        let intercept: Intercept = serde_json::from_value(json!({
            "apiVersion": "redir.dev/v1alpha1", "kind": "Intercept",
            "metadata": {
                "namespace": "shop", "name": "i1", "uid": "00000000-0000-4000-8000-000000000001", "generation": 1,
                "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"port": "8080", "developerKey": pin, "user": "alice", "to": "127.0.0.1:3000",
                     "target": {"kind": "Deployment", "name": "web"}},
        }))
        .unwrap();
        let facts = InterceptFacts::read(&intercept, "n1").unwrap();
        let token = facts.token;
        let mut world = ClusterState::default();
        world.take(ClusterChange::Intercepts(vec![facts]));
        let entry = json!({"node": "n1", "key": "k", "software": "redir", "protocol": 1, "state": "Live"});
        let entry = serde_json::from_value(entry).unwrap();
        (world, BTreeMap::from([(token, entry)]))
    }

    #[test]
    fn a_status_that_could_not_be_written_is_written_again() {
        let (world, entries) = one_to_write();
        let (mut writes, mut now) = (WriteQueue::default(), Instant::now());
        for error in [WriteError::Failed("no".into()), WriteError::Outdated] {
            let due = writes.due(&world, &entries, now);
            let [(token, _, entry)] = &due[..] else { panic!("{error:?}: {} are due", due.len()) };
            assert!(writes.due(&world, &entries, now).is_empty(), "one call at a time");
            writes.done(*token, entry.clone(), &Err(error), now);
            assert!(writes.due(&world, &entries, now).is_empty(), "not at once");
            now = writes.next().expect("it is tried again");
        }
        let due = writes.due(&world, &entries, now);
        let [(token, _, entry)] = &due[..] else { panic!("{} are due", due.len()) };
        writes.done(*token, entry.clone(), &Ok(()), now);
        assert!(writes.due(&world, &entries, now + RETRY).is_empty() && writes.next().is_none(), "it is written");
    }
}
