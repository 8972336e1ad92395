//! The reserved ranges and the bitmap of ports.

use core::ops::RangeInclusive;

/// Ports of the agent's upstream sockets, first choice: no client and no NAT picks these by itself.
pub const RESERVED_LOW: RangeInclusive<u16> = 512..=1023;

/// Ports of the agent's upstream sockets when the low ones are taken: below Linux's own 32768-60999, above most services.
pub const RESERVED_HIGH: RangeInclusive<u16> = 10_000..=29_999;

/// Whether the agent's upstream sockets may be bound to this port.
#[inline(always)]
pub const fn is_reserved(port: u16) -> bool {
    (port >= *RESERVED_LOW.start() && port <= *RESERVED_LOW.end())
        || (port >= *RESERVED_HIGH.start() && port <= *RESERVED_HIGH.end())
}

/// Entries of the port map: 65,536 ports, 64 in each word.
pub const PORT_WORDS: u32 = 1024;

/// One entry of the port map: bit `port % 64` of each word answers one question about the port.
/// See [`STEERED`], [`UNGATED`] and [`REFLECTED`].
pub type PortWord = [u64; 3];

/// Index in a [`PortWord`]: new connections go to the agent.
pub const STEERED: usize = 0;

/// Index in a [`PortWord`]: they do so even when the app does not listen.
pub const UNGATED: usize = 1;

/// Index in a [`PortWord`]: the agent has, or may still have, connections to the app on this port. Outlives
/// [`STEERED`], so that a port that is no longer steered drains.
pub const REFLECTED: usize = 2;

const _: () = assert!(size_of::<PortWord>() == 24);
const _: () = assert!(PORT_WORDS * 64 == 65_536);

/// Where a port sits in the port map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBit {
    /// Index of the word.
    pub word: u32,
    /// The port's bit in each part of the word.
    pub bit: u64,
}

impl PortBit {
    /// The place of `port`.
    #[inline(always)]
    pub const fn of(port: u16) -> Self {
        Self { word: (port >> 6) as u32, bit: 1 << (port & 63) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ranges_have_these_edges() {
        for (port, reserved) in [
            (511, false),
            (512, true),
            (1023, true),
            (1024, false),
            (9999, false),
            (10_000, true),
            (29_999, true),
            (30_000, false),
        ] {
            assert_eq!(is_reserved(port), reserved, "{port}");
        }
    }

    #[test]
    fn every_port_has_its_own_place() {
        assert_eq!(PortBit::of(0), PortBit { word: 0, bit: 1 });
        assert_eq!(PortBit::of(65_535), PortBit { word: 1023, bit: 1 << 63 });
        assert_eq!(PortBit::of(8080), PortBit { word: 126, bit: 1 << 16 });
    }
}
