//! Sockets for legs of pods that no Intercept means any more, which the worker may still need for connections that there are.
//!
//! Owns their number: a worker that was taken over could else connect to such an app for a day, as often as it likes. A
//! connection that has come before the end needs one more leg at most, and only if it never had one. Called by `pods`.

/// For one pod, from the end of its last Intercept on: as many connections as a busy service keeps with developers alone, and
/// what the worker keeps in reserve.
pub(super) const LATE_SOCKETS_OF_POD: usize = 2_048;
/// For all such pods of the node.
pub(super) const LATE_SOCKETS: usize = 8_192;

/// How many one pod was given since then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LateSockets {
    /// `None` while an Intercept means the pod.
    given: Option<usize>,
}

impl LateSockets {
    /// Says whether an Intercept means the pod. One that means it again begins anew.
    pub(super) fn set_permitted(&mut self, permitted: bool) {
        self.given = (!permitted).then(|| self.given.unwrap_or_default());
    }

    /// Counts what was given.
    pub(super) fn note(&mut self, sockets: usize) {
        self.given = self.given.map(|given| given.saturating_add(sockets));
    }

    /// How many the pod has had.
    pub(super) fn given(self) -> usize {
        self.given.unwrap_or_default()
    }

    /// Whether the pod may have so many more, while all such pods have had `all`.
    pub(super) fn may_have(self, more: usize, all: usize) -> bool {
        let fits = |had: usize, most: usize| had.saturating_add(more) <= most;
        self.given.is_none_or(|given| fits(given, LATE_SOCKETS_OF_POD) && fits(all, LATE_SOCKETS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_and_all_together_have_so_many_from_the_end_on() {
        let mut pods = [LateSockets::default(); 10];
        pods[0].note(1_000_000);
        assert!(pods[0].may_have(1_000_000, usize::MAX), "an Intercept means it");
        pods.iter_mut().for_each(|pod| pod.set_permitted(false));
        let all = |pods: &[LateSockets]| pods.iter().map(|pod| pod.given()).sum::<usize>();
        for turn in 0..pods.len() {
            while pods[turn].may_have(32, all(&pods)) {
                pods[turn].note(32);
                pods[turn].set_permitted(false);
            }
        }
        assert_eq!(pods[0].given(), LATE_SOCKETS_OF_POD);
        assert_eq!(all(&pods), LATE_SOCKETS);
        assert_eq!(pods[9].given(), 0);
        pods[0].set_permitted(true);
        assert!(pods[0].may_have(32, all(&pods)) && pods[9].given() == 0);
        assert!(pods[9].may_have(32, all(&pods)), "which leaves room to the others");
    }
}
