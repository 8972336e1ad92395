//! Eight bytes at a time in a plain word, for CPUs whose own instructions are not used here.
//!
//! Owns: the answers of `ByteLanes` without any instruction of its own. Must not: need `unsafe`.
//! Called by: the scans, through `InstructionSet`.

use super::super::{TARGET, TOKEN, is};
use super::{ByteLanes, WIDTH};

#[derive(Clone, Copy)]
pub(super) struct Portable;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = ONES << 7;
const LOW: u64 = !HIGH;

/// High bit of each byte: it is a control byte other than DEL. No sum carries into the next byte.
fn below_space(word: u64) -> u64 {
    !((word & LOW) + ONES * (0x80 - 0x20)) & !word & HIGH
}

/// High bit of each byte: it is `byte`, which is ASCII.
fn equals(word: u64, byte: u8) -> u64 {
    !(((word & LOW) ^ (ONES * u64::from(byte))) + LOW) & !word & HIGH
}

/// High bit of each byte: it cannot be in a field value.
fn value_stops(word: u64) -> u64 {
    (below_space(word) & !equals(word, b'\t')) | equals(word, 0x7f)
}

/// Bit n: byte n has its high bit.
fn gather(high: u64) -> u8 {
    ((high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Bit n: byte n `is` so.
fn each(bytes: &[u8; WIDTH], is: impl Fn(u8) -> bool) -> u32 {
    bytes.iter().rev().fold(0, |mask, &byte| (mask << 1) | u32::from(is(byte)))
}

impl ByteLanes for Portable {
    #[inline(always)]
    fn not_value(self, bytes: &[u8; WIDTH]) -> u32 {
        let mut eights = [0; WIDTH / 8];
        for (mask, eight) in eights.iter_mut().zip(bytes.as_chunks().0) {
            *mask = gather(value_stops(u64::from_le_bytes(*eight)));
        }
        u32::from_le_bytes(eights)
    }

    #[inline(always)]
    fn not_token(self, bytes: &[u8; WIDTH]) -> u32 {
        each(bytes, |byte| !is(byte, TOKEN))
    }

    #[inline(always)]
    fn not_target(self, bytes: &[u8; WIDTH]) -> (u32, u32) {
        (each(bytes, |byte| !is(byte, TARGET)), each(bytes, |byte| byte == b'?'))
    }

    #[inline(always)]
    fn all_plain(self, bytes: &[u8; 4 * WIDTH]) -> bool {
        let words = bytes.as_chunks().0.iter().map(|eight| u64::from_le_bytes(*eight));
        words.fold(0, |stops, word| stops | below_space(word) | equals(word, 0x7f)) == 0
    }
}
