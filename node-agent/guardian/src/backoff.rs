//! How long to wait before the worker is started again. Pure: time comes as a parameter.

use std::time::{Duration, Instant};

/// Deaths in a row of workers that died young.
#[derive(Debug, Default)]
pub(super) struct RestartBackoff {
    young: u32,
}

impl RestartBackoff {
    /// The worker that started at `born` is dead: when may the next one start?
    pub(super) fn died(&mut self, born: Instant, now: Instant) -> Instant {
        if now.duration_since(born) >= GROWN_UP {
            self.young = 0;
        }
        let delay = match self.young {
            0 => Duration::ZERO,
            // 100 ms, 200 ms, …; the exponent stops growing where the delay does.
            deaths => FIRST.saturating_mul(1 << (deaths - 1).min(6)).min(LONGEST),
        };
        self.young = self.young.saturating_add(1);
        now + delay
    }
}

/// A worker that lived this long died of something new.
const GROWN_UP: Duration = Duration::from_secs(10);
/// The first death restarts at once, the second after this.
const FIRST: Duration = Duration::from_millis(100);
/// A worker that cannot live is tried this often, for ever: its cause may go away.
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_while_workers_die_young_and_start_over_after_a_long_life() {
        let mut backoff = RestartBackoff::default();
        let now = Instant::now() + GROWN_UP;
        let mut delays = Vec::new();
        for _ in 0..9 {
            delays.push(backoff.died(now, now).duration_since(now).as_millis());
        }
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.died(now - GROWN_UP, now), now);
        assert_eq!(backoff.died(now, now), now + FIRST);
    }

    #[test]
    fn many_deaths_do_not_overflow() {
        let mut backoff = RestartBackoff { young: u32::MAX };
        let now = Instant::now();
        assert_eq!(backoff.died(now, now), now + LONGEST);
        assert_eq!(backoff.died(now, now), now + LONGEST);
    }
}
