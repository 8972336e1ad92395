//! Which source port P the agent's leg to the app uses: pure, no socket and no clock.
//!
//! The app sees `client:P`, so P must not be the port of another live connection of that client: neither one that the
//! agent holds for it (another P) nor one that the client opened itself. Clients and NAT pick from 1024 upwards, hence the
//! low range first. One table per pod, behind the lock of `super::Upstream`.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

/// Ports that no client and no NAT picks.
pub(crate) const LOW: RangeInclusive<u16> = 512..=1023;
/// Used when the low range is taken for a client, in random order: below the ephemeral range of every common system.
pub(crate) const HIGH: RangeInclusive<u16> = 10000..=29999;
/// Low ports that an app may want to serve itself: a socket bound there would be in the way of one that binds without
/// SO_REUSEADDR (rsh, syslog, submission, IPP, LDAPS, DNS over TLS, rsync, FTPS, IMAPS, POP3S and their neighbours).
const SERVED: [u16; 20] =
    [512, 513, 514, 515, 543, 544, 546, 547, 548, 554, 587, 631, 636, 853, 873, 989, 990, 992, 993, 995];
/// How long a client's new connections pass to the app once it is crowded.
pub(crate) const BYPASS: Duration = Duration::from_secs(5);
/// Live connections of one client address from which its next ones pass to the app: what the ranges hold, less a
/// margin for connections that were already steered when the bypass is set; of few ports no more than a quarter.
const CROWDED_MARGIN: usize = 1024;

/// Whether the ports below 1024 may be used at all (they look privileged to NFS and rsh).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// 512-1023 first, then 10000-29999.
    LowFirst,
    /// 10000-29999 only.
    HighOnly,
    /// 512-1023 only: the pod lets nothing else pass.
    LowOnly,
}

impl Ranges {
    fn capacity(self) -> usize {
        match self {
            Ranges::LowFirst => LOW.len() - SERVED.len() + HIGH.len(),
            Ranges::HighOnly => HIGH.len(),
            Ranges::LowOnly => LOW.len() - SERVED.len(),
        }
    }

    /// Whether a port may be used.
    pub(super) fn contains(self, port: u16) -> bool {
        match self {
            Ranges::LowFirst => LOW.contains(&port) || HIGH.contains(&port),
            Ranges::HighOnly => HIGH.contains(&port),
            Ranges::LowOnly => LOW.contains(&port),
        }
    }

    /// What may be used of these when only the low or only the high ports get through.
    pub(super) fn narrowed(self, low: bool, high: bool) -> Self {
        match self {
            Ranges::HighOnly => Ranges::HighOnly,
            Ranges::LowFirst | Ranges::LowOnly if low && high => Ranges::LowFirst,
            Ranges::LowFirst | Ranges::LowOnly if high => Ranges::HighOnly,
            Ranges::LowFirst | Ranges::LowOnly => Ranges::LowOnly,
        }
    }
}

/// What one client address has open through this agent, in one pod.
#[derive(Default)]
struct Client {
    /// The agent's own ports for it.
    held: HashSet<u16>,
    /// The client's own ports, with a count: the same port may reach two ports of the pod.
    own: HashMap<u16, u32>,
    /// Where the search through the low range goes on, so that a port rests as long as possible after use.
    cursor: u16,
    /// When its bypass was last asked for.
    bypassed: Option<Instant>,
}

impl Client {
    fn free(&self, port: u16) -> bool {
        !self.held.contains(&port) && !self.own.contains_key(&port)
    }
}

/// The live ports of every client of one pod.
pub(crate) struct Ports {
    ranges: Ranges,
    clients: HashMap<IpAddr, Client>,
    random: SplitMix,
    /// Where the next batch for the pool begins in the low range.
    cursor: u16,
}

impl Ports {
    /// An empty table. `seed` decides where the low range begins and the order of the high one: a worker that takes a
    /// dead one's place must not begin with its ports, which the app may still hold open.
    pub(crate) fn new(ranges: Ranges, seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let cursor = random.below(len(&LOW));
        Ports { ranges, clients: HashMap::new(), random, cursor }
    }

    /// Changes which ranges are used from now on; false if these were used already.
    pub(crate) fn set_ranges(&mut self, ranges: Ranges) -> bool {
        std::mem::replace(&mut self.ranges, ranges) != ranges
    }

    /// Which are used.
    pub(super) fn ranges(&self) -> Ranges {
        self.ranges
    }

    /// Up to `count` ports, free for the client, of the range that is not the first choice; none where there is one only.
    pub(crate) fn second_choice(&mut self, client: IpAddr, count: usize) -> Vec<u16> {
        if self.ranges != Ranges::LowFirst {
            return Vec::new();
        }
        let mut found = self.high(count);
        let known = self.clients.get(&client);
        found.retain(|port| known.is_none_or(|known| known.free(*port)));
        found
    }

    /// Different high ports, whoever will use them.
    pub(crate) fn high(&mut self, count: usize) -> Vec<u16> {
        let mut found = Vec::with_capacity(count);
        while found.len() < count {
            let port = HIGH.start() + self.random.below(len(&HIGH));
            if !found.contains(&port) {
                found.push(port);
            }
        }
        found
    }

    /// Different low ports, whoever will use them.
    pub(crate) fn low(&mut self, count: usize) -> Vec<u16> {
        let mut found = Vec::with_capacity(count);
        while found.len() < count {
            self.cursor = (self.cursor + 1) % len(&LOW);
            let port = LOW.start() + self.cursor;
            if !SERVED.contains(&port) && !found.contains(&port) {
                found.push(port);
            }
        }
        found
    }

    /// A client's connection was accepted from `port`.
    pub(crate) fn arrived(&mut self, client: IpAddr, port: u16) {
        *entry(&mut self.clients, &mut self.random, client).own.entry(port).or_default() += 1;
    }

    /// That connection is gone.
    pub(crate) fn left(&mut self, client: IpAddr, port: u16) {
        let Some(entry) = self.clients.get_mut(&client) else { return };
        if let Some(count) = entry.own.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                entry.own.remove(&port);
            }
        }
        self.forget_if_empty(client);
    }

    /// Holds the first of `offered` that is free for the client (sockets that are bound already); tells its index.
    pub(crate) fn hold_one_of(&mut self, client: IpAddr, offered: impl Iterator<Item = u16>) -> Option<usize> {
        let ranges = self.ranges;
        let entry = entry(&mut self.clients, &mut self.random, client);
        for (index, port) in offered.enumerate() {
            if ranges.contains(port) && entry.free(port) {
                entry.held.insert(port);
                return Some(index);
            }
        }
        self.forget_if_empty(client);
        None
    }

    /// Up to `count` different ports that are free for the client, best first. They are not held yet.
    pub(crate) fn candidates(&mut self, client: IpAddr, count: usize) -> Vec<u16> {
        let ranges = self.ranges;
        let entry = entry(&mut self.clients, &mut self.random, client);
        let mut found = Vec::with_capacity(count);
        if ranges != Ranges::HighOnly {
            let mut left = LOW.len();
            while left > 0 && found.len() < count {
                let port = *LOW.start() + entry.cursor;
                entry.cursor = (entry.cursor + 1) % len(&LOW);
                left -= 1;
                if entry.free(port) && !SERVED.contains(&port) {
                    found.push(port);
                }
            }
        }
        // A random start and then one by one: ends after one round even when nearly all are taken.
        let mut left = if found.is_empty() && ranges != Ranges::LowOnly { HIGH.len() } else { 0 };
        let mut offset = self.random.below(len(&HIGH));
        while left > 0 && found.len() < count {
            let port = *HIGH.start() + offset;
            if entry.free(port) && !found.contains(&port) {
                found.push(port);
                offset = self.random.below(len(&HIGH));
            } else {
                offset = (offset + 1) % len(&HIGH);
            }
            left -= 1;
        }
        self.forget_if_empty(client);
        found
    }

    /// The next `count` different ports for the pool, whoever will use them.
    pub(crate) fn batch(&mut self, count: usize) -> Vec<u16> {
        match self.ranges {
            Ranges::LowFirst | Ranges::LowOnly => self.low(count),
            Ranges::HighOnly => self.high(count),
        }
    }

    /// Ends the hold of a port.
    pub(crate) fn release(&mut self, client: IpAddr, port: u16) {
        if let Some(entry) = self.clients.get_mut(&client) {
            entry.held.remove(&port);
        }
        self.forget_if_empty(client);
    }

    /// True when the client's next connections had better pass to the app, before its ports run out; then false until
    /// half of the bypass is over.
    pub(crate) fn bypass_due(&mut self, client: IpAddr, now: Instant) -> bool {
        let Some(entry) = self.clients.get_mut(&client) else { return false };
        let capacity = self.ranges.capacity();
        let crowded = entry.held.len() + CROWDED_MARGIN.min(capacity / 4) >= capacity;
        let asked = entry.bypassed.is_some_and(|asked| now.saturating_duration_since(asked) < BYPASS / 2);
        if crowded && !asked {
            entry.bypassed = Some(now);
        }
        crowded && !asked
    }

    fn forget_if_empty(&mut self, client: IpAddr) {
        // The cursor of a client without connections is kept only while the table is small.
        const REMEMBERED: usize = 1024;
        let empty = self.clients.get(&client).is_some_and(|entry| entry.held.is_empty() && entry.own.is_empty());
        if empty && self.clients.len() > REMEMBERED {
            self.clients.remove(&client);
        }
    }
}

/// What is known of a client; a new one begins anywhere in the low range.
fn entry<'c>(clients: &'c mut HashMap<IpAddr, Client>, random: &mut SplitMix, client: IpAddr) -> &'c mut Client {
    clients.entry(client).or_insert_with(|| Client { cursor: random.below(len(&LOW)), ..Client::default() })
}

/// The number of ports in a range.
fn len(range: &RangeInclusive<u16>) -> u16 {
    range.end() - range.start() + 1
}

/// SplitMix64: spreads the high ports; nothing secret depends on it.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u16) -> u16 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let bounded = z % u64::from(limit);
        u16::try_from(bounded).expect("below a u16")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 8));

    fn hold_next(ports: &mut Ports, client: IpAddr) -> Option<u16> {
        let offered = ports.candidates(client, 1);
        let index = ports.hold_one_of(client, offered.iter().copied())?;
        Some(offered[index])
    }

    #[test]
    fn low_range_first_then_high_and_never_twice() {
        let mut ports = Ports::new(Ranges::LowFirst, 1);
        let mut seen = HashSet::new();
        for _ in 0..LOW.len() - SERVED.len() {
            let port = hold_next(&mut ports, CLIENT).unwrap();
            assert!(LOW.contains(&port));
            assert!(seen.insert(port));
        }
        for _ in 0..HIGH.len() {
            let port = hold_next(&mut ports, CLIENT).unwrap();
            assert!(HIGH.contains(&port));
            assert!(seen.insert(port));
        }
        assert_eq!(hold_next(&mut ports, CLIENT), None, "every port of the client is taken");
        assert!(LOW.contains(&hold_next(&mut ports, OTHER).unwrap()), "another client starts anew");
    }

    #[test]
    fn a_released_port_rests_for_a_whole_round() {
        let mut ports = Ports::new(Ranges::LowFirst, 1);
        let first = hold_next(&mut ports, CLIENT).unwrap();
        ports.release(CLIENT, first);
        for _ in 1..LOW.len() - SERVED.len() {
            let next = hold_next(&mut ports, CLIENT).unwrap();
            assert_ne!(next, first);
            ports.release(CLIENT, next);
        }
        assert_eq!(hold_next(&mut ports, CLIENT), Some(first));
    }

    #[test]
    fn a_new_table_begins_somewhere_else() {
        let first = |seed| Ports::new(Ranges::LowFirst, seed).batch(1);
        let firsts: HashSet<_> = (0..20).map(first).collect();
        assert!(firsts.len() > 10, "{firsts:?}");
    }

    #[test]
    fn high_only_leaves_the_low_range_alone() {
        let mut ports = Ports::new(Ranges::HighOnly, 7);
        for _ in 0..1000 {
            assert!(HIGH.contains(&hold_next(&mut ports, CLIENT).unwrap()));
        }
    }

    #[test]
    fn a_socket_from_before_the_ranges_were_narrowed_is_not_held() {
        let mut ports = Ports::new(Ranges::LowFirst, 3);
        assert!(!ports.set_ranges(Ranges::LowFirst), "as before");
        assert!(ports.set_ranges(Ranges::HighOnly));
        assert_eq!(ports.hold_one_of(CLIENT, [600, 10_000].into_iter()), Some(1));
    }

    #[test]
    fn never_a_port_the_client_itself_uses() {
        let mut ports = Ports::new(Ranges::LowFirst, 3);
        ports.arrived(CLIENT, 600);
        ports.arrived(CLIENT, 600);
        assert_eq!(ports.hold_one_of(CLIENT, [600].into_iter()), None);
        assert_eq!(ports.hold_one_of(OTHER, [600].into_iter()), Some(0));
        ports.left(CLIENT, 600);
        assert_eq!(ports.hold_one_of(CLIENT, [600].into_iter()), None, "one of its two connections is left");
        ports.left(CLIENT, 600);
        assert_eq!(ports.hold_one_of(CLIENT, [600].into_iter()), Some(0));
    }

    #[test]
    fn a_bypass_is_due_before_the_ports_run_out_and_again_when_half_over() {
        let mut ports = Ports::new(Ranges::HighOnly, 3);
        let start = Instant::now();
        for held in 0..HIGH.len() - CROWDED_MARGIN {
            assert!(!ports.bypass_due(CLIENT, start), "after {held}");
            hold_next(&mut ports, CLIENT).unwrap();
        }
        assert!(ports.bypass_due(CLIENT, start));
        assert!(!ports.bypass_due(CLIENT, start + Duration::from_secs(1)));
        assert!(ports.bypass_due(CLIENT, start + Duration::from_secs(3)));
        assert!(!ports.bypass_due(OTHER, start));
    }

    #[test]
    fn a_client_of_the_low_range_alone_is_crowded_after_three_quarters() {
        let mut ports = Ports::new(Ranges::LowOnly, 3);
        let (start, capacity) = (Instant::now(), Ranges::LowOnly.capacity());
        for held in 0..capacity - capacity / 4 {
            assert!(!ports.bypass_due(CLIENT, start), "after {held}");
            hold_next(&mut ports, CLIENT).unwrap();
        }
        assert!(ports.bypass_due(CLIENT, start));
    }

    #[test]
    fn a_batch_has_no_port_twice_and_none_that_an_app_may_serve() {
        let mut ports = Ports::new(Ranges::LowFirst, 3);
        for _ in 0..100 {
            let batch = ports.batch(32);
            assert_eq!(batch.iter().collect::<HashSet<_>>().len(), 32);
            assert!(batch.iter().all(|port| LOW.contains(port) && !SERVED.contains(port)));
        }
    }

    #[test]
    fn candidates_are_different_and_low_ones_come_first() {
        let mut ports = Ports::new(Ranges::LowFirst, 9);
        let offered = ports.candidates(CLIENT, 32);
        assert_eq!(offered.iter().collect::<HashSet<_>>().len(), 32);
        assert!(offered.iter().all(|port| LOW.contains(port)));
        for port in LOW {
            ports.hold_one_of(CLIENT, [port].into_iter());
        }
        let offered = ports.candidates(CLIENT, 32);
        assert_eq!(offered.iter().collect::<HashSet<_>>().len(), 32);
    }

    #[test]
    fn an_unknown_client_leaves_no_entry_behind_in_a_large_table() {
        let mut ports = Ports::new(Ranges::LowFirst, 9);
        for n in 0..5000u32 {
            let client = IpAddr::V4(n.into());
            ports.arrived(client, 40000);
            ports.left(client, 40000);
        }
        assert!(ports.clients.len() <= 1100);
    }
}
