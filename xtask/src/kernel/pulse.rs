//! Whether a guest lives, and whether its clock runs as it must: read off a file in which it writes its uptime once a second.
//!
//! QEMU's emulated time-stamp counter is now and then calibrated wrong, and the guest's seconds pass 2.5 times too fast; every
//! time limit in it is then too short. And QEMU 7.2 locks up once in a while.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A guest that is emulated on a busy machine is late by seconds, not by minutes.
const SILENT: Duration = Duration::from_secs(180);
/// Before that, a beat that was written late would count for too much.
const WINDOW: Duration = Duration::from_secs(10);
/// The wrong ones seen ran 2.5 times too fast.
const TOLERATED: f64 = 1.5;

/// What the beats say.
#[derive(Debug, PartialEq)]
pub(super) enum GuestHealth {
    /// No beat since the start, so long ago.
    Unborn(Duration),
    Well,
    /// The guest's seconds in one of ours.
    ClockWrong(f64),
    Silent(Duration),
}

/// The watch over one guest's beats.
pub(super) struct GuestPulse {
    file: PathBuf,
    since: Instant,
    /// The first beat: the host's time of its writing, and the guest's uptime in seconds.
    first: Option<(SystemTime, f64)>,
    last: Option<(SystemTime, f64)>,
    heard: Instant,
}

impl GuestPulse {
    pub(super) fn new(file: &Path, now: Instant) -> GuestPulse {
        GuestPulse { file: file.to_owned(), since: now, first: None, last: None, heard: now }
    }

    pub(super) fn was_born(&self) -> bool {
        self.first.is_some()
    }

    pub(super) fn look(&mut self, now: Instant) -> GuestHealth {
        // The host's clock is the file's own time: it does not matter when this looks.
        let written = fs::metadata(&self.file).and_then(|file| file.modified());
        let uptime = fs::read_to_string(&self.file).ok().and_then(|text| text.trim().parse().ok());
        if let (Ok(written), Some(uptime)) = (written, uptime) {
            self.beat(now, written, uptime);
        }
        self.health(now)
    }

    fn beat(&mut self, now: Instant, written: SystemTime, uptime: f64) {
        if self.last != Some((written, uptime)) {
            self.heard = now;
            self.last = Some((written, uptime));
            self.first.get_or_insert((written, uptime));
        }
    }

    fn health(&self, now: Instant) -> GuestHealth {
        let (Some((first, uptime)), Some((last, later))) = (self.first, self.last) else {
            return GuestHealth::Unborn(now - self.since);
        };
        let silent = now - self.heard;
        if silent > SILENT {
            return GuestHealth::Silent(silent);
        }
        let span = last.duration_since(first).unwrap_or_default();
        if span < WINDOW {
            return GuestHealth::Well;
        }
        let times = (later - uptime) / span.as_secs_f64();
        if times > TOLERATED { GuestHealth::ClockWrong(times) } else { GuestHealth::Well }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(beats: &[(f64, f64)], now: f64) -> GuestHealth {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let mut pulse = GuestPulse::new(Path::new("/nowhere"), start);
        for &(host, guest) in beats {
            let at = Duration::from_secs_f64(host);
            pulse.beat(start + at, wall + at, guest);
        }
        pulse.health(start + Duration::from_secs_f64(now))
    }

    #[test]
    fn a_clock_that_runs_too_fast_is_noticed_and_a_late_beat_is_not_one() {
        assert_eq!(after(&[(10.0, 3.0), (12.0, 8.0)], 12.0), GuestHealth::Well);
        assert_eq!(after(&[(10.0, 3.0), (30.0, 53.0)], 30.0), GuestHealth::ClockWrong(2.5));
        // The first was written 4 s late, on a busy host.
        assert_eq!(after(&[(10.0, 3.0), (22.0, 19.0)], 30.0), GuestHealth::Well);
    }

    #[test]
    fn a_guest_that_says_nothing_is_not_well() {
        assert_eq!(after(&[], 20.0), GuestHealth::Unborn(Duration::from_secs(20)));
        assert_eq!(after(&[(10.0, 3.0)], 200.0), GuestHealth::Silent(Duration::from_secs(190)));
        assert_eq!(after(&[(10.0, 3.0), (150.0, 143.0)], 200.0), GuestHealth::Well);
    }
}
