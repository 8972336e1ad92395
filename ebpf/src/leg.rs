//! What comes to a leg's socket, looked at by a filter on the socket itself, which its holder cannot take off. A leg opens
//! connections and accepts none, and gets nothing once the pod is released: from then on nobody looks at what it sends.

use aya_ebpf::programs::SkBuffContext;
use redir_abi::Reason;

use crate::maps;
use crate::packet;

/// Of a TCP header, where the packet begins for a filter of a TCP socket.
const FLAGS: usize = 13;

/// Why the packet is dropped, if it is.
#[inline(always)]
pub fn run(ctx: &SkBuffContext) -> Option<Reason> {
    if maps::is_released() {
        return Some(Reason::LegReleased);
    }
    match ctx.load::<u8>(FLAGS) {
        Ok(flags) if !packet::opens(flags) => None,
        _ => Some(Reason::LegSyn),
    }
}
