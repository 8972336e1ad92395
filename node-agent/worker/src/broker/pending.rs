//! The requests that the guardian has not answered, and what its silence means. Pure: time comes as a parameter.

use std::{collections::HashMap, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::GuardianAnswer;
use redir_config::PodName;
use redir_ipc::Request;

/// Requests by number.
pub(super) struct PendingRequests {
    by_seq: HashMap<u32, PendingRequest>,
    /// When the guardian answered last.
    heard: Instant,
}

struct PendingRequest {
    answer: oneshot::Sender<GuardianAnswer>,
    asked: Instant,
    work: RequestWork,
}

/// What the guardian does for a request.
enum RequestWork {
    /// Microseconds.
    Quick,
    /// Up to half a minute, now and then: it excuses no silence.
    Long,
    /// It changes what is attached, which the kernel may take a while for. Of a release, which pod's.
    Slow { released: Option<PodName> },
}

impl PendingRequests {
    pub(super) fn new(now: Instant) -> Self {
        PendingRequests { by_seq: HashMap::new(), heard: now }
    }

    pub(super) fn insert(
        &mut self,
        seq: u32,
        request: &Request,
        answer: oneshot::Sender<GuardianAnswer>,
        now: Instant,
    ) {
        let work = match request {
            Request::Flush { .. } => RequestWork::Long,
            Request::Release { pod } => RequestWork::Slow { released: Some(pod.clone()) },
            slow if slow.is_slow() => RequestWork::Slow { released: None },
            _ => RequestWork::Quick,
        };
        self.by_seq.insert(seq, PendingRequest { answer, asked: now, work });
    }

    /// The request was not sent.
    pub(super) fn forget(&mut self, seq: u32) {
        self.by_seq.remove(&seq);
    }

    /// The request is answered: who waits for it, and which pod it was to release.
    pub(super) fn answered(
        &mut self,
        seq: u32,
        now: Instant,
    ) -> Option<(oneshot::Sender<GuardianAnswer>, Option<PodName>)> {
        self.heard = now;
        let PendingRequest { answer, work, .. } = self.by_seq.remove(&seq)?;
        let released = match work {
            RequestWork::Slow { released } => released,
            RequestWork::Quick | RequestWork::Long => None,
        };
        Some((answer, released))
    }

    /// Fails every waiting request: their senders are dropped.
    pub(super) fn clear(&mut self) {
        self.by_seq.clear();
    }

    /// From when on the guardian's silence means that it hangs. None while it owes no quick answer, or may be at slow
    /// work. A request whose asker has given up counts until it is answered.
    pub(super) fn hangs_from(&self) -> Option<Instant> {
        let mut oldest: Option<Instant> = None;
        for unanswered in self.by_seq.values() {
            match unanswered.work {
                RequestWork::Slow { .. } => return None,
                RequestWork::Long => {}
                RequestWork::Quick => {
                    oldest = Some(oldest.map_or(unanswered.asked, |oldest| oldest.min(unanswered.asked)));
                }
            }
        }
        oldest.map(|asked| asked.max(self.heard) + QUICK)
    }
}

/// A quick request takes the guardian well under a millisecond; no quick one waits behind slow work for more than 50 ms.
pub(super) const QUICK: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodName {
        PodName::new("web-1").expect("good")
    }

    fn ask(pending: &mut PendingRequests, seq: u32, request: &Request, now: Instant) {
        pending.insert(seq, request, oneshot::channel().0, now);
    }

    #[test]
    fn silence_counts_from_the_oldest_quick_request_or_the_last_answer() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pending = PendingRequests::new(start);
        assert_eq!(pending.hangs_from(), None, "nothing is owed");
        let stats = Request::Stats { pod: pod() };
        ask(&mut pending, 1, &stats, at(10));
        ask(&mut pending, 2, &stats, at(50));
        assert_eq!(pending.hangs_from(), Some(at(10) + QUICK));
        assert!(pending.answered(1, at(100)).is_some());
        assert_eq!(pending.hangs_from(), Some(at(100) + QUICK));
        pending.forget(2);
        assert_eq!(pending.hangs_from(), None);
    }

    #[test]
    fn a_flush_neither_excuses_silence_nor_owes_an_answer_soon() {
        let start = Instant::now();
        let mut pending = PendingRequests::new(start);
        ask(&mut pending, 1, &Request::Flush { pod: pod(), port: 80 }, start);
        assert_eq!(pending.hangs_from(), None);
        ask(&mut pending, 2, &Request::Stats { pod: pod() }, start);
        assert_eq!(pending.hangs_from(), Some(start + QUICK));
    }

    #[test]
    fn slow_work_excuses_silence_until_it_is_done() {
        let start = Instant::now();
        let mut pending = PendingRequests::new(start);
        ask(&mut pending, 1, &Request::Stats { pod: pod() }, start);
        let arm = Request::Arm { pod: pod(), port: 80 };
        for (seq, slow) in
            [(2, arm), (3, Request::Disarm { pod: pod(), port: 80 }), (4, Request::Release { pod: pod() })]
        {
            ask(&mut pending, seq, &slow, start);
            assert_eq!(pending.hangs_from(), None, "{slow:?}");
            let done = start + Duration::from_secs(9);
            let (_, released) = pending.answered(seq, done).expect("asked");
            assert_eq!(released, (seq == 4).then(pod));
            assert_eq!(pending.hangs_from(), Some(done + QUICK));
        }
    }
}
