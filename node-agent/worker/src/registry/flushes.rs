//! Whose connections from before an intercept were closed: once for each intercept and pod, also over redials.
//!
//! Pure: the hub asks for it, and reports what came of it.

use std::collections::HashMap;

use redir_wire::PodFlush;

use redir_config::PodName;

/// What was asked for, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct FlushResults {
    asked: HashMap<(u64, PodName), Option<PodFlush>>,
}

impl FlushResults {
    /// Whether this is to be asked for now: only once.
    pub(crate) fn begin(&mut self, intercept: u64, pod: &PodName) -> bool {
        let key = (intercept, pod.clone());
        let new = !self.asked.contains_key(&key);
        self.asked.entry(key).or_default();
        new
    }

    /// One is over.
    pub(crate) fn done(&mut self, intercept: u64, pod: PodName, outcome: PodFlush) {
        if let Some(asked) = self.asked.get_mut(&(intercept, pod)) {
            *asked = Some(outcome);
        }
    }

    /// What came of it, once it is over.
    pub(crate) fn outcome(&self, intercept: u64, pod: &PodName) -> Option<&PodFlush> {
        self.asked.get(&(intercept, pod.clone()))?.as_ref()
    }

    /// Forgets what concerns other intercepts than these, and a pod whose namespace is another one.
    pub(crate) fn retain(&mut self, known: impl Fn(u64, &PodName) -> bool) {
        self.asked.retain(|(intercept, pod), _| known(*intercept, pod));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_intercept_is_flushed_once_in_each_pod() {
        let pod = |name| PodName::new(name).unwrap();
        let mut flushes = FlushResults::default();
        assert!(flushes.begin(1, &pod("web-1")) && flushes.begin(1, &pod("web-2")) && flushes.begin(2, &pod("web-1")));
        assert!(!flushes.begin(1, &pod("web-1")));
        assert_eq!(flushes.outcome(1, &pod("web-1")), None);
        let outcome = PodFlush { closed: 3, ..PodFlush::default() };
        flushes.done(1, pod("web-1"), outcome.clone());
        assert_eq!(flushes.outcome(1, &pod("web-1")), Some(&outcome));
        assert!(!flushes.begin(1, &pod("web-1")), "also once it is over");
        flushes.retain(|intercept, _| intercept != 1);
        flushes.done(1, pod("web-2"), outcome);
        assert_eq!(flushes.outcome(1, &pod("web-2")), None, "the intercept has ended meanwhile");
        assert!(flushes.begin(1, &pod("web-1")) && !flushes.begin(2, &pod("web-1")));
    }
}
