//! How many lines about connections people are shown: a flood of them must not hide everything else.
//!
//! Owns: the count. Must not read a clock or print. Called by: `screen`.

use std::time::{Duration, Instant};

/// Lines that may come at once: a few connections are all shown.
const BURST: u32 = 10;
/// After those, one line in this time.
const EVERY: Duration = Duration::from_secs(1);

/// A few lines at once, then one a second, and the number of those left out.
#[derive(Debug)]
pub(crate) struct LineThrottle {
    /// Lines that may be shown now.
    room: u32,
    /// When `room` grew last.
    since: Instant,
    left_out: u64,
}

impl LineThrottle {
    /// Nothing was shown so far.
    pub(crate) fn new(now: Instant) -> Self {
        Self { room: BURST, since: now, left_out: 0 }
    }

    /// Whether a line may be shown now, and how many were left out before it.
    pub(crate) fn line(&mut self, now: Instant) -> Option<u64> {
        self.grow(now);
        match self.room.checked_sub(1) {
            Some(room) => {
                self.room = room;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }

    /// How many were left out, if that may be told now: no further line may come that would tell it.
    pub(crate) fn rest(&mut self, now: Instant) -> Option<u64> {
        self.grow(now);
        if self.left_out == 0 || self.room == 0 {
            return None;
        }
        self.line(now)
    }

    fn grow(&mut self, now: Instant) {
        let steps = now.saturating_duration_since(self.since).as_secs() / EVERY.as_secs();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.room = self.room.saturating_add(steps).min(BURST);
        // Whoever has all the room there is begins to count anew.
        self.since = if self.room == BURST { now } else { self.since + EVERY * steps };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_shown_and_of_a_flood_one_a_second() {
        let start = Instant::now();
        let mut throttle = LineThrottle::new(start);
        let at = |millis: u64| start + Duration::from_millis(millis);
        let shown: Vec<Option<u64>> = (0..15).map(|n| throttle.line(at(n))).collect();
        assert_eq!(shown[..10], [Some(0); 10]);
        assert_eq!(shown[10..], [None; 5]);
        assert_eq!(throttle.line(at(1_100)), Some(5));
        let flood: Vec<u64> = (1_101..6_101).filter_map(|millis| throttle.line(at(millis))).collect();
        assert_eq!(flood.len(), 5, "{flood:?}");
        assert!(flood.iter().all(|left_out| (800..1_000).contains(left_out)), "{flood:?}");
        assert_eq!(throttle.rest(at(6_102)), None);
        assert!(throttle.rest(at(7_200)).is_some_and(|left_out| left_out > 0));
        assert_eq!(throttle.rest(at(9_000)), None, "told once");
        assert_eq!(throttle.line(at(60_000)), Some(0));
    }
}
