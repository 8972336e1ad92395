//! The scans of `bytes`, sixteen bytes at a time: SSE2 is part of every x86-64, so nothing is detected at run time.
//!
//! Owns: which of sixteen bytes end a field value. Must not: touch anything but the sixteen bytes it is given.
//! Called by: `bytes`, on x86-64.

use std::arch::x86_64::{
    __m128i, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
    _mm_set1_epi8,
};

/// How many bytes a scan looks at together.
pub(super) const WIDTH: usize = 16;

/// Bit n: byte n cannot be in a field value.
#[inline]
#[expect(unsafe_code, reason = "the compiler does not count the target's own features")]
pub(super) fn not_value(bytes: &[u8; WIDTH]) -> u32 {
    // SAFETY: every x86-64 has SSE2.
    unsafe { stops_value(bytes) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn stops_value(bytes: &[u8; WIDTH]) -> u32 {
    let bytes = load(bytes);
    let control = at_most(bytes, 0x1f);
    let tab = _mm_cmpeq_epi8(bytes, splat(b'\t'));
    let delete = _mm_cmpeq_epi8(bytes, splat(0x7f));
    mask(_mm_or_si128(_mm_andnot_si128(tab, control), delete))
}

#[inline]
#[target_feature(enable = "sse2")]
fn load(bytes: &[u8; WIDTH]) -> __m128i {
    let [low, high] = [0, 8].map(|at| {
        let mut half = [0; 8];
        half.copy_from_slice(&bytes[at..at + 8]);
        i64::from_le_bytes(half)
    });
    _mm_set_epi64x(high, low)
}

#[inline]
#[target_feature(enable = "sse2")]
fn splat(byte: u8) -> __m128i {
    _mm_set1_epi8(byte.cast_signed())
}

/// All ones in each byte that is at most `limit`, unsigned.
#[inline]
#[target_feature(enable = "sse2")]
fn at_most(bytes: __m128i, limit: u8) -> __m128i {
    _mm_cmpeq_epi8(_mm_min_epu8(bytes, splat(limit)), bytes)
}

#[inline]
#[target_feature(enable = "sse2")]
fn mask(bytes: __m128i) -> u32 {
    _mm_movemask_epi8(bytes).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_at_each_place_is_classified() {
        for byte in 0..=255u8 {
            for at in 0..WIDTH {
                let mut bytes = [b'a'; WIDTH];
                bytes[at] = byte;
                let bit = |set: bool| if set { 1 << at } else { 0 };
                assert_eq!(not_value(&bytes), bit(!super::super::is_value(byte)), "{byte:#x}");
            }
        }
    }
}
