//! Who gets a port's requests: filtered over global, then the oldest; and what that takes from whom.

use std::collections::BTreeMap;

use redir_http::filter::{Overlap, overlap};
use redir_wire::{Conflict, Takes};

use crate::config::PodName;

use super::{Registered, Registry, report::millis};

/// Each intercepted port, and the intercepts that want it.
pub(crate) type Contests = BTreeMap<(PodName, u16), Contest>;

/// The intercepts of one port, by number; older ones first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contest {
    /// With a filter: all of them count, the first that matches wins.
    pub(crate) filtered: Vec<u64>,
    /// Without: the first alone gets anything.
    pub(crate) globals: Vec<u64>,
}

impl Registry {
    /// What every port is to do: the desired state.
    pub(crate) fn contests(&self) -> Contests {
        let mut contests = Contests::new();
        for wish in self.wishes() {
            for pod in self.pods(wish).filter(|pod| pod.allows(wish.wish.port)) {
                let contest = contests.entry((pod.name.clone(), wish.wish.port)).or_default();
                let place = if wish.filter.is_some() { &mut contest.filtered } else { &mut contest.globals };
                place.push(wish.id);
            }
        }
        contests
    }

    /// What others take from an intercept, pod by pod.
    pub(super) fn conflicts(&self, wish: &Registered, contests: &Contests) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for pod in self.pods(wish) {
            let Some(contest) = contests.get(&(pod.name.clone(), wish.wish.port)) else { continue };
            for (id, takes) in self.takers(wish, contest) {
                let Some(other) = self.wish(id) else { continue };
                conflicts.push(Conflict {
                    pod: pod.name.to_string(),
                    developer: self.developer_name(other),
                    since: millis(other.since),
                    takes,
                });
            }
        }
        conflicts
    }

    /// The intercepts that win over this one in one port.
    fn takers(&self, wish: &Registered, contest: &Contest) -> Vec<(u64, Takes)> {
        let Some(mine) = &wish.filter else {
            return match contest.globals.first() {
                Some(first) if *first != wish.id => vec![(*first, Takes::Everything)],
                _ => contest.filtered.iter().map(|id| (*id, Takes::Shared)).collect(),
            };
        };
        let older = contest.filtered.iter().take_while(|id| **id != wish.id);
        older
            .filter_map(|id| {
                let theirs = self.wish(*id)?.filter.as_ref()?;
                match overlap(mine, theirs) {
                    Overlap::Same | Overlap::Subset => Some((*id, Takes::Everything)),
                    Overlap::Superset | Overlap::Possible => Some((*id, Takes::Shared)),
                    // Developers who share a pod have values of their own: nobody is warned of a header that comes twice.
                    Overlap::UnlessRepeated | Overlap::Never => None,
                }
            })
            .collect()
    }

    pub(super) fn developer_name(&self, wish: &Registered) -> String {
        self.config().developer(&wish.pin).map_or_else(String::new, |developer| developer.name.clone())
    }
}
