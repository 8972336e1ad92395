//! What comes to a socket of the agent in the pod, looked at by a filter on the socket itself, which its holder cannot take
//! off and what it accepts inherits. A leg opens connections, and a listener accepts those to ports that are intercepted. None
//! of them gets anything once the pod is released: from then on nobody looks at what it sends.

use aya_ebpf::programs::SkBuffContext;
use redir_abi::Reason;

use crate::maps;
use crate::packet;

/// Of a TCP header, where the packet begins for a filter of a TCP socket.
const DESTINATION: usize = 2;
const FLAGS: usize = 13;

/// Why the packet is dropped, if it is.
#[inline(always)]
pub fn run(ctx: &SkBuffContext) -> Option<Reason> {
    if maps::is_released() {
        return Some(Reason::FilterReleased);
    }
    match ctx.load::<u8>(FLAGS) {
        Ok(flags) if !packet::opens(flags) => None,
        _ => match ctx.load::<[u8; 2]>(DESTINATION) {
            Ok(port) if maps::port(u16::from_be_bytes(port)).reflected => None,
            _ => Some(Reason::FilterSyn),
        },
    }
}
