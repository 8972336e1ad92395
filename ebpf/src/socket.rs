//! Questions about the sockets of the pod's network namespace.

use crate::maps;
use crate::raw::{FoundSocket, PacketBuffer, SocketTuple};

/// Socket states (`enum` in the kernel's `tcp_states.h`); 0 stands for no socket.
pub const NONE: u32 = 0;
pub const SYN_SENT: u32 = 2;
pub const TIME_WAIT: u32 = 6;
pub const LISTEN: u32 = 10;
pub const NEW_SYN_RECV: u32 = 12;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// State of the socket that owns a tuple.
#[inline(always)]
pub fn state<const V6: bool>(skb: PacketBuffer, tuple: &SocketTuple) -> u32 {
    let Some(sock) = FoundSocket::find::<V6>(skb, tuple) else { return NONE };
    let state = sock.state();
    sock.release();
    state
}

/// Whose a socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SocketOwner {
    /// The guardian has made it for a leg.
    Agent,
    Other,
}

/// State of the socket that owns a tuple, and whose it is. TIME_WAIT and requests are nobody's.
#[inline(always)]
pub fn state_and_owner<const V6: bool>(skb: PacketBuffer, tuple: &SocketTuple) -> (u32, SocketOwner) {
    let Some(sock) = FoundSocket::find::<V6>(skb, tuple) else { return (NONE, SocketOwner::Other) };
    let state = sock.state();
    let owner = if sock.is_leg(maps::leg_sockets()) { SocketOwner::Agent } else { SocketOwner::Other };
    sock.release();
    (state, owner)
}

/// Whether somebody listens where a tuple leads to. Port 0 belongs to no connection, so that only listeners are found.
#[inline(always)]
pub fn is_listening<const V6: bool>(skb: PacketBuffer, tuple: &SocketTuple) -> bool {
    let mut tuple = *tuple;
    let ports = if V6 { 8 } else { 2 };
    tuple[ports] &= u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    state::<V6>(skb, &tuple) == LISTEN
}

/// The agent's listener for a family, on loopback. To be released.
#[inline(always)]
pub fn agent_listener<const V6: bool>(skb: PacketBuffer) -> Option<FoundSocket> {
    let port = maps::agent_port().to_be_bytes();
    let ports = u32::from_ne_bytes([0, 0, port[0], port[1]]);
    let tuple = if V6 {
        [0, 0, 0, 0, 0, 0, 0, 1_u32.to_be(), ports]
    } else {
        [0, 0x7f00_0001_u32.to_be(), ports, 0, 0, 0, 0, 0, 0]
    };
    let sock = FoundSocket::find::<V6>(skb, &tuple)?;
    // An IPv6 listener of somebody else may answer for IPv4 too; assigned to it, an IPv4 packet would be misread.
    if sock.state() == LISTEN && sock.family() == if V6 { AF_INET6 } else { AF_INET } {
        return Some(sock);
    }
    sock.release();
    None
}
