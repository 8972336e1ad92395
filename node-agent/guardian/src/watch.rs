//! When a silent worker counts as hung. Pure: time comes as a parameter.

use std::time::{Duration, Instant};

/// The guardian's memory of the worker's last sign of life.
#[derive(Debug)]
pub(super) struct WorkerWatchdog {
    heard: Instant,
    limit: Duration,
    ticked: Instant,
    /// Its silence is excused until then: it got no CPU.
    excused: Option<Instant>,
}

/// What the silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchdogVerdict {
    /// Look again at this time.
    Fine(Instant),
    /// Kill it.
    TooLong,
}

impl WorkerWatchdog {
    /// A worker that has just been started.
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, limit: FIRST_LIMIT, ticked: now, excused: None }
    }

    /// The worker said that it lives.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.limit = LIMIT;
        self.excused = None;
    }

    /// Whether it is silent for longer than a busy machine explains.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        now.duration_since(self.heard) >= QUIET
    }

    /// Judges the silence. A guardian that was itself stopped (the whole container frozen, a debugger) has not listened:
    /// the worker gets its time again. One that is `starved` of CPU cannot speak: it is asked for again and again, and the
    /// worker gets more time, up to [`STARVED_LIMIT`].
    pub(super) fn tick(&mut self, now: Instant, starved: impl FnOnce() -> bool) -> WatchdogVerdict {
        if now.duration_since(self.ticked) > PAUSE {
            self.heard = now;
            self.excused = None;
        }
        self.ticked = now;
        let until = self.excused.unwrap_or(self.heard + self.limit);
        if now < until {
            return WatchdogVerdict::Fine(until);
        }
        let last = self.heard + STARVED_LIMIT;
        if now >= last || !starved() {
            return WatchdogVerdict::TooLong;
        }
        let until = last.min(now + LIMIT);
        self.excused = Some(until);
        WatchdogVerdict::Fine(until)
    }
}

/// DESIGN 2.2: a worker that is silent for five seconds is killed; it speaks every 250 ms.
const LIMIT: Duration = Duration::from_secs(5);
/// A worker that got no CPU may be silent for so long: ending it would reset everybody inside, and the next one would get no
/// more. Its pods' traffic passes to the apps meanwhile, since its heartbeats grow old.
pub(super) const STARVED_LIMIT: Duration = Duration::from_secs(30);
/// Four words are missing.
const QUIET: Duration = Duration::from_secs(1);
/// Until the first word, for a machine that is busy while the worker starts.
const FIRST_LIMIT: Duration = Duration::from_secs(15);
/// The guardian ticks at least once a second; a longer gap is its own.
const PAUSE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> bool {
        panic!("nobody needs to know")
    }

    #[test]
    fn silence_is_counted_from_the_last_word() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut watch = WorkerWatchdog::new(start);
        watch.heard(at(100));
        for second in 1..=5 {
            assert_eq!(watch.tick(at(second * 1000), never), WatchdogVerdict::Fine(at(5100)));
        }
        assert_eq!(watch.tick(at(5100), || false), WatchdogVerdict::TooLong);
        watch.heard(at(5150));
        assert_eq!(watch.tick(at(5200), never), WatchdogVerdict::Fine(at(10_150)));
    }

    #[test]
    fn a_starting_worker_has_longer() {
        let start = Instant::now();
        let mut watch = WorkerWatchdog::new(start);
        for second in 1..15 {
            assert!(matches!(watch.tick(start + Duration::from_secs(second), never), WatchdogVerdict::Fine(_)));
        }
        assert_eq!(watch.tick(start + Duration::from_secs(15), || false), WatchdogVerdict::TooLong);
    }

    #[test]
    fn a_guardian_that_slept_does_not_blame_the_worker() {
        let start = Instant::now();
        let mut watch = WorkerWatchdog::new(start);
        watch.heard(start);
        let woken = start + Duration::from_secs(3600);
        assert_eq!(watch.tick(woken, never), WatchdogVerdict::Fine(woken + LIMIT));
    }

    #[test]
    fn a_starved_worker_has_thirty_seconds_and_one_that_is_starved_no_more_five() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = WorkerWatchdog::new(start);
        watch.heard(start);
        assert!(!watch.is_quiet(start) && watch.is_quiet(at(1)));
        let mut looks = 0;
        for second in 1..30 {
            let starved = || {
                looks += 1;
                true
            };
            assert!(
                matches!(watch.tick(at(second), starved), WatchdogVerdict::Fine(until) if until <= at(30)),
                "{second}"
            );
        }
        assert_eq!(looks, 5, "at 5 s, 10 s, … 25 s");
        assert_eq!(watch.tick(at(30), || true), WatchdogVerdict::TooLong);

        watch.heard(at(31));
        for second in 32..36 {
            assert_eq!(watch.tick(at(second), never), WatchdogVerdict::Fine(at(36)));
        }
        assert_eq!(watch.tick(at(36), || true), WatchdogVerdict::Fine(at(41)));
        for second in 37..41 {
            assert_eq!(watch.tick(at(second), never), WatchdogVerdict::Fine(at(41)));
        }
        assert_eq!(watch.tick(at(41), || false), WatchdogVerdict::TooLong);
    }
}
