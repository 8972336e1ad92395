//! How long to wait before the next dial.
//!
//! Owns: the numbers. Must not sleep. Called by: `link`.

use std::time::Duration;

/// A restarted agent is back within this.
const FIRST: Duration = Duration::from_millis(100);
/// A developer who watches does not want to wait longer.
const LAST: Duration = Duration::from_secs(2);

/// 100 ms, doubled up to 2 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    /// From the beginning.
    pub(crate) fn new() -> Self {
        Self(FIRST)
    }

    /// The next wait.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LAST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_two_seconds() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..7).map(|_| backoff.wait().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
    }
}
