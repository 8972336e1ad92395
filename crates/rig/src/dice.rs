//! Small pseudo-random numbers for tests that generate their cases.

/// The same numbers in each run, for the same seed. The seed must not be 0.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }

    /// True once in `one_in` rolls on average.
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.roll(one_in) == 0
    }
}
