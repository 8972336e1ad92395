//! redir's programs in the kernel. Entry points only: each counts a reason and maps it to a verdict.
//!
//! `steer` decides which new connections of an armed port are the agent's, `lookup` gives them to its listener when the
//! stack looks for one, `reflect` turns the agent's packets around so that the app keeps seeing its clients, `filter` keeps
//! the agent's sockets from everything else. Any doubt leaves the packet alone. Loaded once for each intercepted pod, by the
//! guardian; nothing is pinned.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "exported symbols and sections; everything else is in `raw`")]

mod filter;
mod icmp;
mod lookup;
mod loopback;
mod maps;
mod packet;
mod raw;
mod reflect;
mod socket;
mod steer;

use aya_ebpf::{
    macros::{classifier, sk_lookup, socket_filter},
    programs::{SkBuffContext, SkLookupContext, TcContext},
};
use redir_abi::{PacketVerdict, Reason};

use crate::raw::PacketBuffer;

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: the next program on the hook decides.
const NEXT: i32 = -1;
/// `TCX_DROP` and `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// `SK_PASS`: the lookup goes on, with the socket that was selected if there is one.
const PASS: u32 = 1;
/// `SK_DROP`: the lookup finds nothing.
const REFUSE: u32 = 0;

/// How much of a packet a socket gets.
const WHOLE: i64 = u32::MAX as i64;
const NOTHING: i64 = 0;

/// Length of an Ethernet header, and of none.
const ETHERNET: usize = 14;
const BARE: usize = 0;

#[classifier]
pub fn redir_steer(ctx: TcContext) -> i32 {
    leave(steer::run::<ETHERNET, true>(PacketBuffer::of(&ctx)))
}

#[classifier]
pub fn redir_steer_l3(ctx: TcContext) -> i32 {
    leave(steer::run::<BARE, true>(PacketBuffer::of(&ctx)))
}

#[classifier]
pub fn redir_steer_lo(ctx: TcContext) -> i32 {
    leave(steer::run::<ETHERNET, false>(PacketBuffer::of(&ctx)))
}

#[classifier]
pub fn redir_reflect(ctx: TcContext) -> i32 {
    let skb = PacketBuffer::of(&ctx);
    turn(skb, reflect::run::<ETHERNET>(skb))
}

#[classifier]
pub fn redir_refl_l3(ctx: TcContext) -> i32 {
    let skb = PacketBuffer::of(&ctx);
    turn(skb, reflect::run::<BARE>(skb))
}

#[classifier]
pub fn redir_refl_lo(ctx: TcContext) -> i32 {
    leave(loopback::run(PacketBuffer::of(&ctx)))
}

#[sk_lookup]
pub fn redir_sk_lookup(ctx: SkLookupContext) -> u32 {
    let reason = lookup::run(&ctx);
    maps::count(reason);
    match reason.verdict() {
        PacketVerdict::Drop => REFUSE,
        PacketVerdict::Next | PacketVerdict::Redirect => PASS,
    }
}

#[socket_filter]
pub fn redir_filter(ctx: SkBuffContext) -> i64 {
    match filter::run(&ctx) {
        Some(reason) => {
            maps::count(reason);
            NOTHING
        }
        None => WHOLE,
    }
}

/// Neither steering nor `lo` turns a packet: the stack finds the socket by itself.
#[inline(always)]
fn leave(reason: Reason) -> i32 {
    maps::count(reason);
    match reason.verdict() {
        PacketVerdict::Drop => DROP,
        PacketVerdict::Next | PacketVerdict::Redirect => NEXT,
    }
}

#[inline(always)]
fn turn(skb: PacketBuffer, reason: Reason) -> i32 {
    maps::count(reason);
    match reason.verdict() {
        PacketVerdict::Next => NEXT,
        PacketVerdict::Drop => DROP,
        PacketVerdict::Redirect => skb.redirect_to_own_ingress(),
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The helpers that look sockets up are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
