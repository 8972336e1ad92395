//! Notices that the machine slept: the wall clock went on while the monotonic one stood still.
//!
//! Owns: the comparison. Must not read a clock. Called by: `link`.

use std::time::{Duration, Instant, SystemTime};

/// More than a clock's correction by NTP in one look, less than a nap worth redialling for.
const JUMP: Duration = Duration::from_secs(3);

/// Both clocks as they were last seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockWatch {
    wall: SystemTime,
    steady: Instant,
}

impl ClockWatch {
    /// Begins to watch.
    pub(crate) fn new(wall: SystemTime, steady: Instant) -> Self {
        Self { wall, steady }
    }

    /// Whether the wall clock moved otherwise than the steady one since the last look. A clock that was set looks the
    /// same as a sleep: the tunnel is only asked whether it still lives.
    pub(crate) fn jumped(&mut self, wall: SystemTime, steady: Instant) -> bool {
        let expected = self.wall + steady.saturating_duration_since(self.steady);
        let difference = wall.duration_since(expected).unwrap_or_else(|backwards| backwards.duration());
        *self = Self { wall, steady };
        difference > JUMP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_noticed_once() {
        let (wall, steady) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000), Instant::now());
        let mut watch = ClockWatch::new(wall, steady);
        let second = Duration::from_secs(1);
        assert!(!watch.jumped(wall + second, steady + second));
        assert!(watch.jumped(wall + second * 100, steady + second * 2));
        assert!(!watch.jumped(wall + second * 101, steady + second * 3));
        assert!(watch.jumped(wall, steady + second * 4), "set back");
        assert!(!watch.jumped(wall + second * 60, steady + second * 64), "a long look is no jump");
    }
}
