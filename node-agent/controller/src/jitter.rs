//! Pauses that differ from agent to agent, so that a cluster's agents do not ask at the same moment.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Between three quarters and five quarters of it.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) % 512).unwrap_or_default();
    pause * 3 / 4 + pause * random / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_stay_near() {
        let pauses: Vec<Duration> = (0..64).map(|_| jittered(Duration::from_secs(4))).collect();
        assert!(pauses.iter().all(|pause| (3..=5).contains(&pause.as_secs())), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
    }
}
