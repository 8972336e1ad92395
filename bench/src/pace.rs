//! How long a run measures, and how much of it is left.

use std::time::{Duration, Instant};

/// Rounds and their lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often each contender is measured in each cell.
    pub rounds: usize,
    /// In how many slices a round is cut, all contenders in turn in each: what a neighbour on a shared machine does for some
    /// seconds meets all of them.
    pub slices: u32,
    /// Milliseconds of a round before anything counts, over its slices.
    pub warm: u64,
    /// Milliseconds of a round that count, over its slices.
    pub counted: u64,
    /// By how much everything that is counted in pieces (connections, repetitions) is cut down.
    pub cut: usize,
}

/// What a result may be quoted from.
pub const DEFAULT: Pace = Pace { rounds: 5, slices: 8, warm: 1000, counted: 4000, cut: 1 };
/// Whether it all works: too short for any conclusion.
pub const QUICK: Pace = Pace { rounds: 2, slices: 1, warm: 100, counted: 300, cut: 20 };

impl Pace {
    /// One round of one contender, with the starts of its processes.
    pub fn measurement(&self) -> Duration {
        Duration::from_millis(self.warm + self.counted) + Duration::from_millis(30) * self.slices
    }

    /// The same in one piece, for what a slice is too short for.
    #[must_use]
    pub fn uncut(self) -> Self {
        Self { slices: 1, ..self }
    }

    /// `n` of something in a default run, fewer in a quick one.
    pub fn pieces(&self, n: usize) -> usize {
        (n / self.cut).max(2)
    }
}

/// One line at a time on standard error: what is measured, since when, and how long the rest takes.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    /// What the scenarios that are left take, the present one without.
    after: Duration,
}

impl Progress {
    /// Begins with what all scenarios should take.
    pub fn begin(all: Duration) -> Self {
        Self { begun: Instant::now(), after: all }
    }

    /// The next scenario begins, which should take so long.
    pub fn next(&mut self, scenario: &str, takes: Duration) {
        self.after = self.after.saturating_sub(takes);
        self.say(scenario, takes);
    }

    /// Says what is going on, and what is left of the present scenario.
    pub fn say(&self, what: &str, left: Duration) {
        let (done, left) = (self.begun.elapsed().as_secs(), (left + self.after).as_secs());
        eprintln!("[{:>3}:{:02}, about {}:{:02} left] {what}", done / 60, done % 60, left / 60, left % 60);
    }
}
