//! QUIC's settings, and why they are not quinn's defaults.

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

/// Bytes that one stream's reader may leave unread: 1 MiB is 100 Mbit/s over 80 ms, or 1 Gbit/s over 8 ms.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// Streams of one tunnel that may stand unread at the same time; above it the slowest is reset (see `Budget`).
pub const STALLED_STREAMS: usize = 64;
/// Streams that one tunnel may have open at the same time: each has a connection and buffers on the developer's machine, and
/// agents are not trusted with more of it. The agent lets requests beyond it go to the app.
pub const STREAMS: u32 = 512;
/// A tunnel without a packet for so long is down.
pub const IDLE: Duration = Duration::from_secs(10);
/// The agent's: what shows that a developer's process or machine is gone is an answer to a packet, or that there is none,
/// and new requests must be the app's again within 1.5 s. Two packets a second for an idle tunnel.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// The developer's: a new worker on an old socket answers the first packet with a reset, and the intercept must be back
/// within 3 s of the old one's death.
pub const DEVELOPER_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A handshake that takes longer is given up.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// Which end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TunnelEnd {
    /// Opens data streams; the other end opens the control stream alone.
    Agent,
    /// Opens the control stream; the other end opens data streams.
    Developer,
}

pub(crate) fn transport(end: TunnelEnd) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let (streams_from_peer, keep_alive) = match end {
        TunnelEnd::Agent => (CONTROL_STREAMS, KEEP_ALIVE),
        TunnelEnd::Developer => (STREAMS, DEVELOPER_KEEP_ALIVE),
    };
    let window = match end {
        // Until it has its part of what all tunnels may hold (`pool`).
        TunnelEnd::Agent => STREAM_WINDOW,
        TunnelEnd::Developer => CONNECTION_WINDOW,
    };
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams_from_peer))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(window))
        .send_window(SEND_WINDOW)
        .keep_alive_interval(Some(keep_alive))
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MILLIS))))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

/// A first packet is repeated after three of these, then after twice as long each time. quinn's 333 ms leave 2 s and 4 s
/// without a packet to an agent that comes back meanwhile; the intercept must be back within 3 s.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// The control stream, and one more so that an error differs from a full limit.
const CONTROL_STREAMS: u32 = 2;
/// Room for every stalled stream that the budget allows, and for 16 more at full speed. quinn gives room back only when an
/// eighth of the window is free: with less beside the stalled streams, a sender and a reader that keeps up wait for each
/// other.
pub(crate) const CONNECTION_WINDOW: u32 = 80 * STREAM_WINDOW;
const _: () = assert!(CONNECTION_WINDOW as usize == (STALLED_STREAMS + 16) * STREAM_WINDOW as usize);
const _: () = assert!(16 * STREAM_WINDOW > CONNECTION_WINDOW / 8);
/// Streams that may stand unread where a connection's window is of so many bytes.
pub(crate) fn stalled_streams(window: u64) -> usize {
    usize::try_from(window * STALLED_STREAMS as u64 / u64::from(CONNECTION_WINDOW)).unwrap_or(usize::MAX)
}
/// Unacknowledged bytes kept for retransmission: 1 Gbit/s over 64 ms.
pub(crate) const SEND_WINDOW: u64 = 8 << 20;
const IDLE_MILLIS: u32 = 10_000;
const _: () = assert!(IDLE.as_millis() == IDLE_MILLIS as u128 && KEEP_ALIVE.as_millis() * 3 < IDLE_MILLIS as u128);
