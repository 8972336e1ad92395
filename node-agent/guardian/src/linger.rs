//! What must outlive its user for a while: a dead worker's last FIN and RST must still be reflected.
//! Pure: time comes as a parameter. What is lingering is let go by dropping it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Things with the time at which they are let go, oldest first.
#[derive(Debug)]
pub(super) struct LingerQueue<T> {
    kept: VecDeque<(Instant, T)>,
}

impl<T> Default for LingerQueue<T> {
    fn default() -> Self {
        Self { kept: VecDeque::new() }
    }
}

impl<T> LingerQueue<T> {
    /// Keeps a thing for three seconds.
    pub(super) fn keep(&mut self, thing: T, now: Instant) {
        self.kept.push_back((now + TIME, thing));
    }

    /// Lets go of what is due.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let due = self.kept.iter().take_while(|(until, _)| *until <= now).count();
        self.kept.drain(..due).map(|(_, thing)| thing).collect()
    }

    /// When the next thing is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.kept.front().map(|(until, _)| *until)
    }
}

/// PASS-THROUGH: three seconds take the last retransmissions of FIN and RST through on any pod network.
const TIME: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_go_in_order_when_they_are_due() {
        let start = Instant::now();
        let mut linger = LingerQueue::default();
        assert_eq!(linger.next(), None);
        linger.keep("a", start);
        linger.keep("b", start + Duration::from_secs(1));
        assert_eq!(linger.next(), Some(start + TIME));
        assert_eq!(linger.expire(start + TIME - Duration::from_millis(1)), [""; 0]);
        assert_eq!(linger.expire(start + TIME), ["a"]);
        assert_eq!(linger.next(), Some(start + TIME + Duration::from_secs(1)));
        assert_eq!(linger.expire(start + Duration::from_secs(60)), ["b"]);
        assert_eq!(linger.next(), None);
    }
}
