//! Thirty-two bytes at a time, on x86-64 CPUs with AVX2 (found out at run time).
//!
//! Owns: the answers of `ByteLanes` with AVX2, BMI1 and BMI2. Must not: touch anything but the bytes it is given.
//! Called by: the scans, through `InstructionSet`. Every function here is checked byte by byte against the table of classes.
#![expect(unsafe_code, reason = "the CPU's features are known only at run time")]

use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_andnot_si256, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_loadu_si256,
    _mm256_max_epi8, _mm256_max_epu8, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16,
};

use super::super::{TOKEN, is};
use super::{ByteLanes, ByteWork, WIDTH};

/// The proof that the CPU has AVX2, BMI1 and BMI2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
        has.then_some(Self(()))
    }

    #[inline]
    pub(super) fn run<W: ByteWork>(self, work: W) -> W::Output {
        // SAFETY: an `Avx2` exists only where `detect` found all three features.
        unsafe { run(self, work) }
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2")]
fn run<W: ByteWork>(lanes: Avx2, work: W) -> W::Output {
    work.with(lanes)
}

impl ByteLanes for Avx2 {
    #[inline(always)]
    fn not_value(self, bytes: &[u8; WIDTH]) -> u32 {
        // SAFETY: an `Avx2` exists only where `detect` found all three features.
        unsafe { not_value(bytes) }
    }

    #[inline(always)]
    fn not_token(self, bytes: &[u8; WIDTH]) -> u32 {
        // SAFETY: as above.
        unsafe { not_token(bytes) }
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
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn not_value(bytes: &[u8; WIDTH]) -> u32 {
    let bytes = load(bytes);
    let from_space = _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, splat(b' ')), bytes);
    let tab = _mm256_cmpeq_epi8(bytes, splat(b'\t'));
    let delete = _mm256_cmpeq_epi8(bytes, splat(0x7f));
    !mask(_mm256_andnot_si256(delete, _mm256_or_si256(from_space, tab)))
}

/// A byte is a token's if the bit of its high four bits is among the bits of its low four.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn not_token(bytes: &[u8; WIDTH]) -> u32 {
    let bytes = load(bytes);
    let nibbles = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), splat(0x0f));
    // A byte from 0x80 on selects 0.
    let columns = _mm256_shuffle_epi8(load(&TOKEN_COLUMNS), bytes);
    let rows = _mm256_shuffle_epi8(load(&TOKEN_ROWS), nibbles);
    mask(_mm256_cmpeq_epi8(_mm256_and_si256(columns, rows), _mm256_setzero_si256()))
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn not_target(bytes: &[u8; WIDTH]) -> (u32, u32) {
    let bytes = load(bytes);
    // Signed: what is from 0x80 on is below.
    let visible = _mm256_cmpgt_epi8(bytes, splat(b' '));
    let delete = _mm256_cmpeq_epi8(bytes, splat(0x7f));
    let fragment = _mm256_cmpeq_epi8(bytes, splat(b'#'));
    let stops = !mask(_mm256_andnot_si256(_mm256_or_si256(delete, fragment), visible));
    (stops, mask(_mm256_cmpeq_epi8(bytes, splat(b'?'))))
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn all_plain(bytes: &[u8; 4 * WIDTH]) -> bool {
    let [a, b, c, d] = [load_at(bytes, 0), load_at(bytes, 32), load_at(bytes, 64), load_at(bytes, 96)];
    let lowest = _mm256_min_epu8(_mm256_min_epu8(a, b), _mm256_min_epu8(c, d));
    // Signed: DEL is above all others.
    let highest = _mm256_max_epi8(_mm256_max_epi8(a, b), _mm256_max_epi8(c, d));
    let from_space = _mm256_cmpeq_epi8(_mm256_max_epu8(lowest, splat(b' ')), lowest);
    mask(_mm256_andnot_si256(_mm256_cmpeq_epi8(highest, splat(0x7f)), from_space)) == u32::MAX
}

/// For each low four bits of a token's byte, a bit for each high four that go with them; twice, since AVX2 shuffles its
/// halves apart.
static TOKEN_COLUMNS: [u8; 32] = {
    let mut columns = [0; 32];
    let mut byte = 0;
    while byte < 0x80 {
        if is(byte, TOKEN) {
            columns[(byte & 15) as usize] |= 1 << (byte >> 4);
            columns[(byte & 15) as usize + 16] |= 1 << (byte >> 4);
        }
        byte += 1;
    }
    columns
};

/// The bit of each high four bits.
static TOKEN_ROWS: [u8; 32] =
    [1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn load_at(bytes: &[u8; 4 * WIDTH], at: usize) -> __m256i {
    load(bytes[at..].first_chunk().expect("callers ask for bytes that are there"))
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn load(bytes: &[u8; WIDTH]) -> __m256i {
    // SAFETY: 32 bytes may be read there, and no alignment is asked for.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn splat(byte: u8) -> __m256i {
    _mm256_set1_epi8(byte.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn mask(bytes: __m256i) -> u32 {
    _mm256_movemask_epi8(bytes).cast_unsigned()
}
