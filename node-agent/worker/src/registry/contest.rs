//! Who gets a port's requests: filtered over global, then the oldest; and what that takes from whom.

use std::collections::{BTreeMap, BTreeSet};

use redir_http::filter::{Overlap, overlap};
use redir_wire::{Conflict, Takes};

use crate::control::PodPlacement;
use redir_config::PodName;
use redir_ipc::ListenerGate;

use super::{InterceptRegistry, RegisteredIntercept, report::millis};

/// Each intercepted port, and the intercepts that want it.
pub(crate) type PortContests = BTreeMap<(PodName, u16), PortContest>;

/// The intercepts of one port, by number; older ones first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortContest {
    /// With a filter: all of them count, the first that matches wins.
    pub(crate) filtered: Vec<u64>,
    /// Without: the first alone gets anything.
    pub(crate) globals: Vec<u64>,
    /// The first of those without wants connections also while the app does not listen.
    pub(crate) even_if_down: bool,
    /// Those with a filter, to be asked for.
    members: BTreeSet<u64>,
}

/// What filtered intercepts have in common, compared once for each two of them.
#[derive(Debug, Default)]
pub(super) struct FilterOverlaps(BTreeMap<u64, BTreeMap<u64, (WhichFilter, Takes)>>);

/// Which of two is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhichFilter {
    Older,
    Younger,
}

impl FilterOverlaps {
    /// Compares an intercept that is new, or is another one now, with all others.
    pub(super) fn compare<'a>(
        &mut self,
        new: &RegisteredIntercept,
        others: impl Iterator<Item = &'a RegisteredIntercept>,
    ) {
        self.forget(new.id);
        for other in others.filter(|other| other.id != new.id && may_meet(other, new)) {
            let (older, younger) = if other.age() < new.age() { (other, new) } else { (new, other) };
            let (Some(winner), Some(loser)) = (&older.grant.filter, &younger.grant.filter) else { continue };
            let takes = match overlap(loser, winner) {
                Overlap::Same | Overlap::Subset => Takes::Everything,
                Overlap::Superset | Overlap::Possible => Takes::Shared,
                // Developers who share a pod have values of their own: nobody is warned of a header that comes twice.
                Overlap::UnlessRepeated | Overlap::Never => continue,
            };
            self.0.entry(older.id).or_default().insert(younger.id, (WhichFilter::Younger, takes));
            self.0.entry(younger.id).or_default().insert(older.id, (WhichFilter::Older, takes));
        }
    }

    /// An intercept is no more.
    pub(super) fn forget(&mut self, id: u64) {
        for other in self.0.remove(&id).unwrap_or_default().into_keys() {
            if let Some(with) = self.0.get_mut(&other) {
                with.remove(&id);
            }
        }
    }

    fn with(&self, id: u64, which: WhichFilter) -> impl Iterator<Item = (u64, Takes)> {
        let all = self.0.get(&id).into_iter().flatten();
        all.filter(move |(_, (other, _))| *other == which).map(|(other, (_, takes))| (*other, *takes))
    }
}

/// Whether two intercepts can want the same port. By number where both say one; a name is another number in each pod.
fn may_meet(one: &RegisteredIntercept, other: &RegisteredIntercept) -> bool {
    let named = one.grant.made.is_some() || other.grant.made.is_some();
    named || one.grant.request.port == other.grant.request.port
}

impl InterceptRegistry {
    /// What every port is to do: the desired state.
    pub(crate) fn contests(&self) -> PortContests {
        let mut contests = PortContests::new();
        for intercept in self.intercepts() {
            for PodPlacement { pod, port } in self.places(intercept) {
                let Ok(port) = port else { continue };
                let contest = contests.entry((pod, port)).or_default();
                if intercept.grant.filter.is_some() {
                    contest.filtered.push(intercept.id);
                    contest.members.insert(intercept.id);
                } else {
                    if contest.globals.is_empty() {
                        contest.even_if_down = intercept.grant.request.even_if_down;
                    }
                    contest.globals.push(intercept.id);
                }
            }
        }
        contests
    }

    /// What others take from an intercept, pod by pod.
    pub(super) fn conflicts(&self, intercept: &RegisteredIntercept, contests: &PortContests) -> Vec<Conflict> {
        self.with_others(intercept, contests, Self::winners)
    }

    /// What an intercept takes from others, pod by pod.
    pub(super) fn overlaps(&self, intercept: &RegisteredIntercept, contests: &PortContests) -> Vec<Conflict> {
        self.with_others(intercept, contests, Self::losers)
    }

    fn with_others(
        &self,
        intercept: &RegisteredIntercept,
        contests: &PortContests,
        others: fn(&Self, &RegisteredIntercept, &PortContest) -> Vec<(u64, Takes)>,
    ) -> Vec<Conflict> {
        let mut all = Vec::new();
        for PodPlacement { pod, port } in self.places(intercept) {
            let shown = pod.bare().to_owned();
            let Some(contest) = port.ok().and_then(|port| contests.get(&(pod, port))) else { continue };
            for (id, takes) in others(self, intercept, contest) {
                let Some(other) = self.intercept(id) else { continue };
                // One developer's filters that end up in the same place are an `or` of theirs.
                if takes == Takes::Shared
                    && (other.pin, &other.grant.request.to) == (intercept.pin, &intercept.grant.request.to)
                {
                    continue;
                }
                all.push(Conflict {
                    id: Some(id),
                    pod: shown.clone(),
                    developer: self.developer_name(other),
                    since: millis(other.since),
                    takes,
                });
            }
        }
        all.truncate(TOLD);
        all
    }

    /// The intercepts that win over this one in one port.
    fn winners(&self, intercept: &RegisteredIntercept, contest: &PortContest) -> Vec<(u64, Takes)> {
        if intercept.grant.filter.is_some() {
            return self
                .overlaps
                .with(intercept.id, WhichFilter::Older)
                .filter(|(id, _)| contest.has_filtered(*id))
                .collect();
        }
        match contest.globals.first() {
            Some(first) if *first != intercept.id => vec![(*first, Takes::Everything)],
            _ => contest.filtered.iter().map(|id| (*id, Takes::Shared)).collect(),
        }
    }

    /// The intercepts that lose against this one in one port.
    fn losers(&self, intercept: &RegisteredIntercept, contest: &PortContest) -> Vec<(u64, Takes)> {
        let (global, more) = contest.globals.split_first().map_or((None, &[][..]), |(first, more)| (Some(first), more));
        if intercept.grant.filter.is_some() {
            let filtered =
                self.overlaps.with(intercept.id, WhichFilter::Younger).filter(|(id, _)| contest.has_filtered(*id));
            return filtered.chain(global.map(|id| (*id, Takes::Shared))).collect();
        }
        match global {
            Some(first) if *first == intercept.id => more.iter().map(|id| (*id, Takes::Everything)).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn developer_name(&self, intercept: &RegisteredIntercept) -> String {
        self.policy.name_of(&intercept.pin).unwrap_or_default().to_owned()
    }
}

impl PortContest {
    /// Whether the app must listen for a connection to be steered.
    pub(crate) fn gate(&self) -> ListenerGate {
        if self.even_if_down { ListenerGate::Always } else { ListenerGate::AppListening }
    }

    fn has_filtered(&self, id: u64) -> bool {
        self.members.contains(&id)
    }
}

/// As much as anybody reads, and little enough for one message with all of an intercept's pods.
const TOLD: usize = 256;
