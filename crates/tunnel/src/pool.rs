//! What all tunnels of an agent may hold of what their clients leave unread.
//!
//! Owns: each tunnel's part, which bounds its connection's window, so that however many streams stand still, what is held
//! for all of them has its end. Each key has the same part, and shares it among its tunnels: who opens more of them gets
//! no more. Parts are newly divided when a tunnel comes or goes; one that holds more than its part gives up the streams
//! that have stalled longest (`budget`). Must not: know how much a stream holds, which quinn does not tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quinn::VarInt;
use redir_identity::Pin;

use crate::{
    budget::Budget,
    transport::{CONNECTION_WINDOW, SEND_WINDOW, STREAM_WINDOW, stalled_streams},
};

/// One for each agent; cheap to clone.
#[derive(Clone, Debug)]
pub struct UnreadPool(Arc<PoolState>);

#[derive(Debug)]
struct PoolState {
    bytes: u64,
    members: Mutex<KeyMembers>,
}

#[derive(Debug, Default)]
struct KeyMembers {
    next: u64,
    tunnels: BTreeMap<u64, PooledTunnel>,
}

#[derive(Debug)]
struct PooledTunnel {
    key: Pin,
    connection: quinn::Connection,
    stalled_most: Arc<AtomicUsize>,
}

impl Default for UnreadPool {
    /// Room for one tunnel at its fullest.
    fn default() -> Self {
        Self::new(2 * u64::from(CONNECTION_WINDOW))
    }
}

impl UnreadPool {
    /// So many bytes for all tunnels.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(PoolState { bytes, members: Mutex::default() }))
    }

    /// A tunnel of this key joins. It leaves when its budget and all clones of it are dropped.
    pub fn join(&self, connection: &quinn::Connection, key: Pin) -> Budget {
        let stalled_most = Arc::new(AtomicUsize::new(0));
        let tunnel = PooledTunnel { key, connection: connection.clone(), stalled_most: stalled_most.clone() };
        let mut members = self.0.lock();
        let number = members.next;
        members.next += 1;
        members.tunnels.insert(number, tunnel);
        self.0.divide(&members);
        Budget::of(stalled_most, PoolMember { pool: self.0.clone(), number })
    }
}

impl PoolState {
    fn divide(&self, members: &KeyMembers) {
        let keys: BTreeSet<&Pin> = members.tunnels.values().map(|tunnel| &tunnel.key).collect();
        for tunnel in members.tunnels.values() {
            let siblings = members.tunnels.values().filter(|other| other.key == tunnel.key).count();
            let part = part(self.bytes, keys.len() as u64, siblings as u64);
            tunnel.connection.set_receive_window(VarInt::from_u64(part).unwrap_or(VarInt::MAX));
            tunnel.connection.set_send_window((part / SEND_PART).min(SEND_WINDOW));
            tunnel.stalled_most.store(stalled_streams(part), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, KeyMembers> {
        // A map and a number: no half-done state that a panic could leave.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tunnel's part of so many bytes, in bytes. One key alone has half of them: what it was given cannot be taken back when
/// others come (QUIC has no word for that), only given up as bytes are read and slow streams are reset.
fn part(bytes: u64, keys: u64, siblings: u64) -> u64 {
    let part = bytes / keys.max(2) / siblings.max(1);
    part.clamp(PART_MIN, u64::from(CONNECTION_WINDOW))
}

/// A tunnel's place in the pool.
#[derive(Debug)]
pub(crate) struct PoolMember {
    pool: Arc<PoolState>,
    number: u64,
}

impl Drop for PoolMember {
    fn drop(&mut self) {
        let mut members = self.pool.lock();
        let left = members.tunnels.remove(&self.number);
        self.pool.divide(&members);
        drop(members);
        // Last: it may be the connection's last handle.
        drop(left);
    }
}

/// No tunnel works with less, in bytes: the control stream needs some as well.
pub const PART_MIN: u64 = 64 << 10;
/// What is sent and not acknowledged has so much less room than what is unread: a developer's machine that acknowledges
/// nothing is given up after seconds.
const SEND_PART: u64 = 4;
const _: () = assert!(STREAM_WINDOW as u64 > PART_MIN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_opens_more_tunnels_gets_no_more() {
        const MIB: u64 = 1 << 20;
        assert_eq!([part(64 * MIB, 1, 1), part(64 * MIB, 2, 1)], [32 * MIB; 2]);
        assert_eq!(part(64 * MIB, 4, 1), 16 * MIB);
        assert_eq!(part(64 * MIB, 2, 4), 8 * MIB);
        assert_eq!(part(64 * MIB, 1 << 20, 1), PART_MIN);
        assert_eq!(part(1 << 40, 1, 1), 80 * MIB, "as much as a tunnel can use");
        assert_eq!([stalled_streams(80 * MIB), stalled_streams(MIB), stalled_streams(5 * MIB)], [64, 0, 4]);
    }
}
