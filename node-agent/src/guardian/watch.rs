//! When a silent worker counts as hung. Pure: time comes as a parameter.

use std::time::{Duration, Instant};

/// The guardian's memory of the worker's last sign of life.
#[derive(Debug)]
pub(super) struct Watch {
    heard: Instant,
    limit: Duration,
    ticked: Instant,
}

/// What the silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// Look again at this time.
    Fine(Instant),
    /// Kill it.
    TooLong,
}

impl Watch {
    /// A worker that has just been started.
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, limit: FIRST_LIMIT, ticked: now }
    }

    /// The worker said that it lives.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.limit = LIMIT;
    }

    /// Judges the silence. A guardian that was itself stopped (the whole container frozen, a debugger) has not listened:
    /// the worker gets its time again.
    pub(super) fn tick(&mut self, now: Instant) -> Silence {
        if now.duration_since(self.ticked) > PAUSE {
            self.heard = now;
        }
        self.ticked = now;
        let until = self.heard + self.limit;
        if now >= until { Silence::TooLong } else { Silence::Fine(until) }
    }
}

/// DESIGN 2.2: a worker that is silent for five seconds is killed; it speaks every 250 ms.
const LIMIT: Duration = Duration::from_secs(5);
/// Until the first word, for a machine that is busy while the worker starts.
const FIRST_LIMIT: Duration = Duration::from_secs(15);
/// The guardian ticks at least once a second; a longer gap is its own.
const PAUSE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_word() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut watch = Watch::new(start);
        watch.heard(at(100));
        for second in 1..=5 {
            assert_eq!(watch.tick(at(second * 1000)), Silence::Fine(at(5100)));
        }
        assert_eq!(watch.tick(at(5100)), Silence::TooLong);
        watch.heard(at(5150));
        assert_eq!(watch.tick(at(5200)), Silence::Fine(at(10_150)));
    }

    #[test]
    fn a_starting_worker_has_longer() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        for second in 1..15 {
            assert!(matches!(watch.tick(start + Duration::from_secs(second)), Silence::Fine(_)));
        }
        assert_eq!(watch.tick(start + Duration::from_secs(15)), Silence::TooLong);
    }

    #[test]
    fn a_guardian_that_slept_does_not_blame_the_worker() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.heard(start);
        let woken = start + Duration::from_secs(3600);
        assert_eq!(watch.tick(woken), Silence::Fine(woken + LIMIT));
    }
}
