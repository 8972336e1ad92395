//! Many bytes at a time, with the best instructions that this CPU has.
//!
//! Owns: what the scans ask of many bytes ([`ByteLanes`]), and which instructions answer ([`InstructionSet`]): AVX2 where the CPU has it,
//! SSE2 on every other x86-64, plain words elsewhere. All `unsafe` of this crate is in the first two. Must not: hold state.
//! Called by: `wide`; and `head`, which brings its loops to the instructions with [`InstructionSet::run`], so that each is compiled
//! once for each level and nothing is chosen inside.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(target_arch = "x86_64")]
mod sse2;

use std::sync::OnceLock;

use portable::Portable;

/// How many bytes are looked at together.
pub(crate) const WIDTH: usize = 32;

/// What can be said about many bytes together.
pub(crate) trait ByteLanes: Copy {
    /// Bit n: byte n cannot be in a field value.
    fn not_value(self, bytes: &[u8; WIDTH]) -> u32;
    /// Bit n: byte n cannot be in a field name.
    fn not_token(self, bytes: &[u8; WIDTH]) -> u32;
    /// Bit n: byte n cannot be in a request target; and: byte n is a question mark.
    fn not_target(self, bytes: &[u8; WIDTH]) -> (u32, u32);
    /// Whether all can be in a field value and none is a tab.
    fn all_plain(self, bytes: &[u8; 4 * WIDTH]) -> bool;
}

/// Something to be done with the instructions of a level. `with` must be `inline(always)`, and what it calls with `lanes`,
/// too: that is how it gets them.
pub(crate) trait ByteWork {
    type Output;
    fn with<L: ByteLanes>(self, lanes: L) -> Self::Output;
}

/// A set of instructions that this CPU has. Heads are read with the best one; all of them say the same, which tests and
/// fuzz targets check by asking each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionSet(Kind);

/// Private, so that nobody names instructions that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Sse2,
    Portable,
}

impl InstructionSet {
    /// The fastest one, found out once.
    #[inline]
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().next().unwrap_or(Self(Kind::Portable)))
    }

    /// Every one, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let native = avx2::Avx2::detect().map(Kind::Avx2).into_iter().chain([Kind::Sse2]);
        #[cfg(not(target_arch = "x86_64"))]
        let native = std::iter::empty();
        native.chain([Kind::Portable]).map(Self)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Kind::Sse2 => "SSE2",
            Kind::Portable => "portable",
        }
    }

    #[inline]
    pub(crate) fn run<W: ByteWork>(self, work: W) -> W::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.run(work),
            #[cfg(target_arch = "x86_64")]
            Kind::Sse2 => run(sse2::Sse2, work),
            Kind::Portable => run(Portable, work),
        }
    }
}

/// Apart, so that the best level's way does not lead around it.
#[inline(never)]
fn run<W: ByteWork>(lanes: impl ByteLanes, work: W) -> W::Output {
    work.with(lanes)
}

#[cfg(test)]
mod tests {
    use super::super::{TARGET, TOKEN, VALUE, is};
    use super::*;

    /// Every answer about one byte at every place.
    struct ClassifyBytes(u8);

    impl ByteWork for ClassifyBytes {
        type Output = ();

        #[inline(always)]
        fn with<L: ByteLanes>(self, lanes: L) {
            let Self(byte) = self;
            for at in 0..WIDTH {
                let mut bytes = [b'a'; WIDTH];
                bytes[at] = byte;
                let bit = |set: bool| u32::from(set) << at;
                assert_eq!(lanes.not_value(&bytes), bit(!is(byte, VALUE)), "{byte:#x}");
                assert_eq!(lanes.not_token(&bytes), bit(!is(byte, TOKEN)), "{byte:#x}");
                assert_eq!(lanes.not_target(&bytes), (bit(!is(byte, TARGET)), bit(byte == b'?')), "{byte:#x}");
            }
            for at in 0..4 * WIDTH {
                let mut bytes = [b'a'; 4 * WIDTH];
                bytes[at] = byte;
                let plain = is(byte, VALUE) && byte != b'\t';
                assert_eq!(lanes.all_plain(&bytes), plain, "{byte:#x} at {at}");
                // Next to bytes that are the lowest and the highest of all.
                bytes[(at + 1) % (4 * WIDTH)] = 0xff;
                bytes[(at + 33) % (4 * WIDTH)] = b' ';
                assert_eq!(lanes.all_plain(&bytes), plain, "{byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn each_byte_at_each_place_is_classified_by_each_level() {
        for level in InstructionSet::all() {
            (0..=255).for_each(|byte| level.run(ClassifyBytes(byte)));
        }
    }

    #[test]
    fn the_best_level_is_the_first() {
        assert_eq!(InstructionSet::all().next(), Some(InstructionSet::best()));
        let names: Vec<_> = InstructionSet::all().map(InstructionSet::name).collect();
        assert_eq!(names.last(), Some(&"portable"));
        assert_eq!(names.contains(&"SSE2"), cfg!(target_arch = "x86_64"));
    }
}
