//! Sixteen bytes at a time: SSE2 is part of every x86-64, so nothing is detected at run time.
//!
//! Owns: the answers of `ByteLanes` with SSE2. Must not: touch anything but the bytes it is given.
//! Called by: the scans, through `InstructionSet`. Every function here is checked byte by byte against the table of classes.
#![expect(
    unsafe_code,
    reason = "the compiler does not count the target's own features, and vector loads take pointers"
)]

use std::arch::x86_64::{
    __m128i, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_cmpgt_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8,
    _mm_or_si128, _mm_set1_epi8, _mm_setzero_si128, _mm_sub_epi8,
};

use super::{ByteLanes, WIDTH};

#[derive(Clone, Copy)]
pub(super) struct Sse2;

impl ByteLanes for Sse2 {
    #[inline(always)]
    fn not_value(self, bytes: &[u8; WIDTH]) -> u32 {
        // SAFETY: every x86-64 has SSE2.
        unsafe { !both(value(load(bytes, 0)), value(load(bytes, 16))) }
    }

    #[inline(always)]
    fn not_token(self, bytes: &[u8; WIDTH]) -> u32 {
        // SAFETY: as above.
        unsafe { !both(token(load(bytes, 0)), token(load(bytes, 16))) }
    }

    #[inline(always)]
    fn not_target(self, bytes: &[u8; WIDTH]) -> (u32, u32) {
        // SAFETY: as above.
        unsafe { not_target(bytes) }
    }

    #[inline(always)]
    fn all_plain(self, bytes: &[u8; 4 * WIDTH]) -> bool {
        // SAFETY: as above.
        unsafe { all_plain(bytes) }
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn not_target(bytes: &[u8; WIDTH]) -> (u32, u32) {
    let (low, high) = (load(bytes, 0), load(bytes, 16));
    let marks = both(_mm_cmpeq_epi8(low, splat(b'?')), _mm_cmpeq_epi8(high, splat(b'?')));
    (!both(target(low), target(high)), marks)
}

#[inline]
#[target_feature(enable = "sse2")]
fn all_plain(bytes: &[u8; 4 * WIDTH]) -> bool {
    let mut stops = _mm_setzero_si128();
    let mut at = 0;
    while at < bytes.len() {
        let sixteen = load(bytes, at);
        let delete = _mm_cmpeq_epi8(sixteen, splat(0x7f));
        stops = _mm_or_si128(stops, _mm_or_si128(delete, below_space(sixteen)));
        at += 16;
    }
    mask(stops) == 0
}

/// All ones in each byte that can be in a field value.
#[inline]
#[target_feature(enable = "sse2")]
fn value(bytes: __m128i) -> __m128i {
    let control = _mm_andnot_si128(_mm_cmpeq_epi8(bytes, splat(b'\t')), below_space(bytes));
    let stops = _mm_or_si128(control, _mm_cmpeq_epi8(bytes, splat(0x7f)));
    _mm_andnot_si128(stops, splat(0xff))
}

/// All ones in each byte that can be in a request target.
#[inline]
#[target_feature(enable = "sse2")]
fn target(bytes: __m128i) -> __m128i {
    // Signed: what is from 0x80 on is below.
    let visible = _mm_cmpgt_epi8(bytes, splat(b' '));
    let stops = _mm_or_si128(_mm_cmpeq_epi8(bytes, splat(0x7f)), _mm_cmpeq_epi8(bytes, splat(b'#')));
    _mm_andnot_si128(stops, visible)
}

/// All ones in each byte that can be in a field name.
#[inline]
#[target_feature(enable = "sse2")]
fn token(bytes: __m128i) -> __m128i {
    // Folds only letters onto letters: 0x41-0x5a and 0x61-0x7a are the bytes that become 0x61-0x7a.
    let letter = between(_mm_or_si128(bytes, splat(0x20)), b'a', b'z');
    let letter_or_digit = _mm_or_si128(letter, between(bytes, b'0', b'9'));
    let quotes = _mm_or_si128(between(bytes, b'#', b'\''), _mm_cmpeq_epi8(bytes, splat(b'!')));
    let signs = _mm_or_si128(between(bytes, b'*', b'+'), between(bytes, b'-', b'.'));
    let carets = between(bytes, b'^', b'`');
    let lines = _mm_or_si128(_mm_cmpeq_epi8(bytes, splat(b'|')), _mm_cmpeq_epi8(bytes, splat(b'~')));
    let marks = _mm_or_si128(_mm_or_si128(quotes, signs), _mm_or_si128(carets, lines));
    _mm_or_si128(letter_or_digit, marks)
}

#[inline]
#[target_feature(enable = "sse2")]
fn below_space(bytes: __m128i) -> __m128i {
    _mm_cmpeq_epi8(_mm_min_epu8(bytes, splat(b' ' - 1)), bytes)
}

/// All ones in each byte that is `first` to `last`.
#[inline]
#[target_feature(enable = "sse2")]
fn between(bytes: __m128i, first: u8, last: u8) -> __m128i {
    let above = _mm_sub_epi8(bytes, splat(first));
    _mm_cmpeq_epi8(_mm_min_epu8(above, splat(last - first)), above)
}

#[inline]
#[target_feature(enable = "sse2")]
fn load<const N: usize>(bytes: &[u8; N], at: usize) -> __m128i {
    let sixteen: &[u8; 16] = bytes[at..].first_chunk().expect("callers ask for bytes that are there");
    // SAFETY: 16 bytes may be read there, and no alignment is asked for.
    unsafe { _mm_loadu_si128(sixteen.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn splat(byte: u8) -> __m128i {
    _mm_set1_epi8(byte.cast_signed())
}

#[inline]
#[target_feature(enable = "sse2")]
fn mask(bytes: __m128i) -> u32 {
    _mm_movemask_epi8(bytes).cast_unsigned()
}

#[inline]
#[target_feature(enable = "sse2")]
fn both(low: __m128i, high: __m128i) -> u32 {
    mask(low) | mask(high) << 16
}
