//! The only unsafe code: what aya-ebpf has no wrapper for, each kept to one call.
//!
//! Nothing here decides anything. The verifier checks every access again when the program is loaded.
#![expect(unsafe_code, reason = "context reads and raw helpers")]

use core::ffi::c_void;
use core::mem::{MaybeUninit, size_of};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, bpf_sk_lookup, bpf_sock, bpf_sock_tuple, tcphdr},
    helpers::generated::{
        bpf_ktime_get_ns, bpf_redirect, bpf_sk_assign, bpf_sk_fullsock, bpf_sk_release, bpf_sk_storage_get,
        bpf_skb_load_bytes_relative, bpf_skb_store_bytes, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
    },
    programs::{SkLookupContext, TcContext},
};
use redir_abi::ACCEPTS;

/// `BPF_HDR_START_MAC` and `BPF_HDR_START_NET`.
#[derive(Clone, Copy)]
pub enum HeaderStart {
    Link = 0,
    Network = 1,
}

/// Words of a packet: any bytes are a valid value.
pub trait PacketWords: Copy {}
impl PacketWords for u8 {}
impl PacketWords for u16 {}
impl PacketWords for u32 {}
impl<T: PacketWords, const N: usize> PacketWords for [T; N] {}

/// Who sends a packet.
pub enum PacketSender {
    /// A socket that the guardian has made for a leg, with its number.
    Leg(u64),
    /// A listener of the agent's, or a socket that one has accepted.
    Accepted,
    /// Another socket of a connection.
    Socket,
    /// The kernel by itself: its resets and TIME_WAIT's answers come from no socket, from a small one, or from the raw one
    /// that the kernel keeps for them.
    Kernel,
}

/// A packet on a TC hook.
#[derive(Clone, Copy)]
pub struct PacketBuffer(*mut __sk_buff);

impl PacketBuffer {
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: the context is valid for the whole run of the program.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as above; `mark` is one of the writable fields.
        unsafe { (*self.0).mark = mark }
    }

    /// The EtherType, in network order.
    #[inline(always)]
    pub fn protocol(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).protocol }
    }

    /// Whether a VLAN tag was taken off the frame: it is for another device.
    #[inline(always)]
    pub fn has_vlan(self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).vlan_present != 0 }
    }

    /// Who sends the packet; `legs` is the socket storage of the legs.
    #[inline(always)]
    pub fn sender(self, legs: *mut c_void) -> PacketSender {
        let Some(full) = self.full_sender() else { return PacketSender::Kernel };
        // SAFETY: a full socket and a map of socket storage; the value is checked before it is read.
        unsafe {
            let number = bpf_sk_storage_get(legs, full.cast(), core::ptr::null_mut(), 0).cast::<u64>();
            match number.as_ref() {
                None => PacketSender::Socket,
                Some(&ACCEPTS) => PacketSender::Accepted,
                Some(&number) => PacketSender::Leg(number),
            }
        }
    }

    /// Whether a socket that the guardian has made for a leg sends the packet.
    #[inline(always)]
    pub fn is_of_leg(self, legs: *mut c_void) -> bool {
        matches!(self.sender(legs), PacketSender::Leg(_))
    }

    /// Whether a socket of the agent sends the packet, whatever it is for.
    #[inline(always)]
    pub fn is_of_agent(self, legs: *mut c_void) -> bool {
        matches!(self.sender(legs), PacketSender::Leg(_) | PacketSender::Accepted)
    }

    /// Whether the socket that sends the packet was connected to this address and port (in host order): the packet may have
    /// others by now.
    #[inline(always)]
    pub fn sender_connects_to<const V6: bool>(self, address: &[u32; 4], port: u16) -> bool {
        let Some(full) = self.full_sender() else { return false };
        // SAFETY: `full_sender` has checked it; volatile keeps each read as wide as the field, as the verifier wants them.
        unsafe {
            if (&raw const (*full).dst_port).read_volatile() != port.to_be() {
                return false;
            }
            if V6 {
                let to = &raw const (*full).dst_ip6;
                (&raw const (*to)[0]).read_volatile() == address[0]
                    && (&raw const (*to)[1]).read_volatile() == address[1]
                    && (&raw const (*to)[2]).read_volatile() == address[2]
                    && (&raw const (*to)[3]).read_volatile() == address[3]
            } else {
                (&raw const (*full).dst_ip4).read_volatile() == address[3]
            }
        }
    }

    #[inline(always)]
    fn full_sender(self) -> Option<*mut bpf_sock> {
        // SAFETY: the context is valid; the sender is checked before it is asked, and the full socket before it is read.
        unsafe {
            let sender = (*self.0).__bindgen_anon_2.sk;
            if sender.is_null() {
                return None;
            }
            let full = bpf_sk_fullsock(sender);
            if full.is_null() || (*full).type_ != SOCK_STREAM { None } else { Some(full) }
        }
    }

    /// Reads by direct packet access, from the start of the frame: only what is in the linear part.
    #[inline(always)]
    pub fn peek<T: PacketWords>(self, offset: usize) -> Option<T> {
        // SAFETY: the bounds check before the read is the one the verifier wants; T is plain words, alignment 1 is assumed.
        unsafe {
            let at = (*self.0).data as usize + offset;
            if at + size_of::<T>() > (*self.0).data_end as usize {
                return None;
            }
            Some((at as *const T).read_unaligned())
        }
    }

    /// Reads through the kernel, wherever the bytes are.
    #[inline(always)]
    pub fn load<T: PacketWords>(self, start: HeaderStart, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `value` has the length that is passed; the helper fills all of it or fails.
        unsafe {
            let to = value.as_mut_ptr().cast::<c_void>();
            if bpf_skb_load_bytes_relative(self.0.cast(), offset, to, size_of::<T>() as u32, start as u32) != 0 {
                return None;
            }
            Some(value.assume_init())
        }
    }

    /// Writes at an offset from the start of the frame. No checksum is changed.
    #[inline(always)]
    pub fn store<T: PacketWords>(self, offset: u32, value: &T) -> bool {
        let from = core::ptr::from_ref(value).cast::<c_void>();
        // SAFETY: `from` is valid for the length that is passed.
        unsafe { bpf_skb_store_bytes(self.0, offset, from, size_of::<T>() as u32, 0) == 0 }
    }

    /// The verdict that sends the frame to the ingress of the device it is leaving by.
    #[inline(always)]
    pub fn redirect_to_own_ingress(self) -> i32 {
        // SAFETY: the context is valid; the helper only notes where to go.
        unsafe { bpf_redirect((*self.0).ifindex, u64::from(BPF_F_INGRESS)) as i32 }
    }
}

const SOCK_STREAM: u32 = 1;

/// The current network namespace, for socket lookups (`BPF_F_CURRENT_NETNS`).
const CURRENT_NETNS: u64 = u64::MAX;

/// A `bpf_sock_tuple` as words; the first three are enough for IPv4.
pub type SocketTuple = [u32; 9];

/// A socket the kernel found, with a reference that must be released on every path.
pub struct FoundSocket(*mut bpf_sock);

impl FoundSocket {
    /// Looks a tuple up as if it had arrived with this packet; sees TIME_WAIT and request sockets too.
    #[inline(always)]
    pub fn find<const V6: bool>(skb: PacketBuffer, tuple: &SocketTuple) -> Option<Self> {
        let mut tuple = *tuple;
        let at = (&raw mut tuple).cast::<bpf_sock_tuple>();
        // SAFETY: the tuple is as long as the length says, which is a constant for the verifier.
        let sk = unsafe { bpf_skc_lookup_tcp(skb.0.cast(), at, if V6 { 36 } else { 12 }, CURRENT_NETNS, 0) };
        if sk.is_null() { None } else { Some(Self(sk)) }
    }

    #[inline(always)]
    pub fn state(&self) -> u32 {
        // SAFETY: not null, and referenced until `release`.
        unsafe { (*self.0).state }
    }

    #[inline(always)]
    pub fn family(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).family }
    }

    /// Whether the socket was made for a leg; the small ones (TIME_WAIT, requests) are nobody's.
    #[inline(always)]
    pub fn is_leg(&self, legs: *mut c_void) -> bool {
        // SAFETY: as above; the full socket is checked before it is passed on and shares our reference, and the value is
        // checked before it is read.
        unsafe {
            let full = bpf_sk_fullsock(self.0);
            if full.is_null() {
                return false;
            }
            let number = bpf_sk_storage_get(legs, full.cast(), core::ptr::null_mut(), 0).cast::<u64>();
            number.as_ref().is_some_and(|number| *number != ACCEPTS)
        }
    }

    /// Whether this listener has sent the SYN cookie that an ACK carries.
    #[inline(always)]
    pub fn sent_cookie<const V6: bool>(&self, ip: &mut [u32; 10], tcp: &mut [u32; 5]) -> bool {
        let (ip, tcp) = ((&raw mut *ip).cast::<c_void>(), (&raw mut *tcp).cast::<tcphdr>());
        // SAFETY: both headers are as long as the lengths say.
        unsafe { bpf_tcp_check_syncookie(self.0.cast(), ip, if V6 { 40 } else { 20 }, tcp, 20) == 0 }
    }

    /// Makes the stack deliver the packet to this socket.
    #[inline(always)]
    pub fn assign(&self, skb: PacketBuffer) -> bool {
        // SAFETY: a referenced socket and the program's own context.
        unsafe { bpf_sk_assign(skb.0.cast(), self.0.cast(), 0) == 0 }
    }

    #[inline(always)]
    pub fn release(self) {
        // SAFETY: the reference is given back once; `self` is gone afterwards.
        let _zero = unsafe { bpf_sk_release(self.0.cast()) };
    }
}

/// What an `sk_lookup` program is asked about. Every field is read, whatever the family: the kernel answers 0 for the
/// other one, and the compiler has no two reads that it could merge into one with a computed offset.
pub struct LookupContext {
    pub family: u32,
    pub protocol: u32,
    pub remote_v4: u32,
    pub remote_v6: [u32; 4],
    /// Network order.
    pub remote_port: u16,
    pub local_v4: u32,
    pub local_v6: [u32; 4],
    /// Host order.
    pub local_port: u32,
}

impl LookupContext {
    #[inline(always)]
    pub fn of(ctx: &SkLookupContext) -> Self {
        let lookup: *const bpf_sk_lookup = ctx.lookup;
        macro_rules! read {
            ($($field:tt)+) => {{
                // SAFETY: the context is valid for the whole run; volatile keeps each read where the verifier allows it.
                unsafe { (&raw const (*lookup).$($field)+).read_volatile() }
            }};
        }
        Self {
            family: read!(family),
            protocol: read!(protocol),
            remote_v4: read!(remote_ip4),
            remote_v6: [read!(remote_ip6[0]), read!(remote_ip6[1]), read!(remote_ip6[2]), read!(remote_ip6[3])],
            remote_port: read!(remote_port),
            local_v4: read!(local_ip4),
            local_v6: [read!(local_ip6[0]), read!(local_ip6[1]), read!(local_ip6[2]), read!(local_ip6[3])],
            local_port: read!(local_port),
        }
    }
}

/// `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn monotonic_nanos() -> u64 {
    // SAFETY: the helper has no argument.
    unsafe { bpf_ktime_get_ns() }
}

/// The value behind a map's answer.
#[inline(always)]
pub fn value<T: Copy>(found: Option<*const T>) -> Option<T> {
    // SAFETY: a map's values live as long as the program; volatile because others write them.
    found.map(|at| unsafe { at.read_volatile() })
}

/// Overwrites the value behind a map's answer.
#[inline(always)]
pub fn write<T: Copy>(found: Option<*mut T>, value: T) {
    if let Some(at) = found {
        // SAFETY: as above; every writer writes the same.
        unsafe { at.write_volatile(value) }
    }
}

/// Adds one to a per-CPU counter.
#[inline(always)]
pub fn increment(counter: Option<*mut u64>) {
    if let Some(at) = counter {
        // SAFETY: as above, and per CPU: nobody else writes it.
        unsafe { *at = (*at).wrapping_add(1) }
    }
}
