//! How long a run measures, and how much of it is left.

use std::time::{Duration, Instant};

/// Rounds and their lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often each contender is measured in each cell, all in turn in each round: short ones, so that what a neighbour on
    /// a shared machine does for some seconds meets all of them.
    pub rounds: usize,
    /// Milliseconds of a round before anything counts.
    pub warm: u64,
    /// Milliseconds of a round that count.
    pub counted: u64,
    /// The same two of a long round, of which there is one for four others.
    pub long: (u64, u64),
    /// By how much everything that is counted in pieces (connections, repetitions) is cut down.
    pub cut: usize,
}

/// What all goals fit into a quarter of an hour with, on two cores. More rounds narrow the intervals.
pub const DEFAULT: Pace = Pace { rounds: 20, warm: 75, counted: 375, long: (1000, 2400), cut: 1 };
/// Whether it all works: too short for any conclusion.
pub const QUICK: Pace = Pace { rounds: 2, warm: 100, counted: 300, long: (100, 300), cut: 20 };

/// Milliseconds of load that each contender carries before the first round of a cell. The proxies' slowest start, Envoy's,
/// shows in no round after it (`docs/src/performance.md`).
const WARMING: u64 = 1000;
const SHORT_FOR_A_LONG: usize = 4;
/// What starting the processes of a round takes.
const START: Duration = Duration::from_millis(30);

impl Pace {
    /// One round of one contender.
    pub fn measurement(&self) -> Duration {
        Duration::from_millis(self.warm + self.counted) + START
    }

    /// Fewer and longer rounds, for what a short one cannot fill.
    #[must_use]
    pub fn long(self) -> Self {
        let (warm, counted) = self.long;
        let rounds = (self.rounds / SHORT_FOR_A_LONG).max(self.rounds.min(2));
        Self { rounds, warm, counted, ..self }
    }

    /// A round of which nothing is kept, before the first one.
    #[must_use]
    pub fn warming(self) -> Self {
        Self { warm: 0, counted: if self.cut > 1 { self.counted } else { WARMING.max(self.warm) }, ..self }
    }

    /// Whether a result may be quoted.
    pub fn is_quotable(&self) -> bool {
        self.rounds >= DEFAULT.rounds && Self { rounds: DEFAULT.rounds, ..*self } == DEFAULT
    }

    /// `n` of something in a default run, fewer in a quick one.
    pub fn pieces(&self, n: usize) -> usize {
        (n / self.cut).max(2)
    }
}

/// One line at a time on standard error: what is measured, since when, and how long the rest takes.
#[derive(Debug)]
pub struct ProgressLog {
    begun: Instant,
    /// What the scenarios that are left take, the present one without.
    after: Duration,
}

impl ProgressLog {
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
